"""The audit records every change of an administrator, and can't be changed."""

import io
import os
import pwd
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.utils import timezone

from licenses.models import ApiToken, AuditRecord, Identity, Lease, MemberSource, Team, TeamMember, Tool
from licenses.models.audit import AppendOnly
from tests.support.admin_forms import save
from tests.support.api import Api, api_of, api_with, assert_problem, basic, make_token
from tests.support.issuer import Issuer
from tests.support.servers import Server

pytestmark = pytest.mark.django_db

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]
ME = pwd.getpwuid(os.getuid()).pw_name
BY_ADMIN = ("account", "admin", "127.0.0.1")


def records(admin: Client, **filters: str) -> list[dict[str, Any]]:
    """Return the audit as an administrator reads it, the oldest record first."""
    answer = admin.get("/api/v1/audit/", filters)
    assert answer.status_code == 200, answer.content
    results: list[dict[str, Any]] = answer.json()["results"]
    return results[::-1]


def told(record: dict[str, Any]) -> tuple[Any, ...]:
    """Return the action and subject of each record."""
    return tuple(record[name] for name in ("action", "subject_kind", "subject", "before", "after"))


def who(record: dict[str, Any]) -> tuple[str, str, str]:
    return record["actor_kind"], record["actor"], record["origin"]


def manage(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def set_capacity(admin: Client, tool: Tool, capacity: int, **headers: str) -> Any:
    """Change capacities in the list of tools."""
    form = {"form-TOTAL_FORMS": "1", "form-INITIAL_FORMS": "1", "form-0-id": tool.pk, "form-0-capacity": capacity}
    return admin.post("/admin/licenses/tool/", form | {"_save": "Save"}, headers=headers)


def force_return(admin: Client, lease_id: str, reason: str) -> Any:
    form = {"action": "force_return", "_selected_action": [lease_id], "reason": reason, "confirmed": "yes"}
    return admin.post("/admin/licenses/lease/", form)


# --- Tools and their rules --------------------------------------------------


def test_a_changed_capacity_is_on_record(admin_client: Client, make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=5)
    set_capacity(admin_client, tool, 9)
    (record,) = records(admin_client)
    assert told(record) == ("changed", "tool", "cad", {"capacity": 5}, {"capacity": 9})
    assert who(record) == BY_ADMIN
    assert record["note"] == ""
    with connection.cursor() as cursor:
        cursor.execute("SELECT CURRENT_TIMESTAMP")
        (now,) = cursor.fetchone()
    assert record["recorded_at"][:15] == str(now).replace(" ", "T")[:15]


def test_the_address_is_the_clients(admin_client: Client, make_tool: MakeTool, settings: Any) -> None:
    settings.TRUSTED_PROXIES = 1
    set_capacity(admin_client, make_tool(), 9, X_Forwarded_For="203.0.113.9, 198.51.100.7")
    assert records(admin_client)[0]["origin"] == "198.51.100.7"


def test_saving_unchanged_values_is_not_a_change(admin_client: Client, make_tool: MakeTool) -> None:
    set_capacity(admin_client, make_tool("cad", capacity=5), 5)
    manage("seed", "--tool", "cad=5", "--force")
    assert records(admin_client) == []


def test_every_rule_of_a_tool_is_on_record(admin_client: Client, make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=5)
    form = {
        "capacity": "5",
        "overdraft": "2",
        "default_ttl": "01:00:00",
        "max_ttl": "",
        "valid_from_0": "2026-01-01",
        "valid_from_1": "00:00:00",
        "vendor": "Ansys",
    }
    assert admin_client.post(f"/admin/licenses/tool/{tool.pk}/change/", form).status_code == 302
    (record,) = records(admin_client)
    assert record["before"] == {
        "vendor": "",
        "overdraft": 0,
        "default_ttl_seconds": 28800,
        "enabled": True,
        "valid_from": None,
    }
    assert record["after"] == {
        "vendor": "Ansys",
        "overdraft": 2,
        "default_ttl_seconds": 3600,
        "enabled": False,
        "valid_from": "2026-01-01T00:00:00Z",
    }


def test_a_tool_is_made_and_deleted_on_record(admin_client: Client, make_tool: MakeTool, make_team: MakeTeam) -> None:
    admin_client.post("/admin/licenses/tool/add/", {"name": "cad", "capacity": "4", "overdraft": "0", "enabled": "on"})
    tool = Tool.objects.get()
    save(admin_client, tool, {"user_limits": [{"user": "ana", "seats": 1}]})
    admin_client.post(f"/admin/licenses/tool/{tool.pk}/delete/", {"post": "yes"})
    assert not Tool.objects.exists()
    made, _, *gone = records(admin_client)
    assert told(made)[:4] == ("created", "tool", "cad", {})
    assert made["after"].items() >= {"name": "cad", "capacity": 4, "enabled": True, "user_limit": None}.items()
    assert {told(record)[:3] for record in gone} == {
        ("deleted", "tool", "cad"),
        ("deleted", "user_limit", "cad for ana"),
    }
    assert all(record["before"] and not record["after"] for record in gone)
    assert "borrowed" not in made["after"]


def test_quotas_limits_and_lists_are_on_record(admin_client: Client, make_tool: MakeTool, make_team: MakeTeam) -> None:
    tool, crash = make_tool("cad", capacity=5), make_team("crash")
    rows: dict[str, list[dict[str, Any]]] = {
        "allotments": [{"team": crash.pk, "quota": 3, "reservation": 1}],
        "user_limits": [{"user": "ana", "seats": 1}],
        "access_rules": [{"effect": "exclude", "kind": "user", "team": "", "name": "eve"}],
    }
    save(admin_client, tool, rows)
    created = {record["subject_kind"]: record for record in records(admin_client)}
    assert {kind: record["subject"] for kind, record in created.items()} == {
        "allotment": "cad for crash",
        "user_limit": "cad for ana",
        "access_rule": "cad for user eve",
    }
    assert created["allotment"]["after"] == {"tool": "cad", "team": "crash", "quota": 3, "reservation": 1}
    rows["allotments"][0] |= {"id": tool.allotments.get().pk, "quota": 4}
    rows["user_limits"][0] |= {"id": tool.user_limits.get().pk, "seats": 2}
    rows["access_rules"][0] |= {"id": tool.access_rules.get().pk, "DELETE": "on"}
    save(admin_client, tool, rows)
    assert [told(record) for record in records(admin_client)[3:]] == [
        ("changed", "allotment", "cad for crash", {"quota": 3}, {"quota": 4}),
        ("changed", "user_limit", "cad for ana", {"seats": 1}, {"seats": 2}),
        (
            "deleted",
            "access_rule",
            "cad for user eve",
            {"tool": "cad", "effect": "exclude", "kind": "user", "team": None, "name": "eve"},
            {},
        ),
    ]
    rows = {"allotments": [{"id": tool.allotments.get().pk, "team": crash.pk, "reservation": 1, "DELETE": "on"}]}
    save(admin_client, tool, rows)
    assert told(records(admin_client)[-1])[:3] == ("deleted", "allotment", "cad for crash")


def test_a_command_is_known_by_its_name_and_its_os_user(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    # The environment could name any user.
    for variable in ("USER", "LOGNAME", "SUDO_USER"):
        monkeypatch.setenv(variable, "somebody else")
    manage("seed", "--tool", "cad=5")
    manage("seed", "--tool", "cad=7")
    manage("seed", "--tool", "cad=6", "--force")
    made, changed = records(admin_client)
    assert told(made)[:3] == ("created", "tool", "cad")
    assert told(changed) == ("changed", "tool", "cad", {"capacity": 5}, {"capacity": 6})
    assert who(made) == who(changed) == ("command", ME, "seed")


# --- Teams ------------------------------------------------------------------


def test_teams_and_their_members_are_on_record(admin_client: Client) -> None:
    admin_client.post("/admin/licenses/team/add/", {"name": "crash", "display_name": ""})
    team = Team.objects.get()
    for user in ("ana", "ben"):
        admin_client.post("/admin/licenses/teammember/add/", {"team": team.pk, "user": user})
    ana, ben = (TeamMember.objects.get(user=user).pk for user in ("ana", "ben"))
    TeamMember.objects.filter(user="ana").update(source=MemberSource.OIDC)
    admin_client.post(f"/admin/licenses/team/{team.pk}/change/", {"display_name": "Crash simulation"})
    admin_client.post(f"/admin/licenses/teammember/{ben}/delete/", {"post": "yes"})
    admin_client.post(f"/admin/licenses/teammember/{ana}/change/", {"user": "eve"})
    found = records(admin_client)
    member = {"team": "crash", "source": "manual", "is_lead": False}
    assert [told(record) for record in found] == [
        ("created", "team", "crash", {}, {"name": "crash", "display_name": "", "ignores_case": False}),
        ("created", "member", "ana in crash", {}, member | {"user": "ana"}),
        ("created", "member", "ben in crash", {}, member | {"user": "ben"}),
        ("changed", "team", "crash", {"display_name": ""}, {"display_name": "Crash simulation"}),
        ("deleted", "member", "ben in crash", member | {"user": "ben"}, {}),
        ("changed", "member", "eve in crash", {"user": "ana", "source": "oidc"}, {"user": "eve", "source": "manual"}),
    ]
    assert {who(record) for record in found} == {BY_ADMIN}


@pytest.mark.parametrize("way", ["page", "action"])
def test_a_deleted_team_takes_its_members_with_it(admin_client: Client, make_team: MakeTeam, way: str) -> None:
    team = make_team("crash", "ana")
    if way == "page":
        admin_client.post(f"/admin/licenses/team/{team.pk}/delete/", {"post": "yes"})
    else:
        form = {"action": "delete_selected", "_selected_action": [team.pk], "post": "yes"}
        admin_client.post("/admin/licenses/team/", form)
    assert not Team.objects.exists()
    assert {told(record)[:3] for record in records(admin_client)} == {
        ("deleted", "team", "crash"),
        ("deleted", "member", "ana in crash"),
    }


def test_members_from_a_file_are_on_record(admin_client: Client, tmp_path: Path, make_team: MakeTeam) -> None:
    make_team("crash", "manual")
    file = tmp_path / "members.csv"
    for text in ("crash,ana\nbody,ben\ncrash,manual\n", "crash,ana\n"):
        file.write_text(f"team,user\n{text}")
        manage("team", "import", str(file))
    found = records(admin_client)
    assert [told(record)[:3] for record in found] == [
        ("created", "team", "body"),
        ("created", "member", "ben in body"),
        ("created", "member", "ana in crash"),
        ("deleted", "member", "ben in body"),
    ]
    assert {who(record) for record in found} == {("command", ME, "team import")}


# --- Tokens and accounts ----------------------------------------------------


def make_account(admin: Client, name: str, phrase: str) -> None:
    form = {"username": name, "usable_password": "true", "password1": phrase, "password2": phrase}
    assert admin.post("/admin/auth/user/add/", form).status_code == 302


def test_tokens_are_made_and_revoked_on_record(admin_client: Client) -> None:
    manage("token", "create", "nightly", "--user", "ana", "--scope", "read")
    token = ApiToken.objects.get()
    form = {"action": "revoke", "_selected_action": [token.pk]}
    admin_client.post("/admin/licenses/apitoken/", form)
    manage("token", "revoke", str(token.pk))
    made, revoked = records(admin_client)
    assert told(made)[:4] == ("created", "token", str(token.pk), {})
    assert made["after"] == {
        "name": "nightly",
        "team": None,
        "user": "ana",
        "may_read": True,
        "may_borrow": False,
        "may_administer": False,
        "expires_at": token.expires_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    assert who(made) == ("command", ME, "token create")
    token.refresh_from_db()
    assert token.revoked_at is not None
    at = token.revoked_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert told(revoked) == ("revoked", "token", str(token.pk), {"revoked_at": None}, {"revoked_at": at})
    assert who(revoked) == BY_ADMIN


def test_rights_that_are_given_by_hand_are_on_record(admin_client: Client, client: Client) -> None:
    make_account(admin_client, "olga", "a long pass phrase")
    olga, group = User.objects.get(username="olga"), Group.objects.create(name="Buyers")
    page = f"/admin/auth/user/{olga.pk}/change/"
    form = {"username": "olga", "is_active": "on", "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    admin_client.post(page, form | {"is_staff": "on", "groups": [group.pk]})
    admin_client.post(page, form | {"is_staff": "on", "groups": [group.pk], "first_name": "Olga"})
    admin_client.post(f"/admin/auth/user/{olga.pk}/delete/", {"post": "yes"})
    rights = {"username": "olga", "email": "", "is_active": True, "is_staff": False, "is_superuser": False}
    rights |= {"groups": [], "permissions": []}
    given = {"is_staff": True, "groups": ["Buyers"]}
    assert [told(record) for record in records(admin_client)] == [
        ("created", "account", "olga", {}, rights),
        ("changed", "account", "olga", {"is_staff": False}, {"is_staff": True}),
        ("changed", "account", "olga", {"groups": []}, {"groups": ["Buyers"]}),
        ("deleted", "account", "olga", rights | given, {}),
    ]


def test_a_link_to_the_provider_is_on_record(admin_client: Client) -> None:
    ben = User.objects.create_user("ben")
    form = {"user": ben.pk, "issuer": "https://idp.example", "subject": "4711"}
    admin_client.post("/admin/licenses/identity/add/", form)
    assert Identity.objects.exists()
    after = {"user": "ben", "issuer": "https://idp.example", "subject": "4711"}
    assert [told(record) for record in records(admin_client)] == [("created", "identity", "ben", {}, after)]


def test_the_first_administrator_is_on_record(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_USERNAME", "root")
    monkeypatch.setenv("ADMIN_PASSWORD", "a long pass phrase")
    manage("ensure_admin")
    manage("ensure_admin")
    (record,) = records(admin_client)
    assert told(record)[:3] == ("created", "account", "root")
    assert record["after"]["is_superuser"] is True
    assert who(record) == ("command", ME, "ensure_admin")


def test_no_secret_is_on_record(admin_client: Client, make_tool: MakeTool, monkeypatch: pytest.MonkeyPatch) -> None:
    phrase = "correct horse battery staple"
    monkeypatch.setenv("ADMIN_USERNAME", "root")
    monkeypatch.setenv("ADMIN_PASSWORD", phrase)
    manage("ensure_admin")
    manage("token", "create", "nightly", "--user", "ana")
    make_account(admin_client, "olga", phrase)
    secret = manage("token", "create", "weekly", "--user", "ana").strip()
    make_tool()
    force_return(admin_client, api_with(f"Bearer {secret}").borrow().json()["id"], "x")
    manage("token", "revoke", str(ApiToken.objects.get(name="weekly").pk))
    olga = User.objects.get(username="olga")
    admin_client.post(f"/admin/auth/user/{olga.pk}/delete/", {"post": "yes"})
    secrets = {phrase, secret, secret[4:], ApiToken.objects.get(name="weekly").hash, olga.password}
    secrets |= set(User.objects.values_list("password", flat=True))
    rows = [str(row) for row in AuditRecord.objects.values()]
    assert len(rows) == 7
    assert not [row for row in rows for known in secrets if known in row]
    assert not [row for row in rows if "password" in row or "hash" in row]


# --- Force returns ----------------------------------------------------------


def test_a_force_return_is_on_record(api: Api, admin_client: Client, make_tool: MakeTool) -> None:
    make_tool("cad")
    make_tool("sim", capacity=2)
    lease = api.borrow_set(("cad", 1), ("sim", 2), host="ws1").json()
    force_return(admin_client, lease["id"], "left for holiday")
    force_return(admin_client, lease["id"], "again")
    (record,) = records(admin_client)
    ended = Lease.objects.get(pk=lease["id"]).ended_at
    assert ended is not None
    assert told(record) == (
        "force_returned",
        "lease",
        lease["id"],
        {"user": "ana", "host": "ws1", "seats": {"cad": 1, "sim": 2}, "ended_at": None},
        {"ended_at": ended.isoformat(timespec="milliseconds").replace("+00:00", "Z")},
    )
    assert record["note"] == "left for holiday"
    assert who(record) == BY_ADMIN


@pytest.mark.parametrize("credential", ["password", "token", "JWT"])
def test_a_force_return_over_the_api_tells_by_whom(
    api: Api, admin_client: Client, make_tool: MakeTool, issuer: Issuer, settings: Any, credential: str
) -> None:
    make_tool()
    settings.LICENSE_OIDC_ADMIN_GROUPS = ["license admins"]
    if credential == "password":
        User.objects.create_superuser("olga", password="a long pass phrase")
        operator, name = api_with(basic("olga", "a long pass phrase")["Authorization"]), ("account", "olga")
    elif credential == "JWT":
        operator, name = api_with(f"Bearer {issuer.sign(issuer.claims(groups=['license admins']))}"), ("jwt", "ben")
    else:
        secret = make_token(user="admin", scopes=["admin"])
        operator, name = api_with(f"Bearer {secret}"), ("token", f"token {ApiToken.objects.get().pk}")
    lease = api.borrow().json()
    path = f"/api/v1/leases/{lease['id']}/force-return/"
    assert operator.post(path, {"reason": "maintenance"}).status_code == 200
    assert operator.post(path, {"reason": "once more"}).status_code == 200
    (record,) = records(admin_client)
    assert (who(record), record["note"]) == ((*name, "127.0.0.1"), "maintenance")


def test_a_lease_that_was_over_is_not_forced(
    api: Api, admin_client: Client, make_tool: MakeTool, pass_time: Callable[..., None]
) -> None:
    make_tool(capacity=2)
    returned, overdue = api.borrow().json(), api.borrow(ttl_seconds=60).json()
    api.give_back(returned["id"])
    pass_time(minutes=2)
    for lease in (returned, overdue):
        force_return(admin_client, lease["id"], "too late")
    assert records(admin_client) == []


# --- Neither without the other ----------------------------------------------


@contextmanager
def refusing_rows(table: str) -> Iterator[None]:
    """Let the database refuse new rows of a table."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'disk full' USING ERRCODE = 'disk_full'; END $$"
            )
            cursor.execute(f"CREATE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()")
        else:
            cursor.execute(
                f"CREATE TRIGGER refuse BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            )
        yield
        if connection.vendor == "postgresql":
            cursor.execute("DROP FUNCTION refuse CASCADE")
        else:
            cursor.execute("DROP TRIGGER refuse")


@pytest.mark.parametrize("table", ["licenses_auditrecord", "django_admin_log"])
def test_a_change_that_is_rolled_back_is_not_on_record(admin_client: Client, make_tool: MakeTool, table: str) -> None:
    """Undo both if the record fails, or something after it."""
    tool = make_tool("cad", capacity=5)
    admin_client.raise_request_exception = False
    with refusing_rows(table):
        # PostgreSQL says what a full disk is; SQLite's trigger says only that it refuses.
        expected = 503 if connection.vendor == "postgresql" else 500
        assert set_capacity(admin_client, tool, 9).status_code == expected
    tool.refresh_from_db()
    assert tool.capacity == 5
    assert records(admin_client) == []
    set_capacity(admin_client, tool, 9)
    assert len(records(admin_client)) == 1


def test_a_force_return_that_cannot_be_recorded_is_none(api: Api, admin_client: Client, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow().json()
    admin = api_of(scopes=["admin"])
    path = f"/api/v1/leases/{lease['id']}/force-return/"
    with refusing_rows("licenses_auditrecord"):
        assert_problem(admin.post(path, {"reason": "x"}), 503)
    assert (api.status()["borrowed"], api.renew(lease["id"]).status_code) == (1, 200)
    assert records(admin_client) == []
    assert admin.post(path, {"reason": "x"}).status_code == 200
    assert len(records(admin_client)) == 1


def test_a_token_that_cannot_be_recorded_is_not_made(admin_client: Client) -> None:
    with refusing_rows("licenses_auditrecord"), pytest.raises(Exception, match="disk full"):
        manage("token", "create", "nightly", "--user", "ana")
    assert not ApiToken.objects.exists()


def test_a_file_with_a_mistake_leaves_no_record(admin_client: Client, tmp_path: Path) -> None:
    file = tmp_path / "tools.toml"
    file.write_text("[cad]\ncapacity = 5\n[sim]\ncapacity = -1\n")
    with pytest.raises(CommandError):
        manage("seed", "--file", str(file))
    file = tmp_path / "members.csv"
    file.write_text("team,user\ncrash,ana\nbody,a\x7fb\n")
    with pytest.raises(CommandError):
        manage("team", "import", str(file))
    assert not Tool.objects.exists()
    assert not Team.objects.exists()
    assert records(admin_client) == []


# --- Append-only ------------------------------------------------------------


def test_the_model_changes_no_record() -> None:
    manage("seed", "--tool", "cad=5")
    record = AuditRecord.objects.get()
    record.note = "it was somebody else"
    refused: list[Callable[[], Any]] = [
        record.save,
        record.delete,
        AuditRecord.objects.all().delete,
        lambda: AuditRecord.objects.update(note=""),
        lambda: AuditRecord.objects.bulk_update([record], ["note"]),
    ]
    for attempt in refused:
        with pytest.raises(AppendOnly):
            attempt()
    assert AuditRecord.objects.get().note == ""


@pytest.mark.parametrize(
    ("vendor", "statement"),
    [
        ("", "UPDATE licenses_auditrecord SET note = 'it was somebody else'"),
        ("", "DELETE FROM licenses_auditrecord"),
        ("", "DELETE FROM licenses_auditrecord WHERE recorded_at < '2999-01-01'"),
        ("postgresql", "TRUNCATE licenses_auditrecord"),
        (
            "postgresql",
            "INSERT INTO licenses_auditrecord SELECT * FROM licenses_auditrecord "
            "ON CONFLICT (id) DO UPDATE SET note = 'it was somebody else'",
        ),
        ("sqlite", "INSERT OR REPLACE INTO licenses_auditrecord SELECT * FROM licenses_auditrecord"),
        ("sqlite", "UPDATE OR REPLACE licenses_auditrecord SET note = 'it was somebody else'"),
    ],
)
def test_the_database_changes_no_record(vendor: str, statement: str) -> None:
    if vendor not in ("", connection.vendor):
        pytest.skip(f"{vendor} alone knows this statement")
    manage("seed", "--tool", "cad=5")
    before = AuditRecord.objects.values().get()
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert AuditRecord.objects.values().get() == before


# --- Read by administrators -------------------------------------------------


def test_the_audit_is_for_administrators(client: Client, make_tool: MakeTool) -> None:
    make_tool()
    looking = Permission.objects.get(codename="view_auditrecord")
    for name, rights, status in (("staff", [], 403), ("auditor", [looking], 200)):
        user = User.objects.create_user(name, is_staff=True)
        user.user_permissions.set(rights)
        client.force_login(user)
        assert client.get("/api/v1/audit/").status_code == status
        assert client.get("/admin/licenses/auditrecord/").status_code == status
    client.force_login(User.objects.create_user("ana"))
    assert_problem(client.get("/api/v1/audit/"), 403)
    assert_problem(Client().get("/api/v1/audit/"), 401)


def test_the_audit_is_filtered(admin_client: Client, make_tool: MakeTool, make_team: MakeTeam) -> None:
    cad, sim = make_tool("cad", capacity=1), make_tool("sim", capacity=1)
    set_capacity(admin_client, cad, 2)
    set_capacity(admin_client, sim, 2)
    manage("seed", "--tool", "cad=3", "--force")
    manage("token", "create", "nightly", "--user", "ana")
    first, second, third, fourth = (record["id"] for record in records(admin_client))
    middle = AuditRecord.objects.get(pk=third).recorded_at.isoformat()
    for filters, found in [
        ({"actor": "admin"}, [first, second]),
        ({"actor": ME, "subject_kind": "tool"}, [third]),
        ({"actor_kind": "command"}, [third, fourth]),
        ({"subject": "cad"}, [first, third]),
        ({"subject_kind": "tool", "subject": "sim"}, [second]),
        ({"action": "created"}, [fourth]),
        ({"recorded_after": middle}, [third, fourth]),
        ({"recorded_before": middle}, [first, second]),
        ({"actor": "nobody"}, []),
    ]:
        assert [record["id"] for record in records(admin_client, **filters)] == found, filters
    assert admin_client.get(f"/api/v1/audit/{third}/").json()["after"] == {"capacity": 3}


@pytest.mark.parametrize(
    "query",
    ["subject_kind=x", "action=x", "actor_kind=x", "actor=a%00b", "recorded_after=x", "subject=" + "x" * 401],
)
def test_a_filter_that_makes_no_sense_is_refused(admin_client: Client, query: str) -> None:
    assert_problem(admin_client.get(f"/api/v1/audit/?{query}"), 400)


def test_pages_of_the_audit_stay_put_while_records_come(admin_client: Client, make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=1)
    for capacity in range(2, 9):
        set_capacity(admin_client, tool, capacity)
    seen: list[int] = []
    url: str | None = "/api/v1/audit/?page_size=3"
    while url:
        page = admin_client.get(url).json()
        seen += [record["after"]["capacity"] for record in page["results"]]
        url = page["next"]
        set_capacity(admin_client, tool, 100 + len(seen))
    assert seen == [8, 7, 6, 5, 4, 3, 2]
    assert_problem(admin_client.get("/api/v1/audit/?cursor=cD14"), 400)


def test_pages_of_the_audit_go_on_however_many_records_have_the_same_time(admin_client: Client) -> None:
    """Everything that one transaction ends has the same time, such as the leases of a person who left."""
    now = timezone.now()
    words = {"actor_kind": "command", "actor": "leave", "action": "ended", "subject_kind": "lease"}
    AuditRecord.objects.bulk_create(
        AuditRecord(recorded_at=now, subject=str(number), **words) for number in range(1300)
    )
    seen: list[str] = []
    url: str | None = "/api/v1/audit/?page_size=200"
    while url and len(seen) < 1400:
        page = admin_client.get(url).json()
        seen += [record["subject"] for record in page["results"]]
        url = page["next"]
    assert seen == [str(number) for number in reversed(range(1300))]


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_the_api_only_reads_the_audit(admin_client: Client, method: str) -> None:
    manage("seed", "--tool", "cad=5")
    record = AuditRecord.objects.get()
    for path in ("/api/v1/audit/", f"/api/v1/audit/{record.pk}/"):
        answer = getattr(admin_client, method)(path, {"note": "x"}, content_type="application/json")
        assert_problem(answer, 405)
    assert AuditRecord.objects.get().note == ""


def test_the_admin_shows_and_searches_the_audit(api: Api, admin_client: Client, make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=5)
    set_capacity(admin_client, tool, 9)
    manage("token", "create", "nightly", "--user", "benjamin")
    lease = api.borrow(user="ana").json()
    force_return(admin_client, lease["id"], "left for holiday")

    def shown(query: str = "") -> list[str]:
        page = admin_client.get(f"/admin/licenses/auditrecord/?{query}")
        assert page.status_code == 200, query
        return re.findall(r'<td class="field-subject">([^<]*)', page.content.decode())

    token = str(ApiToken.objects.get().pk)
    assert shown() == [lease["id"], token, "cad"]
    assert "capacity: 5 -&gt; 9" in admin_client.get("/admin/licenses/auditrecord/").content.decode()
    for query, found in [
        ("subject_kind__exact=tool", ["cad"]),
        ("action__exact=force_returned", [lease["id"]]),
        ("actor_kind__exact=command", [token]),
        ("actor=admin", [lease["id"], "cad"]),
        ("recorded_at__gte=2999-01-01+00:00:00%2B00:00", []),
        ("q=holiday", [lease["id"]]),
        ("q=benjamin", [token]),
        ("q=cad", [lease["id"], "cad"]),
        ("q=nothing", []),
    ]:
        assert shown(query) == found, query


def test_the_admin_only_reads_the_audit(admin_client: Client) -> None:
    manage("seed", "--tool", "cad=5")
    record = AuditRecord.objects.get()
    page = f"/admin/licenses/auditrecord/{record.pk}"
    assert admin_client.get(f"{page}/change/").status_code == 200
    assert b'name="_save"' not in admin_client.get(f"{page}/change/").content
    for path in (f"{page}/change/", f"{page}/delete/", "/admin/licenses/auditrecord/add/"):
        assert admin_client.post(path, {"note": "x", "post": "yes"}).status_code == 403
    form = {"action": "delete_selected", "_selected_action": [record.pk], "post": "yes"}
    admin_client.post("/admin/licenses/auditrecord/", form)
    assert AuditRecord.objects.get().note == ""


# --- Many at once -----------------------------------------------------------


def test_simultaneous_changes_are_recorded_in_order(server: Server) -> None:
    """Eight administrators change one capacity; each record begins where the
    one before it ended."""
    server.environment |= {"ADMIN_USERNAME": "root", "ADMIN_PASSWORD": "a long pass phrase"}
    server.manage("ensure_admin")
    together = threading.Barrier(8)
    trouble: list[str] = []
    with httpx.Client(base_url=server.url, timeout=60) as root:
        root.get("/admin/login/")
        form = {"username": "root", "password": "a long pass phrase"}
        answer = root.post("/admin/login/", data=form | {"csrfmiddlewaretoken": root.cookies["csrftoken"]})
        assert answer.status_code == 302
        found = re.search(r'/admin/licenses/tool/(\d+)/change/">cad_tool<', root.get("/admin/licenses/tool/").text)
        assert found is not None
        form = {"form-TOTAL_FORMS": "1", "form-INITIAL_FORMS": "1", "form-0-id": found[1], "_save": "Save"}
        form |= {"csrfmiddlewaretoken": root.cookies["csrftoken"]}

        def change(number: int) -> None:
            with httpx.Client(base_url=server.url, timeout=60, cookies=root.cookies) as client:
                for turn in range(5):
                    capacity = str(100 * (number + 1) + turn)
                    together.wait(60)
                    answer = client.post("/admin/licenses/tool/", data=form | {"form-0-capacity": capacity})
                    if answer.status_code != 302:
                        trouble.append(answer.text)

        workers = [threading.Thread(target=change, args=(number,)) for number in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        assert trouble == []
        query = "/api/v1/audit/?subject_kind=tool&subject=cad_tool&action=changed&page_size=200"
        results = sorted(root.get(query).json()["results"], key=lambda record: record["id"])
        status = root.get("/licenses/cad_tool/status").json()
    assert len(results) == 40
    capacities = [5, *(record["after"]["capacity"] for record in results)]
    assert [record["before"]["capacity"] for record in results] == capacities[:-1]
    assert status["total"] == capacities[-1]
