"""Accounts: the end of one ends its tokens, sessions and tickets, and retires its name."""

import ast
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from licenses.access import accounts
from licenses.models import (
    ApiToken,
    AuditRecord,
    Identity,
    JwtCaller,
    Lease,
    RetiredName,
    Team,
    TeamMember,
    Ticket,
    Tool,
)
from tests.support import commands
from tests.support.admin_forms import page_of
from tests.support.api import Api, api_of, api_with, assert_problem, make_token
from tests.support.databases import migrated_database
from tests.support.issuer import Issuer
from tests.support.quotas import SOMEBODY
from tests.support.servers import server_environment

pytestmark = pytest.mark.django_db

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Any]
PHRASE = "a long pass phrase"


def change(admin: Client, account: User, **values: str) -> Any:
    """Save an account's page with these values; an empty one leaves a box unchecked."""
    form = {name: value for name, value in (page_of(account) | values).items() if value or name == "force_note"}
    return admin.post(f"/admin/auth/user/{account.pk}/change/", form)


def deactivate(admin: Client, account: User, **more: str) -> None:
    assert change(admin, account, is_active="", **more).status_code == 302


def deactivate_in_the_list(admin: Client, account: User, **more: str) -> None:
    form = {"action": "deactivate", "_selected_action": [account.pk]}
    shown = admin.post("/admin/auth/user/", form)
    assert shown.status_code == 200
    assert admin.post("/admin/auth/user/", form | {"confirmed": "yes"} | more).status_code == 302


def rename(admin: Client, account: User, **more: str) -> None:
    assert change(admin, account, username="somebody-else", **more).status_code == 302


def delete(admin: Client, account: User, **more: str) -> None:
    assert admin.get(f"/admin/auth/user/{account.pk}/delete/").status_code == 200
    answer = admin.post(f"/admin/auth/user/{account.pk}/delete/", {"post": "yes"} | more)
    assert answer.status_code == 302


WAYS = [deactivate, deactivate_in_the_list, rename, delete]


@pytest.fixture
def ana(db: None) -> User:
    return User.objects.create_user("ana", password=PHRASE)


def read_with(credential: str) -> int:
    status: int = api_with(credential).client.get("/licenses/status").status_code
    return status


# --- What ends with an account ----------------------------------------------


@pytest.mark.parametrize("end", WAYS)
def test_all_that_acts_for_an_account_ends_with_it(
    ana: User, admin_client: Client, required: None, make_tool: MakeTool, end: Callable[..., None]
) -> None:
    make_tool("cad", capacity=1)
    make_tool("sim", capacity=1)
    mine = [f"Bearer {make_token(user='ana')}" for _ in range(2)]
    others = f"Bearer {make_token(user='ben')}"
    browser = Client()
    browser.post("/signin/", {"username": "ana", "password": PHRASE})
    lease = api_with(mine[0]).borrow("cad", "ana").json()
    api_with(others).borrow("sim", "ben")
    ticket = api_with(mine[1]).wait("sim", "ana")
    assert browser.get("/licenses/status").status_code == 200
    sessions = Session.objects.count()

    end(admin_client, ana)

    assert [read_with(token) for token in [*mine, others]] == [401, 401, 200]
    assert browser.get("/licenses/status").status_code == 401
    assert Session.objects.count() == sessions - 1
    assert Ticket.objects.get(id=ticket).state == "left"
    assert Tool.objects.get(name="sim").waiting == 0
    # Its leases stay without a force return.
    assert Lease.objects.get(pk=lease["id"]).ended_at is None
    tokens = sorted(ApiToken.objects.filter(user="ana").values_list("pk", flat=True))
    records = AuditRecord.objects.filter(actor="admin").order_by("pk")
    assert sorted(int(record.subject) for record in records.filter(action="revoked")) == tokens
    (ended,) = records.filter(action="ended", subject="ana")
    assert ended.before == {"tokens": tokens, "sessions": 1, "tickets": [ticket], "leases": [], "logins": 0}

    # A reactivated account, or a new one with that name, gets nothing back.
    User.objects.filter(pk=ana.pk).update(username="ana", is_active=True)
    User.objects.get_or_create(username="ana", defaults={"password": "x"})
    assert [read_with(token) for token in mine] == [401, 401]
    assert browser.get("/licenses/status").status_code == 401


@pytest.mark.parametrize("end", WAYS)
def test_open_leases_are_shown_and_can_be_forced_back_in_the_same_step(
    ana: User, admin_client: Client, api: Api, make_tool: MakeTool, end: Callable[..., None]
) -> None:
    make_tool("cad", capacity=2)
    make_tool("sim", capacity=2)
    lease = api.borrow_set(("cad", 1), ("sim", 2), host="ws1").json()
    others = api.borrow("cad", "ben").json()
    for page in (f"/admin/auth/user/{ana.pk}/change/", f"/admin/auth/user/{ana.pk}/delete/"):
        shown = admin_client.get(page).content.decode()
        assert "force_note" in shown
        assert "1 open lease<" in shown or "1 of cad on ws1" in shown
    end(admin_client, ana, force_note="left the company")
    assert (api.status("cad")["borrowed"], api.status("sim")["borrowed"]) == (1, 0)
    answer = api.renew(lease["id"])
    assert (answer.status_code, answer.json()["code"], answer.json()["note"]) == (410, "forced", "left the company")
    assert api.renew(others["id"]).status_code == 200
    (forced,) = AuditRecord.objects.filter(action="force_returned")
    assert (forced.subject, forced.actor, forced.note) == (lease["id"], "admin", "left the company")


def test_a_change_that_ends_nothing_forces_nothing_back(
    ana: User, admin_client: Client, api: Api, make_tool: MakeTool, required: None
) -> None:
    make_tool()
    token = f"Bearer {make_token(user='ana')}"
    lease = api_with(token).borrow().json()
    assert change(admin_client, ana, email="ana@example.com", force_note="by mistake").status_code == 302
    assert api_with(token).renew(lease["id"]).status_code == 200


def test_a_reason_of_two_lines_ends_nothing(ana: User, admin_client: Client) -> None:
    token = f"Bearer {make_token(user='ana')}"
    bad = {"force_note": "two\nlines\u202e"}
    assert change(admin_client, ana, is_active="", **bad).status_code == 200
    admin_client.post(f"/admin/auth/user/{ana.pk}/delete/", {"post": "yes"} | bad)
    form = {"action": "deactivate", "_selected_action": [ana.pk], "confirmed": "yes"}
    assert admin_client.post("/admin/auth/user/", form | bad).status_code == 200
    assert read_with(token) == 200
    assert User.objects.get(pk=ana.pk).is_active


def test_an_account_that_made_tokens_can_be_deleted(admin_client: Client, required: None) -> None:
    maker = User.objects.create_superuser("maker", password=None)
    of_team = f"Bearer {make_token(team='crash', created_by=maker)}"
    administers = api_of(scopes=["admin", "read"], created_by=maker)
    assert administers.client.get("/api/v1/audit/").status_code == 200
    delete(admin_client, maker)
    # A team's token stays; scopes that its creator gave are gone.
    assert read_with(of_team) == 200
    assert administers.client.get("/api/v1/audit/").status_code == 403
    assert admin_client.get("/admin/licenses/apitoken/").status_code == 200


@pytest.mark.parametrize("way", ["deleted", "renamed", "deactivated"])
def test_a_token_does_not_outlive_an_account_that_went_behind_our_back(ana: User, required: None, way: str) -> None:
    """Change the account in a shell or with SQL."""
    token = f"Bearer {make_token(user='ana')}"
    mine = User.objects.filter(username="ana")
    if way == "deleted":
        mine.delete()
    elif way == "renamed":
        mine.update(username="anna", is_active=False)
    else:
        mine.update(is_active=False)
    assert read_with(token) == 401
    if way != "deactivated":
        User.objects.create_user("ana")
        assert read_with(token) == 401


def test_a_token_that_was_there_before_the_account_ends_with_it_too(admin_client: Client, required: None) -> None:
    """CI uses names that are nobody's account, until one day they are."""
    tokens = [f"Bearer {make_token(user='nightly')}" for _ in range(2)]
    assert [read_with(token) for token in tokens] == [200, 200]
    form = {"username": "nightly", "usable_password": "false"}
    assert admin_client.post("/admin/auth/user/add/", form).status_code == 302
    assert [read_with(token) for token in tokens] == [200, 200]
    # One more token, from before an account that is created in a shell.
    User.objects.create_user("weekly")
    ApiToken.objects.filter(pk=ApiToken.objects.latest("pk").pk).update(user="weekly", account=None, last_used_at=None)
    assert read_with(tokens[1]) == 200
    User.objects.filter(username="weekly").delete()
    assert read_with(tokens[1]) == 401
    delete(admin_client, User.objects.get(username="nightly"))
    assert read_with(tokens[0]) == 401


def test_a_token_is_found_with_one_statement(ana: User, required: None) -> None:
    token = f"Bearer {make_token(user='ana')}"
    read_with(token)
    with CaptureQueriesContext(connection) as queries:
        assert read_with(token) == 200
    assert len(queries) == 2
    assert sum("auth_user" in query["sql"] for query in queries) == 1


def test_a_reactivated_account_gets_nothing_back(ana: User, admin_client: Client, required: None) -> None:
    deactivate(admin_client, ana)
    ana.refresh_from_db()
    assert change(admin_client, ana, is_active="on").status_code == 302
    browser = Client()
    assert browser.post("/signin/", {"username": "ana", "password": PHRASE}).status_code == 302
    assert read_with(f"Bearer {make_token(user='ana')}") == 200
    assert not RetiredName.objects.exists()


def test_a_team_token_does_nothing_for_a_deactivated_person(
    ana: User, required: None, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    make_tool(capacity=3)
    make_team("crash", "ana", "ben")
    team = api_of(team="crash")
    lease, ticket_of = team.borrow(user="ana").json(), team.borrow(user="ben").json()
    User.objects.filter(pk=ana.pk).update(is_active=False)
    assert_problem(team.borrow(user="ana"), 403)
    assert_problem(team.renew(lease["id"]), 404)
    assert_problem(team.give_back(lease["id"]), 404)
    assert team.renew(ticket_of["id"]).status_code == 200
    Team.objects.update(ignores_case=True)
    for name in ("Ana", "ANA"):
        assert_problem(team.borrow(user=name), 403)


def test_memberships_go_with_the_account_or_follow_its_name(
    ana: User, admin_client: Client, make_team: MakeTeam
) -> None:
    make_team("crash", "ana", "ben")
    make_team("noise", "ana", "somebody-else")
    rename(admin_client, ana)
    found = set(TeamMember.objects.values_list("team__name", "user"))
    assert found == {("crash", "somebody-else"), ("crash", "ben"), ("noise", "somebody-else")}
    ana.refresh_from_db()
    delete(admin_client, ana)
    assert set(TeamMember.objects.values_list("team__name", "user")) == {("crash", "ben")}
    gone = AuditRecord.objects.filter(action="deleted", subject_kind="member").values_list("subject", flat=True)
    assert set(gone) == {"ana in noise", "somebody-else in crash", "somebody-else in noise"}


def test_two_ends_at_once_are_one(ana: User) -> None:
    make_token(user="ana")
    assert accounts.deactivate(ana, by=SOMEBODY).tokens == [ApiToken.objects.get().pk]
    assert accounts.deactivate(ana, by=SOMEBODY) == accounts.Ended()


# --- Names -------------------------------------------------------------------


@pytest.mark.parametrize("end", [rename, delete])
def test_a_name_that_was_anothers_is_given_to_nobody_by_accident(
    ana: User, admin_client: Client, end: Callable[..., None]
) -> None:
    end(admin_client, ana)
    for name in ("ana", "Ana"):
        answer = admin_client.post("/admin/auth/user/add/", {"username": name, "usable_password": "false"})
        assert b"Another account had the name" in answer.content
    with pytest.raises(CommandError, match="an account that was deleted or renamed"):
        call_command("token", "create", "x", "--user", "ana", stderr=io.StringIO())
    assert not ApiToken.objects.exists()
    # An administrator releases the name first, which is recorded.
    retired = RetiredName.objects.get()
    admin_client.post(f"/admin/licenses/retiredname/{retired.pk}/delete/", {"post": "yes"})
    assert AuditRecord.objects.filter(subject_kind="retired_name", action="deleted", subject="ana").exists()
    answer = admin_client.post("/admin/auth/user/add/", {"username": "ana", "usable_password": "false"})
    assert answer.status_code == 302


def test_a_renamed_user_can_have_the_old_name_back(ana: User, admin_client: Client) -> None:
    rename(admin_client, ana)
    ana.refresh_from_db()
    assert change(admin_client, ana, username="ana").status_code == 302
    assert User.objects.get(pk=ana.pk).username == "ana"
    assert [retired.name for retired in RetiredName.objects.all()] == ["somebody-else"]


@pytest.mark.parametrize("name", ["ANA", "Ana", "\uff41\uff4e\uff41"])
def test_no_account_is_named_like_another(ana: User, admin_client: Client, name: str) -> None:
    ben = User.objects.create_user("ben")
    assert b"another account called ana" in change(admin_client, ben, username=name).content
    answer = admin_client.post("/admin/auth/user/add/", {"username": name, "usable_password": "false"})
    assert answer.status_code == 200
    assert set(User.objects.values_list("username", flat=True)) == {"admin", "ana", "ben"}


# --- Callers known by JWT -----------------------------------------------------


def by_jwt(issuer: Issuer, **claims: Any) -> Api:
    return api_with(f"Bearer {issuer.sign(issuer.claims(**claims))}")


def test_the_first_jwt_of_a_name_binds_it_to_its_subject(
    required: None, issuer: Issuer, make_tool: MakeTool, admin_client: Client
) -> None:
    make_tool(capacity=2)
    first = by_jwt(issuer, sub="sub-a", preferred_username="lee")
    lease = first.borrow(user="lee").json()
    for name in ("lee", "Lee"):
        other = by_jwt(issuer, sub="sub-b", preferred_username=name)
        assert_problem(other.borrow(user=name), 401)
        assert_problem(other.give_back(lease["id"]), 401)
    # The first user keeps the name, also with a new name at the provider.
    renamed = by_jwt(issuer, sub="sub-a", preferred_username="leander")
    assert renamed.give_back(lease["id"]).status_code == 200
    assert renamed.post("/licenses/borrow", {"tool": "cad"}).json()["user"] == "lee"
    assert list(JwtCaller.objects.values_list("issuer", "subject", "name")) == [(issuer.url, "sub-a", "lee")]
    # An administrator releases the name.
    admin_client.post(f"/admin/licenses/jwtcaller/{JwtCaller.objects.get().pk}/delete/", {"post": "yes"})
    assert AuditRecord.objects.filter(subject_kind="jwt_caller", action="deleted", subject="lee").exists()
    assert by_jwt(issuer, sub="sub-b", preferred_username="lee").borrow(user="lee").status_code == 200


def test_a_jwt_is_not_known_by_a_name_of_two_spellings(required: None, issuer: Issuer) -> None:
    User.objects.create_superuser("root", password=None)
    for name in ("Root", "\uff52oot", "\uff42en"):
        assert_problem(by_jwt(issuer, preferred_username=name).client.get("/borrows"), 401)
    assert not JwtCaller.objects.exists()


def test_a_name_that_was_an_accounts_is_no_strangers(
    required: None, issuer: Issuer, ana: User, admin_client: Client
) -> None:
    Identity.objects.create(user=ana, issuer=issuer.url, subject="anas-subject")
    hers, theirs = ({"sub": subject, "preferred_username": "ana"} for subject in ("anas-subject", "another"))
    assert by_jwt(issuer, **hers).client.get("/borrows").status_code == 200
    delete(admin_client, ana)
    assert_problem(by_jwt(issuer, **theirs).client.get("/borrows"), 401)
    # A user of the provider gets the same account again.
    assert by_jwt(issuer, **hers).client.get("/borrows").status_code == 200
    assert_problem(by_jwt(issuer, **theirs).client.get("/borrows"), 401)


def test_a_caller_whose_name_became_an_account_and_went_does_not_come_back(
    required: None, issuer: Issuer, admin_client: Client
) -> None:
    robot = {"sub": "robot", "preferred_username": "ci"}
    assert by_jwt(issuer, **robot).client.get("/borrows").status_code == 200
    account = User.objects.create_user("ci")
    assert_problem(by_jwt(issuer, **robot).client.get("/borrows"), 401)
    delete(admin_client, account)
    assert_problem(by_jwt(issuer, **robot).client.get("/borrows"), 401)


# --- Upgrades ------------------------------------------------------------------


# Upgrades, makes tokens as the previous version does, and prints what each step leaves of them.
STEPS = """
from django.core.management import call_command
from django.db import connection

PREVIOUS = ("licenses", "0016")

def migrate(*target):
    call_command("migrate", *target, verbosity=0)

def rows(sql, *values):
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall() if cursor.description else []

migrate(*PREVIOUS)
rows("INSERT INTO auth_user (username, password, is_superuser, first_name, last_name, email, is_staff, is_active, "
     "date_joined) VALUES ('ana', 'x', true, '', '', '', true, true, CURRENT_TIMESTAMP)")
((root,),) = rows("SELECT id FROM auth_user")
for user, is_admin, maker in (("ana", False, None), ("nightly", False, None), ("", True, root)):
    rows('INSERT INTO licenses_apitoken (name, "user", may_read, may_borrow, may_administer, hash, hint, created_at, '
         "created_by_id, expires_at) VALUES ('x', %s, true, false, %s, %s, '', CURRENT_TIMESTAMP, %s, '2999-01-01')",
         user, is_admin, user, maker)
migrate()
print(rows('SELECT "user", account_id = %s, revoked_at IS NULL FROM licenses_apitoken ORDER BY id', root))
rows("DELETE FROM auth_user")
migrate(*PREVIOUS)
print(rows('SELECT "user", created_by_id, revoked_at IS NULL FROM licenses_apitoken ORDER BY id'))
"""


def test_tokens_are_bound_by_the_upgrade_and_stay_dead_after_a_step_back(tmp_path: Path) -> None:
    with migrated_database(tmp_path) as database:
        environment = server_environment(tmp_path, database, 0)
        printed = commands.output("shell", "--no-imports", "-c", STEPS, environment=environment)
    upgraded, stepped_back = map(ast.literal_eval, printed.splitlines())
    assert upgraded == [("ana", True, True), ("nightly", None, True), ("", None, True)]
    # Tokens that the previous version would accept again are revoked.
    assert stepped_back == [("ana", None, False), ("nightly", None, True), ("", None, False)]


# --- Who may do it -------------------------------------------------------------


def test_without_the_right_to_force_return_ending_an_account_ends_no_lease(
    ana: User, client: Client, api: Api, make_tool: MakeTool
) -> None:
    make_tool()
    lease = api.borrow().json()
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=["change_user", "view_user"]))
    client.force_login(clerk)
    assert "force_note" not in client.get(f"/admin/auth/user/{ana.pk}/change/").content.decode()
    change(client, ana, is_active="", force_note="because I can")
    assert not User.objects.get(pk=ana.pk).is_active
    assert api.renew(lease["id"]).status_code == 200
