"""Reports: what the tools were used for, and what was refused.

Days that are over come from the rollups, the rest from the leases themselves,
so a report is exact up to the moment at which it is asked for. All amounts of
time are of seats: two seats for an hour are two seat-hours.
"""

import zoneinfo
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from django.db.models import DateField, F, Max, Sum
from django.db.models.functions import TruncDate, TruncMonth

from licenses.clock import database_now
from licenses.models import DenialDay, Team, TeamHour, Tool, ToolHour, UsageDay

from . import days, rollups
from .days import DAY, DayHistory
from .timeline import HOUR, Steps, percentile

R = TypeVar("R")
WEEK_HOURS = 7 * 24
UTC_ZONE = ZoneInfo("UTC")
DEFAULT_DAYS = 30
MAX_DAYS = 3660
FIRST_DAY, LAST_DAY = date(2000, 1, 1), date(2199, 12, 31)


def time_zone(name: str) -> ZoneInfo:
    """The time zone of a name as in Europe/Berlin; raises ValueError."""
    # Not by trying: ZoneInfo opens files by their names.
    if name not in _zones():
        raise ValueError("No such time zone; one is called as in Europe/Berlin.")
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
    """From the first to the last day, both included, as a time zone has them."""

    first: date
    last: date
    zone: ZoneInfo = UTC_ZONE

    @classmethod
    def between(cls, first: date | None, last: date | None, zone: ZoneInfo = UTC_ZONE) -> "Span":
        """From the first to the last day: today if missing, and 30 days in all.
        Raises ValueError, with a sentence for people, for what can't be
        computed or would take for ever."""
        last = last or database_now().astimezone(zone).date()
        if not FIRST_DAY <= last <= LAST_DAY:
            raise ValueError(f"The last day is from {FIRST_DAY} to {LAST_DAY}.")
        first = first or last - (DEFAULT_DAYS - 1) * DAY
        if first > last:
            raise ValueError("The first day is after the last.")
        if (last - first).days >= MAX_DAYS:
            raise ValueError(f"A report is of {MAX_DAYS} days at most.")
        return cls(first, last, zone)

    @classmethod
    def of_late(cls, number: int) -> "Span":
        """So many days, of which today is the last."""
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
        """Each hour, day or month of the span: its name (of an hour its
        beginning, of a month its first day), and the part of it that is in the
        span, from when until when."""
        if period == Period.HOUR:
            # Hours are counted as the clock in UTC strikes them.
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
        """How many periods it has, or a few more."""
        number = (self.last - self.first).days + 1
        return {Period.HOUR: number * 25, Period.DAY: number, Period.MONTH: number // 28 + 2}[period]


@dataclass(frozen=True, slots=True)
class Utilisation:
    """The use of a tool in a period; ``capacity`` is the most that there was.
    ``full_for``, how long all seats were out, is known for whole tools only."""

    tool: str
    team: str | None
    start: datetime | date
    capacity: int
    peak: int
    mean: float
    full_for: timedelta | None

    @property
    def share(self) -> float | None:
        """The mean as a share of the capacity."""
        return self.mean / self.capacity if self.capacity else None


@dataclass(frozen=True, slots=True)
class HourOfWeek:
    """How a tool is used in one hour of the week: of the high-water marks of
    all these hours the highest, the 95th percentile and the mean."""

    weekday: int
    hour: int
    hours: int
    highest: int
    p95: int
    mean: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used by whom; ``cost`` at today's prices, None without any."""

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
    """Refusals: episodes, those of them that ended without a seat, how often was
    asked, and how many people asked; None where some names are gone."""

    key: Mapping[str, str]
    episodes: int
    true_denials: int
    attempts: int
    people: int | None


@dataclass(frozen=True, slots=True)
class Recent:
    """The days from ``until`` on, which aren't rolled up, as they were when this
    was read. A page with many reports reads it once."""

    until: date
    days: Sequence[tuple[date, DayHistory]]

    @classmethod
    def read(cls) -> "Recent":
        until = rollups.mark().rolled_up_until
        return cls(until, list(days.since(until, database_now())))


def _exactly(read: Callable[[Recent], R], recent: Recent | None) -> R:
    """What is read of the rollups up to the recent days, and of these. Again, if
    a rebuild has taken rollups away meanwhile."""
    while True:
        recent = recent or Recent.read()
        answer = read(recent)
        if rollups.mark().rolled_up_until >= recent.until:
            return answer
        recent = None


# --- Utilisation ------------------------------------------------------------


def utilisation(
    *, tools: Sequence[Tool], span: Span, period: Period, team: Team | None = None, recent: Recent | None = None
) -> list[Utilisation]:
    """High-water mark, mean and time at the capacity, of each tool in each
    period of the span, also where it wasn't used; with ``team`` that of one
    team alone. Later than now there is nothing."""
    now = database_now()
    used = _used(tools, span, period, team, recent)
    capacities = days.capacities_by_tool()
    return [
        _utilisation(tool, team, name, start, min(end, now), used.get((tool.pk, name)), capacities[tool.pk])
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


def _utilisation(
    tool: Tool,
    team: Team | None,
    name: datetime | date,
    start: datetime,
    end: datetime,
    used: _Used | None,
    capacity: Steps,
) -> Utilisation:
    used = used or _Used()
    return Utilisation(
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
        # By columns of their own names: an annotation can't be called as a field is.
        grouped = rows.order_by().annotate(period=names[period]).values("tool", "period")
        totals = {"highest": Max("peak"), "time": Sum("seat_time")} | ({"full": full} if full else {})
        for row in grouped.annotate(**totals):
            used[row["tool"], row["period"]].add(row["highest"], row["time"], row.get("full", timedelta(0)))
        wanted = {tool.pk for tool in tools}
        for _, day in recent.days:
            hours: Iterable[ToolHour | TeamHour] = (
                [hour for hour in day.teams if hour.team_id == team.pk] if team else day.tools
            )
            for hour in hours:
                if hour.tool_id in wanted and span.start <= hour.hour < span.end:
                    name = _name_of(hour.hour, span.zone, period)
                    used[hour.tool_id, name].add(hour.peak, hour.seat_time, getattr(hour, "full_for", timedelta(0)))
        return dict(used)

    return _exactly(read, recent)


def _name_of(hour: datetime, zone: ZoneInfo, period: Period) -> datetime | date:
    if period == Period.HOUR:
        return hour
    day = hour.astimezone(zone).date()
    return day if period == Period.DAY else day.replace(day=1)


def hours_of_week(
    *, tool: Tool, span: Span, team: Team | None = None, recent: Recent | None = None
) -> list[HourOfWeek]:
    """The 168 hours of the week, Monday's first at first, as the span's time
    zone has them. Hours before the tool was ever used don't count, nor those to
    come; an hour that nobody used it in is one of 0 seats."""
    used = {start: use.peak for (_, start), use in _used([tool], span, Period.HOUR, team, recent).items()}
    now = database_now()
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
    """The day on which it was first used, as far as is known."""
    stored: Any = TeamHour.objects.filter(tool=tool, team=team) if team else ToolHour.objects.filter(tool=tool)
    first = stored.order_by("hour").values_list("hour", flat=True).first()
    if first is None:
        leases = tool.leases.filter(team=team) if team else tool.leases.all()
        first = leases.order_by("borrowed_at").values_list("borrowed_at", flat=True).first()
    return days.midnight(first.astimezone(UTC).date()) if first else None


# --- Usage ------------------------------------------------------------------

USAGE_KEYS = ("month", "vendor", "tool", "team", "project", "user")
# The user of a row whose name was taken out.
NAME_TAKEN_OUT = ""
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
    """Seat-hours and their cost by any of month, vendor, tool, team, project and user;
    the months in their order, then the greatest first. No team is None, no project ''.

    Days and months are those of the span's time zone, exact while the leases are there;
    a UTC day whose leases were deleted counts where its noon is.
    """
    keys = [key for key in USAGE_KEYS if key in by]
    which: dict[str, Any] = {"tool": tool} if tool else {}
    which |= {"team": team} if team else {}
    # By tool in any case: each has its prices.
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
            first, last, edges = _whole_days(start, end, database_now())
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

    tools = Tool.objects.in_bulk()
    teams: dict[int | None, str] = dict(Team.objects.values_list("pk", "name"))
    totals: defaultdict[tuple[str | None, ...], _Amount] = defaultdict(_Amount)
    costs: dict[tuple[str | None, ...], Decimal] = {}
    for values, amount in _exactly(read, recent).items():
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
    """The UTC days that lie within two moments, from the first to before the last, and
    the parts of days before and after them, up to now."""
    first = start.date() if start == days.midnight(start.date()) else start.date() + DAY
    last = end.date()
    edges = [(start, days.midnight(first)), (days.midnight(last), end)] if first <= last else [(start, end)]
    past = [(begin, min(finish, now)) for begin, finish in edges]
    return first, last, [(begin, finish) for begin, finish in past if begin < finish]


def _usage_of_edge(begin: datetime, finish: datetime, start: datetime, end: datetime) -> Iterable[UsageDay]:
    """The usage of a part of a UTC day at an end of the time between ``start`` and ``end``."""
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
    """Episodes of denials that are over, by any of tool, code, day and month;
    the days in their order, else the most first. One that goes on still isn't
    decided yet: it counts on the day on which it will end.

    Days are those of the span's time zone; where the episodes were deleted, UTC's.
    """
    keys = [key for key in DENIAL_KEYS if key in by]
    tools = Tool.objects.in_bulk()

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
    kept_since = rollups.mark().kept_since or FIRST_DAY
    for row in rows:
        if tool and row.tool_id != tool.pk:
            continue
        key = key_of(row.tool_id, row.code, row.day)
        total = totals.setdefault(key, [0, 0, 0])
        for number, amount in enumerate((row.episodes, row.true_denials, row.attempts)):
            total[number] += amount
        if row.day < kept_since:
            people[key].add(NAME_TAKEN_OUT)
    for tool_id, code, day, user in days.refused_people(span.start, min(span.end, database_now()), span.zone):
        if not tool or tool_id == tool.pk:
            people[key_of(tool_id, code, day)].add(user)
    found = [
        Denials(
            key=dict(zip(keys, key, strict=True)),
            episodes=episodes,
            true_denials=true_denials,
            attempts=attempts,
            people=None if NAME_TAKEN_OUT in people[key] else len(people[key]),
        )
        for key, (episodes, true_denials, attempts) in sorted(totals.items())
    ]
    if not {"day", "month"} & set(keys):
        found.sort(key=lambda row: -row.episodes)
    return found
