"""JWTs of the sign-in provider, and its keys, which are fetched rarely and cached."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from licenses.access.provider import FRESH, PAUSE_AFTER_FAILURE, PAUSE_AFTER_RENEWAL, USABLE, Provider
from licenses.errors import ProviderAway
from licenses.models import Identity, Tool
from tests.support.api import api_with, assert_problem
from tests.support.issuer import AUDIENCE, EC_KEY, OTHER_RSA_KEY, RSA_KEY, Issuer

pytestmark = pytest.mark.django_db


def answer_to(token: str) -> Any:
    return api_with(f"Bearer {token}").client.get("/licenses/status")


@pytest.mark.parametrize(("key", "alg", "kid"), [(RSA_KEY, "RS256", "rsa-1"), (EC_KEY, "ES256", "ec-1")])
def test_a_good_token_names_its_holder(
    required: None, issuer: Issuer, make_tool: Callable[..., Tool], key: Any, alg: str, kid: str
) -> None:
    make_tool()
    ben = api_with(f"Bearer {issuer.sign(key=key, alg=alg, kid=kid)}")
    lease = ben.post("/licenses/borrow", {"tool": "cad"}).json()
    assert lease["user"] == "ben"
    assert_problem(ben.borrow(user="ana"), 403)
    assert ben.give_back(lease["id"]).status_code == 200


def test_an_audience_among_others_will_do(required: None, issuer: Issuer) -> None:
    assert answer_to(issuer.sign(issuer.claims(aud=["https://other.example", AUDIENCE]))).status_code == 200


def test_a_machine_is_named_by_another_claim(required: None, issuer: Issuer, settings: Any) -> None:
    machine = issuer.sign(issuer.claims(preferred_username=None, client_id="nightly", sub="nightly"))
    assert_problem(answer_to(machine), 401)
    settings.LICENSE_JWT_USERNAME_CLAIMS = ["preferred_username", "client_id"]
    assert answer_to(machine).status_code == 200


def test_groups_make_an_administrator(
    required: None, issuer: Issuer, settings: Any, make_tool: Callable[..., Tool]
) -> None:
    make_tool(capacity=3)
    settings.LICENSE_OIDC_ADMIN_GROUPS = ["license admins"]
    for groups, status in [(["license admins", "x"], 200), (["others"], 403), ("license admins", 200), ({"a": 1}, 403)]:
        token = issuer.sign(issuer.claims(groups=groups))
        assert api_with(f"Bearer {token}").borrow(user="ana").status_code == status


@pytest.mark.parametrize("elsewhere", [{"_claim_names": {"groups": "src1"}}, {"hasgroups": "true"}])
def test_a_token_without_the_groups_of_its_holder_is_refused(
    required: None, issuer: Issuer, settings: Any, elsewhere: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    token = issuer.sign(issuer.claims(**elsewhere))
    assert answer_to(token).status_code == 200
    settings.LICENSE_OIDC_TEAM_PREFIX = "team-"
    refused = answer_to(token)
    assert_problem(refused, 401)
    assert "groups" in refused.json()["detail"]
    assert "Refused a JWT of ben" in caplog.text


def test_roles_may_lie_deeper(required: None, issuer: Issuer, settings: Any, make_tool: Callable[..., Tool]) -> None:
    make_tool()
    settings.LICENSE_OIDC_ADMIN_GROUPS = ["boss"]
    settings.LICENSE_OIDC_GROUPS_CLAIM = "realm_access.roles"
    token = issuer.sign(issuer.claims(realm_access={"roles": ["boss"]}))
    assert api_with(f"Bearer {token}").borrow(user="ana").status_code == 200


@pytest.mark.parametrize(
    ("scope", "read", "borrow"),
    [
        ("openid profile", 200, 200),
        ("openid licenses:read", 200, 403),
        ("licenses:borrow", 403, 200),
        ("licenses:admin", 403, 403),
        ("licenses:nonsense", 403, 403),
        ("Licenses:Read", 200, 403),
        ("", 200, 200),
        (["licenses:read"], 200, 403),
        (["openid licenses:read", "profile"], 200, 403),
        ([], 200, 200),
        (["licenses:read", 1], 401, 401),
        ([["licenses:read"]], 401, 401),
        ({"licenses:read": True}, 401, 401),
        (1, 401, 401),
        (True, 401, 401),
    ],
)
@pytest.mark.parametrize("claim", ["scope", "scp"])
def test_scopes_of_the_provider_limit_and_never_give(
    required: None, issuer: Issuer, make_tool: Callable[..., Tool], claim: str, scope: Any, read: int, borrow: int
) -> None:
    """RFC 8693 has ``scope``, Entra ID ``scp`` as text, Okta ``scp`` as a list."""
    make_tool()
    api = api_with(f"Bearer {issuer.sign(issuer.claims(**{claim: scope}))}")
    assert (api.client.get("/borrows").status_code, api.borrow(user="ben").status_code) == (read, borrow)


def test_a_scope_that_is_null_is_refused(required: None, issuer: Issuer) -> None:
    for claim in ("scope", "scp"):
        assert_problem(answer_to(issuer.sign(issuer.claims() | {claim: None})), 401)


def test_a_site_may_require_a_scope(
    required: None, issuer: Issuer, settings: Any, make_tool: Callable[..., Tool]
) -> None:
    make_tool()
    settings.LICENSE_JWT_SCOPE_REQUIRED = True
    for scope, read, borrow in [(None, 403, 403), ("openid", 403, 403), ("licenses:read licenses:borrow", 200, 200)]:
        api = api_with(f"Bearer {issuer.sign(issuer.claims(scp=scope))}")
        assert (api.client.get("/borrows").status_code, api.borrow(user="ben").status_code) == (read, borrow)


def test_a_name_that_is_anothers_account_is_not_theirs(required: None, issuer: Issuer) -> None:
    account = User.objects.create_superuser("ben", password=None)
    assert_problem(answer_to(issuer.sign()), 401)
    identity = Identity.objects.create(user=account, issuer=issuer.url, subject="ben-s-subject")
    assert answer_to(issuer.sign()).status_code == 200
    identity.subject = "another"
    identity.save()
    assert_problem(answer_to(issuer.sign()), 401)


def test_a_jwt_of_a_user_with_an_account_has_its_name(
    required: None, issuer: Issuer, make_tool: Callable[..., Tool]
) -> None:
    make_tool()
    account = User.objects.create_user("benjamin")
    Identity.objects.create(user=account, issuer=issuer.url, subject="ben-s-subject")
    renamed = api_with(f"Bearer {issuer.sign(issuer.claims(preferred_username='somebody'))}")
    assert renamed.post("/licenses/borrow", {"tool": "cad"}).json()["user"] == "benjamin"
    User.objects.update(is_active=False)
    assert_problem(answer_to(issuer.sign()), 401)


def test_a_token_costs_one_query(required: None, issuer: Issuer) -> None:
    token = issuer.sign()
    answer_to(token)
    with CaptureQueriesContext(connection) as queries:
        assert answer_to(token).status_code == 200
    # Who it is, and the answer.
    assert len(queries) == 2


def test_no_jwt_is_taken_without_an_audience(required: None, issuer: Issuer, settings: Any) -> None:
    settings.LICENSE_JWT_AUDIENCE = ""
    assert_problem(answer_to(issuer.sign(issuer.claims(aud=""))), 401)
    assert issuer.fetches["/jwks"] == 0


# --- Keys -------------------------------------------------------------------


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider(issuer: Issuer, clock: Clock) -> Provider:
    return Provider(issuer.url, clock=clock)


def test_keys_are_fetched_once_and_again_when_they_are_old(provider: Provider, issuer: Issuer, clock: Clock) -> None:
    for _ in range(100):
        assert provider.key("rsa-1", "RS256")
    assert issuer.fetches["/jwks"] == 1
    clock.now += FRESH
    assert provider.key("rsa-1", "RS256")
    assert issuer.fetches["/jwks"] == 2


def test_a_new_key_is_found_and_an_old_one_is_gone(provider: Provider, issuer: Issuer, clock: Clock) -> None:
    assert provider.key("rsa-1", "RS256")
    issuer.published = {"rsa-2": OTHER_RSA_KEY}
    assert provider.key("rsa-2", "RS256")
    assert issuer.fetches["/jwks"] == 2
    clock.now += PAUSE_AFTER_RENEWAL
    assert provider.key("rsa-1", "RS256") is None


def test_a_thousand_unknown_keys_cost_one_fetch_a_minute(provider: Provider, issuer: Issuer, clock: Clock) -> None:
    assert provider.key("rsa-1", "RS256")
    for number in range(1000):
        assert provider.key(f"made-up-{number}", "RS256") is None
    assert issuer.fetches["/jwks"] == 2
    clock.now += PAUSE_AFTER_RENEWAL
    for number in range(1000):
        assert provider.key(f"made-up-{number}", "RS256") is None
    assert issuer.fetches["/jwks"] == 3


def test_keys_outlive_their_provider_for_a_day(provider: Provider, issuer: Issuer, clock: Clock) -> None:
    assert provider.key("rsa-1", "RS256")
    issuer.down = True
    clock.now += USABLE - 1
    assert provider.key("rsa-1", "RS256")
    clock.now += 1
    with pytest.raises(ProviderAway):
        provider.key("rsa-1", "RS256")
    issuer.down = False
    clock.now += PAUSE_AFTER_FAILURE
    assert provider.key("rsa-1", "RS256")


def test_a_provider_that_is_away_is_left_in_peace(provider: Provider, issuer: Issuer, clock: Clock) -> None:
    issuer.down = True
    for _ in range(100):
        with pytest.raises(ProviderAway):
            provider.key("rsa-1", "RS256")
    assert issuer.fetches["/.well-known/openid-configuration"] == 1
    clock.now += PAUSE_AFTER_FAILURE
    issuer.down = False
    assert provider.key("rsa-1", "RS256")


def test_many_threads_that_need_keys_fetch_them_once(provider: Provider, issuer: Issuer) -> None:
    issuer.answer.clear()
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(provider.key("rsa-1", "RS256"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    assert issuer.asked.wait(30)
    issuer.answer.set()
    for thread in threads:
        thread.join(30)
    assert len(found) == 16
    assert all(found)
    assert issuer.fetches == {"/jwks": 1, "/.well-known/openid-configuration": 1}


def test_nobody_waits_for_keys_that_are_only_old(provider: Provider, issuer: Issuer, clock: Clock) -> None:
    assert provider.key("rsa-1", "RS256")
    clock.now += FRESH
    issuer.answer.clear()
    issuer.asked.clear()
    first = threading.Thread(target=provider.key, args=("rsa-1", "RS256"))
    first.start()
    # One thread fetches and waits; the others use the cached keys.
    assert issuer.asked.wait(30)
    assert provider.key("rsa-1", "RS256")
    assert first.is_alive()
    issuer.answer.set()
    first.join(30)


def test_unknown_keys_hold_one_thread_up_and_no_more(provider: Provider, issuer: Issuer) -> None:
    """With two threads a process, two that wait are all of them."""
    assert provider.key("rsa-1", "RS256")
    issuer.answer.clear()
    issuer.asked.clear()
    first = threading.Thread(target=provider.key, args=("made-up-1", "RS256"))
    first.start()
    assert issuer.asked.wait(30)
    with pytest.raises(ProviderAway):
        provider.key("made-up-2", "RS256")
    assert provider.key("rsa-1", "RS256")
    assert first.is_alive()
    issuer.answer.set()
    first.join(30)
    assert provider.key("made-up-2", "RS256") is None


NO_KEYS = [b"", b"[]", b"{}", b'{"keys": 1}', b"\xff", b"[" * 100_000, b"x" * 2_000_000]


@pytest.mark.parametrize("body", NO_KEYS, ids=range(len(NO_KEYS)))
def test_a_document_that_makes_no_sense_is_none(provider: Provider, issuer: Issuer, body: bytes) -> None:
    issuer.raw_keys = body
    with pytest.raises(ProviderAway):
        provider.key("rsa-1", "RS256")


def test_keys_that_cannot_be_used_do_not_spoil_the_others(provider: Provider, issuer: Issuer) -> None:
    good = issuer.keys()["keys"][0]
    issuer.extra_keys = [
        1,
        None,
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
        {"kty": "RSA", "n": "!!", "e": "AQAB", "kid": "broken"},
        {"kty": "RSA", "kid": "empty"},
        {"kty": ["RSA"], "kid": "strange"},
        good | {"kid": "for encryption", "use": "enc"},
        good | {"kid": "for another", "alg": "PS512"},
    ]
    assert provider.key("rsa-1", "RS256")
    assert provider.key("for another", "PS512")
    for kid in ("shared", "broken", "empty", "strange", "for encryption", "for another"):
        assert provider.key(kid, "RS256") is None
    assert provider.key("shared", "HS256") is None
    assert provider.key("rsa-1", "ES256") is None


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"jwks_uri": "http://keys.example/jwks"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": ""},
        {"token_endpoint": "http://token.example/"},
        {"authorization_endpoint": 1},
    ],
)
def test_metadata_of_another_issuer_or_without_https_is_refused(
    provider: Provider, issuer: Issuer, change: dict[str, Any]
) -> None:
    issuer.metadata |= change
    with pytest.raises(ProviderAway):
        provider.key("rsa-1", "RS256")


def test_while_no_key_can_be_had_nothing_is_decided(required: None, issuer: Issuer) -> None:
    issuer.down = True
    answer = answer_to(issuer.sign())
    assert_problem(answer, 503)
    assert (answer.json()["code"], answer["Retry-After"]) == ("provider_away", "10")
