"""Replay the recorded demand with other capacities.

The demand is each granted borrow, from its first attempt, for the time of its lease,
and each borrow without a seat, for the average time of the others. Each tool is
replayed separately and only by its number of seats, without quotas, reservations, access
rules and borrows of several tools.
"""

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from django.db.models import Min

from licenses.clock import database_now
from licenses.models import Denial, Lease, Ticket, TicketState, Tool
from licenses.policy.rules import Exhausted, Reserved

from . import rollups
from .days import DAY, NEVER, open_across
from .reports import Span
from .timeline import percentile

# The refusals that more seats can prevent.
WANTED_SEATS = (Exhausted.code, Reserved.code)
HOLD_IF_UNKNOWN = timedelta(hours=1)


class TooMuch(Exception):
    """More borrows are recorded than the caller wants to replay."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Seats that a user wanted at a moment for a time. If not ``decided``, it is from before the span and
    only occupies seats."""

    at: datetime
    seats: int
    held: timedelta
    decided: bool = True


@dataclass(frozen=True, slots=True)
class Recorded:
    """The demand for a tool in a span.

    Of the ``decided`` demands, ``unmet`` got no seat; the replay lets them hold seats for
    ``assumed``. Leases that ended before ``since`` were deleted, unless it is None.
    """

    demands: list[Demand]
    decided: int
    unmet: int
    assumed: timedelta
    since: date | None
    until: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a replay with one capacity.

    Without a queue: ``refused`` demands. With a queue: demands that ``waited``, and the
    median, 95th percentile and longest of their waits; ``unserved`` still wait at the end,
    and their waits until then count. ``too_big`` demands exceed the capacity and are
    always refused.
    """

    capacity: int
    decided: int
    refused: int
    too_big: int
    waited: int
    unserved: int
    median_wait: timedelta
    p95_wait: timedelta
    longest_wait: timedelta
    longest_queue: int


def replay(
    *, tool: Tool, capacities: Iterable[int], span: Span, at_most: int | None = None
) -> tuple[Recorded, list[Outcome]]:
    """Return the demand of a span and its result with each capacity.

    Raises TooMuch if there are more than ``at_most`` borrows.
    """
    found = recorded([tool], span, at_most)[tool.pk]
    return found, [outcome(found.demands, capacity, found.until) for capacity in capacities]


# --- What was wanted --------------------------------------------------------


def recorded(tools: Sequence[Tool], span: Span, at_most: int | None) -> dict[int, Recorded]:
    """Return the demand for each of these tools in a span. The number of queries depends on the days, not on the
    tools. Raises TooMuch if there are more than ``at_most`` borrows of all of them."""
    until = min(span.end, database_now())
    going_on: defaultdict[int, list[Demand]] = defaultdict(list)
    leases = Lease.objects.filter(open_across(span.start), tool__in=tools).order_by()
    for tool, start, ended, expires, seats in leases.values_list(
        "tool", "borrowed_at", "ended_at", "expires_at", "seats"
    ):
        going_on[tool].append(Demand(start, seats, (ended or expires or NEVER) - start, decided=False))
    granted: defaultdict[int, list[Demand]] = defaultdict(list)
    # Leases of earlier days may have been deleted.
    borrowed = Lease.objects.filter(tool__in=tools, borrowed_at__gte=span.start)
    number, start = 0, borrowed.aggregate(first=Min("borrowed_at"))["first"] or until
    while start < until:
        for tool, demand in _granted(tools, start, min(start + DAY, until), until):
            granted[tool].append(demand)
            number += 1
        if at_most is not None and number > at_most:
            raise TooMuch
        start += DAY
    unmet = _unmet(tools, span.start, until)
    since = rollups.mark().kept_since
    return {
        tool.pk: _of_tool(tool, going_on[tool.pk], granted[tool.pk], unmet.get(tool.pk, []), since, until)
        for tool in tools
    }


def _of_tool(
    tool: Tool,
    going_on: list[Demand],
    granted: list[Demand],
    unmet: list[tuple[datetime, int]],
    since: date | None,
    until: datetime,
) -> Recorded:
    holds = [demand.held for demand in granted]
    assumed = sum(holds, timedelta(0)) / len(holds) if holds else tool.holding_time or HOLD_IF_UNKNOWN
    demands = [*granted, *(Demand(at, seats, assumed) for at, seats in unmet)]
    return Recorded([*going_on, *demands], len(demands), len(unmet), assumed, since, until)


def _granted(tools: Sequence[Tool], start: datetime, end: datetime, until: datetime) -> Iterator[tuple[int, Demand]]:
    """Yield each borrow from ``start`` to ``end`` with its tool."""
    leases = Lease.objects.filter(tool__in=tools, borrowed_at__gte=start, borrowed_at__lt=end).order_by()
    # A demand begins with the first refusal or with the wait.
    refused = Denial.objects.filter(tool__in=tools, code__in=WANTED_SEATS, last_at__gt=start - DAY, last_at__lt=end)
    resolved = refused.filter(resolved_at__gte=start, resolved_at__lt=end).order_by().values_list("tool", "resolved_by")
    wanted: dict[tuple[int, Any], datetime] = {
        (tool, lease): first for tool, lease, first in resolved.annotate(first=Min("first_at"))
    }
    waited = Ticket.objects.filter(state=TicketState.GRANTED, closed_at__gte=start, closed_at__lt=end)
    waits: dict[Any, datetime] = dict(waited.values_list("lease", "created_at"))
    columns = ("tool", "pk", "part_of", "borrowed_at", "ended_at", "expires_at", "seats")
    for tool, pk, part_of, borrowed, ended, expires, seats in leases.values_list(*columns):
        head = part_of or pk
        at = min(borrowed, wanted.get((tool, head), borrowed), waits.get(head, borrowed))
        yield tool, Demand(at, seats, min(ended or expires or NEVER, until) - borrowed)


def _unmet(tools: Sequence[Tool], start: datetime, end: datetime) -> dict[int, list[tuple[datetime, int]]]:
    """Return the time and the seats of the borrows that got none, by tool."""
    found: defaultdict[int, list[tuple[datetime, int]]] = defaultdict(list)
    refused = Denial.objects.filter(tool__in=tools, code__in=WANTED_SEATS, resolved_at__isnull=True)
    refused = refused.filter(last_at__gte=start, first_at__gte=start, first_at__lt=end)
    for tool, at, seats in refused.order_by().values_list("tool", "first_at", "seats"):
        found[tool].append((at, seats))
    keys = {tool.name: tool.pk for tool in tools}
    gave_up = Ticket.objects.filter(state=TicketState.TIMED_OUT, closed_at__gte=start, created_at__gte=start)
    for at, alternatives in gave_up.filter(created_at__lt=end).values_list("created_at", "alternatives"):
        # Count only the preferred alternative.
        for item in alternatives[0]["items"]:
            if item["tool"] in keys:
                found[keys[item["tool"]]].append((at, item["seats"]))
    return found


# --- Replaying --------------------------------------------------------------


def outcome(demands: Sequence[Demand], capacity: int, until: datetime) -> Outcome:
    """Return the result of these demands with a capacity."""
    in_order = sorted(demands, key=lambda demand: demand.at)
    decided = [demand for demand in in_order if demand.decided]
    waits, unserved, longest_queue = _wait_in_line(in_order, capacity, until)
    waited = sorted(wait for wait in waits if wait)
    return Outcome(
        capacity=capacity,
        decided=len(decided),
        refused=_refuse(in_order, capacity),
        too_big=sum(demand.seats > capacity for demand in decided),
        waited=len(waited),
        unserved=unserved,
        median_wait=_rank(waited, 0.5),
        p95_wait=_rank(waited, 0.95),
        longest_wait=waited[-1] if waited else timedelta(0),
        longest_queue=longest_queue,
    )


def _rank(waited: Sequence[timedelta], share: float) -> timedelta:
    return waited[percentile(range(len(waited)), share)] if waited else timedelta(0)


class _Seats:
    """Seats that come back at the end of their time."""

    def __init__(self, capacity: int) -> None:
        self.free = capacity
        self.ends: list[tuple[datetime, int]] = []

    def take(self, seats: int, until: datetime) -> None:
        self.free -= seats
        heapq.heappush(self.ends, (until, seats))

    def come_back(self, by: datetime) -> None:
        while self.ends and self.ends[0][0] <= by:
            self.next_end()

    def next_end(self) -> datetime:
        end, seats = heapq.heappop(self.ends)
        self.free += seats
        return end


def _refuse(in_order: Iterable[Demand], capacity: int) -> int:
    """Return the number of refused demands without a queue."""
    pool = _Seats(capacity)
    refused = 0
    for demand in in_order:
        pool.come_back(demand.at)
        if demand.seats <= pool.free or not demand.decided:
            pool.take(demand.seats, demand.at + demand.held)
        else:
            refused += 1
    return refused


def _wait_in_line(in_order: Iterable[Demand], capacity: int, until: datetime) -> tuple[list[timedelta], int, int]:
    """Return the waits with a queue, the number of demands that still wait, and the longest queue."""
    pool = _Seats(capacity)
    queue: deque[Demand] = deque()
    waits: list[timedelta] = []
    longest = 0

    def serve(now: datetime) -> None:
        # Nobody overtakes: a large demand at the head blocks those behind it.
        while queue and queue[0].seats <= pool.free:
            demand = queue.popleft()
            pool.take(demand.seats, now + demand.held)
            waits.append(now - demand.at)

    for demand in in_order:
        while pool.ends and pool.ends[0][0] <= demand.at:
            serve(pool.next_end())
        if not demand.decided:
            pool.take(demand.seats, demand.at + demand.held)
        elif demand.seats <= capacity:
            queue.append(demand)
            serve(demand.at)
            longest = max(longest, len(queue))
    # Ignore leases that end after the span.
    while queue and pool.ends and pool.ends[0][0] < until:
        serve(pool.next_end())
    waits += [until - demand.at for demand in queue]
    return waits, len(queue), longest
