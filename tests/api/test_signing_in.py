"""Sign-in at the provider, as far as it happens here. test_oidc_end_to_end has
a real provider and a browser."""

import base64
import hashlib
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.contrib.sessions.models import Session
from django.core import signing
from django.test import Client

from licenses.access.rights import OPERATORS
from licenses.models import AuditRecord, MemberSource, Team, TeamMember
from licenses.signin.oidc import PendingSignIns
from tests.support.groups import managers
from tests.support.issuer import CLIENT, OTHER_RSA_KEY, Issuer

pytestmark = pytest.mark.django_db


@pytest.fixture
def provider(issuer: Issuer, settings: Any) -> Issuer:
    """Provide the provider for sign-ins."""
    settings.LICENSE_OIDC_CLIENT_ID = CLIENT
    settings.LICENSE_OIDC_CLIENT_SECRET = "a secret"
    settings.LICENSE_OIDC_ADMIN_GROUPS = ["license admins"]
    settings.LICENSE_OIDC_STAFF_GROUPS = ["license staff"]
    settings.LICENSE_OIDC_TEAM_PREFIX = "team-"
    settings.LICENSE_OIDC_TEAM_GROUPS = {"/eng/Noise": "noise"}
    settings.LICENSE_AUTH = "required"
    return issuer


@pytest.fixture
def browser() -> Client:
    return Client(raise_request_exception=False)


def begin(browser: Client, following: str = "") -> dict[str, str]:
    """Go to the provider; what it is asked."""
    answer = browser.get("/oidc/authenticate/", {"next": following} if following else {})
    assert answer.status_code == 302
    return {name: values[0] for name, values in parse_qs(urlsplit(answer["Location"]).query).items()}


def come_back(browser: Client, provider: Issuer, asked: dict[str, str], **claims: Any) -> Any:
    """Come back from the provider as the one with these claims."""
    good = {"aud": CLIENT, "nonce": asked["nonce"]}
    provider.token_answer = {
        "access_token": "opaque",
        "id_token": provider.sign(provider.claims(**good | claims), typ="JWT"),
    }
    return browser.get("/oidc/callback/", {"state": asked["state"], "code": "a code"})


def sign_in(browser: Client, provider: Issuer, **claims: Any) -> Any:
    if provider.userinfo is None:
        provider.userinfo = {"sub": claims.get("sub", "ben-s-subject")}
    return come_back(browser, provider, begin(browser), **claims)


def is_signed_in(browser: Client) -> bool:
    return browser.get("/licenses/status").status_code == 200


def test_a_user_comes_back_from_the_provider_signed_in(provider: Issuer, browser: Client) -> None:
    asked = begin(browser, "/api/v1/leases/")
    assert asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == "http://testserver/oidc/callback/"
    assert not is_signed_in(browser)
    provider.userinfo = {"sub": "ben-s-subject"}
    answer = come_back(browser, provider, asked)
    assert (answer.status_code, answer["Location"]) == (302, "/api/v1/leases/")
    assert is_signed_in(browser)
    # The code is useless without its verifier (RFC 7636).
    verifier = provider.token_requests[0]["code_verifier"][0]
    digest = hashlib.sha256(verifier.encode()).digest()
    assert base64.urlsafe_b64encode(digest).decode().rstrip("=") == asked["code_challenge"]
    assert "client_secret" not in provider.token_requests[0]
    assert f"Basic {base64.b64encode(f'{CLIENT}:a secret'.encode()).decode()}" in provider.authorizations
    user = User.objects.get()
    assert (user.username, user.is_staff, user.has_usable_password()) == ("ben", False, False)


def test_a_sign_in_begins_a_session_of_its_own(provider: Issuer, browser: Client) -> None:
    sign_in(browser, provider)
    before = browser.cookies["sessionid"].value
    sign_in(browser, provider)
    assert browser.cookies["sessionid"].value != before
    assert not is_signed_in(Client(headers={"Cookie": f"sessionid={before}"}))


def test_a_started_sign_in_stores_nothing(provider: Issuer, browser: Client) -> None:
    for _ in range(10):
        begin(browser, "/api/docs/")
        begin(Client())
    assert not Session.objects.exists()
    assert "sessionid" not in browser.cookies
    cookie = browser.cookies["oidc"]
    assert (cookie["httponly"], cookie["samesite"], cookie["max-age"]) == (True, "Lax", 600)
    # A cookie can hold only some of ten sign-ins.
    assert len(cookie.value) < 4000
    assert browser.get("/oidc/callback/", {"error": "access_denied"}).status_code == 400
    assert not Session.objects.exists()


def test_a_sign_in_that_is_refused_leaves_no_session(provider: Issuer, browser: Client) -> None:
    User.objects.create_user("ben")
    assert sign_in(browser, provider).status_code == 403
    assert not Session.objects.exists()


def test_two_sign_ins_of_one_browser_do_not_disturb_each_other(provider: Issuer, browser: Client) -> None:
    provider.userinfo = {"sub": "ben-s-subject"}
    first, second = begin(browser), begin(browser)
    assert come_back(browser, provider, second).status_code == 302
    assert come_back(browser, provider, first).status_code == 302


def test_a_place_to_go_that_is_too_long_is_forgotten(provider: Issuer, browser: Client) -> None:
    provider.userinfo = {"sub": "ben-s-subject"}
    asked = begin(browser, "/api/docs/?" + "x" * 5000)
    assert come_back(browser, provider, asked)["Location"] == "/"


def test_a_cookie_that_was_made_up_or_is_old_begins_nothing(
    provider: Issuer, browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = begin(browser)
    good = browser.cookies["oidc"].value
    for made_up in ("x", good[:-1], good + "x", signing.dumps({"oidc_states": {asked["state"]: {}}})):
        browser.cookies["oidc"] = made_up
        assert come_back(browser, provider, asked).status_code == 400
    monkeypatch.setattr(PendingSignIns, "LIFE", -1)
    browser.cookies["oidc"] = good
    assert come_back(browser, provider, asked).status_code == 400
    assert provider.token_requests == []


def test_groups_give_rights_and_teams_and_take_them(provider: Issuer, browser: Client) -> None:
    TeamMember.objects.create(team=Team.objects.create(name="by-hand"), user="ben")
    sign_in(browser, provider, groups=["license admins", "team-Crash", "/eng/Noise", "team-no such name", "x", 1])
    user = User.objects.get()
    assert (user.is_staff, user.is_superuser) == (True, True)
    teams = TeamMember.objects.filter(user="ben").values_list("team__name", "source")
    assert set(teams) == {
        ("by-hand", MemberSource.MANUAL),
        ("crash", MemberSource.OIDC),
        ("noise", MemberSource.OIDC),
    }
    sign_in(browser, provider, groups=["license staff", "team-crash"])
    user.refresh_from_db()
    assert (user.is_staff, user.is_superuser) == (True, False)
    assert user.has_perm("licenses.change_lease")
    assert not user.has_perm("licenses.change_tool")
    assert set(TeamMember.objects.values_list("team__name", flat=True)) == {"by-hand", "crash"}
    sign_in(browser, provider, groups=None)
    user = User.objects.get()
    assert (user.is_staff, user.is_superuser, user.has_perm("licenses.change_lease")) == (False, False, False)
    assert set(TeamMember.objects.values_list("team__name", flat=True)) == {"by-hand"}
    assert Group.objects.filter(name=OPERATORS).exists()


ROLES = ["license staff", "finance=managers", "cn=audit = auditors", "cn=audit=managers"]


def test_a_group_gives_its_role_until_the_sign_in_after_it_ends(
    provider: Issuer, browser: Client, settings: Any
) -> None:
    settings.LICENSE_OIDC_STAFF_GROUPS = ROLES
    managers()
    Group.objects.create(name="auditors").permissions.add(Permission.objects.get(codename="view_auditrecord"))

    def sign_in_with(*groups: str) -> list[int]:
        """Return the answers of pages: for managers, for auditors, for operators."""
        sign_in(browser, provider, groups=[*groups])
        paths = ("/admin/reports/money/", "/admin/licenses/auditrecord/", "/admin/licenses/lease/")
        return [browser.get(path).status_code for path in paths]

    assert sign_in_with("finance") == [200, 403, 403]
    user = User.objects.get()
    assert (user.is_staff, user.is_superuser) == (True, False)
    assert recorded("after")[-1][6:] == ({"is_staff": True, "groups": ["managers"]},)
    assert sign_in_with("cn=audit") == [200, 200, 403]
    assert sign_in_with("license staff") == [200, 403, 200]
    assert sign_in_with("finance", "license staff") == [200, 403, 200]
    assert sign_in_with("finance=managers", "managers", "Finance", "cn") == [302, 302, 302]
    assert not user.groups.exists()


def test_a_role_that_the_settings_do_not_name_stays(provider: Issuer, browser: Client, settings: Any) -> None:
    settings.LICENSE_OIDC_STAFF_GROUPS = ["finance=managers"]
    managers()
    sign_in(browser, provider, groups=["finance"])
    user = User.objects.get()
    user.groups.add(Group.objects.create(name="by hand"))
    sign_in(browser, provider, groups=[])
    assert [group.name for group in user.groups.all()] == ["by hand"]


def test_a_role_that_does_not_exist_gives_nothing_and_is_logged(
    provider: Issuer, browser: Client, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.LICENSE_OIDC_STAFF_GROUPS = ["finance=manager"]
    assert sign_in(browser, provider, groups=["finance"]).status_code == 302
    assert not User.objects.get().groups.exists()
    assert not Group.objects.filter(name="manager").exists()
    assert "names the role 'manager', and the admin has no group of this name" in caplog.text
    assert browser.get("/admin/reports/money/").status_code == 403


def recorded(*names: str) -> list[tuple[Any, ...]]:
    """Return the audit records: actor, action, subject and these fields."""
    found = AuditRecord.objects.order_by("pk")
    return list(found.values_list("actor_kind", "actor", "origin", "action", "subject_kind", "subject", *names))


ELSEWHERE: list[dict[str, Any]] = [
    {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://graph.example/groups"}}},
    {"hasgroups": True},
    {"groups": [f"group {number}" for number in range(1001)]},
]


def claim_only_in_userinfo(provider: Issuer, claims: dict[str, Any]) -> None:
    provider.userinfo = {"sub": "ben-s-subject"} | claims


@pytest.mark.parametrize("elsewhere", ELSEWHERE, ids=["distributed", "hasgroups", "more than are read"])
def test_groups_that_are_missing_are_not_taken_for_none(
    provider: Issuer, browser: Client, elsewhere: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    sign_in(browser, provider, groups=["license admins", "team-crash"])
    before = AuditRecord.objects.count()
    claim_only_in_userinfo(provider, elsewhere)
    refused = sign_in(Client(), provider)
    assert refused.status_code == 403
    assert "groups" in refused.content.decode()
    assert "Sign-in of ben refused, rights and teams stay" in caplog.text
    user = User.objects.get()
    assert (user.is_staff, user.is_superuser) == (True, True)
    assert TeamMember.objects.filter(user="ben", team__name="crash").exists()
    assert AuditRecord.objects.count() == before


def test_groups_that_are_missing_do_not_matter_where_groups_mean_nothing(
    provider: Issuer, browser: Client, settings: Any
) -> None:
    settings.LICENSE_OIDC_ADMIN_GROUPS = settings.LICENSE_OIDC_STAFF_GROUPS = []
    settings.LICENSE_OIDC_TEAM_PREFIX, settings.LICENSE_OIDC_TEAM_GROUPS = "", {}
    assert sign_in(browser, provider, hasgroups=True).status_code == 302
    assert is_signed_in(browser)


def test_groups_of_the_userinfo_stand_in_for_those_the_token_lacks(provider: Issuer, browser: Client) -> None:
    claim_only_in_userinfo(provider, {"groups": ["license admins"]})
    sign_in(browser, provider, hasgroups=True)
    assert User.objects.get().is_superuser


def test_changes_by_groups_are_recorded(provider: Issuer, browser: Client, settings: Any) -> None:
    settings.TRUSTED_PROXIES = 1
    browser.defaults["HTTP_X_FORWARDED_FOR"] = "198.51.100.7"
    ben = ("sign_in", "ben", "198.51.100.7")
    sign_in(browser, provider, groups=["license admins", "team-crash"])
    assert recorded() == [
        (*ben, "created", "account", "ben"),
        (*ben, "created", "identity", "ben"),
        (*ben, "changed", "account", "ben"),
        (*ben, "created", "team", "crash"),
        (*ben, "created", "member", "ben in crash"),
    ]
    sign_in(browser, provider, groups=["license admins", "team-crash"])
    assert len(recorded()) == 5
    sign_in(browser, provider, groups=None)
    rights = {"is_superuser": True, "is_staff": True, "groups": [OPERATORS]}
    none: dict[str, Any] = {"is_superuser": False, "is_staff": False, "groups": []}
    member = {"team": "crash", "user": "ben", "source": "oidc", "is_lead": False}
    assert recorded("before", "after")[5:] == [
        (*ben, "changed", "account", "ben", rights, none),
        (*ben, "deleted", "member", "ben in crash", member, {}),
    ]


@pytest.mark.parametrize("source", ["token", "userinfo"])
def test_the_mail_address_comes_from_the_provider_on_record(provider: Issuer, browser: Client, source: str) -> None:
    def address_after(address: object, **more: Any) -> str:
        claims = {"email": address} | more
        provider.userinfo = {"sub": "ben-s-subject"} | (claims if source == "userinfo" else {})
        sign_in(browser, provider, **(claims if source == "token" else {}))
        return User.objects.get().email

    assert address_after("ben@example.com", email_verified=True) == "ben@example.com"
    assert recorded("before", "after")[-1][6:] == ({"email": ""}, {"email": "ben@example.com"})
    assert address_after("new@example.com") == "new@example.com"
    for wrong in (
        "ben",
        "",
        None,
        7,
        ["a@example.com"],
        "a@b@c",
        "x\nBcc: all@example.com",
        "a" * 250 + "@example.com",
    ):
        assert address_after(wrong) == "new@example.com"
    assert address_after("doubtful@example.com", email_verified=False) == "new@example.com"


def test_staff_of_the_provider_do_not_see_the_audit(provider: Issuer, browser: Client) -> None:
    sign_in(browser, provider, groups=["license staff"])
    assert browser.get("/admin/licenses/tool/").status_code == 200
    assert browser.get("/admin/licenses/auditrecord/").status_code == 403
    assert browser.get("/api/v1/audit/").status_code == 403


def test_a_refused_sign_in_leaves_no_record(provider: Issuer, browser: Client) -> None:
    User.objects.create_user("ben")
    assert sign_in(browser, provider, groups=["team-crash"]).status_code == 403
    assert recorded() == []


def test_rights_given_by_hand_stay_where_groups_mean_nothing(provider: Issuer, browser: Client, settings: Any) -> None:
    settings.LICENSE_OIDC_ADMIN_GROUPS = settings.LICENSE_OIDC_STAFF_GROUPS = []
    sign_in(browser, provider)
    User.objects.update(is_staff=True)
    sign_in(browser, provider, groups=["license admins"])
    assert (User.objects.get().is_staff, User.objects.get().is_superuser) == (True, False)


def test_groups_may_come_from_the_userinfo(provider: Issuer, browser: Client) -> None:
    provider.userinfo = {"sub": "ben-s-subject", "groups": ["team-crash"], "preferred_username": "somebody else"}
    sign_in(browser, provider)
    assert TeamMember.objects.get().team.name == "crash"
    # The signed claim wins.
    assert User.objects.get().username == "ben"


def test_a_user_with_a_new_name_gets_the_same_account(provider: Issuer, browser: Client) -> None:
    sign_in(browser, provider)
    sign_in(browser, provider, preferred_username="benjamin", email="admin@example.com")
    assert User.objects.get().username == "ben"


@pytest.mark.parametrize("existing", [{"username": "ben"}, {"username": "root", "email": "ben@example.com"}])
def test_an_account_is_not_taken_over(provider: Issuer, browser: Client, existing: dict[str, str]) -> None:
    other = User.objects.create_superuser(**existing, password="a long pass phrase")
    answer = sign_in(browser, provider, email="ben@example.com")
    signed_in_as = browser.session.get("_auth_user_id")
    assert signed_in_as != str(other.pk)
    other.refresh_from_db()
    assert other.check_password("a long pass phrase")
    if existing["username"] == "ben":
        assert answer.status_code == 403
        assert b"Ask an administrator to link it" in answer.content
        assert not is_signed_in(browser)
        assert User.objects.count() == 1


def test_a_name_that_differs_in_case_is_no_new_account(provider: Issuer, browser: Client) -> None:
    root = User.objects.create_superuser("root", password="a long pass phrase")
    assert sign_in(browser, provider, preferred_username="Root", email="Root").status_code == 403
    assert not is_signed_in(browser)
    assert list(User.objects.all()) == [root]


def test_an_administrator_links_an_account(provider: Issuer, browser: Client, admin_client: Client) -> None:
    old = User.objects.create_user("ben")
    admin_client.post(
        "/admin/licenses/identity/add/", {"user": old.pk, "issuer": provider.url, "subject": "ben-s-subject"}
    )
    assert sign_in(browser, provider).status_code == 302
    assert browser.session["_auth_user_id"] == str(old.pk)


def test_a_locked_account_stays_out(provider: Issuer, browser: Client) -> None:
    sign_in(browser, provider)
    User.objects.update(is_active=False)
    assert not is_signed_in(browser)
    assert sign_in(browser, provider, groups=["license admins", "team-crash"]).status_code == 403
    assert not is_signed_in(browser)
    assert not User.objects.get().is_superuser
    assert not TeamMember.objects.exists()


CLAIMS: list[tuple[str, dict[str, Any], int]] = [
    ("another audience", {"aud": "another"}, 400),
    ("the API's audience", {"aud": "https://licenses.example/api"}, 400),
    ("another party", {"aud": [CLIENT, "x"], "azp": "x"}, 400),
    ("another issuer", {"iss": "https://evil.example"}, 400),
    ("another nonce", {"nonce": "another"}, 400),
    ("no nonce", {"nonce": None}, 400),
    ("a nonce that is no text", {"nonce": ["x"]}, 400),
    ("no subject", {"sub": None}, 400),
    ("expired", {"iat": 1_600_000_000, "exp": 1_600_000_300}, 400),
    ("no name", {"preferred_username": None}, 403),
    ("a name of 151", {"preferred_username": "u" * 151}, 403),
    ("a name with a NUL", {"preferred_username": "a\0b"}, 403),
    ("a name of two spellings", {"preferred_username": "\uff42\uff45\uff4e"}, 403),
    ("a name that is a list", {"preferred_username": ["ben"]}, 403),
]


@pytest.mark.parametrize(("claims", "status"), [row[1:] for row in CLAIMS], ids=[row[0] for row in CLAIMS])
def test_a_bad_id_token_signs_nobody_in(provider: Issuer, browser: Client, claims: dict[str, Any], status: int) -> None:
    assert sign_in(browser, provider, **claims).status_code == status
    assert not is_signed_in(browser)
    assert not User.objects.exists()


def test_a_name_may_have_as_many_characters_as_an_account(provider: Issuer, browser: Client) -> None:
    sign_in(browser, provider, preferred_username="u" * 150)
    assert User.objects.get().username == "u" * 150
    provider.userinfo = {"sub": "somebody else"}
    refused = sign_in(Client(), provider, sub="somebody else", preferred_username="u" * 151)
    assert "more than 150 characters" in refused.content.decode()


def test_an_id_token_of_another_key_signs_nobody_in(provider: Issuer, browser: Client) -> None:
    asked = begin(browser)
    claims = provider.claims(aud=CLIENT, nonce=asked["nonce"])
    provider.token_answer = {"access_token": "x", "id_token": provider.sign(claims, key=OTHER_RSA_KEY)}
    assert browser.get("/oidc/callback/", {"state": asked["state"], "code": "a code"}).status_code == 400
    assert not is_signed_in(browser)


def test_a_token_endpoint_that_makes_no_sense_signs_nobody_in(provider: Issuer, browser: Client) -> None:
    answers: list[Any] = [[], {}, "x", None, {"id_token": {}}]
    for provider.token_answer in answers:
        asked = begin(browser)
        assert browser.get("/oidc/callback/", {"state": asked["state"], "code": "x"}).status_code == 400


def test_userinfo_about_another_signs_nobody_in(provider: Issuer, browser: Client) -> None:
    stories: list[Any] = [{"sub": "another"}, {}, [], "x"]
    for told in stories:
        provider.userinfo = told
        assert come_back(browser, provider, begin(browser)).status_code == 400
    assert not is_signed_in(browser)


def test_a_callback_that_nobody_asked_for_is_refused(provider: Issuer, browser: Client) -> None:
    asked = begin(browser)
    state = asked["state"]
    for query in ({}, {"code": "x"}, {"state": state}, {"code": "x", "state": "another"}, {"code": "x", "state": ""}):
        assert browser.get("/oidc/callback/", query).status_code == 400, query
    stranger = Client(raise_request_exception=False)
    assert stranger.get("/oidc/callback/", {"code": "x", "state": state}).status_code == 400
    assert browser.post("/oidc/callback/", {"code": "x", "state": state}).status_code == 405
    assert provider.token_requests == []


def test_a_callback_works_once(provider: Issuer, browser: Client) -> None:
    provider.userinfo = {"sub": "ben-s-subject"}
    asked = begin(browser)
    assert come_back(browser, provider, asked).status_code == 302
    browser.post("/signout/")
    assert come_back(browser, provider, asked).status_code == 400
    assert not is_signed_in(browser)


def test_an_error_from_the_provider_ends_no_session(provider: Issuer, browser: Client) -> None:
    sign_in(browser, provider)
    answer = browser.get("/oidc/callback/", {"error": "access_denied", "error_description": "<script>"})
    assert answer.status_code == 400
    assert b"<script>" not in answer.content
    assert is_signed_in(browser)


def test_while_the_provider_is_away_nobody_signs_in_and_nobody_is_thrown_out(provider: Issuer, browser: Client) -> None:
    sign_in(browser, provider)
    asked = begin(browser)
    provider.down = True
    assert come_back(browser, provider, asked).status_code == 400
    provider.metadata["token_endpoint"] = "http://127.0.0.1:1/"
    assert is_signed_in(browser)


def test_a_provider_that_was_never_there_is_a_503(provider: Issuer, browser: Client) -> None:
    provider.down = True
    assert browser.get("/oidc/authenticate/").status_code == 503


def test_nobody_is_sent_elsewhere_after_the_sign_in(provider: Issuer, browser: Client) -> None:
    provider.userinfo = {"sub": "ben-s-subject"}
    for following in ("https://evil.example/", "//evil.example", "javascript:alert(1)", "/\\evil.example"):
        answer = come_back(browser, provider, begin(browser, following))
        assert answer["Location"] == "/"


def test_a_password_form_leads_to_no_provider(provider: Issuer, browser: Client) -> None:
    asked = begin(browser)
    provider.token_answer = {"access_token": "x", "id_token": provider.sign(provider.claims(aud=CLIENT))}
    address = f"/signin/?code=x&state={asked['state']}"
    assert browser.post(address, {"username": "ben", "password": "x"}).status_code == 200
    assert provider.token_requests == []
    assert not is_signed_in(browser)


def test_the_sign_in_pages_offer_the_configured_ways(provider: Issuer, browser: Client, settings: Any) -> None:
    for page in ("/signin/?next=/api/docs/", "/admin/login/?next=/admin/"):
        shown = browser.get(page).content.decode()
        assert "/oidc/authenticate/?next=%2Fa" in shown
        assert 'type="password"' in shown
    settings.LICENSE_LOCAL_PASSWORDS = False
    for page in ("/signin/", "/admin/login/"):
        assert 'type="password"' not in browser.get(page).content.decode()
    settings.LICENSE_OIDC_CLIENT_ID = ""
    settings.LICENSE_LOCAL_PASSWORDS = True
    assert "/oidc/authenticate/" not in browser.get("/signin/").content.decode()
    assert browser.get("/oidc/authenticate/").status_code == 404
    assert browser.get("/oidc/callback/").status_code == 404


def test_a_visitor_of_an_open_board_can_go_back_from_the_sign_in_page(browser: Client, settings: Any) -> None:
    for page in ("/signin/", "/admin/login/"):
        for auth, links in (("open", 2), ("required", 1)):
            settings.LICENSE_AUTH = auth
            assert browser.get(page).content.decode().count('<a href="/">') == links, (page, auth)


def test_a_browser_is_sent_to_sign_in_and_back(provider: Issuer) -> None:
    person = Client(headers={"Accept": "text/html,application/xhtml+xml"})
    for page in ("/api/docs/", "/api/v1/leases/?user=ana"):
        answer = person.get(page)
        assert answer.status_code == 302
        assert urlsplit(answer["Location"]).path == "/signin/"
        assert parse_qs(urlsplit(answer["Location"]).query)["next"] == [page]


def test_a_sign_out_ends_the_session_here_and_there(provider: Issuer, browser: Client) -> None:
    for page in ("/signout/", "/admin/logout/"):
        sign_in(browser, provider, groups=["license staff"])
        assert browser.get("/signout/").status_code == 405
        stolen = browser.cookies["sessionid"].value
        answer = browser.post(page)
        address = urlsplit(answer["Location"])
        assert f"{address.scheme}://{address.netloc}{address.path}" == provider.metadata["end_session_endpoint"]
        query = parse_qs(address.query)
        assert query["post_logout_redirect_uri"] == ["http://testserver/signin/"]
        assert query["id_token_hint"][0].count(".") == 2
        assert not is_signed_in(browser)
        assert not is_signed_in(Client(headers={"Cookie": f"sessionid={stolen}"}))


def test_a_sign_out_stays_here_where_the_provider_has_none(provider: Issuer, browser: Client) -> None:
    del provider.metadata["end_session_endpoint"]
    sign_in(browser, provider)
    assert browser.post("/signout/")["Location"] == "/signin/"
    assert not is_signed_in(browser)


def test_a_sign_out_from_another_site_is_refused(provider: Issuer) -> None:
    browser = Client(enforce_csrf_checks=True, raise_request_exception=False)
    sign_in(browser, provider)
    assert browser.post("/signout/").status_code == 403
    assert is_signed_in(browser)
