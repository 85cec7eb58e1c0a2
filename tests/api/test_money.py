"""The page for money: its sums are those of the leases, computed naively."""

import csv
import io
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html import unescape
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import User
from django.test import Client

from licenses.history import rollups
from licenses.history.days import DAY
from licenses.models import AuditRecord, Contract, Denial, EndReason, HistoryMark, Lease, Team, TeamMember, Tool
from tests.support.groups import managers

pytestmark = pytest.mark.django_db

MakeTool = Callable[..., Tool]

# Clocks change in Berlin on 2026-03-29.
FIRST, LAST = date(2026, 3, 14), date(2026, 4, 12)
# All times are multiples of it, so that looking at each step is exact.
STEP = timedelta(minutes=15)
PRICES: dict[str, tuple[str | None, str | None]] = {"cad": ("2.5", "10"), "sim": ("4", None), "free": (None, None)}
VENDORS = {"cad": "Acme", "sim": "Acme", "free": ""}
CAPACITIES = {
    "cad": [(datetime(2026, 1, 1, tzinfo=UTC), 6), (datetime(2026, 3, 20, 9, 15, tzinfo=UTC), 4)],
    "sim": [(datetime(2026, 1, 1, tzinfo=UTC), 3), (datetime(2026, 4, 1, 7, 0, tzinfo=UTC), 5)],
    "free": [(datetime(2026, 1, 1, tzinfo=UTC), 2)],
}
# Two begin or end inside the month, and one has no price.
CONTRACTS = [
    ("cad", 4, date(2026, 1, 1), date(2026, 12, 31), "36500"),
    ("cad", 2, date(2026, 3, 17), date(2026, 4, 5), "2000"),
    ("sim", 3, date(2026, 4, 3), date(2027, 4, 2), "9999.99"),
    ("free", 2, date(2026, 1, 1), date(2026, 12, 31), None),
]


@pytest.fixture
def month(make_tool: MakeTool) -> list[Lease]:
    """Provide leases of a month, some across its edges and across the change of the clocks."""
    chance = random.Random(19)
    teams = [None, Team.objects.create(name="crash"), Team.objects.create(name="aero")]
    leases = []
    for name, (price, overdraft) in PRICES.items():
        tool = make_tool(
            name,
            capacity=CAPACITIES[name][-1][1],
            vendor=VENDORS[name],
            created_at=datetime(2025, 1, 1, tzinfo=UTC),
            seat_hour_price=price,
            overdraft_hour_price=overdraft,
        )
        steps = CAPACITIES[name]
        for (_, before), (at, after) in pairwise(steps):
            AuditRecord.objects.create(
                recorded_at=at,
                actor_kind="account",
                actor="root",
                origin="test",
                action="changed",
                subject_kind="tool",
                subject=name,
                before={"capacity": before},
                after={"capacity": after},
            )
        for _ in range(40):
            start = datetime(2026, 3, 12, tzinfo=UTC) + chance.randrange(33 * 96) * STEP
            seats = chance.choice([1, 1, 1, 2])
            leases.append(
                Lease(
                    tool=tool,
                    user=chance.choice(["ana", "ben", "cleo"]),
                    team=chance.choice(teams),
                    project=chance.choice(["", "x42", "suv"]),
                    seats=seats,
                    overdraft_seats=chance.choice([0, 0, 1]),
                    borrowed_at=start,
                    ended_at=start + chance.randrange(1, 130) * STEP,
                    end_reason=EndReason.RETURNED,
                )
            )
    for tool_name, seats, first, last, price in CONTRACTS:
        Contract.objects.create(
            tool=Tool.objects.get(name=tool_name),
            seats=seats,
            first_day=first,
            last_day=last,
            price=price,
            reference=f"{tool_name} {first}",
        )
    return Lease.objects.bulk_create(leases)


# --- The naive way ----------------------------------------------------------


def steps(zone: ZoneInfo) -> Iterator[datetime]:
    now = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=zone).astimezone(UTC)
    end = datetime(2026, 4, 13, tzinfo=zone).astimezone(UTC)
    while now < end:
        yield now
        now += STEP


def naive(leases: list[Lease], zone: ZoneInfo, of_work: Callable[[datetime], bool]) -> dict[str, Any]:
    """Return the sums, found by looking at who had seats at each quarter of an hour."""
    hours = Decimal(STEP / timedelta(hours=1))
    found: dict[str, Any] = {
        "cost": defaultdict(Decimal),
        "hours": defaultdict(Decimal),
        "working": defaultdict(Decimal),
        "owned": defaultdict(Decimal),
        "owned_working": defaultdict(Decimal),
        "contract": defaultdict(Decimal),
    }
    used_of_day: defaultdict[tuple[str, date], Decimal] = defaultdict(Decimal)
    owned_of_day: defaultdict[tuple[str, date], Decimal] = defaultdict(Decimal)
    cost_of_day: defaultdict[tuple[str, str, date], Decimal] = defaultdict(Decimal)
    for now in steps(zone):
        local = now.astimezone(zone)
        day, month = local.date(), local.strftime("%Y-%m")
        working = of_work(now)
        for name, changes in CAPACITIES.items():
            owned = [seats for at, seats in changes if at <= now][-1] * hours
            found["owned"][name] += owned
            found["owned_working"][name] += owned * working
            owned_of_day[name, day] += owned
        for lease in leases:
            assert lease.ended_at
            if not lease.borrowed_at <= now < lease.ended_at:
                continue
            name, seat_hours = lease.tool.name, lease.seats * hours
            price, overdraft = PRICES[name]
            above = lease.overdraft_seats * hours
            cost = Decimal(0)
            if price:
                cost = (seat_hours - above) * Decimal(price) + above * Decimal(overdraft or price)
            used_of_day[name, day] += seat_hours
            found["working"][name] += seat_hours * working
            team = lease.team.name if lease.team else ""
            for key in (("month", month), ("vendor", VENDORS[name]), ("team", team), ("project", lease.project)):
                found["cost"][key] += cost
                found["hours"][key] += seat_hours
            found["cost"]["tool", name] += cost
            found["hours"]["tool", name] += seat_hours
        for name, _, first, last, total in CONTRACTS:
            if total and first <= now.date() <= last:
                quarters = ((last - first).days + 1) * 96
                cost_of_day[name, f"{name} {first}", day] += Decimal(total) / quarters
    idle: defaultdict[Any, Decimal] = defaultdict(Decimal)
    for (name, reference, day), cost in cost_of_day.items():
        share = max(1 - used_of_day[name, day] / owned_of_day[name, day], Decimal(0))
        for key in (("month", f"{day:%Y-%m}"), ("contract", reference), ("tool", name)):
            found["contract"][key] += cost
            idle[key] += cost * share
    return found | {"idle": idle}


# --- The page ---------------------------------------------------------------


def html_of(client: Client, query: str = "", status: int = 200) -> str:
    answer = client.get(f"/admin/reports/money/?since={FIRST}&until={LAST}{query}")
    assert answer.status_code == status
    return " ".join(answer.content.decode().split())


def table(html: str, name: str) -> dict[str, list[str]]:
    """Return the cells of each row of a section's table, by the row's head."""
    section = html.partition(f'aria-labelledby="{name}">')[2].partition("</section>")[0]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", section.partition("</thead>")[2])
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    texts = [[unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in row] for row in cells]
    return {row[0]: row[1:] for row in texts}


def near(text: str, value: Decimal | float, tolerance: str = "0.006") -> bool:
    """Return whether a rounded amount is this value."""
    return abs(Decimal(text.replace(",", "").removesuffix(" EUR").removesuffix("%")) - Decimal(value)) < Decimal(
        tolerance
    )


BERLIN, KOLKATA = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata")
CASES = {
    "full hours": (BERLIN, (480, 1080), {0, 1, 2, 3, 4}),
    "quarters": (BERLIN, (435, 975), {0, 2, 4, 6}),
    "half a zone": (KOLKATA, (540, 1020), {0, 1, 2, 3, 4}),
    "half a zone, full hours": (KOLKATA, (510, 1050), {0, 1, 2, 3, 4}),
    "the night of the clocks": (BERLIN, (0, 180), {5, 6}),
    "always": (BERLIN, (0, 1440), {0, 1, 2, 3, 4, 5, 6}),
}


@pytest.mark.parametrize("is_rolled_up", [False, True], ids=["leases", "rollups"])
@pytest.mark.parametrize("case", CASES)
def test_the_sums_are_those_of_the_leases(
    admin_client: Client, month: list[Lease], settings: Any, case: str, is_rolled_up: bool
) -> None:
    zone, hours, weekdays = CASES[case]
    settings.LICENSE_TIME_ZONE, settings.LICENSE_WORKING_HOURS = zone.key, hours
    settings.LICENSE_WORKING_DAYS = sorted(weekdays)
    settings.LICENSE_CURRENCY = "EUR"
    if is_rolled_up:
        assert rollups.roll_up() > 30

    def of_work(now: datetime) -> bool:
        local = now.astimezone(zone)
        return local.weekday() in weekdays and hours[0] <= local.hour * 60 + local.minute < hours[1]

    expected = naive(month, zone, of_work)
    html = html_of(admin_client)
    for key in ("vendor", "team", "project"):
        rows = table(html, f"by-{key}")
        total = rows.pop("Total")
        for (kind, value), cost in expected["cost"].items():
            if kind == key:
                row = rows.pop(value or f"No {key}")
                assert near(row[1], expected["hours"][kind, value], "0.051")
                assert near(row[2] if row[2] != "—" else "0", cost)
        assert not rows
        assert near(total[2], sum(cost for (kind, _), cost in expected["cost"].items() if kind == key))
        assert total[2].endswith(" EUR")
    months = table(html, "by-month")
    for name in ("2026-03", "2026-04"):
        row = months[name]
        assert near(row[2], expected["cost"]["month", name])
        assert near(row[3], expected["contract"]["month", name])
        assert near(row[4], expected["idle"]["month", name])
    assert near(months["Total"][3], sum(expected["contract"]["month", name] for name in ("2026-03", "2026-04")))
    tools = table(html, "tools")
    for name in PRICES:
        row = tools[name]
        assert near(row[3], 100 * expected["hours"]["tool", name] / expected["owned"][name], "0.051")
        working = 100 * expected["working"][name] / expected["owned_working"][name]
        assert near(row[4], working, "0.051"), f"{name} in working hours"
        assert near(row[5] if row[5] != "—" else "0", expected["cost"]["tool", name])
        assert near(row[6] if row[6] != "—" else "0", expected["contract"]["tool", name])
        assert near(row[7] if row[7] != "—" else "0", expected["idle"]["tool", name])
    assert list(tools) == sorted(
        PRICES, key=lambda name: -(expected["contract"]["tool", name] or expected["cost"]["tool", name])
    )
    for cells in (row for row in table(html, "contracts").values() if row[0].startswith(("cad", "sim"))):
        assert near(cells[5], expected["contract"]["contract", cells[0]])
        assert near(cells[6], expected["idle"]["contract", cells[0]])
    free = expected["hours"]["tool", "free"]
    (without,) = re.findall(r"([\d,.]+) seat-hours of tools without a price", html)
    assert near(without, free, "0.051")


def test_the_files_have_the_figures_of_the_page(admin_client: Client, month: list[Lease]) -> None:
    html = html_of(admin_client, "&tz=Europe/Berlin")
    links = {unescape(link) for link in re.findall(r'href="(/api/v1/reports/[^"]+format=csv)"', html)}
    assert len(links) == 6
    found = {}
    for link in links:
        answer = admin_client.get(link)
        assert answer.status_code == 200, link
        found[link.partition("?")[0] + link.partition("by=")[2][:6]] = list(
            csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig")))
        )
    costs = {row["tool"]: row for row in found["/api/v1/reports/tool-costs"]}
    page = table(html, "tools")
    assert list(costs) == list(page)
    assert costs["cad"]["contract_cost"] == page["cad"][6].replace(",", "")
    assert float(costs["cad"]["working_seat_hours"]) < float(costs["cad"]["seat_hours"])
    months = {row["month"][:7]: row for row in found["/api/v1/reports/month-costs"]}
    for name, row in table(html, "by-month").items():
        if name != "Total":
            assert [months[name][key] for key in ("cost", "contract_cost", "idle_cost")] == [
                cell.replace(",", "") for cell in row[2:]
            ]


def test_one_seat_fewer_and_more_have_their_refusals(admin_client: Client, make_tool: MakeTool) -> None:
    tools = [make_tool("cad", capacity=2), make_tool("sim", capacity=0)]
    start = datetime(2026, 3, 16, 9, tzinfo=UTC)
    for tool, user, hours in ((0, "ana", 3), (0, "ben", 2), (1, "cleo", 1)):
        Lease.objects.create(
            tool=tools[tool],
            user=user,
            borrowed_at=start + timedelta(minutes=hours),
            ended_at=start + timedelta(hours=hours),
            end_reason=EndReason.RETURNED,
        )
    asked = start + timedelta(hours=1)
    Denial.objects.create(tool=tools[0], user="dora", code="exhausted", first_at=asked, last_at=asked)
    rows = table(html_of(admin_client), "tools")
    # One fewer: ben and dora get none; today: dora; one more: nobody.
    assert [cell.split(" / ")[0] for cell in rows["cad"][8:]] == ["2", "1", "0"]
    assert rows["sim"][8:] == ["—", "1", "0"], "no tool has fewer than 0 seats"


def test_leases_that_were_deleted_keep_their_money(admin_client: Client, month: list[Lease], settings: Any) -> None:
    settings.LICENSE_WORKING_HOURS = (435, 975)
    before = html_of(admin_client, "&tz=UTC")
    rollups.roll_up()
    HistoryMark.objects.update(kept_since=date(2026, 5, 1))
    Lease.objects.all().delete()
    after = html_of(admin_client, "&tz=UTC")
    for name in ("by-month", "by-team", "by-vendor", "by-project"):
        assert table(after, name) == table(before, name)
    for name in PRICES:
        assert table(after, "tools")[name][3] == table(before, "tools")[name][3]
        # Quarters of an hour are known only by the hour.
        assert near(table(after, "tools")[name][4], Decimal(table(before, "tools")[name][4].removesuffix("%")), "5")


def test_amounts_have_no_currency_unless_one_is_set(admin_client: Client, month: list[Lease], settings: Any) -> None:
    assert "EUR" not in html_of(admin_client)
    assert admin_client.get("/api/v1/reports/usage").json()["currency"] is None
    settings.LICENSE_CURRENCY = "CHF"
    assert "Amounts are in CHF." in html_of(admin_client)
    assert admin_client.get("/api/v1/reports/contracts").json()["currency"] == "CHF"


@pytest.mark.parametrize("query", ["&tz=Nowhere", "&since=yesterday", "&since=2026-05-01&until=2026-04-01"])
def test_a_question_that_makes_no_sense_is_reported(admin_client: Client, month: list[Lease], query: str) -> None:
    assert 'class="errorlist' in html_of(admin_client, query, status=400)


def test_the_sums_agree_while_seats_are_out(admin_client: Client, make_tool: MakeTool, settings: Any) -> None:
    """A million seats are out, so that a millisecond between two tables would show."""
    settings.LICENSE_TIME_ZONE = "Asia/Kolkata"
    tool = make_tool("cad", capacity=1_000_000, seat_hour_price="1000", vendor="Acme")
    now = datetime.now(UTC)
    Lease.objects.create(tool=tool, user="ana", seats=1_000_000, borrowed_at=now - timedelta(hours=30))
    Contract.objects.create(
        tool=tool, seats=1, price=10**9, first_day=now.date() - 9 * DAY, last_day=now.date() + 9 * DAY
    )
    html = " ".join(admin_client.get("/admin/reports/money/").content.decode().split())
    totals = {table(html, name)["Total"][2] for name in ("by-month", "by-vendor", "by-team", "by-project")}
    assert totals == {table(html, "tools")["cad"][5]}
    assert table(html, "by-month")["Total"][3] == table(html, "tools")["cad"][6]


def test_a_site_without_anything_has_a_page(admin_client: Client) -> None:
    html = html_of(admin_client)
    assert "There are no tools yet." in html
    assert "No contracts in these days." in html
    assert html_of(admin_client, "&since=2199-01-01&until=2199-01-31")


# --- Managers and leads -----------------------------------------------------


@pytest.fixture
def manager(client: Client) -> Client:
    """Provide the pages to a manager: staff, in the group."""
    user = User.objects.create_user("mia", is_staff=True)
    user.groups.add(managers())
    client.force_login(user)
    return client


def test_a_migration_makes_the_group_of_managers() -> None:
    codes = set(managers().permissions.values_list("codename", flat=True))
    assert codes == {"view_reports", "view_tool", "view_contract", "view_team"}


def test_a_manager_sees_reports_and_money_and_no_people(manager: Client, month: list[Lease]) -> None:
    days = f"since={FIRST}&until={LAST}"
    index = manager.get("/admin/").content.decode()
    assert "/admin/reports/money/" in index
    assert "Longest holders" not in index
    links: set[str] = set()
    for path in ("", "money/", "cad/", "tables/usage/", "tables/tool-costs/", "tables/contracts/"):
        html = manager.get(f"/admin/reports/{path}?{days}").content.decode()
        assert not re.search(r">\s*(ana|ben|cleo)\s*<", html), path
        links |= set(re.findall(r'href="(/(?:api/v1|admin)/reports[^"]*)"', html))
    for link in sorted(links):
        assert manager.get(unescape(link)).status_code == 200, link
    assert manager.get("/admin/reports/tables/usage/?by=user").status_code == 400
    assert manager.get("/api/v1/reports/usage?by=user").status_code == 403


def test_a_manager_changes_nothing(manager: Client, month: list[Lease]) -> None:
    tool = Tool.objects.get(name="cad")
    for path in ("lease/", "apitoken/", "denial/", "auditrecord/", "teammember/"):
        assert manager.get(f"/admin/licenses/{path}").status_code == 403, path
    page = manager.get(f"/admin/licenses/tool/{tool.pk}/change/")
    assert page.status_code == 200
    assert b"Save" not in page.content
    form = {"capacity": "99", "enabled": "on"}
    assert manager.post(f"/admin/licenses/tool/{tool.pk}/change/", form).status_code == 403
    for path in ("tool/add/", "contract/add/", "team/add/"):
        assert manager.post(f"/admin/licenses/{path}", {"name": "x", "capacity": 1}).status_code == 403
    assert manager.get("/admin/flexlm/").status_code == manager.get("/admin/person/").status_code == 403
    tool.refresh_from_db()
    assert tool.capacity == CAPACITIES["cad"][-1][1]


def lead_page(client: Client, team: str, query: str = "", status: int = 200) -> str:
    answer = client.get(f"/teams/{team}/?since={FIRST}&until={LAST}{query}")
    assert answer.status_code == status
    return " ".join(answer.content.decode().split())


def test_a_lead_sees_the_own_team_and_no_other(client: Client, month: list[Lease], settings: Any) -> None:
    settings.LICENSE_AUTH, settings.LICENSE_CURRENCY, settings.LICENSE_TIME_ZONE = "required", "EUR", "Europe/Berlin"
    TeamMember.objects.create(team=Team.objects.get(name="crash"), user="lea", is_lead=True)
    TeamMember.objects.create(team=Team.objects.get(name="aero"), user="lea")
    client.force_login(User.objects.create_user("lea"))
    of_crash = [lease for lease in month if lease.team and lease.team.name == "crash"]

    def of_work(now: datetime) -> bool:
        local = now.astimezone(BERLIN)
        return local.weekday() < 5 and 8 <= local.hour < 18

    expected = naive(of_crash, BERLIN, of_work)
    html = lead_page(client, "crash")
    for key in ("month", "tool", "project"):
        rows = table(html, f"by-{key}")
        for (kind, value), cost in expected["cost"].items():
            if kind == key:
                row = rows[value or f"No {key}"]
                assert near(row[1], expected["hours"][kind, value], "0.051")
                assert near(row[-1] if row[-1] != "—" else "0", cost)
                if key == "tool":
                    assert near(row[2], expected["working"][value], "0.051")
    costs = [Decimal(row[-1].replace(",", "").replace("—", "0")) for row in table(html, "by-tool").values()]
    assert costs == sorted(costs, reverse=True)
    # No names of people, and no figures of others.
    assert not re.search(r"\b(ana|ben|cleo|aero)\b", html)
    for team in ("aero", "nope", "%00"):
        lead_page(client, team, status=404)
    for key in ("month", "tool", "project"):
        found = client.get(f"/teams/crash/?since={FIRST}&until={LAST}&csv={key}")
        assert found["Content-Type"] == "text/csv; charset=utf-8"
        rows_of_file = list(csv.DictReader(io.StringIO(found.content.decode("utf-8-sig"))))
        assert {row["team"] for row in rows_of_file} == {"crash"}
    lead_page(client, "crash", "&csv=user", status=400)
    assert 'href="/teams/crash/"' in client.get("/yours/").content.decode()


def test_a_member_who_does_not_lead_sees_nothing(client: Client, month: list[Lease], settings: Any) -> None:
    settings.LICENSE_AUTH = "required"
    TeamMember.objects.create(team=Team.objects.get(name="crash"), user="ben")
    assert client.get("/teams/crash/")["Location"].startswith("/signin")
    client.force_login(User.objects.create_user("ben"))
    lead_page(client, "crash", status=404)
    assert "/teams/" not in client.get("/yours/").content.decode()


def test_those_who_may_view_reports_see_each_team(manager: Client, month: list[Lease]) -> None:
    assert "crash" in lead_page(manager, "crash")
    lead_page(manager, "nope", status=404)
