"""Compute the history of a UTC day from its leases and denials."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, NamedTuple

from django.db.models import Count, F, Q, Sum
from django.db.models.functions import Coalesce, TruncDate

from licenses.clock import database_now
from licenses.leases import capacity
from licenses.models import AuditedKind, AuditRecord, Denial, DenialDay, Lease, TeamHour, Tool, ToolHour, UsageDay
from licenses.models.denial import EPISODE_WINDOW

from .timeline import Steps, Use, by_hour

DAY = timedelta(days=1)
NEVER = datetime.max.replace(tzinfo=UTC)


class Borrowed(NamedTuple):
    """The values of a lease for history. ``end`` is when its seats came free, or will if nothing else
    happens."""

    use: Use
    tool: int
    team: int | None
    project: str
    user: str
    overdraft: int


@dataclass(slots=True)
class DayHistory:
    """The unsaved rows of one day."""

    tools: list[ToolHour] = field(default_factory=list)
    teams: list[TeamHour] = field(default_factory=list)
    usage: list[UsageDay] = field(default_factory=list)
    denials: list[DenialDay] = field(default_factory=list)


def midnight(day: date) -> datetime:
    """Return the start of a UTC day."""
    return datetime.combine(day, time(), UTC)


def since(day: date, until: datetime) -> Iterator[tuple[date, DayHistory]]:
    """Yield the history of each day from ``day``; the last day ends at ``until``.

    Reads each lease once. Exact for past days: they do not change, except that an
    expired lease is closed later, at a known end.
    """
    capacities = capacities_by_tool()
    going_on = [*_read(open_across(midnight(day)))]
    # Find the next event, so that quiet days cost nothing.
    lease = _next_lease(midnight(day))
    denial = _next_denial(midnight(day) - EPISODE_WINDOW)
    while midnight(day) < until:
        start, end = midnight(day), min(midnight(day) + DAY, until)
        history = DayHistory()
        if lease < end:
            going_on += _read(Q(borrowed_at__gte=start, borrowed_at__lt=end))
            lease = _next_lease(end)
        if going_on:
            _add_use(history, day, going_on, capacities, start, end)
            going_on = [lease for lease in going_on if lease.use.end > end]
        if denial < end:
            history.denials.extend(_denials_of(day, start, end))
            denial = _next_denial(end - EPISODE_WINDOW)
        yield day, history
        day += DAY


def _next_lease(moment: datetime) -> datetime:
    later = Lease.objects.filter(borrowed_at__gte=moment).order_by("borrowed_at")
    return later.values_list("borrowed_at", flat=True).first() or NEVER


def _next_denial(moment: datetime) -> datetime:
    later = Denial.objects.filter(last_at__gte=moment).order_by("last_at")
    return later.values_list("last_at", flat=True).first() or NEVER


def open_across(moment: datetime) -> Q:
    """Return a filter for leases that were active at a moment and before it."""
    still_open = Q(ended_at__isnull=True) & (Q(expires_at__isnull=True) | Q(expires_at__gt=moment))
    return Q(borrowed_at__lt=moment) & (still_open | Q(ended_at__gt=moment))


def _read(which: Q) -> Iterator[Borrowed]:
    rows = Lease.objects.filter(which).order_by()
    columns = (
        "tool",
        "team",
        "project",
        "user",
        "seats",
        "overdraft_seats",
        "borrowed_at",
        "ended_at",
        "expires_at",
    )
    for tool, team, project, user, seats, overdraft, start, ended, expires in rows.values_list(*columns):
        yield Borrowed(Use(start, ended or expires or NEVER, seats), tool, team, project, user, overdraft)


def capacities_by_tool() -> dict[int, Steps]:
    """Return the past capacities of each tool, from the audit: 0 before its creation, and today's without records.

    A change by a contract counts from its moment, whenever it was applied.
    """
    changes: defaultdict[str, list[tuple[datetime, int, int]]] = defaultdict(list)
    records = AuditRecord.objects.filter(subject_kind=AuditedKind.TOOL, after__has_key="capacity")
    for name, at, before, after in records.order_by("recorded_at", "pk").values_list(
        "subject", "recorded_at", "before", "after"
    ):
        seats, since = after["capacity"], after.get("since")
        changes[name].append((datetime.fromisoformat(since) if since else at, before.get("capacity", seats), seats))
    tools = list(Tool.objects.order_by().only("name", "capacity", "capacity_changes_at", "created_at"))
    for due in capacity.due(tools, database_now()):
        for moment, seats in due.changes:
            changes[due.tool.name].append((moment, due.tool.capacity, seats))
            due.tool.capacity = seats
    for of_tool in changes.values():
        of_tool.sort(key=lambda change: change[0])
    return {tool.pk: _since_creation(tool, changes.get(tool.name, [])) for tool in tools}


def _since_creation(tool: Tool, changes: Sequence[tuple[datetime, int, int]]) -> Steps:
    """Return the capacities of a tool: 0 before its creation, and then those of its changes, each with its moment,
    the capacity before it and the one after it."""
    # Earlier changes are of the creation itself, or of another tool that had the name before.
    later = [change for change in changes if change[0] > tool.created_at]
    first = later[0][1] if later else tool.capacity
    return Steps(0, [(tool.created_at, first), *((at, seats) for at, _, seats in later)])


def _add_use(
    history: DayHistory,
    day: date,
    leases: Sequence[Borrowed],
    capacities: dict[int, Steps],
    start: datetime,
    end: datetime,
) -> None:
    of_tool: defaultdict[int, list[Use]] = defaultdict(list)
    of_team: defaultdict[tuple[int, int], list[Use]] = defaultdict(list)
    for lease in leases:
        of_tool[lease.tool].append(lease.use)
        if lease.team is not None:
            of_team[lease.tool, lease.team].append(lease.use)
    history.usage.extend(_usage_of(day, leases, start, end))
    for tool, uses in of_tool.items():
        history.tools.extend(
            ToolHour(tool_id=tool, hour=hour.start, peak=hour.peak, seat_time=hour.seat_time, full_for=hour.full_for)
            # A tool may be newer than the capacities that were read.
            for hour in by_hour(uses, start, end, capacities.get(tool))
        )
    for (tool, team), uses in of_team.items():
        history.teams.extend(
            TeamHour(tool_id=tool, team_id=team, hour=hour.start, peak=hour.peak, seat_time=hour.seat_time)
            for hour in by_hour(uses, start, end)
        )


def _usage_of(day: date, leases: Iterable[Borrowed], start: datetime, end: datetime) -> Iterable[UsageDay]:
    of_user: dict[tuple[int, int | None, str, str], UsageDay] = {}
    for lease in leases:
        who = (lease.tool, lease.team, lease.project, lease.user)
        usage = of_user.get(who)
        if usage is None:
            usage = of_user[who] = UsageDay(
                tool_id=lease.tool,
                team_id=lease.team,
                project=lease.project,
                user=lease.user,
                day=day,
                borrows=0,
                seat_time=timedelta(),
                overdraft_time=timedelta(),
            )
        held = lease.use.within(start, end)
        usage.borrows += start <= lease.use.start
        usage.seat_time += lease.use.seats * held
        usage.overdraft_time += lease.overdraft * held
    return of_user.values()


def usage_within(start: datetime, end: datetime) -> Iterable[UsageDay]:
    """Return the unsaved usage in a part of one UTC day. Exact while the leases exist."""
    leases = _read(open_across(start) | Q(borrowed_at__gte=start, borrowed_at__lt=end))
    return _usage_of(start.date(), leases, start, end)


def leases_between(start: datetime, end: datetime, **which: Any) -> Iterator[Borrowed]:
    """Yield the leases that had seats between two moments. Exact while the leases exist."""
    yield from _read(Q(**which) & (open_across(start) | Q(borrowed_at__gte=start, borrowed_at__lt=end)))


def denials_by_local_day(start: datetime, end: datetime, zone: tzinfo) -> Iterable[DenialDay]:
    """Return the unsaved denials that ended between two moments, by day of a time zone. Exact while the
    denials exist."""
    counted = (
        _ended_denials(start, end, zone)
        .values("tool_id", "code", "day")
        .annotate(
            episodes=Count("pk"),
            true_denials=Count("pk", filter=Q(resolved_at__isnull=True)),
            # This needs another name than the column.
            tries=Sum("attempts"),
        )
    )
    return [DenialDay(attempts=row.pop("tries"), **row) for row in counted]


def refused_people(start: datetime, end: datetime, zone: tzinfo) -> Iterable[tuple[int, str, date, str]]:
    """Return each tool, code, day and user of the denials that ended between two moments, once. Exact
    while the denials exist."""
    rows: Iterable[tuple[int, str, date, str]] = (
        _ended_denials(start, end, zone).values_list("tool_id", "code", "day", "user").distinct()
    )
    return rows


def _ended_denials(start: datetime, end: datetime, zone: tzinfo) -> Any:
    """Return the denials that ended between two moments, with the ``day`` of their end."""
    rows: Any = Denial.objects.filter(last_at__gte=start - EPISODE_WINDOW, last_at__lt=end).order_by()
    rows = rows.annotate(ended=Coalesce("resolved_at", F("last_at") + EPISODE_WINDOW))
    return rows.filter(ended__gte=start, ended__lt=end).annotate(day=TruncDate("ended", tzinfo=zone))


def _denials_of(day: date, start: datetime, end: datetime) -> Iterable[DenialDay]:
    """Return the denials of a day. An episode counts on the day of its end: by a lease, or after the
    longest pause of an episode."""
    rows: dict[tuple[int, str], DenialDay] = {}
    asked = Denial.objects.filter(last_at__gte=start - EPISODE_WINDOW, last_at__lt=end).order_by()
    for tool, code, last, resolved, attempts in asked.values_list("tool", "code", "last_at", "resolved_at", "attempts"):
        ended = resolved or last + EPISODE_WINDOW
        if not start <= ended < end:
            continue
        row = rows.setdefault(
            (tool, code),
            DenialDay(tool_id=tool, code=code, day=day, episodes=0, true_denials=0, attempts=0),
        )
        row.episodes += 1
        row.true_denials += resolved is None
        row.attempts += attempts
    return rows.values()
