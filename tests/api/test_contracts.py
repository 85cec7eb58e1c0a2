"""Contracts: a tool has the seats of those that are valid now, and nothing needs to run for that."""

import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from licenses.errors import OverReserved
from licenses.history import days
from licenses.models import AuditRecord, Contract, Lease, Team, Tool
from licenses.models.contract import Schedule
from licenses.tools import contracts, services
from tests.support.api import Api
from tests.support.metrics import scrape
from tests.support.quotas import SOMEBODY, allot

pytestmark = pytest.mark.django_db

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]
DAY = timedelta(days=1)


def today() -> date:
    return timezone.now().astimezone(UTC).date()


def contract(tool: Tool, seats: int, first: int | None = None, last: int | None = None, **values: Any) -> Contract:
    """Add a contract whose days are counted from today."""
    first_day = None if first is None else today() + first * DAY
    last_day = None if last is None else today() + last * DAY
    made = Contract(tool=tool, seats=seats, first_day=first_day, last_day=last_day, **values)
    contracts.save(contracts=[made], by=SOMEBODY)
    return made


def midnight(days_from_today: int) -> datetime:
    return datetime.combine(today() + days_from_today * DAY, datetime.min.time(), UTC)


@pytest.fixture
def come_due() -> Callable[[Tool, int], None]:
    """Makes the dates of a tool's contracts pass: ``come_due(tool, 3)`` moves them 3 days into the past, as
    if nobody had called since."""

    def come_due(tool: Tool, number: int) -> None:
        for row in tool.contracts.all():
            first, last = (day and day - number * DAY for day in (row.first_day, row.last_day))
            Contract.objects.filter(pk=row.pk).update(first_day=first, last_day=last)
        tool.refresh_from_db()
        if tool.capacity_changes_at is not None:
            Tool.objects.filter(pk=tool.pk).update(capacity_changes_at=tool.capacity_changes_at - number * DAY)

    return come_due


ComeDue = Callable[[Tool, int], None]


def test_the_capacity_is_the_sum_of_the_contracts_that_are_valid_today(api: Api, make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=9)
    for seats, first, last in ((1, None, None), (2, 0, 0), (4, None, -1), (8, 1, None), (16, -5, 5)):
        contract(tool, seats, first, last)
    tool.refresh_from_db()
    assert (tool.capacity, tool.capacity_changes_at) == (1 + 2 + 16, midnight(1))
    assert api.status()["total"] == 19
    assert api.borrow(seats=20).json()["code"] == "exhausted"
    assert api.borrow(seats=19).status_code == 200


def test_a_schedule_has_each_change_once(make_tool: MakeTool) -> None:
    def of(*rows: tuple[int, int | None, int | None]) -> Schedule:
        day = date(2026, 1, 1)
        moved = [[n if n is None else day + n * DAY for n in bounds] for _, *bounds in rows]
        return Schedule.of(
            Contract(seats=seats, first_day=first, last_day=last)
            for (seats, *_), (first, last) in zip(rows, moved, strict=True)
        )

    start = datetime(2026, 1, 1, tzinfo=UTC)
    # A renewal with the same seats changes nothing.
    assert of((5, None, 9), (5, 10, None)) == Schedule(5, ())
    schedule = of((5, None, 9), (3, 5, 20), (1, None, None))
    assert schedule == Schedule(6, ((start + 5 * DAY, 9), (start + 10 * DAY, 4), (start + 21 * DAY, 1)))
    assert [schedule.at(start + n * DAY) for n in (4, 5, 10, 21)] == [6, 9, 4, 1]
    assert schedule.at(start + 5 * DAY - timedelta(microseconds=1)) == 6
    assert schedule.next_change(start + 5 * DAY) == start + 10 * DAY
    assert schedule.next_change(start + 21 * DAY) is None
    assert schedule.most == 9
    assert Schedule.of([]) == Schedule(0, ())


def test_a_due_change_takes_effect_at_the_next_borrow_and_without_a_sweeper(
    api: Api, make_tool: MakeTool, come_due: ComeDue
) -> None:
    tool = make_tool("cad")
    contract(tool, 1)
    contract(tool, 2, 1)
    assert api.borrow(seats=2).json()["code"] == "exhausted"
    come_due(tool, 1)
    assert api.borrow(seats=3).status_code == 200
    tool.refresh_from_db()
    assert (tool.capacity, tool.capacity_changes_at, tool.borrowed) == (3, None, 3)


def test_nobody_loses_a_seat_when_the_capacity_falls(api: Api, make_tool: MakeTool, come_due: ComeDue) -> None:
    tool = make_tool("cad")
    contract(tool, 1)
    contract(tool, 2, -3, 0)
    leases = [api.borrow().json()["id"] for _ in range(3)]
    come_due(tool, 1)
    assert api.borrow().json()["code"] == "exhausted"
    assert api.renew(leases[0]).status_code == 200
    status = api.status()
    assert (status["total"], status["borrowed"], status["overdrawn"], status["available"]) == (1, 3, 2, 0)
    for lease in leases[:2]:
        api.give_back(lease)
        assert api.borrow().json()["code"] == "exhausted"
    api.give_back(leases[2])
    assert api.borrow().status_code == 200


def test_a_refusal_applies_the_change_too_and_once(api: Api, make_tool: MakeTool, come_due: ComeDue) -> None:
    tool = make_tool("cad")
    contract(tool, 2, -3, 0)
    come_due(tool, 1)
    for _ in range(2):
        assert api.borrow().json()["code"] == "exhausted"
    tool.refresh_from_db()
    assert (tool.capacity, tool.capacity_changes_at) == (0, None)
    (record,) = AuditRecord.objects.filter(actor_kind="calendar")
    assert (record.action, record.subject_kind, record.subject) == ("changed", "tool", "cad")
    assert (record.before, record.after) == (
        {"capacity": 2},
        {"capacity": 0, "since": f"{midnight(0):%Y-%m-%dT%H:%M:%SZ}"},
    )


def test_reads_show_the_capacity_that_is_valid_now_and_write_nothing(
    api: Api, admin_client: Client, make_tool: MakeTool, come_due: ComeDue
) -> None:
    tool = make_tool("cad")
    contract(tool, 1)
    contract(tool, 4, 1, 1)
    come_due(tool, 1)
    assert api.status()["total"] == 5
    assert api.client.get("/licenses/status").json()[0]["total"] == 5
    assert api.client.get("/api/v1/tools/cad/").json()["capacity"] == 5
    assert api.status(user="ana")["available_to_you"] == 5
    assert api.explain(seats=5)["granted"]
    assert not api.explain(seats=6)["granted"]
    assert '<b>0</b> of 5<span class="unseen"> borrowed</span>' in api.client.get("/").content.decode()
    assert scrape(api)["licenses_total", frozenset({("tool", "cad")})] == 5
    page = admin_client.get(f"/admin/licenses/tool/{tool.pk}/change/").content.decode()
    assert '<div class="readonly">5</div>' in page
    tool.refresh_from_db()
    assert (tool.capacity, tool.capacity_changes_at) == (1, midnight(0))
    come_due(tool, 1)
    assert api.status()["total"] == 1


def test_a_tool_with_nothing_due_costs_no_statement_more(api: Api, make_tool: MakeTool, come_due: ComeDue) -> None:
    plain, ruled = make_tool("plain", capacity=3), make_tool("ruled", capacity=3)
    contract(ruled, 3, -9, 9)

    def statements(tool: str) -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            lease = api.borrow(tool).json()["id"]
            api.borrow(tool, seats=4)
            api.status(tool)
            api.give_back(lease)
        return len(queries)

    for tool in (plain, ruled):
        statements(tool.name)
    assert statements("ruled") == statements("plain")


def test_several_changes_that_nobody_saw_are_known_at_their_moments(
    api: Api, make_tool: MakeTool, come_due: ComeDue
) -> None:
    tool = make_tool("cad", created_at=midnight(-60))
    contract(tool, 1, -20)
    contract(tool, 2, 2, 4)
    contract(tool, 4, 6)
    come_due(tool, 8)
    expected = [(midnight(-6), 3), (midnight(-3), 1), (midnight(-2), 5)]
    before = days.capacities_by_tool()[tool.pk].changes[-3:]
    api.borrow()
    after = days.capacities_by_tool()[tool.pk].changes[-3:]
    assert list(before) == list(after) == expected


def test_full_time_is_counted_with_the_capacity_of_the_moment(api: Api, make_tool: MakeTool, come_due: ComeDue) -> None:
    """Two of four seats are out; from yesterday's midnight two are all that there are."""
    tool = make_tool("cad", created_at=midnight(-60))
    contract(tool, 2)
    contract(tool, 2, -9, 0)
    api.borrow(seats=2)
    Lease.objects.update(borrowed_at=midnight(-2), expires_at=None, ttl=None)
    come_due(tool, 2)
    rows = dict(days.since(today() - 2 * DAY, midnight(0)))
    full = {day: sum((hour.full_for for hour in history.tools), timedelta(0)) for day, history in rows.items()}
    assert full == {today() - 2 * DAY: timedelta(0), today() - DAY: DAY}


def test_a_waiting_user_gets_the_seats_that_a_date_brings(api: Api, make_tool: MakeTool, come_due: ComeDue) -> None:
    tool = make_tool("cad")
    contract(tool, 1)
    contract(tool, 1, 1)
    api.borrow()
    ticket = api.wait()
    assert api.poll(ticket).status_code == 202
    come_due(tool, 1)
    assert api.poll(ticket).status_code == 200


def test_a_plain_capacity_can_not_be_changed_while_contracts_set_it(admin_client: Client, make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=5)
    row = contract(tool, 3)
    with pytest.raises(ValidationError, match="contracts"):
        services.change(name="cad", values={"capacity": 4}, by=SOMEBODY)
    with pytest.raises(CommandError, match="contracts"):
        call_command("seed", "--force", "--tool", "cad=4", stdout=io.StringIO())
    services.change(name="cad", values={"capacity": 3, "vendor": "acme"}, by=SOMEBODY)
    form = {"form-TOTAL_FORMS": "1", "form-INITIAL_FORMS": "1", "form-0-id": str(tool.pk), "form-0-capacity": "9"}
    admin_client.post("/admin/licenses/tool/", form | {"_save": "Save"})
    admin_client.post(f"/admin/licenses/tool/{tool.pk}/change/", {"capacity": 9, "overdraft": 0, "enabled": "on"})
    tool.refresh_from_db()
    assert tool.capacity == 3
    contracts.delete(contracts=[row], by=SOMEBODY)
    services.change(name="cad", values={"capacity": 4}, by=SOMEBODY)
    tool.refresh_from_db()
    assert (tool.capacity, tool.capacity_changes_at) == (4, None)


@pytest.mark.parametrize(
    "values",
    [
        {"seats": 0},
        {"seats": -1},
        {"seats": 1_000_001},
        {"seats": 1, "first_day": date(2026, 2, 1), "last_day": date(2026, 1, 31)},
        {"seats": 1, "last_day": date(9999, 12, 31)},
        {"seats": 1, "price": Decimal(-1)},
        {"seats": 1, "price": Decimal("NaN")},
        {"seats": 1, "reference": "x" * 129},
        {"seats": 999_999},
    ],
)
def test_an_invalid_contract_changes_nothing(make_tool: MakeTool, values: dict[str, Any]) -> None:
    tool = make_tool("cad")
    contract(tool, 2)
    records = AuditRecord.objects.count()
    with pytest.raises(ValidationError):
        contracts.save(contracts=[Contract(tool=tool, **values)], by=SOMEBODY)
    with pytest.raises(ValidationError):
        services.create(name="new", values={"contracts": [{"seats": 2}, values]}, by=SOMEBODY)
    tool.refresh_from_db()
    assert (tool.capacity, tool.contracts.count()) == (2, 1)
    assert AuditRecord.objects.count() == records
    assert Tool.objects.count() == 1


def test_reservations_are_measured_by_the_capacity_that_is_valid_now(
    make_tool: MakeTool, make_team: MakeTeam, come_due: ComeDue
) -> None:
    tool, crash = make_tool("cad"), make_team("crash")
    contract(tool, 4, -9, 0)
    come_due(tool, 1)
    with pytest.raises(OverReserved, match="capacity is 0"):
        allot("cad", crash, reservation=1)


# --- Doors --------------------------------------------------------------------------------


def test_a_contract_is_added_changed_and_deleted_on_its_page(admin_client: Client, make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=5)
    values = {"tool": tool.pk, "seats": 4, "first_day": "2026-01-01", "reference": "PO-1", "price": "1200.50"}
    answer = admin_client.post("/admin/licenses/contract/add/", values)
    assert answer.status_code == 302, answer.content.decode()
    row = Contract.objects.get()
    assert (row.seats, row.price, row.source) == (4, Decimal("1200.50"), "manual")
    tool.refresh_from_db()
    assert tool.capacity == 4
    admin_client.post(f"/admin/licenses/contract/{row.pk}/change/", values | {"seats": 6})
    tool.refresh_from_db()
    assert tool.capacity == 6
    assert b"PO-1" in admin_client.get("/admin/licenses/contract/").content
    assert b"1 contract" in admin_client.get(f"/admin/licenses/tool/{tool.pk}/change/").content
    admin_client.post(f"/admin/licenses/contract/{row.pk}/delete/", {"post": "yes"})
    tool.refresh_from_db()
    assert (tool.capacity, tool.capacity_changes_at, Contract.objects.count()) == (6, None, 0)
    records = AuditRecord.objects.filter(subject_kind="contract").order_by("pk")
    assert [(record.action, record.actor) for record in records] == [
        ("created", "admin"),
        ("changed", "admin"),
        ("deleted", "admin"),
    ]
    assert [record.after for record in AuditRecord.objects.filter(subject="cad").order_by("pk")] == [
        {"capacity": 4},
        {"capacity": 6},
    ]


def test_too_many_seats_are_shown_on_the_page(admin_client: Client, make_tool: MakeTool) -> None:
    tool = make_tool("cad")
    contract(tool, 1_000_000)
    answer = admin_client.post("/admin/licenses/contract/add/", {"tool": tool.pk, "seats": 1}, follow=True)
    assert b"more than 1,000,000" in answer.content
    assert Contract.objects.count() == 1


def seed(folder: Path, text: str, *arguments: str) -> str:
    path, output = folder / "tools.toml", io.StringIO()
    path.write_text(text)
    call_command("seed", "--file", str(path), *arguments, stdout=output)
    return output.getvalue()


SEEDED = """
[mesher]
vendor = "acme"
[[mesher.contracts]]
seats = 3
last_day = 2099-12-31
price = 1200.50
reference = "PO-1"
[[mesher.contracts]]
seats = 2
first_day = "2090-01-01"
"""


def test_contracts_come_from_a_file(tmp_path: Path) -> None:
    assert seed(tmp_path, SEEDED) == "mesher: created with capacity 3\n"
    tool = Tool.objects.get()
    assert (tool.capacity, tool.capacity_changes_at) == (3, datetime(2090, 1, 1, tzinfo=UTC))
    assert [(row.seats, row.price, row.reference) for row in tool.contracts.order_by("pk")] == [
        (3, Decimal("1200.50"), "PO-1"),
        (2, None, ""),
    ]
    records = AuditRecord.objects.count()
    assert seed(tmp_path, SEEDED, "--force") == "mesher: unchanged\n"
    assert AuditRecord.objects.count() == records
    more = seed(tmp_path, SEEDED.replace("seats = 3", "seats = 4"), "--force")
    assert more == (
        "mesher: capacity 3 -> 4, contract 3 seats, until 2099-12-31, PO-1 -> 4 seats, until 2099-12-31, PO-1\n"
    )
    assert tool.contracts.count() == 2
    assert "from 2090-01-01: changed" in seed(tmp_path, SEEDED + 'note = "spare"\n', "--force")


def test_a_contract_with_another_last_day_is_the_same_contract(tmp_path: Path) -> None:
    until = "[[mesher.contracts]]\nseats = 3\nfirst_day = 2026-01-01\nprice = 1200\nlast_day = {}\n"
    seed(tmp_path, until.format("2098-12-31"))
    (before,) = Contract.objects.all()
    assert "2098-12-31 -> 3 seats, 2026-01-01 to 2099-06-30" in seed(tmp_path, until.format("2099-06-30"), "--force")
    (after,) = Contract.objects.all()
    assert (after.pk, after.last_day) == (before.pk, date(2099, 6, 30))


def test_contracts_that_differ_only_in_their_notes_keep_them_in_any_order(tmp_path: Path) -> None:
    parts = ['[[mesher.contracts]]\nseats = 3\nnote = "a"\n', '[[mesher.contracts]]\nseats = 3\nnote = "b"\n']
    seed(tmp_path, "".join(parts))
    assert seed(tmp_path, "".join(reversed(parts)), "--force") == "mesher: unchanged\n"


def test_contracts_of_an_import_belong_to_the_file_that_names_them(tmp_path: Path) -> None:
    bring_in(tmp_path, "INCREMENT mesher v 1 31-dec-2099 3 SN=PO-1 SIGN=0\nINCREMENT mesher v 1 permanent 2 SIGN=1\n")
    seed(tmp_path, SEEDED, "--force")
    assert set(Contract.objects.values_list("source", flat=True)) == {"manual", "import"}
    assert "were entered by hand and stay" in bring_in(tmp_path, "INCREMENT mesher v 1 permanent 9 SIGN=1\n")


def test_a_contract_that_a_file_no_longer_has_ends_or_goes(tmp_path: Path) -> None:
    seed(tmp_path, SEEDED)
    said = seed(tmp_path, "[mesher]\n[[mesher.contracts]]\nseats = 1\n", "--force")
    assert "contract 2 seats, from 2090-01-01: removed" in said
    rows = [(row.seats, row.last_day) for row in Contract.objects.order_by("pk")]
    assert rows == [(3, today() - DAY), (1, None)]
    assert Tool.objects.get().capacity == 1


@pytest.mark.parametrize(
    "text",
    [
        "capacity = 1\n[[mesher.contracts]]\nseats = 1",
        "contracts = 5",
        "contracts = [5]",
        "[[mesher.contracts]]\nfirst_day = 2026-01-01",
        "[[mesher.contracts]]\nseats = true",
        "[[mesher.contracts]]\nseats = 1.5",
        "[[mesher.contracts]]\nseats = 0",
        "[[mesher.contracts]]\nseats = 1\nfirst_day = 2026-01-01T10:00:00Z",
        '[[mesher.contracts]]\nseats = 1\nfirst_day = "2026-02-30"',
        '[[mesher.contracts]]\nseats = 1\nfirst_day = "soon"',
        "[[mesher.contracts]]\nseats = 1\nlast_day = 9999-12-31",
        '[[mesher.contracts]]\nseats = 1\nprice = "much"',
        "[[mesher.contracts]]\nseats = 1\nprice = nan",
        "[[mesher.contracts]]\nseats = 1\nprice = true",
        '[[mesher.contracts]]\nseats = 1\ncolor = "red"',
        "[[mesher.contracts]]\nseats = 1\nfirst_day = 2026-02-01\nlast_day = 2026-01-01",
    ],
)
def test_a_file_with_an_invalid_contract_changes_nothing(tmp_path: Path, text: str) -> None:
    with pytest.raises(CommandError, match="mesher"):
        seed(tmp_path, f"[mesher]\n{text}\n")
    assert not Tool.objects.exists()


def bring_in(folder: Path, text: str) -> str:
    path, output = folder / "l.lic", io.StringIO()
    path.write_text(text)
    call_command("import_flexlm", "--license", str(path), "--apply", stdout=output, stderr=io.StringIO())
    return output.getvalue()


def flexlm(day: date) -> str:
    return f"{day.day}-{day:%b}-{day.year}".lower()


def test_lines_with_different_dates_become_contracts(tmp_path: Path, api: Api, come_due: ComeDue) -> None:
    base = f"INCREMENT mesh v 1 {flexlm(today())} 3 SN=A-1 SIGN=0\nINCREMENT mesh v 1 permanent 2 SIGN=1\n"
    renewed = f"INCREMENT mesh v 1 {flexlm(today() + 9 * DAY)} 4 START={flexlm(today() + DAY)} SIGN=2\n"
    assert "mesh: new, capacity 5" in bring_in(tmp_path, base + renewed)
    tool = Tool.objects.get()
    assert (tool.capacity, tool.capacity_changes_at, tool.valid_until) == (5, midnight(1), None)
    assert [(row.seats, row.reference, row.source) for row in tool.contracts.order_by("pk")] == [
        (3, "A-1", "import"),
        (2, "", "import"),
        (4, "", "import"),
    ]
    assert "Nothing to change" in bring_in(tmp_path, base + renewed)
    come_due(tool, 1)
    assert api.borrow("mesh", seats=6).status_code == 200
    # A newer line replaces those of before: they do not count twice.
    out = bring_in(tmp_path, "INCREMENT mesh v 1 permanent 7 SIGN=3\n")
    assert "mesh: capacity 6 -> 7" in out
    tool.refresh_from_db()
    assert tool.capacity == 7
    assert Schedule.of(tool.contracts.all()).most == 7 or Schedule.of(tool.contracts.all()).at(midnight(0)) == 7


def test_lines_with_the_same_dates_stay_a_plain_capacity(tmp_path: Path) -> None:
    bring_in(tmp_path, "INCREMENT mesh v 1 31-dec-2099 3 SIGN=0\nINCREMENT mesh v 1 31-dec-2099 2 SIGN=1\n")
    tool = Tool.objects.get()
    assert (tool.capacity, tool.contracts.count()) == (5, 0)
    assert tool.valid_until == datetime(2100, 1, 1, tzinfo=UTC)


def test_an_import_keeps_contracts_that_were_entered_by_hand(tmp_path: Path, make_tool: MakeTool) -> None:
    tool = make_tool("mesh")
    contract(tool, 3, reference="PO-1", price=Decimal(10))
    out = bring_in(tmp_path, "INCREMENT mesh v 1 31-dec-2099 5 SIGN=0\nINCREMENT mesh v 1 permanent 5 SIGN=1\n")
    assert "mesh: its contracts were entered by hand and stay; they have 3 seats now, the file has 10" in out
    # That is no change, however often it is imported.
    assert "1 change(s), 0 problem(s), 2 note(s)." in out
    again = bring_in(tmp_path, "INCREMENT mesh v 1 31-dec-2099 5 SIGN=0\nINCREMENT mesh v 1 permanent 5 SIGN=1\n")
    assert "0 change(s)" in again
    assert "Nothing to change." in again
    assert "note: mesh: its contracts were entered by hand and stay" in again
    tool.refresh_from_db()
    assert (tool.capacity, tool.contracts.get().reference) == (3, "PO-1")


def test_a_price_on_an_imported_contract_stays(tmp_path: Path) -> None:
    text = "INCREMENT mesh v 1 31-dec-2099 5 SIGN=0\nINCREMENT mesh v 1 permanent 5 SIGN=1\n"
    bring_in(tmp_path, text)
    row = Contract.objects.get(last_day=date(2099, 12, 31))
    row.price = Decimal(99)
    contracts.save(contracts=[row], by=SOMEBODY)
    bring_in(tmp_path, text.replace("2099 5", "2099 6"))
    row.refresh_from_db()
    assert (row.seats, row.price) == (6, Decimal(99))


def test_the_audit_of_a_contract_is_plain_json(make_tool: MakeTool) -> None:
    row = contract(make_tool("cad"), 2, 0, 9, price=Decimal("5.50"), reference="PO-1")
    record = AuditRecord.objects.get(subject_kind="contract")
    assert record.subject == f"cad contract {row.pk}"
    after = json.loads(json.dumps(record.after))
    assert after == {
        "tool": "cad",
        "seats": 2,
        "first_day": str(today()),
        "last_day": str(today() + 9 * DAY),
        "price": "5.50",
        "reference": "PO-1",
        "note": "",
    }


# --- Reports and metrics --------------------------------------------------------------------


def report(api: Api, since: int, until: int, **query: str) -> list[dict[str, Any]]:
    days_of = {"since": str(today() + since * DAY), "until": str(today() + until * DAY)}
    answer = api.client.get("/api/v1/reports/contracts", days_of | query)
    assert answer.status_code == 200, answer.content
    rows: list[dict[str, Any]] = answer.json()["rows"]
    return rows


def test_the_cost_of_a_contract_is_spread_over_its_days_and_idle_seats_have_their_part(
    admin_api: Api, make_tool: MakeTool
) -> None:
    tool = make_tool("cad", capacity=4, created_at=midnight(-60))
    contract(tool, 3, -10, 9, price=Decimal(2000), reference="PO-1")
    contract(tool, 1, price=Decimal(500))
    contract(tool, 5, 20, 30, price=Decimal(500))
    # Two of four seats are out for a half of the day before yesterday, and all of yesterday.
    Lease.objects.create(
        tool=tool, user="ana", seats=2, borrowed_at=midnight(-2) + DAY / 2, ended_at=midnight(0), end_reason="returned"
    )
    rows = report(admin_api, -2, -1)
    assert [(row["reference"], row["seats"], row["price"]) for row in rows] == [
        ("", 1, "500.00"),
        ("PO-1", 3, "2000.00"),
    ]
    assert [(row["cost"], row["idle_cost"]) for row in rows] == [(None, None), ("200.00", "125.00")]
    assert (rows[1]["first_day"], rows[1]["last_day"]) == (str(today() - 10 * DAY), str(today() + 9 * DAY))
    assert [row["cost"] for row in report(admin_api, -20, -1)] == [None, "1000.00"]
    # Future days have no cost yet.
    assert Decimal(1000) < Decimal(report(admin_api, -20, 20)[1]["cost"]) <= Decimal(1100)
    assert report(admin_api, -2, -1, tool="cad") == rows
    assert report(admin_api, -30, -21) == rows[:1]


def test_more_seats_out_than_the_capacity_are_never_idle_below_zero(admin_api: Api, make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=2)
    contract(tool, 2, -10, 9, price=Decimal(2000))
    Lease.objects.create(
        tool=tool, user="ana", seats=5, borrowed_at=midnight(-2), ended_at=midnight(0), end_reason="returned"
    )
    (row,) = report(admin_api, -2, -1)
    assert (row["cost"], row["idle_cost"]) == ("200.00", "0.00")


def test_what_if_begins_with_the_capacity_that_is_valid_now(
    api: Api, admin_client: Client, make_tool: MakeTool, come_due: ComeDue
) -> None:
    tool = make_tool("cad")
    contract(tool, 2)
    contract(tool, 5, 1)
    come_due(tool, 1)
    (row,) = api.client.get("/api/v1/reports/what-if?tool=cad").json()["rows"]
    assert row["capacity"] == 7
    assert "7 (today)" in admin_client.get("/admin/reports/cad/").content.decode()


def test_the_metrics_have_each_contract_that_has_not_ended(api: Api, make_tool: MakeTool) -> None:
    tool = make_tool("cad")
    dated = contract(tool, 3, -1, 5, reference='PO "1"\\')
    endless = contract(tool, 2)
    contract(tool, 9, -9, -1)
    followed = contract(tool, 4, 0, 7)
    follower = contract(tool, 1, 8)
    samples = {
        (name, dict(labels)["contract"], dict(labels)["reference"]): value
        for (name, labels), value in scrape(api).items()
        if name.startswith("license_contract")
    }
    mine = (str(dated.pk), 'PO "1"\\')
    assert samples == {
        ("license_contract_seats", *mine): 3,
        ("license_contract_valid_from_timestamp_seconds", *mine): midnight(-1).timestamp(),
        ("license_contract_valid_until_timestamp_seconds", *mine): midnight(6).timestamp(),
        ("license_contract_lost_seats", *mine): 3,
        ("license_contract_seats", str(endless.pk), ""): 2,
        ("license_contract_seats", str(followed.pk), ""): 4,
        ("license_contract_valid_from_timestamp_seconds", str(followed.pk), ""): midnight(0).timestamp(),
        ("license_contract_valid_until_timestamp_seconds", str(followed.pk), ""): midnight(8).timestamp(),
        ("license_contract_lost_seats", str(followed.pk), ""): 3,
        ("license_contract_seats", str(follower.pk), ""): 1,
        ("license_contract_valid_from_timestamp_seconds", str(follower.pk), ""): midnight(8).timestamp(),
    }
