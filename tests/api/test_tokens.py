"""API tokens are created, shown once, used, recorded and revoked."""

import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from licenses.models import ApiToken, Team, Tool
from tests.support.api import Api, api_of, api_with, assert_problem, make_token

pytestmark = pytest.mark.django_db


def manage(*arguments: str) -> str:
    out = io.StringIO()
    call_command("token", *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def status_with(secret: str) -> int:
    status: int = api_with(f"Bearer {secret}").client.get("/licenses/status").status_code
    return status


def test_a_token_is_made_used_listed_and_revoked_by_command(required: None) -> None:
    Team.objects.create(name="crash")
    secret = manage("create", "nightly build", "--team", "crash", "--days", "30").strip()
    assert secret.startswith("lic_")
    assert len(secret) == 47
    assert status_with(secret) == 200
    listed = manage("list")
    assert "nightly build" in listed
    assert "team crash" in listed
    assert secret not in listed
    token = ApiToken.objects.get()
    assert (token.expires_at - token.created_at, token.created_by) == (timedelta(days=30), None)
    assert manage("revoke", str(token.pk)) == f"{token}: revoked\n"
    assert status_with(secret) == 401
    assert manage("list") == ""
    assert "revoked" in manage("list", "--all")
    first = ApiToken.objects.get().revoked_at
    manage("revoke", str(token.pk))
    assert ApiToken.objects.get().revoked_at == first


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "x", "--team", "nosuch"],
        ["create", "x", "--days", "0", "--user", "ana"],
        ["create", "x", "--days", "367", "--user", "ana"],
        ["create", "x", "--scope", "borrow"],
        ["create", "", "--user", "ana"],
        ["create", "two\nlines", "--user", "ana"],
        ["create", "x", "--user", "a\0b"],
        ["create", "x", "--user", "u" * 256],
        ["create", "x", "--scope", "root", "--user", "ana"],
        ["create", "x", "--team", "crash", "--user", "ana"],
        ["revoke", "12345"],
        ["revoke", "x"],
        [],
    ],
)
def test_a_token_that_makes_no_sense_is_not_made(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        manage(*arguments)
    assert not ApiToken.objects.exists()


def test_the_secret_is_kept_nowhere() -> None:
    secret = make_token(user="ana")
    row = ApiToken.objects.values().get()
    assert not any(secret[8:] in str(value) for value in row.values())
    assert row["hint"] == secret[:8]


def test_an_expired_token_says_so(required: None, pass_time: Callable[..., None]) -> None:
    secret = make_token(user="ana", expires_at=timezone.now() + timedelta(days=1))
    assert status_with(secret) == 200
    pass_time(days=1)
    answer = api_with(f"Bearer {secret}").client.get("/licenses/status")
    assert_problem(answer, 401)
    assert answer.json()["detail"] == "This token has expired."


def test_a_look_up_is_one_query_by_an_index(required: None, make_tool: Callable[..., Tool]) -> None:
    make_tool()
    secret = make_token(team="crash")
    status_with(secret)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert status_with(secret) == 200
    of_token = [query["sql"] for query in queries if "licenses_apitoken" in query["sql"]]
    assert len(of_token) == 1
    assert len(queries) == 2
    assert "licenses_apitoken.hash" in of_token[0]


def test_a_credential_that_can_be_no_token_asks_the_database_nothing(required: None) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert status_with("lic_short") == 401
    assert not [query for query in queries if "apitoken" in query["sql"]]


def test_the_last_use_is_noted_once_a_minute(required: None, pass_time: Callable[..., None]) -> None:
    secret = make_token(user="ana")
    assert ApiToken.objects.get().last_used_at is None
    status_with(secret)
    first = ApiToken.objects.get().last_used_at
    assert first is not None
    assert abs(timezone.now() - first) < timedelta(minutes=1)
    status_with(secret)
    assert ApiToken.objects.get().last_used_at == first
    pass_time(seconds=61)
    status_with(secret)
    noted = ApiToken.objects.get().last_used_at
    assert noted is not None
    assert noted > first


def test_a_use_is_noted_after_the_answer(required: None, settings: Any) -> None:
    secret = make_token(user="ana")
    noted: list[Any] = []

    class Spy:
        def __init__(self, get_response: Callable[..., Any]) -> None:
            self.get_response = get_response

        def __call__(self, request: Any) -> Any:
            answer = self.get_response(request)
            noted.append(ApiToken.objects.get().last_used_at)
            return answer

    globals()["Spy"] = Spy
    settings.MIDDLEWARE = [f"{__name__}.Spy", *settings.MIDDLEWARE]
    assert status_with(secret) == 200
    assert noted == [None]
    assert ApiToken.objects.get().last_used_at is not None


def test_an_administrators_token_goes_no_further_than_its_maker(required: None, make_tool: Callable[..., Tool]) -> None:
    make_tool(capacity=2)
    root = User.objects.create_superuser("root", password=None)
    admin = api_of(scopes=["admin", "read"], created_by=root)
    assert admin.borrow(user="ana").status_code == 200
    User.objects.update(is_superuser=False)
    assert admin.borrow(user="ana").status_code == 403
    assert admin.client.get("/borrows").status_code == 200


def test_a_users_token_ends_with_the_users_account(required: None) -> None:
    User.objects.create_user("ana")
    secret = make_token(user="ana")
    assert status_with(secret) == 200
    User.objects.update(is_active=False)
    assert status_with(secret) == 401


def test_a_users_token_administers_only_while_the_user_does(required: None, make_tool: Callable[..., Tool]) -> None:
    make_tool(capacity=3)
    token = api_of(user="root", scopes=["admin", "borrow"])
    assert token.borrow(user="ana").status_code == 403
    User.objects.create_superuser("root", password=None)
    assert token.borrow(user="ana").status_code == 200


def test_the_database_takes_no_token_of_two_owners() -> None:
    team = Team.objects.create(name="crash")
    with pytest.raises(IntegrityError):
        ApiToken.objects.create(name="x", team=team, user="ana", hash="x")


# --- In the admin -----------------------------------------------------------


def form(**values: str) -> dict[str, str]:
    tomorrow = timezone.now() + timedelta(days=1)
    return {
        "name": "nightly",
        "user": "ana",
        "may_read": "on",
        "expires_at_0": f"{tomorrow:%Y-%m-%d}",
        "expires_at_1": "12:00",
    } | values


def test_the_admin_shows_the_secret_once(required: None, admin_client: Client, admin_user: User) -> None:
    page = admin_client.post("/admin/licenses/apitoken/add/", form())
    assert page.status_code == 200
    assert "no-store" in page["Cache-Control"]
    secret = page.content.decode().split('<code id="secret">')[1].split("<")[0]
    assert status_with(secret) == 200
    token = ApiToken.objects.get()
    assert token.created_by == admin_user
    for path in ("/admin/licenses/apitoken/", f"/admin/licenses/apitoken/{token.pk}/change/", "/admin/"):
        shown = admin_client.get(path)
        assert shown.status_code == 200
        assert secret[8:] not in shown.content.decode()
        assert token.hash not in shown.content.decode()


def test_the_admin_revokes(required: None, admin_client: Client) -> None:
    secret = make_token(user="ana")
    token = ApiToken.objects.get()
    address = f"/admin/licenses/apitoken/{token.pk}/change/"
    assert b'value="Revoke" formaction="/admin/licenses/apitoken/"' in admin_client.get(address).content
    admin_client.post("/admin/licenses/apitoken/", {"action": "revoke", "_selected_action": [str(token.pk)]})
    assert status_with(secret) == 401
    assert b'value="Revoke"' not in admin_client.get(address).content


def test_a_token_is_neither_changed_nor_deleted(admin_client: Client) -> None:
    make_token(user="ana", scopes=["read"])
    token = ApiToken.objects.get()
    assert admin_client.post(f"/admin/licenses/apitoken/{token.pk}/change/", form(user="ben")).status_code == 403
    assert admin_client.post(f"/admin/licenses/apitoken/{token.pk}/delete/", {"post": "yes"}).status_code == 403
    assert ApiToken.objects.get().user == "ana"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"user": ""},
        {"expires_at_0": "2001-01-01"},
        {"expires_at_0": "2999-01-01"},
        {"user": "a\u202eb"},
    ],
)
def test_a_wrong_form_makes_no_token(admin_client: Client, wrong: dict[str, str]) -> None:
    answer = admin_client.post("/admin/licenses/apitoken/add/", form(may_borrow="on") | wrong)
    assert answer.status_code == 200
    assert b"errornote" in answer.content
    assert not ApiToken.objects.exists()


def test_only_a_superuser_creates_an_administrators_token(client: Client) -> None:
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=["add_apitoken", "view_apitoken"]))
    client.force_login(clerk)
    assert b"may_administer" not in client.get("/admin/licenses/apitoken/add/").content
    client.post("/admin/licenses/apitoken/add/", form(may_administer="on"))
    assert not ApiToken.objects.get().may_administer


def test_teams_are_kept_in_the_admin(admin_client: Client, required: None, make_tool: Callable[..., Tool]) -> None:
    admin_client.post("/admin/licenses/team/add/", {"name": "crash", "display_name": "Crash simulation"})
    admin_client.post("/admin/licenses/teammember/add/", {"team": Team.objects.get().pk, "user": "ana"})
    make_tool()
    assert api_of(team="crash").borrow(user="ana").status_code == 200


def test_an_api_sees_no_token(api: Api) -> None:
    secret = make_token(user="ana")
    for path in ("/api/v1/", "/api/v1/leases/", "/api/schema/"):
        assert secret not in api.client.get(path).content.decode()
