"""People make, list and revoke API tokens of their own, within the limits of the site."""

import html
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from licenses.access import accounts, tokens
from licenses.auditing import Actor
from licenses.models import ActorKind, ApiToken, AuditRecord, Team, Tool
from tests.support.api import api_with, make_token

pytestmark = pytest.mark.django_db

ROOT = Actor(ActorKind.ACCOUNT, "root", "192.0.2.1")


@pytest.fixture
def ana(required: None) -> User:
    return User.objects.create_user("ana")


@pytest.fixture
def browser(client: Client, ana: User) -> Client:
    """Provide ana's browser."""
    client.force_login(ana)
    return client


def text_of(answer: Any) -> str:
    """Return a page as text on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())).split())


def make(browser: Client, **values: Any) -> Any:
    return browser.post("/tokens/new/", {"name": "laptop", "days": "30", "scopes": ["read", "borrow"]} | values)


def secret_on(page: Any) -> str:
    assert page.status_code == 200, text_of(page)
    found = re.search(r'<code id="secret">(lic_\w+)</code>', page.content.decode())
    assert found
    return found[1]


def test_a_person_makes_a_token_that_acts_as_them(browser: Client, ana: User, make_tool: Callable[..., Tool]) -> None:
    make_tool()
    page = make(browser)
    assert "no-store" in page["Cache-Control"]
    program = api_with(f"Bearer {secret_on(page)}")
    assert program.post("/licenses/borrow", {"tool": "cad"}).json()["user"] == "ana"
    assert program.borrow(user="ben").status_code == 403
    token = ApiToken.objects.get()
    assert (token.user, token.account, token.created_by, token.team) == ("ana", ana, ana, None)
    assert token.expires_at - token.created_at == timedelta(days=30)
    record = AuditRecord.objects.get(subject_kind="token")
    assert (record.actor_kind, record.actor, record.action, record.subject) == (
        "account",
        "ana",
        "created",
        str(token.pk),
    )


def test_the_secret_is_shown_once(browser: Client) -> None:
    secret = secret_on(make(browser))
    assert secret not in browser.get("/tokens/").content.decode()
    assert all(secret[8:] not in str(row) for row in [*ApiToken.objects.values(), *AuditRecord.objects.values()])


def test_the_page_lists_own_tokens_with_their_last_use_and_end(browser: Client) -> None:
    secret = secret_on(make(browser, name="laptop", days="90"))
    make_token(user="ben", name="of ben")
    make_token(team="crash", name="of crash")
    now = timezone.now()
    make_token(user="ana", name="made for ana", created_at=now - timedelta(days=89), expires_at=now + timedelta(days=1))
    shown = text_of(browser.get("/tokens/"))
    assert re.search(r"made for ana lic_\w{4}… read, borrow never \S+ \S+ in .* ends soon", shown)
    assert re.search(r"laptop lic_\w{4}… read, borrow never \S+ \S+ in 90 days", shown)
    assert "of ben" not in shown
    assert "of crash" not in shown
    api_with(f"Bearer {secret}").client.get("/licenses/status")
    assert re.search(r"laptop lic_\w{4}… read, borrow \d\d:\d\d just now", text_of(browser.get("/tokens/")))


def test_an_expired_token_stays_on_the_page_for_a_month(browser: Client, pass_time: Callable[..., None]) -> None:
    make(browser, days="1")
    pass_time(days=2)
    assert "expired" in text_of(browser.get("/tokens/"))
    assert b'aria-label="Revoke' not in browser.get("/tokens/").content
    pass_time(days=30)
    assert "You have no tokens." in text_of(browser.get("/tokens/"))


def test_a_person_revokes_own_tokens_and_no_other(browser: Client) -> None:
    secret = secret_on(make(browser))
    mine = ApiToken.objects.get()
    make_token(user="ben")
    make_token(team="crash")
    for other in ApiToken.objects.exclude(pk=mine.pk):
        assert browser.post(f"/tokens/{other.pk}/revoke/").status_code == 404
    assert browser.post("/tokens/999999/revoke/").status_code == 404
    assert not ApiToken.objects.filter(revoked_at__isnull=False).exists()
    answer = browser.post(f"/tokens/{mine.pk}/revoke/", follow=True)
    assert "Revoked: laptop" in text_of(answer)
    assert api_with(f"Bearer {secret}").client.get("/licenses/status").status_code == 401
    assert browser.post(f"/tokens/{mine.pk}/revoke/").status_code == 302
    assert AuditRecord.objects.filter(subject_kind="token", action="revoked", actor="ana").count() == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "n" * 65},
        {"name": "two\nlines"},
        {"name": "a\u202eb"},
        {"name": "a\0b"},
        {"days": "0"},
        {"days": "-1"},
        {"days": "91"},
        {"days": "1e9"},
        {"days": "9" * 30},
        {"days": ""},
        {"scopes": []},
        {"scopes": ["root"]},
        {"scopes": ["read", "admin"]},
    ],
)
def test_a_wrong_form_makes_no_token(browser: Client, wrong: dict[str, Any]) -> None:
    answer = make(browser, **wrong)
    assert answer.status_code == 400
    assert "No token was created." in text_of(answer)
    assert not ApiToken.objects.exists()


def test_the_number_of_valid_tokens_is_limited(browser: Client, settings: Any) -> None:
    settings.LICENSE_OWN_TOKENS_PER_USER = 2
    make_token(user="ana", expires_at=timezone.now() + timedelta(minutes=1))
    secret_on(make(browser))
    answer = make(browser)
    assert answer.status_code == 409
    assert "You have 2 valid tokens" in text_of(answer)
    browser.post(f"/tokens/{ApiToken.objects.latest('pk').pk}/revoke/")
    secret_on(make(browser))


def test_the_site_limits_life_and_scopes(browser: Client, settings: Any) -> None:
    settings.LICENSE_OWN_TOKEN_DAYS = 7
    settings.LICENSE_OWN_TOKEN_SCOPES = ["read"]
    assert make(browser, days="8", scopes=["read"]).status_code == 400
    assert make(browser, days="7").status_code == 400
    secret_on(make(browser, days="7", scopes=["read"]))
    token = ApiToken.objects.get()
    assert (token.may_read, token.may_borrow, token.may_administer) == (True, False, False)


@pytest.mark.parametrize(
    ("who", "staff", "may"),
    [
        ("everyone", False, True),
        ("everyone", True, True),
        ("staff", False, False),
        ("staff", True, True),
        ("nobody", True, False),
    ],
)
def test_the_site_says_who_may(browser: Client, settings: Any, who: str, staff: bool, may: bool) -> None:
    settings.LICENSE_OWN_TOKENS = who
    make_token(user="ana", name="made for ana")
    User.objects.update(is_staff=staff)
    shown = browser.get("/tokens/")
    assert (b"Create the token" in shown.content) is may
    assert make(browser).status_code == (200 if may else 403)
    assert ApiToken.objects.filter(name="laptop").exists() is may
    # Those that exist can be revoked in any case.
    browser.post(f"/tokens/{ApiToken.objects.get(name='made for ana').pk}/revoke/")
    assert not ApiToken.objects.filter(name="made for ana", revoked_at__isnull=True).exists()


def test_only_a_superuser_gets_an_administrators_token_and_only_if_the_site_allows(
    browser: Client, settings: Any, ana: User
) -> None:
    every = ["read", "borrow", "admin"]
    settings.LICENSE_OWN_TOKEN_SCOPES = every
    User.objects.update(is_staff=True)
    assert make(browser, scopes=every).status_code == 400
    User.objects.update(is_superuser=True)
    settings.LICENSE_OWN_TOKEN_SCOPES = ["read", "borrow"]
    assert make(browser, scopes=every).status_code == 400
    settings.LICENSE_OWN_TOKEN_SCOPES = every
    program = api_with(f"Bearer {secret_on(make(browser, scopes=every))}")
    assert program.client.get("/api/v1/audit/").status_code == 200
    # It goes no further than the account.
    User.objects.update(is_superuser=False)
    assert program.client.get("/api/v1/audit/").status_code == 403


def test_tokens_end_with_the_account(browser: Client, ana: User) -> None:
    secret = secret_on(make(browser))
    accounts.deactivate(ana, by=ROOT)
    assert api_with(f"Bearer {secret}").client.get("/licenses/status").status_code == 401
    # And no page makes another.
    assert make(browser).status_code == 302
    assert ApiToken.objects.count() == 1


def test_nobody_makes_a_token_without_signing_in(client: Client, settings: Any) -> None:
    for auth in ("required", "open"):
        settings.LICENSE_AUTH = auth
        assert client.get("/tokens/")["Location"] == "/signin/?next=/tokens/"
        assert make(client).status_code == 302
        assert client.post("/tokens/1/revoke/").status_code == 302
    assert not ApiToken.objects.exists()


def test_a_page_of_another_site_makes_and_revokes_nothing(ana: User) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(ana)
    make_token(user="ana")
    assert make(browser).status_code == 403
    assert browser.post(f"/tokens/{ApiToken.objects.get().pk}/revoke/").status_code == 403
    assert ApiToken.objects.filter(revoked_at__isnull=True).count() == 1


def test_the_addresses_of_forms_say_what_to_do(browser: Client) -> None:
    for path in ("/tokens/new/", "/tokens/1/revoke/"):
        answer = browser.get(path)
        assert answer.status_code == 405
        assert "Use the form on the page Tokens." in text_of(answer)
    assert browser.post("/tokens/").status_code == 405


def test_an_account_with_a_name_for_no_lease_is_told_so(client: Client, required: None) -> None:
    client.force_login(User.objects.create_user("a\u200bna"))
    assert "not a valid name" in text_of(client.get("/tokens/"))
    assert make(client).status_code == 403
    assert not ApiToken.objects.exists()


def test_the_board_leads_to_the_page(browser: Client, client: Client) -> None:
    assert b'href="/tokens/"' in browser.get("/").content
    Team.objects.create(name="crash")
    assert b'href="/tokens/"' not in Client().get("/signin/").content


# --- In the admin and the API -----------------------------------------------------


@pytest.fixture
def clerk(client: Client, required: None) -> Client:
    """Provide the browser of staff with the right to add tokens."""
    account = User.objects.create_user("clerk", is_staff=True)
    account.user_permissions.add(Permission.objects.get(codename="add_apitoken"))
    client.force_login(account)
    return client


def make_by_api(clerk: Client, *, days: float = 5, borrow: bool = True) -> str:
    """Send a token of one's own to the API. Return '' if it was made, or why it was not."""
    ends = timezone.now() + timedelta(days=days)
    scopes = ["read", "borrow"] if borrow else ["read"]
    body = {"name": "x", "user": "clerk", "scopes": scopes, "expires_at": ends.isoformat()}
    answer = clerk.post("/api/v1/tokens/", body, content_type="application/json")
    assert answer.status_code in {201, 400, 403, 409}
    return "" if answer.status_code == 201 else str(answer.json()["detail"])


def make_by_admin(clerk: Client, *, days: float = 5, borrow: bool = True) -> str:
    """Send a token of one's own by the form of the admin. Return '' if it was made, or the page."""
    ends = timezone.now() + timedelta(days=days)
    form = {"name": "x", "user": "clerk", "may_read": "on"}
    form |= {"expires_at_0": f"{ends:%Y-%m-%d}", "expires_at_1": f"{ends:%H:%M:%S}"}
    answer = clerk.post("/admin/licenses/apitoken/add/", form | ({"may_borrow": "on"} if borrow else {}), follow=True)
    return "" if b"is shown only once" in answer.content else text_of(answer)


DOORS = pytest.mark.parametrize("make_one", [make_by_api, make_by_admin])


@DOORS
def test_the_limits_hold_in_the_admin_and_the_api(clerk: Client, settings: Any, make_one: Callable[..., str]) -> None:
    settings.LICENSE_OWN_TOKENS_PER_USER, settings.LICENSE_OWN_TOKEN_DAYS = 2, 7
    settings.LICENSE_OWN_TOKEN_SCOPES = ["read"]
    assert "lives at most 7 days" in make_one(clerk, days=8, borrow=False)
    assert "your own tokens have these scopes: read" in make_one(clerk)
    assert [make_one(clerk, borrow=False), make_one(clerk, borrow=False)] == ["", ""]
    assert "You have 2 valid tokens, the most that one person can have" in make_one(clerk, borrow=False)
    assert ApiToken.objects.count() == 2
    # The page counts the same tokens.
    assert make(clerk, days="5", scopes=["read"]).status_code == 409
    tokens.revoke_token(key=ApiToken.objects.latest("pk").pk, by=ROOT)
    assert make_one(clerk, borrow=False) == ""


@DOORS
@pytest.mark.parametrize(("who", "may"), [("everyone", True), ("staff", True), ("nobody", False)])
def test_the_site_says_who_may_in_the_admin_and_the_api(
    clerk: Client, settings: Any, make_one: Callable[..., str], who: str, may: bool
) -> None:
    settings.LICENSE_OWN_TOKENS = who
    assert make_one(clerk) == "" if may else "only administrators create tokens" in make_one(clerk)
    assert ApiToken.objects.exists() is may


@DOORS
def test_superusers_have_no_limits_in_the_admin_and_the_api(
    clerk: Client, settings: Any, make_one: Callable[..., str]
) -> None:
    settings.LICENSE_OWN_TOKENS, settings.LICENSE_OWN_TOKENS_PER_USER = "nobody", 1
    settings.LICENSE_OWN_TOKEN_DAYS, settings.LICENSE_OWN_TOKEN_SCOPES = 7, ["read"]
    User.objects.update(is_superuser=True)
    assert [make_one(clerk, days=300), make_one(clerk, days=300)] == ["", ""]


def test_a_token_without_an_end_ends_within_the_limit(clerk: Client, settings: Any) -> None:
    settings.LICENSE_OWN_TOKEN_DAYS = 7
    before = timezone.now()
    page = clerk.get("/admin/licenses/apitoken/add/").content.decode()
    ends = [f"{now + timedelta(days=7):%Y-%m-%d}" for now in (before, timezone.now())]
    assert any(f'value="{day}"' in page for day in ends)
    for superuser, days in ((False, 7), (True, 90)):
        User.objects.update(is_superuser=superuser)
        body = {"name": "x", "user": "clerk"}
        assert clerk.post("/api/v1/tokens/", body, content_type="application/json").status_code == 201
        token = ApiToken.objects.latest("pk")
        assert token.expires_at - token.created_at == timedelta(days=days)


# --- Warnings before the end ------------------------------------------------------


def make_old(*, ends: timedelta, life: timedelta = timedelta(days=90), used: bool = True, **values: Any) -> str:
    """Create a token that was made some time ago and ends soon. Return its secret."""
    now = timezone.now()
    used_at = now - timedelta(days=1) if used else None
    return make_token(expires_at=now + ends, created_at=now + ends - life, last_used_at=used_at, **values)


@pytest.mark.parametrize(
    ("life", "ends", "warned"),
    [
        (timedelta(days=90), timedelta(days=8), False),
        (timedelta(days=90), timedelta(days=6), True),
        (timedelta(days=8), timedelta(days=3), False),
        (timedelta(days=8), timedelta(days=1), True),
    ],
)
def test_an_answer_says_that_the_token_ends_soon(
    required: None, make_tool: Callable[..., Tool], life: timedelta, ends: timedelta, warned: bool
) -> None:
    make_tool()
    program = api_with(f"Bearer {make_old(life=life, ends=ends, user='ana')}")
    end = f"{ApiToken.objects.get().expires_at:%Y-%m-%dT%H:%M:%SZ}"
    borrowed = program.borrow()
    answers = [borrowed, program.renew(borrowed.json()["id"]), program.client.get("/borrows"), program.borrow("nope")]
    for answer in answers:
        assert answer.headers.get("License-Token-Expires") == (end if warned else None)
    assert "License-Token-Expires" not in Client().get("/licenses/status").headers


def test_the_warning_asks_the_database_nothing(required: None, make_tool: Callable[..., Tool]) -> None:
    make_tool()
    counts = []
    for ends in (timedelta(days=60), timedelta(days=1)):
        program = api_with(f"Bearer {make_old(ends=ends, user='ana')}")
        program.client.get("/licenses/status")
        with CaptureQueriesContext(connection) as queries:
            program.client.get("/licenses/status")
        counts.append(len(queries))
    assert counts[0] == counts[1]


def ends_in_metrics() -> dict[str, float]:
    text = Client().get("/metrics").content.decode()
    return {
        labels: float(value)
        for labels, value in re.findall(r"^license_token_expires_timestamp_seconds\{(.*)\} (\S+)$", text, re.M)
    }


def test_the_metrics_have_the_end_of_tokens_of_programs(db: None, settings: Any) -> None:
    settings.LICENSE_AUTH = "open"
    week = timedelta(days=7)
    make_old(ends=week, team="crash", name="wanted")
    make_old(ends=week * 2, user="ana", name="wanted")
    make_old(ends=week * 5, team="crash")
    make_old(ends=week, team="crash", used=False)
    make_old(ends=timedelta(hours=1), life=timedelta(days=1), team="crash")
    make_old(ends=week, team="crash", revoked_at=timezone.now())
    # Who makes a token for themselves is warned on the page and in the client.
    ben = User.objects.create_user("ben")
    make_old(ends=week, user="ben", created_by=ben)
    # An administrator made this one for ben.
    make_old(ends=week * 3, user="ben", created_by=User.objects.create_user("root"), name="wanted")
    wanted = ApiToken.objects.filter(name="wanted").select_related("team")
    assert ends_in_metrics() == {
        f'team="{token.team.name if token.team else ""}",token="{token.pk}"': pytest.approx(
            token.expires_at.timestamp(), abs=1e-3
        )
        for token in wanted
    }


def test_the_metrics_of_many_tokens_are_few(db: None, settings: Any) -> None:
    settings.LICENSE_AUTH = "open"
    now = timezone.now()
    ApiToken.objects.bulk_create(
        ApiToken(
            name="x",
            user="ci",
            hash=str(number),
            hint="x",
            created_at=now - timedelta(days=80),
            expires_at=now + timedelta(days=1, minutes=number),
            last_used_at=now,
        )
        for number in range(1000)
    )
    assert len(ends_in_metrics()) == 20
    last = max(ends_in_metrics().values())
    assert last == pytest.approx((now + timedelta(days=1, minutes=19)).timestamp(), abs=1e-3)
