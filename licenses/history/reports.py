"""Compute reports of use and refusals.

Finished days come from the rollups, the rest from the leases, so that a report is
exact up to now. Amounts of time are summed over seats: two seats for an hour are
two seat-hours.
"""

import zoneinfo
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cache
from operator import itemgetter
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from django.db.models import DateField, F, Max, Sum
from django.db.models.functions import ExtractHour, ExtractIsoWeekDay, TruncDate, TruncMonth

from licenses.clock import database_now
from licenses.models import DenialDay, Team, TeamHour, Tool, ToolHour, UsageDay

from . import days, rollups
from .days import DAY, DayHistory
from .timeline import HOUR, Steps, percentile
from .working_hours import Windows, WorkingHours

R = TypeVar("R")
WEEK_HOURS = 7 * 24
UTC_ZONE = ZoneInfo("UTC")
DEFAULT_DAYS = 30
MAX_DAYS = 3660
FIRST_DAY, LAST_DAY = date(2000, 1, 1), date(2199, 12, 31)


def time_zone(name: str) -> ZoneInfo:
    """Return the time zone of a name such as Europe/Berlin. Raises ValueError."""
    # Check the name first, because ZoneInfo opens a file of that name.
    if name not in _zones():
        raise ValueError("There is no such time zone. Use a name such as Europe/Berlin.")
    return ZoneInfo(name)


@cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


class Period(StrEnum):
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Span:
    """Days of a time zone, from the first to the last, both included."""

    first: date
    last: date
    zone: ZoneInfo = UTC_ZONE

    @classmethod
    def between(cls, first: date | None, last: date | None, zone: ZoneInfo = UTC_ZONE) -> "Span":
        """Return the span of these days. Defaults: the last day is today, and the span has 30 days.

        Raises ValueError with a text for the user if the days are invalid or too many.
        """
        last = last or database_now().astimezone(zone).date()
        if not FIRST_DAY <= last <= LAST_DAY:
            raise ValueError(f"The last day must be from {FIRST_DAY} to {LAST_DAY}.")
        first = first or last - (DEFAULT_DAYS - 1) * DAY
        if first > last:
            raise ValueError("The first day is after the last.")
        if (last - first).days >= MAX_DAYS:
            raise ValueError(f"A report can have at most {MAX_DAYS} days.")
        return cls(first, last, zone)

    @classmethod
    def of_last_days(cls, number: int) -> "Span":
        """Return a span of this number of days that ends today."""
        today = database_now().astimezone(UTC).date()
        return cls(today - (number - 1) * DAY, today)

    @property
    def start(self) -> datetime:
        return self._midnight(self.first)

    @property
    def end(self) -> datetime:
        return self._midnight(self.last + DAY)

    def _midnight(self, day: date) -> datetime:
        return datetime.combine(day, time(), self.zone).astimezone(UTC)

    def periods(self, period: Period) -> Iterator[tuple[datetime | date, datetime, datetime]]:
        """Yield each hour, day or month of the span: its name, and its start and end inside the span.

        The name is a day, the first day of a month, or the start of an hour.
        """
        if period == Period.HOUR:
            # Hours are full hours in UTC.
            hour = self.start.replace(minute=0, second=0, microsecond=0)
            hour += HOUR if hour < self.start else timedelta(0)
            while hour < self.end:
                yield hour, hour, hour + HOUR
                hour += HOUR
            return
        day = self.first
        while day <= self.last:
            name = day if period == Period.DAY else day.replace(day=1)
            following = day + DAY if period == Period.DAY else (name + 32 * DAY).replace(day=1)
            yield name, self._midnight(day), self._midnight(min(following, self.last + DAY))
            day = following

    def length(self, period: Period) -> int:
        """Return the number of periods, or slightly more."""
        number = (self.last - self.first).days + 1
        return {Period.HOUR: number * 25, Period.DAY: number, Period.MONTH: number // 28 + 2}[period]


@dataclass(frozen=True, slots=True)
class Utilization:
    """The use of a tool in a period. ``capacity`` is the highest in the period. ``full_for``, the time
    without a free seat, is known only for whole tools."""

    tool: str
    team: str | None
    start: datetime | date
    capacity: int
    peak: int
    mean: float
    full_for: timedelta | None

    @property
    def share(self) -> float | None:
        """Return the mean as a share of the capacity."""
        return self.mean / self.capacity if self.capacity else None


@dataclass(frozen=True, slots=True)
class HourOfWeek:
    """The use in one hour of the week: the highest, the 95th percentile and the mean of the high-water
    marks."""

    weekday: int
    hour: int
    hours: int
    highest: int
    p95: int
    mean: float


@dataclass(frozen=True, slots=True)
class Usage:
    """The use by a key. ``cost`` is at current prices, or None without a price."""

    key: Mapping[str, str | None]
    borrows: int
    seat_time: timedelta
    overdraft_time: timedelta
    cost: Decimal | None

    @property
    def seat_hours(self) -> float:
        return self.seat_time / HOUR

    @property
    def overdraft_hours(self) -> float:
        return self.overdraft_time / HOUR


@dataclass(frozen=True, slots=True)
class Denials:
    """Refusals: episodes, those that ended without a seat, attempts, and users (None if names were
    removed)."""

    key: Mapping[str, str]
    episodes: int
    true_denials: int
    attempts: int
    people: int | None


@dataclass(frozen=True, slots=True)
class Recent:
    """The days from ``until`` that are not rolled up, up to ``now``. A page with several reports reads them once,
    so that their sums agree."""

    until: date
    now: datetime
    days: Sequence[tuple[date, DayHistory]]

    @classmethod
    def read(cls) -> "Recent":
        until, now = rollups.mark().rolled_up_until, database_now()
        return cls(until, now, list(days.since(until, now)))


def _exactly(read: Callable[[Recent], R], recent: Recent | None) -> R:
    """Read rollups and recent days together. Read again if a rebuild has removed rollups."""
    while True:
        recent = recent or Recent.read()
        answer = read(recent)
        if rollups.mark().rolled_up_until >= recent.until:
            return answer
        recent = None


# --- Utilization ------------------------------------------------------------


def utilization(
    *, tools: Sequence[Tool], span: Span, period: Period, team: Team | None = None, recent: Recent | None = None
) -> list[Utilization]:
    """Return the high-water mark, mean and full time of each tool in each period up to now.

    Includes periods without use. With ``team``, count only that team.
    """
    now = recent.now if recent else database_now()
    used = _used(tools, span, period, team, recent)
    capacities = days.capacities_by_tool()
    return [
        _utilization(tool, team, name, start, min(end, now), used.get((tool.pk, name)), capacities[tool.pk])
        for tool in tools
        for name, start, end in span.periods(period)
        if start < now
    ]


@dataclass(slots=True)
class _Used:
    peak: int = 0
    seat_time: timedelta = timedelta(0)
    full_for: timedelta = timedelta(0)

    def add(self, peak: int, seat_time: timedelta, full_for: timedelta) -> None:
        self.peak = max(self.peak, peak)
        self.seat_time += seat_time
        self.full_for += full_for


def _utilization(
    tool: Tool,
    team: Team | None,
    name: datetime | date,
    start: datetime,
    end: datetime,
    used: _Used | None,
    capacity: Steps,
) -> Utilization:
    used = used or _Used()
    return Utilization(
        tool=tool.name,
        team=team.name if team else None,
        start=name,
        capacity=capacity.most(start, end),
        peak=used.peak,
        mean=used.seat_time / (end - start),
        full_for=None if team else used.full_for,
    )


def _used(
    tools: Sequence[Tool], span: Span, period: Period, team: Team | None, recent: Recent | None
) -> dict[tuple[int, datetime | date], _Used]:
    names: dict[Period, Any] = {
        Period.HOUR: F("hour"),
        Period.DAY: TruncDate("hour", tzinfo=span.zone),
        Period.MONTH: TruncMonth("hour", tzinfo=span.zone, output_field=DateField()),
    }

    def read(recent: Recent) -> dict[tuple[int, datetime | date], _Used]:
        used: defaultdict[tuple[int, datetime | date], _Used] = defaultdict(_Used)
        rows: Any = TeamHour.objects.filter(team=team) if team else ToolHour.objects
        rows = rows.filter(tool__in=tools, hour__gte=span.start, hour__lt=min(span.end, days.midnight(recent.until)))
        full = None if team else Sum("full_for")
        # An annotation can't have the name of a field.
        grouped = rows.order_by().annotate(period=names[period]).values("tool", "period")
        totals = {"highest": Max("peak"), "time": Sum("seat_time")} | ({"full": full} if full else {})
        for row in grouped.annotate(**totals):
            used[row["tool"], row["period"]].add(row["highest"], row["time"], row.get("full", timedelta(0)))
        for hour in _recent_hours(recent, {tool.pk for tool in tools}, span, team):
            name = _name_of(hour.hour, span.zone, period)
            used[hour.tool_id, name].add(hour.peak, hour.seat_time, getattr(hour, "full_for", timedelta(0)))
        return dict(used)

    return _exactly(read, recent)


def _recent_hours(
    recent: Recent, tools: Collection[int], span: Span, team: Team | None
) -> Iterator[ToolHour | TeamHour]:
    """Yield the hours of a span that are not rolled up."""
    for _, day in recent.days:
        hours: Iterable[ToolHour | TeamHour] = (
            [hour for hour in day.teams if hour.team_id == team.pk] if team else day.tools
        )
        yield from (hour for hour in hours if hour.tool_id in tools and span.start <= hour.hour < span.end)


def _name_of(hour: datetime, zone: ZoneInfo, period: Period) -> datetime | date:
    if period == Period.HOUR:
        return hour
    day = hour.astimezone(zone).date()
    return day if period == Period.DAY else day.replace(day=1)


def working_time(
    *,
    tools: Sequence[Tool],
    span: Span,
    hours: WorkingHours,
    team: Team | None = None,
    recent: Recent | None = None,
) -> dict[int, timedelta]:
    """Return the seat time of each tool in working hours, up to now. With ``team``, count only that team.

    Exact while the leases exist. If working hours begin or end inside an hour of UTC, the seat time of an hour
    whose leases were deleted counts in proportion.
    """
    windows = hours.between(span.start, span.end)
    if not windows.are_full_hours:
        of_leases: defaultdict[int, timedelta] = defaultdict(timedelta)
        for tool, start, end, seats in _uses(tools, span, team, recent):
            of_leases[tool] += seats * windows.within(start, end)
        return dict(of_leases)
    first, last = hours.start // 60, hours.end // 60

    def read(recent: Recent) -> dict[int, timedelta]:
        used: defaultdict[int, timedelta] = defaultdict(timedelta)
        rows: Any = TeamHour.objects.filter(team=team) if team else ToolHour.objects
        rows = rows.filter(tool__in=tools, hour__gte=span.start, hour__lt=min(span.end, days.midnight(recent.until)))
        local = rows.order_by().annotate(
            weekday=ExtractIsoWeekDay("hour", tzinfo=hours.zone), of_day=ExtractHour("hour", tzinfo=hours.zone)
        )
        working = local.filter(weekday__in=[day + 1 for day in hours.weekdays], of_day__gte=first, of_day__lt=last)
        for row in working.values("tool").annotate(time=Sum("seat_time")):
            used[row["tool"]] += row["time"]
        for hour in _recent_hours(recent, {tool.pk for tool in tools}, span, team):
            used[hour.tool_id] += hour.seat_time if windows.within(hour.hour, hour.hour + HOUR) else timedelta(0)
        return dict(used)

    return _exactly(read, recent)


def seat_time_by_day(
    *, tools: Sequence[Tool], span: Span, recent: Recent | None = None
) -> dict[tuple[int, date], timedelta]:
    """Return the seat time of each tool on each day with use, up to now.

    Exact as ``working_time`` is: in a zone like India's, days begin inside an hour of UTC.
    """
    bounds = [(start, end, name) for name, start, end in span.periods(Period.DAY)]
    if Windows([(start, end) for start, end, _ in bounds]).are_full_hours:
        return {key: use.seat_time for key, use in _used(tools, span, Period.DAY, None, recent).items()}
    used: defaultdict[tuple[int, date], timedelta] = defaultdict(timedelta)
    for tool, start, end, seats in _uses(tools, span, None, recent):
        for begin, finish, name in bounds[bisect_right(bounds, start, key=itemgetter(1)) :]:
            if begin >= end:
                break
            used[tool, name] += seats * (min(end, finish) - max(start, begin))
    return dict(used)


def _uses(
    tools: Sequence[Tool], span: Span, team: Team | None, recent: Recent | None
) -> Iterator[tuple[int, datetime, datetime, float]]:
    """Yield a tool, a start, an end and the seats for each lease of a span; where the leases were deleted, for
    each hour, with the mean of its seats."""
    which: dict[str, Any] = {"tool__in": tools} | ({"team": team} if team else {})
    kept_since = rollups.mark().kept_since
    since = max(span.start, days.midnight(kept_since)) if kept_since else span.start
    rows: Any = TeamHour.objects if team else ToolHour.objects
    forgotten = rows.filter(**which, hour__gte=span.start, hour__lt=min(since, span.end)).order_by()
    for tool, hour, seat_time in forgotten.values_list("tool", "hour", "seat_time"):
        yield tool, hour, hour + HOUR, seat_time / HOUR
    end = min(span.end, recent.now if recent else database_now())
    if since < end:
        for lease in days.leases_between(since, end, **which):
            yield lease.tool, max(lease.use.start, since), min(lease.use.end, end), lease.use.seats


def hours_of_week(
    *, tool: Tool, span: Span, team: Team | None = None, recent: Recent | None = None
) -> list[HourOfWeek]:
    """Return the 168 hours of the week from Monday, in the span's time zone.

    Hours before the first use of the tool and after now do not count. An hour without
    use counts as 0 seats.
    """
    used = {start: use.peak for (_, start), use in _used([tool], span, Period.HOUR, team, recent).items()}
    now = recent.now if recent else database_now()
    begun = _first_use(tool, team)
    peaks: list[list[int]] = [[] for _ in range(WEEK_HOURS)]
    for hour, start, _ in span.periods(Period.HOUR):
        if begun is not None and begun <= start <= now:
            local = start.astimezone(span.zone)
            peaks[local.weekday() * 24 + local.hour].append(used.get(hour, 0))
    return [
        HourOfWeek(
            weekday=number // 24,
            hour=number % 24,
            hours=len(found),
            highest=max(found, default=0),
            p95=percentile(found, 0.95),
            mean=sum(found) / len(found) if found else 0.0,
        )
        for number, found in enumerate(peaks)
    ]


def _first_use(tool: Tool, team: Team | None) -> datetime | None:
    """Return the first known day of use, or None."""
    stored: Any = TeamHour.objects.filter(tool=tool, team=team) if team else ToolHour.objects.filter(tool=tool)
    first = stored.order_by("hour").values_list("hour", flat=True).first()
    if first is None:
        leases = tool.leases.filter(team=team) if team else tool.leases.all()
        first = leases.order_by("borrowed_at").values_list("borrowed_at", flat=True).first()
    return days.midnight(first.astimezone(UTC).date()) if first else None


# --- Usage ------------------------------------------------------------------

USAGE_KEYS = ("month", "vendor", "tool", "team", "project", "user")
# The user of a row whose name was removed.
REMOVED_NAME = ""
DENIAL_KEYS = ("tool", "code", "day", "month")


@dataclass(slots=True)
class _Amount:
    borrows: int = 0
    seat_time: timedelta = timedelta(0)
    overdraft_time: timedelta = timedelta(0)

    def add(self, borrows: int, seat_time: timedelta, overdraft_time: timedelta) -> None:
        self.borrows += borrows
        self.seat_time += seat_time
        self.overdraft_time += overdraft_time


def usage(
    *,
    by: Collection[str],
    span: Span,
    tool: Tool | None = None,
    team: Team | None = None,
    recent: Recent | None = None,
) -> list[Usage]:
    """Return seat-hours and their cost by any of month, vendor, tool, team, project and user.

    Months are in order, the rest by size. No team is None, no project ''. Days and
    months are those of the span's time zone, exact while the leases exist. A UTC day
    whose leases were deleted counts on the day of its noon.
    """
    keys = [key for key in USAGE_KEYS if key in by]
    which: dict[str, Any] = {"tool": tool} if tool else {}
    which |= {"team": team} if team else {}
    # Always group by tool, because prices differ.
    columns = list(dict.fromkeys(["tool", *(key for key in keys if key not in ("month", "vendor"))]))
    parts = (
        [(name.isoformat(), start, end) for name, start, end in span.periods(Period.MONTH)]
        if "month" in keys
        else [(None, span.start, span.end)]
    )

    def read(recent: Recent) -> dict[tuple[Any, ...], _Amount]:
        amounts: defaultdict[tuple[Any, ...], _Amount] = defaultdict(_Amount)

        def add(month: str | None, rows: Iterable[UsageDay]) -> None:
            for row in rows:
                if (tool and row.tool_id != tool.pk) or (team and row.team_id != team.pk):
                    continue
                values = {"tool": row.tool_id, "team": row.team_id, "project": row.project, "user": row.user}
                key = (month, *(values[column] for column in columns))
                amounts[key].add(row.borrows, row.seat_time, row.overdraft_time)

        for month, start, end in parts:
            first, last, edges = _whole_days(start, end, recent.now)
            rows = UsageDay.objects.filter(**which, day__gte=first, day__lt=min(last, recent.until)).order_by()
            for row in rows.values(*columns).annotate(
                number=Sum("borrows"), time=Sum("seat_time"), above=Sum("overdraft_time")
            ):
                key = (month, *(row[column] for column in columns))
                amounts[key].add(row["number"], row["time"], row["above"])
            add(month, (row for day, history in recent.days if first <= day < last for row in history.usage))
            for begin, finish in edges:
                add(month, _usage_of_edge(begin, finish, start, end))
        return dict(amounts)

    found = _exactly(read, recent)
    # After the use, which may be of a new tool.
    tools = Tool.objects.in_bulk()
    teams: dict[int | None, str] = dict(Team.objects.values_list("pk", "name"))
    totals: defaultdict[tuple[str | None, ...], _Amount] = defaultdict(_Amount)
    costs: dict[tuple[str | None, ...], Decimal] = {}
    for values, amount in found.items():
        named = dict(zip(["month", *columns], values, strict=True))
        pool = tools[named["tool"]]
        named |= {"tool": pool.name, "vendor": pool.vendor} | (
            {"team": teams.get(named["team"])} if "team" in named else {}
        )
        key = tuple(named[column] for column in keys)
        totals[key].add(amount.borrows, amount.seat_time, amount.overdraft_time)
        cost = pool.cost_of(amount.seat_time, overdraft=amount.overdraft_time)
        if cost is not None:
            costs[key] = costs.get(key, Decimal(0)) + cost

    def rank(item: tuple[tuple[str | None, ...], _Amount]) -> Any:
        month = item[0][0] if "month" in keys else None
        return month or "", -item[1].seat_time, [value or "" for value in item[0]]

    ranked = sorted(totals.items(), key=rank)
    return [
        Usage(
            key=dict(zip(keys, key, strict=True)),
            borrows=amount.borrows,
            seat_time=amount.seat_time,
            overdraft_time=amount.overdraft_time,
            cost=costs.get(key),
        )
        for key, amount in ranked
    ]


def _whole_days(start: datetime, end: datetime, now: datetime) -> tuple[date, date, list[tuple[datetime, datetime]]]:
    """Return the first UTC day between two moments, the day after the last one, and the parts of days
    before and after, up to now."""
    first = start.date() if start == days.midnight(start.date()) else start.date() + DAY
    last = end.date()
    edges = [(start, days.midnight(first)), (days.midnight(last), end)] if first <= last else [(start, end)]
    past = [(begin, min(finish, now)) for begin, finish in edges]
    return first, last, [(begin, finish) for begin, finish in past if begin < finish]


def _usage_of_edge(begin: datetime, finish: datetime, start: datetime, end: datetime) -> Iterable[UsageDay]:
    """Return the usage of a part of a UTC day at an edge of the time from ``start`` to ``end``."""
    day = begin.date()
    kept_since = rollups.mark().kept_since
    if kept_since is None or day >= kept_since:
        return days.usage_within(begin, finish)
    noon = days.midnight(day) + DAY / 2
    return UsageDay.objects.filter(day=day) if start <= noon < end else []


# --- Denials ----------------------------------------------------------------


def denials(
    *, by: Collection[str], span: Span, tool: Tool | None = None, recent: Recent | None = None
) -> list[Denials]:
    """Return finished episodes of denials by any of tool, code, day and month.

    Days are in order, the rest by size. An open episode counts on the day on which it
    ends. Days are those of the span's time zone, or UTC days if the episodes were
    deleted.
    """
    keys = [key for key in DENIAL_KEYS if key in by]

    def read(recent: Recent) -> list[DenialDay]:
        if span.zone != UTC_ZONE:
            kept_since = rollups.mark().kept_since or FIRST_DAY
            forgotten = DenialDay.objects.filter(day__gte=span.first, day__lte=span.last, day__lt=kept_since)
            start, end = max(span.start, days.midnight(kept_since)), min(span.end, database_now())
            return [*forgotten.order_by(), *days.denials_by_local_day(start, end, span.zone)]
        stored = DenialDay.objects.filter(day__gte=span.first, day__lte=span.last, day__lt=recent.until).order_by()
        fresh = [row for day, history in recent.days if span.first <= day <= span.last for row in history.denials]
        return [*stored, *fresh]

    def key_of(tool_id: int, code: str, day: date) -> tuple[str, ...]:
        values = {
            "tool": tools[tool_id].name,
            "code": code,
            "day": day.isoformat(),
            "month": day.replace(day=1).isoformat(),
        }
        return tuple(values[key] for key in keys)

    totals: dict[tuple[str, ...], list[int]] = {}
    people: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    rows = _exactly(read, recent)
    refused = list(days.refused_people(span.start, min(span.end, database_now()), span.zone))
    # After the refusals, which may be of a new tool.
    tools = Tool.objects.in_bulk()
    kept_since = rollups.mark().kept_since or FIRST_DAY
    for row in rows:
        if tool and row.tool_id != tool.pk:
            continue
        key = key_of(row.tool_id, row.code, row.day)
        total = totals.setdefault(key, [0, 0, 0])
        for number, amount in enumerate((row.episodes, row.true_denials, row.attempts)):
            total[number] += amount
        if row.day < kept_since:
            people[key].add(REMOVED_NAME)
    for tool_id, code, day, user in refused:
        if not tool or tool_id == tool.pk:
            people[key_of(tool_id, code, day)].add(user)
    found = [
        Denials(
            key=dict(zip(keys, key, strict=True)),
            episodes=episodes,
            true_denials=true_denials,
            attempts=attempts,
            people=None if REMOVED_NAME in people[key] else len(people[key]),
        )
        for key, (episodes, true_denials, attempts) in sorted(totals.items())
    ]
    if not {"day", "month"} & set(keys):
        found.sort(key=lambda row: -row.episodes)
    return found
