"""High-water marks, usage and denials are exact, at any time and after any number of rollups."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.management import call_command
from django.db.models import F
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from licenses.history import contracts, days, money, reports, retention, rollups, whatif
from licenses.history.reports import Period, Span
from licenses.history.timeline import HOUR, Hour, Steps, Use, by_hour, percentile
from licenses.history.working_hours import WorkingHours
from licenses.models import (
    Action,
    AuditRecord,
    Contract,
    Denial,
    DenialDay,
    EndReason,
    HistoryMark,
    Lease,
    Team,
    TeamHour,
    Tool,
    ToolHour,
    UsageDay,
)
from licenses.models.denial import EPISODE_WINDOW
from tests.support.api import Api

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
LONG_AGO = MONDAY - 90 * DAY
WEEK = Span(MONDAY.date(), MONDAY.date() + 6 * DAY)


def at(hour: float, day: int = 0) -> datetime:
    """Return an hour of a day; day 0 is the Monday."""
    return MONDAY + timedelta(days=day, hours=hour)


def held(tool: Tool, start: datetime, end: datetime | None, **values: object) -> Lease:
    """Create a past lease as the services leave it."""
    ended = {"ended_at": end, "end_reason": EndReason.RETURNED} if end else {}
    if not end:
        Tool.objects.filter(pk=tool.pk).update(borrowed=F("borrowed") + 1)
    return Lease.objects.create(**({"tool": tool, "user": "ana", "borrowed_at": start} | ended | values))


def last_midnight() -> date:
    """Set the first day without rollups."""
    return (datetime.now(UTC) - rollups.SETTLED).date()


# --- Hours ------------------------------------------------------------------

moments = st.integers(min_value=-90, max_value=330).map(lambda minutes: MONDAY + timedelta(minutes=minutes))
uses = st.builds(
    lambda one, other, seats: Use(min(one, other), max(one, other), seats), moments, moments, st.integers(1, 5)
)
steps = st.builds(
    lambda before, changes: Steps(before, sorted(changes.items())),
    st.integers(1, 8),
    st.dictionaries(moments, st.integers(1, 8)),
)


@given(st.lists(uses, max_size=12), steps)
def test_hours_are_what_looking_every_minute_shows(found: list[Use], capacity: Steps) -> None:
    hours = {hour.start: hour for hour in by_hour(found, MONDAY, MONDAY + 4 * HOUR, capacity)}
    minute = timedelta(minutes=1)
    for number in range(4):
        start = MONDAY + number * HOUR
        seen = Hour(start)
        for step in range(60):
            now = start + step * minute
            level = sum(use.seats for use in found if use.start <= now < use.end)
            seen.peak = max(seen.peak, level)
            seen.seat_time += level * minute
            seen.full_for += minute if level and level >= capacity.at(now) else timedelta(0)
        assert hours.get(start, Hour(start)) == seen


def test_a_borrow_at_the_moment_of_a_return_makes_no_peak() -> None:
    relay = [Use(MONDAY, MONDAY + timedelta(minutes=5), 1), Use(MONDAY + timedelta(minutes=5), MONDAY + HOUR, 1)]
    assert [hour.peak for hour in by_hour(relay, MONDAY, MONDAY + HOUR)] == [1]


def test_a_peak_of_a_microsecond_is_seen() -> None:
    moment = timedelta(microseconds=1)
    short = [Use(MONDAY, MONDAY + 2 * moment, 1), Use(MONDAY + moment, MONDAY + 2 * moment, 4)]
    assert [hour.peak for hour in by_hour(short, MONDAY, MONDAY + HOUR)] == [5]


@pytest.mark.parametrize(
    ("values", "p95"),
    [([], 0), ([3], 3), (range(1, 21), 19), (range(1, 101), 95), ([0] * 19 + [5], 0), ([0] * 18 + [5] * 2, 5)],
)
def test_the_95th_percentile_is_the_least_that_95_percent_do_not_exceed(values: list[int], p95: int) -> None:
    assert percentile(values, 0.95) == p95


# --- Rolling up -------------------------------------------------------------


@pytest.fixture
def week(make_tool: MakeTool, make_team: MakeTeam) -> Tool:
    """Provide a week of a tool with two seats, with a night shift and a lease that was not returned."""
    cad = make_tool("cad", capacity=2, seat_hour_price="2.5", overdraft_hour_price="10", created_at=LONG_AGO)
    crash, doors = make_team("crash"), make_team("doors")
    held(cad, at(8), at(12), team=crash, project="p1")
    held(cad, at(9), at(10.5), user="ben", team=doors, project="p2")
    held(cad, at(22, day=1), at(3, day=2), user="cleo", team=crash, project="p1")
    held(cad, at(9, day=3), at(10, day=3), user="ben", seats=3, overdraft_seats=1)
    # It has expired but is not closed.
    held(cad, at(23, day=3), None, expires_at=at(1, day=4), ttl=timedelta(hours=2))
    Denial.objects.create(
        tool=cad, user="dora", code="exhausted", first_at=at(9.5), last_at=at(10), attempts=4,
        resolved_at=at(10.2), resolved_by=Lease.objects.get(user="cleo"),
    )  # fmt: skip
    Denial.objects.create(tool=cad, user="emil", code="exhausted", first_at=at(9.5), last_at=at(9.5), attempts=1)
    Denial.objects.create(tool=cad, user="emil", code="quota", first_at=at(23.9), last_at=at(23.95), attempts=2)
    return cad


def everything(tool: Tool) -> list[object]:
    """Return all reports of that week."""
    return [
        *(
            reports.utilization(tools=[tool], span=WEEK, period=period, team=team)
            for period in Period
            for team in (None, *Team.objects.all())
        ),
        reports.hours_of_week(tool=tool, span=WEEK),
        reports.usage(by=["tool", "team", "project", "user"], span=WEEK),
        reports.denials(by=["tool", "code", "day"], span=WEEK),
    ]


def test_reports_say_the_same_before_and_after_the_days_are_rolled_up(week: Tool) -> None:
    before = everything(week)
    assert rollups.roll_up(at_most=3) == 3
    assert everything(week) == before
    assert rollups.roll_up() > 3
    assert everything(week) == before
    assert rollups.roll_up() == 0
    call_command("rebuild_history", stdout=StringIO())
    assert everything(week) == before
    assert HistoryMark.objects.get().rolled_up_until == last_midnight()


def test_the_high_water_mark_of_a_day_is_that_of_its_fullest_moment(week: Tool) -> None:
    found = reports.utilization(tools=[week], span=WEEK, period=Period.DAY)
    assert [(day.start, day.peak, day.full_for) for day in found] == [
        (date(2026, 3, 2), 2, timedelta(hours=1.5)),
        (date(2026, 3, 3), 1, timedelta(0)),
        (date(2026, 3, 4), 1, timedelta(0)),
        (date(2026, 3, 5), 3, timedelta(hours=1)),
        (date(2026, 3, 6), 1, timedelta(0)),
        (date(2026, 3, 7), 0, timedelta(0)),
        (date(2026, 3, 8), 0, timedelta(0)),
    ]
    assert found[0].mean == pytest.approx(5.5 / 24)
    assert found[0].share == pytest.approx(5.5 / 48)


def test_a_team_has_high_water_marks_of_its_own(week: Tool) -> None:
    crash = Team.objects.get(name="crash")
    rollups.roll_up()
    found = reports.utilization(tools=[week], span=WEEK, period=Period.DAY, team=crash)
    assert [day.peak for day in found] == [1, 1, 1, 0, 0, 0, 0]
    assert [day.full_for for day in found] == [None] * 7


def test_a_month_is_its_part_that_was_asked_about(week: Tool) -> None:
    (month,) = reports.utilization(tools=[week], span=WEEK, period=Period.MONTH)
    assert (month.start, month.peak, month.full_for) == (date(2026, 3, 1), 3, timedelta(hours=2.5))
    assert month.mean == pytest.approx(15.5 / (7 * 24))


def test_days_are_those_of_the_time_zone_asked_for(week: Tool) -> None:
    rollups.roll_up()
    tokyo = ZoneInfo("Asia/Tokyo")
    found = reports.utilization(tools=[week], span=Span(WEEK.first, WEEK.last, tokyo), period=Period.DAY)
    # Tuesday, 22:00 UTC is Wednesday in Tokyo.
    assert [day.peak for day in found] == [2, 0, 1, 3, 1, 0, 0]


def test_the_capacity_of_the_past_is_the_one_that_it_had_then(week: Tool) -> None:
    for day, before, after in ((1, 2, 3), (3, 3, 5)):
        AuditRecord.objects.create(
            recorded_at=at(12, day=day),
            actor_kind="command",
            origin="test",
            action=Action.CHANGED,
            subject_kind="tool",
            subject="cad",
            before={"capacity": before},
            after={"capacity": after},
        )
    rollups.roll_up()
    found = reports.utilization(tools=[week], span=WEEK, period=Period.DAY)
    assert [day.capacity for day in found] == [2, 3, 3, 5, 5, 5, 5]
    # Three of three seats on Thursday morning; from noon on there were five.
    assert [day.full_for for day in found][:4] == [timedelta(hours=1.5), timedelta(0), timedelta(0), timedelta(hours=1)]


@pytest.mark.parametrize("is_rolled_up", [False, True], ids=["leases", "rollups"])
def test_a_tool_has_no_capacity_before_its_creation(make_tool: MakeTool, is_rolled_up: bool) -> None:
    cad = make_tool("cad", capacity=5, created_at=at(12, day=2))
    Contract.objects.create(
        tool=cad, seats=3, price=700, first_day=date(2026, 3, 2), last_day=date(2026, 3, 8), reference="PO-1"
    )
    record = {"actor_kind": "command", "origin": "test", "subject_kind": "tool", "subject": "cad"}
    for moment, action, before, after in (
        # Another tool had the name before.
        (at(9), Action.CHANGED, {"capacity": 7}, {"capacity": 8}),
        (at(12, day=2), Action.CREATED, {}, {"capacity": 3}),
        (at(0, day=4), Action.CHANGED, {"capacity": 3}, {"capacity": 5}),
    ):
        AuditRecord.objects.create(recorded_at=moment, action=action, before=before, after=after, **record)
    held(cad, at(13, day=2), at(15, day=2), seats=3)
    if is_rolled_up:
        rollups.roll_up()
    found = reports.utilization(tools=[cad], span=WEEK, period=Period.DAY)
    assert [day.capacity for day in found] == [0, 0, 3, 3, 5, 5, 5]
    assert [day.share for day in found][:3] == [None, None, pytest.approx(6 / 24 / 3)]
    assert [day.full_for for day in found][:3] == [timedelta(0), timedelta(0), timedelta(hours=2)]
    day = Span(date(2026, 3, 4), date(2026, 3, 4))
    hours = reports.utilization(tools=[cad], span=day, period=Period.HOUR)
    assert [hour.capacity for hour in hours] == [0] * 12 + [3] * 12
    (of_tool,) = money.by_tool(span=WEEK, at_most=None)
    assert of_tool.share == pytest.approx(6 / (3 * 36 + 5 * 72))
    # 100 a day: a half of the third day with 6 of 36 seat-hours, and all of the days after it.
    (of_contract,) = contracts.costs(span=WEEK)
    assert of_contract.cost == 700
    assert round(float(of_contract.idle_cost or 0), 2) == round(50 * 5 / 6 + 400, 2)
    # The demand is what it was.
    recorded, (outcome,) = whatif.replay(tool=cad, capacities=[3], span=WEEK)
    assert (recorded.decided, outcome.refused) == (1, 0)


def test_hours_of_the_week_go_by_how_often_they_were_busy(make_tool: MakeTool) -> None:
    cad = make_tool("cad", capacity=9)
    for number in range(20):
        # Mondays at nine, with a high load on one of twenty.
        held(cad, at(9, day=7 * number), at(9.5, day=7 * number), seats=8 if number == 7 else 1 + number % 3)
    rollups.roll_up()
    span = Span(MONDAY.date(), (MONDAY + 139 * DAY).date())
    hours = {(hour.weekday, hour.hour): hour for hour in reports.hours_of_week(tool=cad, span=span)}
    assert len(hours) == 168
    nine = hours[0, 9]
    assert (nine.hours, nine.highest, nine.p95, nine.mean) == (20, 8, 3, 2.25)
    ten = hours[0, 10]
    assert (ten.hours, ten.highest, ten.p95, ten.mean) == (20, 0, 0, 0)


def test_usage_is_seat_hours_and_their_cost(week: Tool) -> None:
    rollups.roll_up()
    by_user = {row.key["user"]: row for row in reports.usage(by=["user"], span=WEEK)}
    assert {user: (row.borrows, row.seat_hours, row.overdraft_hours) for user, row in by_user.items()} == {
        "ana": (2, 6, 0),
        "ben": (2, 4.5, 1),
        "cleo": (1, 5, 0),
    }
    # 3.5 seat-hours at 2.50, and one above the capacity at 10.
    assert by_user["ben"].cost == pytest.approx(18.75)
    by_project = [(row.key, row.seat_hours) for row in reports.usage(by=["team", "project"], span=WEEK)]
    assert by_project == [
        ({"team": "crash", "project": "p1"}, 9),
        ({"team": None, "project": ""}, 5),
        ({"team": "doors", "project": "p2"}, 1.5),
    ]


def test_a_lease_counts_on_each_day_for_its_part_of_the_day(week: Tool) -> None:
    rollups.roll_up()
    tuesday = WEEK.first + DAY
    for day, borrows, hours in ((tuesday, 1, 2), (tuesday + DAY, 0, 3)):
        (row,) = reports.usage(by=["user"], span=Span(day, day))
        assert (row.key["user"], row.borrows, row.seat_hours) == ("cleo", borrows, hours)


def test_true_denials_are_those_that_no_seat_followed(week: Tool) -> None:
    rollups.roll_up()
    found = [
        (row.key["code"], row.key["day"], row.episodes, row.true_denials, row.attempts)
        for row in reports.denials(by=["code", "day"], span=WEEK)
    ]
    # The second kind ended 15 minutes after its last attempt, on Tuesday.
    assert found == [("exhausted", "2026-03-02", 2, 1, 5), ("quota", "2026-03-03", 1, 1, 2)]


def test_an_episode_counts_when_it_is_over(api: Api, make_tool: MakeTool, pass_time: Callable[..., None]) -> None:
    make_tool("cad")
    api.borrow(user="ana")
    api.borrow(user="ben")
    span = Span.of_last_days(2)
    assert reports.denials(by=["tool"], span=span) == []
    pass_time(minutes=15)
    (row,) = reports.denials(by=["tool"], span=span)
    assert (row.episodes, row.true_denials) == (1, 1)


def test_active_leases_count_until_now(api: Api, make_tool: MakeTool, pass_time: Callable[..., None]) -> None:
    cad = make_tool("cad", capacity=3)
    api.borrow(user="ana", seats=2)
    pass_time(hours=30)
    api.borrow(user="ben")
    (row,) = reports.usage(by=["tool"], span=Span.of_last_days(3))
    assert row.borrows == 2
    # Eight hours, the default time of a lease without a heartbeat.
    assert row.seat_hours == pytest.approx(16, abs=0.01)
    peaks = [day.peak for day in reports.utilization(tools=[cad], span=Span.of_last_days(3), period=Period.DAY)]
    assert max(peaks) == 2
    assert peaks[-1] >= 1


def test_a_tool_that_comes_while_a_report_is_computed_is_in_it(
    make_tool: MakeTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = days.capacities_by_tool
    asked = timezone.now() - 2 * EPISODE_WINDOW
    new = iter(["first", "second"])

    def read_and_add() -> dict[int, Steps]:
        found = read()
        tool = make_tool(next(new))
        Lease.objects.create(tool=tool, user="ana", borrowed_at=asked)
        Denial.objects.create(tool=tool, user="ben", code="exhausted", first_at=asked, last_at=asked)
        return found

    span = Span.of_last_days(2)
    monkeypatch.setattr(days, "capacities_by_tool", read_and_add)
    assert [row.key["tool"] for row in reports.usage(by=["tool"], span=span)] == ["first"]
    assert [row.key["tool"] for row in reports.denials(by=["tool"], span=span)] == ["first", "second"]


def test_the_sweeper_rolls_up(week: Tool) -> None:
    out = StringIO()
    call_command("expire_leases", stdout=out)
    rolled_up = (last_midnight() - WEEK.first).days
    assert out.getvalue() == f"1 lease(s), 0 ticket(s), 0 key(s), 0 session(s), {rolled_up} day(s) rolled up\n"
    assert ToolHour.objects.exists()
    assert TeamHour.objects.exists()
    assert UsageDay.objects.exists()
    assert DenialDay.objects.exists()


def test_a_day_is_rolled_up_once_though_two_would(week: Tool) -> None:
    first, history = next(iter(days.since(WEEK.first, at(24))))
    assert rollups._write(first, history)
    again = next(iter(days.since(WEEK.first, at(24))))
    assert not rollups._write(*again)
    assert ToolHour.objects.count() == 4


def test_without_any_lease_there_is_nothing_to_tell(make_tool: MakeTool) -> None:
    cad = make_tool("cad", capacity=4, created_at=LONG_AGO)
    assert rollups.roll_up() == 0
    assert reports.usage(by=["user"], span=WEEK) == []
    assert reports.denials(by=["code"], span=WEEK) == []
    assert {hour.hours for hour in reports.hours_of_week(tool=cad, span=WEEK)} == {0}
    found = reports.utilization(tools=[cad], span=WEEK, period=Period.DAY)
    assert {(day.peak, day.mean, day.capacity) for day in found} == {(0, 0, 4)}


def refuse(tool: Tool, user: str, code: str, hour: float) -> None:
    Denial.objects.create(tool=tool, user=user, code=code, first_at=at(hour), last_at=at(hour))


def people(*by: str, span: Span = WEEK) -> list[tuple[Any, ...]]:
    """Return the keys, users and episodes of the report of denials."""
    return [(*row.key.values(), row.people, row.episodes) for row in reports.denials(by=by, span=span)]


@pytest.mark.parametrize("rolled_up", [True, False])
def test_a_person_is_counted_once_however_often_they_are_refused(make_tool: MakeTool, rolled_up: bool) -> None:
    cad, sim = make_tool("cad"), make_tool("sim")
    for hour in (1, 5, 30):
        refuse(cad, "ana", "exhausted", hour)
    refuse(cad, "ana", "quota", 6)
    refuse(cad, "ben", "quota", 7)
    refuse(sim, "ana", "exhausted", 8)
    if rolled_up:
        rollups.roll_up()
    assert people() == [(2, 6)]
    assert people("tool") == [("cad", 2, 5), ("sim", 1, 1)]
    assert people("code") == [("exhausted", 1, 4), ("quota", 2, 2)]
    assert people("day") == [("2026-03-02", 2, 5), ("2026-03-03", 1, 1)]
    assert [row.people for row in reports.denials(by=[], span=WEEK, tool=sim)] == [1]


def test_people_are_unknown_where_their_names_are_gone(make_tool: MakeTool) -> None:
    cad = make_tool("cad")
    refuse(cad, "ana", "exhausted", 1)
    refuse(cad, "ben", "exhausted", 30)
    rollups.roll_up()
    retention.anonymize(before=WEEK.first + DAY)
    assert people("day") == [("2026-03-02", None, 1), ("2026-03-03", 1, 1)]
    assert people("tool") == [("cad", None, 2)]
    retention.delete(before=WEEK.first + DAY)
    assert people("day") == [("2026-03-02", None, 1), ("2026-03-03", 1, 1)]
    assert people("tool") == [("cad", None, 2)]


@pytest.mark.parametrize(
    ("weekdays", "text"),
    [
        ({0, 1, 2, 3, 4}, "Mon to Fri"),
        ({0, 1, 2, 3, 4, 5, 6}, "Mon to Sun"),
        ({6, 0, 1, 2, 3}, "Mon to Thu, Sun"),
        ({2}, "Wed"),
        ({0, 2, 3}, "Mon, Wed to Thu"),
    ],
)
def test_working_days_in_a_row_are_written_as_a_span(weekdays: set[int], text: str) -> None:
    hours = WorkingHours(frozenset(weekdays), 8 * 60, 18 * 60, ZoneInfo("UTC"))
    assert str(hours) == f"{text} 08:00 to 18:00, UTC"
