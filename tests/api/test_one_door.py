"""A tool changes in one place: whichever door a change comes through, rows and audit are the same."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.forms.models import model_to_dict
from django.test import Client
from django.utils import timezone

from licenses.access import teams
from licenses.auditing import Actor
from licenses.errors import InUse, OverReserved, UnknownTool
from licenses.models import AccessRule, Allotment, AuditRecord, Lease, Team, Tool, UserLimit
from licenses.tools import quotas, services
from tests.support.api import Api, api_of
from tests.support.quotas import SOMEBODY, allot

pytestmark = pytest.mark.django_db

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]
PassTime = Callable[..., None]
DAY = timedelta(days=1)


def put(path: str, body: dict[str, Any]) -> None:
    """Put a row over the API, as an administrator."""
    answer = api_of(scopes=["admin"]).client.put(path, body, content_type="application/json")
    assert answer.status_code in (200, 201), answer.content.decode()


class Doors:
    """Set the capacity, the vendor and the last day of a tool through each door."""

    def __init__(self, folder: Path, admin: Client) -> None:
        self.folder, self.admin = folder, admin

    def api(self, tool: str, capacity: int, last_day: date) -> None:
        body = {"capacity": capacity, "vendor": "meshd", "valid_until": f"{last_day + DAY}T00:00:00Z"}
        put(f"/api/v1/tools/{tool}/", body)

    def seed(self, tool: str, capacity: int, last_day: date) -> None:
        path = self.folder / "tools.toml"
        path.write_text(f'[{tool}]\ncapacity = {capacity}\nvendor = "meshd"\nvalid_until = {last_day}\n')
        call_command("seed", "--force", "--file", str(path), stdout=StringIO())

    def flexlm(self, tool: str, capacity: int, last_day: date) -> None:
        path = self.folder / "license.lic"
        day = f"{last_day.day}-{last_day:%b}-{last_day.year}".lower()
        path.write_text(f"INCREMENT {tool} meshd 1.0 {day} {capacity} SIGN=0\n")
        call_command("import_flexlm", "--license", str(path), "--apply", stdout=StringIO(), stderr=StringIO())

    def page(self, tool: str, capacity: int, last_day: date) -> None:
        known = Tool.objects.filter(name=tool).first()
        address = f"{known.pk}/change" if known else "add"
        end = {"valid_until_0": str(last_day + DAY), "valid_until_1": "00:00:00"}
        values = {"name": tool, "capacity": capacity, "vendor": "meshd", "overdraft": 0, "enabled": "on"} | end
        values |= {"default_ttl": "" if known and known.default_ttl is None else "08:00:00"}
        answer = self.admin.post(f"/admin/licenses/tool/{address}/", values)
        assert answer.status_code == 302, answer.content.decode()

    def service(self, tool: str, capacity: int, last_day: date) -> None:
        end = datetime.combine(last_day + DAY, datetime.min.time(), UTC)
        values = {"capacity": capacity, "vendor": "meshd", "valid_until": end}
        services.put(tools={tool: values}, by=SOMEBODY)


DOORS = ["api", "seed", "flexlm", "page", "service"]


@pytest.fixture
def doors(tmp_path: Path, admin_client: Client) -> Doors:
    return Doors(tmp_path, admin_client)


def row(tool: str) -> dict[str, Any]:
    """Return all values of a tool but its name and key."""
    found = Tool.objects.get(name=tool)
    values = {field.attname: getattr(found, field.attname) for field in found._meta.concrete_fields}
    return {name: value for name, value in values.items() if name not in ("id", "name", "created_at")}


def records(tool: str) -> list[tuple[Any, ...]]:
    """Return what the audit has of a tool, without its name."""
    found = AuditRecord.objects.filter(subject=tool).order_by("pk")
    return [
        (
            record.action,
            record.subject_kind,
            record.before,
            record.after | ({"name": ""} if "name" in record.after else {}),
        )
        for record in found
    ]


def test_a_new_tool_is_the_same_through_every_door(doors: Doors) -> None:
    last_day = timezone.now().date() + 30 * DAY
    for door in DOORS:
        getattr(doors, door)(f"by_{door}", 4, last_day)
    rows, audits = [row(f"by_{door}") for door in DOORS], [records(f"by_{door}") for door in DOORS]
    assert rows == [rows[0]] * 5
    assert audits == [audits[0]] * 5
    assert [action for action, *_ in audits[0]] == ["created"]


@pytest.mark.parametrize("ttl", [timedelta(hours=8), None], ids=["heartbeats", "no heartbeat"])
@pytest.mark.parametrize("days", [-2, 3], ids=["ended", "ends later"])
def test_a_changed_tool_is_the_same_through_every_door(
    doors: Doors, api: Api, make_tool: MakeTool, days: int, ttl: timedelta | None
) -> None:
    last_day = timezone.now().date() + days * DAY
    ends = []
    for door in DOORS:
        tool = f"by_{door}"
        make_tool(tool, capacity=5, default_ttl=ttl)
        lease = api.borrow(tool, seats=2).json()["id"]
        getattr(doors, door)(tool, 3, last_day)
        stored = Lease.objects.get(pk=lease)
        ends.append((api.renew(lease).json().get("code"), api.status(tool)["borrowed"]))
        assert ttl is not None or days < 0 or stored.expires_at == Tool.objects.get(name=tool).valid_until
    rows, audits = [row(f"by_{door}") for door in DOORS], [records(f"by_{door}") for door in DOORS]
    assert rows == [rows[0]] * 5
    assert audits == [audits[0]] * 5
    assert ends == [("revoked", 0) if days < 0 else (None, 2)] * 5
    (changed,) = audits[0]
    assert changed[0] == "changed"
    assert sorted(changed[3]) == ["capacity", "valid_until", "vendor"]


def test_the_same_values_again_change_nothing_through_any_door(doors: Doors) -> None:
    last_day = timezone.now().date() + 30 * DAY
    for door in DOORS:
        for _ in range(2):
            getattr(doors, door)(f"by_{door}", 4, last_day)
        assert len(records(f"by_{door}")) == 1


def test_an_invalid_value_changes_nothing_through_any_door(doors: Doors, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=5)
    before = row("cad")
    last_day = timezone.now().date() + 30 * DAY
    for door, refusal in {
        "api": AssertionError,
        "seed": CommandError,
        "page": AssertionError,
        "service": ValidationError,
    }.items():
        with pytest.raises(refusal):
            getattr(doors, door)("cad", 1_000_001, last_day)
    with pytest.raises(CommandError):
        doors.flexlm("cad", 1_000_001, last_day)
    assert row("cad") == before
    assert not records("cad")


def test_a_constraint_of_the_table_is_explained(make_tool: MakeTool) -> None:
    make_tool("cad", valid_from=datetime(2026, 2, 1, tzinfo=UTC))
    with pytest.raises(ValidationError, match="must end after it starts"):
        services.change(name="cad", values={"valid_until": datetime(2026, 1, 1, tzinfo=UTC)}, by=SOMEBODY)
    with pytest.raises(ValidationError, match="already exists"):
        services.create(name="cad", values={"capacity": 1}, by=SOMEBODY)
    with pytest.raises(UnknownTool):
        services.change(name="mesh", values={"capacity": 1}, by=SOMEBODY)
    assert not AuditRecord.objects.exists()


def test_a_tool_with_leases_is_not_deleted(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad")
    make_tool("mesh")
    api.borrow("cad")
    with pytest.raises(InUse, match="Disable it"):
        services.delete(name="cad", by=SOMEBODY)
    services.delete(name="mesh", by=SOMEBODY)
    assert [tool.name for tool in Tool.objects.all()] == ["cad"]
    assert [record.action for record in AuditRecord.objects.filter(subject="mesh")] == ["deleted"]


# --- Contracts --------------------------------------------------------------------------------


class ContractDoors:
    """Give a tool 3 seats until a day, and 2 without an end."""

    def __init__(self, folder: Path, admin: Client, last_day: date) -> None:
        self.folder, self.admin, self.last_day = folder, admin, last_day

    def api(self, tool: Tool) -> None:
        first = {"seats": 3, "last_day": str(self.last_day), "reference": "A-1"}
        put(f"/api/v1/tools/{tool.name}/", {"contracts": [first, {"seats": 2}]})

    def seed(self, tool: Tool) -> None:
        path = self.folder / "tools.toml"
        first = f'[[{tool.name}.contracts]]\nseats = 3\nlast_day = {self.last_day}\nreference = "A-1"\n'
        path.write_text(f"{first}[[{tool.name}.contracts]]\nseats = 2\n")
        call_command("seed", "--force", "--file", str(path), stdout=StringIO())

    def flexlm(self, tool: Tool) -> None:
        day = f"{self.last_day.day}-{self.last_day:%b}-{self.last_day.year}".lower()
        lines = [
            f"INCREMENT {tool.name} meshd 1.0 {day} 3 SN=A-1 SIGN=0",
            f"INCREMENT {tool.name} meshd 1.0 permanent 2",
        ]
        path = self.folder / "license.lic"
        path.write_text("\n".join(lines) + "\n")
        call_command("import_flexlm", "--license", str(path), "--apply", stdout=StringIO(), stderr=StringIO())

    def page(self, tool: Tool) -> None:
        for values in ({"seats": 3, "last_day": str(self.last_day), "reference": "A-1"}, {"seats": 2}):
            answer = self.admin.post("/admin/licenses/contract/add/", {"tool": tool.pk} | values)
            assert answer.status_code == 302, answer.content.decode()

    def service(self, tool: Tool) -> None:
        wanted = [{"seats": 3, "last_day": self.last_day, "reference": "A-1"}, {"seats": 2}]
        services.change(name=tool.name, values={"contracts": wanted}, by=SOMEBODY)


def test_contracts_are_the_same_through_every_door(
    tmp_path: Path, admin_client: Client, api: Api, make_tool: MakeTool
) -> None:
    doors = ContractDoors(tmp_path, admin_client, timezone.now().date() + 30 * DAY)
    found = []
    for door in DOORS:
        tool = make_tool(f"by_{door}", capacity=7, vendor="meshd")
        api.borrow(tool.name, seats=6)
        getattr(doors, door)(tool)
        contracts = [model_to_dict(row, exclude=["id", "tool"]) for row in tool.contracts.order_by("pk")]
        audit = [
            (record.action, record.before, {name: value for name, value in record.after.items() if name != "tool"})
            for record in AuditRecord.objects.filter(subject__startswith=f"{tool.name} contract").order_by("pk")
        ]
        found.append((row(tool.name), contracts, audit, api.status(tool.name)["overdrawn"]))
    assert found == [found[0]] * 5
    values, contracts, audit, overdrawn = found[0]
    assert (values["capacity"], overdrawn) == (5, 1)
    assert values["capacity_changes_at"] == datetime.combine(doors.last_day + DAY, datetime.min.time(), UTC)
    assert [contract["seats"] for contract in contracts] == [3, 2]
    assert [action for action, *_ in audit] == ["created", "created"]


# --- Quotas, reservations, limits and access rules: API, import, admin, service --------------------


class RuleDoors:
    """Give team crash 2 of 3 seats, one of them reserved, limit eve to one, and exclude joe."""

    def __init__(self, folder: Path, admin: Client) -> None:
        self.folder, self.admin = folder, admin

    def api(self, tool: Tool, team: Team) -> None:
        put(f"/api/v1/tools/{tool.name}/quotas/{team.name}/", {"quota": 2, "reservation": 1})
        put(f"/api/v1/tools/{tool.name}/user-limits/eve/", {"seats": 1})
        put(f"/api/v1/tools/{tool.name}/access-rules/exclude/user/joe/", {})

    def flexlm(self, tool: Tool, team: Team) -> None:
        (self.folder / "l.lic").write_text(f"INCREMENT {tool.name} meshd 1.0 permanent 3 SIGN=0\n")
        options = ["GROUP crash ana", f"MAX 2 {tool.name} GROUP crash", f"RESERVE 1 {tool.name} GROUP crash"]
        options += [f"MAX 1 {tool.name} USER eve", f"EXCLUDE {tool.name} USER joe"]
        (self.folder / "l.opt").write_text("\n".join(options) + "\n")
        files = ["--license", str(self.folder / "l.lic"), "--options", str(self.folder / "l.opt")]
        call_command("import_flexlm", *files, "--apply", stdout=StringIO(), stderr=StringIO())

    def page(self, tool: Tool, team: Team) -> None:
        for model, values in {
            "allotment": {"tool": tool.pk, "team": team.pk, "quota": 2, "reservation": 1},
            "userlimit": {"tool": tool.pk, "user": "eve", "seats": 1},
            "accessrule": {"tool": tool.pk, "effect": "exclude", "kind": "user", "name": "joe"},
        }.items():
            answer = self.admin.post(f"/admin/licenses/{model}/add/", values)
            assert answer.status_code == 302, answer.content.decode()

    def service(self, tool: Tool, team: Team) -> None:
        allot(tool.name, team, quota=2, reservation=1)
        rules: list[quotas.Rule] = [
            UserLimit(tool=tool, user="eve", seats=1),
            AccessRule(tool=tool, effect="exclude", kind="user", name="joe"),
        ]
        quotas.save_rules(rules=rules, by=SOMEBODY)


def rules_of(tool: str) -> list[dict[str, Any]]:
    rows = [row for model in (Allotment, UserLimit, AccessRule) for row in model._base_manager.filter(tool__name=tool)]
    return [model_to_dict(row, exclude=["id", "tool"]) for row in rows]


def test_rules_are_the_same_through_every_door(
    tmp_path: Path, admin_client: Client, api: Api, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    doors, team = RuleDoors(tmp_path, admin_client), make_team("crash", "ana")
    found = []
    for door in ("api", "flexlm", "page", "service"):
        tool = make_tool(f"by_{door}", capacity=3, vendor="meshd")
        api.borrow(tool.name, "ana", team="crash")
        getattr(doors, door)(tool, team)
        subjects = AuditRecord.objects.filter(subject__startswith=f"{tool.name} for ").order_by("pk")
        audit = [
            (record.action, record.subject.partition(" ")[2], {k: v for k, v in record.after.items() if k != "tool"})
            for record in subjects
        ]
        found.append((row(tool.name), rules_of(tool.name), audit))
    assert found == [found[0]] * 4
    values, rules, audit = found[0]
    assert (values["reserved"], values["reserved_idle"], values["has_rules"]) == (1, 0, True)
    assert len(rules) == len(audit) == 3


class TeamDoors:
    """Create a team, and make ana a member by hand."""

    def __init__(self, folder: Path, admin: Client) -> None:
        self.folder, self.admin = folder, admin

    def api(self, team: str) -> None:
        put(f"/api/v1/teams/{team}/", {"ignores_case": True})
        put(f"/api/v1/teams/{team}/members/ana/", {})

    def flexlm(self, team: str) -> None:
        (self.folder / "l.lic").write_text("INCREMENT cad meshd 1.0 permanent 3 SIGN=0\n")
        (self.folder / "l.opt").write_text(f"GROUPCASEINSENSITIVE ON\nGROUP {team} ana\nINCLUDE cad GROUP {team}\n")
        files = ["--license", str(self.folder / "l.lic"), "--options", str(self.folder / "l.opt")]
        call_command("import_flexlm", *files, "--apply", stdout=StringIO(), stderr=StringIO())

    def page(self, team: str) -> None:
        self.admin.post("/admin/licenses/team/add/", {"name": team, "ignores_case": "on"})
        key = Team.objects.get(name=team).pk
        self.admin.post("/admin/licenses/teammember/add/", {"team": key, "user": "ana"})

    def service(self, team: str) -> None:
        teams.put_team(name=team, values={"ignores_case": True, "members": ["ana"]}, by=SOMEBODY)


def test_teams_and_members_are_the_same_through_every_door(tmp_path: Path, admin_client: Client) -> None:
    doors = TeamDoors(tmp_path, admin_client)
    found = []
    for door in ("api", "flexlm", "page", "service"):
        name = f"by_{door}"
        getattr(doors, door)(name)
        team = Team.objects.get(name=name)
        members = [model_to_dict(row, exclude=["id", "team"]) for row in team.members.all()]
        subjects = AuditRecord.objects.filter(subject__endswith=name, subject_kind__in=["team", "member"])
        audit = [
            (record.action, record.subject_kind, str(record.after).replace(name, ""))
            for record in subjects.order_by("pk")
        ]
        found.append((model_to_dict(team, exclude=["id", "name"]), members, audit))
    assert found == [found[0]] * 4
    assert [action for action, *_ in found[0][2]] == ["created", "created"]


def test_a_reservation_beyond_the_capacity_changes_nothing(make_tool: MakeTool, make_team: MakeTeam) -> None:
    tool, crash = make_tool("cad", capacity=3), make_team("crash")
    for wanted, refusal in (
        (quotas.AllotmentTerms(reservation=4), OverReserved),
        (quotas.AllotmentTerms(quota=1, reservation=2), ValidationError),
        (quotas.AllotmentTerms(quota=-1), ValidationError),
    ):
        with pytest.raises(refusal):
            quotas.allot(tool="cad", terms={crash: wanted}, by=SOMEBODY)
    rules = [UserLimit(tool=tool, user="eve", seats=1), UserLimit(tool=tool, user="joe ", seats=1)]
    with pytest.raises(ValidationError):
        quotas.save_rules(rules=rules, by=SOMEBODY)
    assert not rules_of("cad")
    assert not AuditRecord.objects.exists()


def test_a_rule_that_exists_is_explained(make_tool: MakeTool) -> None:
    tool = make_tool("cad")
    quotas.save_rules(rules=[UserLimit(tool=tool, user="eve", seats=1)], by=SOMEBODY)
    with pytest.raises(ValidationError, match="already exists"):
        quotas.save_rules(rules=[UserLimit(tool=tool, user="eve", seats=2)], by=Actor.of_command("second"))
    assert UserLimit.objects.get().seats == 1


def test_a_page_shows_what_a_service_refuses(
    admin_client: Client, make_tool: MakeTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody deletes the tool between the check of the form and the change."""
    tool = make_tool("cad", capacity=5)
    change = services.change

    def late(**values: Any) -> Any:
        Tool.objects.all().delete()
        return change(**values)

    monkeypatch.setattr(services, "change", late)
    values = {"name": "cad", "capacity": 4, "overdraft": 0, "enabled": "on"}
    answer = admin_client.post(f"/admin/licenses/tool/{tool.pk}/change/", values)
    assert answer.status_code == 302
    assert Tool.objects.get().capacity == 5
