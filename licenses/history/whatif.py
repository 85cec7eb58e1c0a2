"""Replay the recorded demand with other capacities.

The demand is each granted borrow, from its first attempt, for the time of its lease,
and each borrow without a seat, for the average time of the others. Each tool is
replayed separately and only by its number of seats, without quotas, reservations, access
rules and borrows of several tools.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from django.db.models import Min

from licenses.clock import database_now
from licenses.models import Denial, Ticket, TicketState, Tool
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
    recorded = _recorded(tool, span, at_most)
    return recorded, [outcome(recorded.demands, capacity, recorded.until) for capacity in capacities]


# --- What was wanted --------------------------------------------------------


def _recorded(tool: Tool, span: Span, at_most: int | None) -> Recorded:
    until = min(span.end, database_now())
    going_on = [
        Demand(start, seats, (ended or expires or NEVER) - start, decided=False)
        for start, ended, expires, seats in tool.leases.filter(open_across(span.start))
        .order_by()
        .values_list("borrowed_at", "ended_at", "expires_at", "seats")
    ]
    demands: list[Demand] = []
    start = span.start
    while start < until:
        demands += _granted(tool, start, min(start + DAY, until), until)
        if at_most is not None and len(demands) > at_most:
            raise TooMuch
        start += DAY
    holds = [demand.held for demand in demands]
    assumed = sum(holds, timedelta(0)) / len(holds) if holds else tool.holding_time or HOLD_IF_UNKNOWN
    unmet = [Demand(at, seats, assumed) for at, seats in _unmet(tool, span.start, until)]
    demands += unmet
    return Recorded([*going_on, *demands], len(demands), len(unmet), assumed, rollups.mark().kept_since, until)


def _granted(tool: Tool, start: datetime, end: datetime, until: datetime) -> list[Demand]:
    rows: list[Any] = list(
        tool.leases.filter(borrowed_at__gte=start, borrowed_at__lt=end)
        .order_by()
        .values_list("pk", "part_of", "borrowed_at", "ended_at", "expires_at", "seats")
    )
    # A demand begins with the first refusal or with the wait.
    refused = Denial.objects.filter(tool=tool, code__in=WANTED_SEATS, last_at__gt=start - DAY, last_at__lt=end)
    wanted: dict[Any, datetime] = dict(
        refused.filter(resolved_at__gte=start, resolved_at__lt=end)
        .order_by()
        .values_list("resolved_by")
        .annotate(first=Min("first_at"))
    )
    waited = Ticket.objects.filter(state=TicketState.GRANTED, closed_at__gte=start, closed_at__lt=end)
    for lease, since in waited.values_list("lease", "created_at"):
        wanted[lease] = min(since, wanted.get(lease, since))
    return [
        Demand(min(borrowed, wanted.get(head or pk, borrowed)), seats, min(ended or expires or NEVER, until) - borrowed)
        for pk, head, borrowed, ended, expires, seats in rows
    ]


def _unmet(tool: Tool, start: datetime, end: datetime) -> list[tuple[datetime, int]]:
    refused = Denial.objects.filter(tool=tool, code__in=WANTED_SEATS, resolved_at__isnull=True)
    found = list(
        refused.filter(last_at__gte=start, first_at__gte=start, first_at__lt=end).values_list("first_at", "seats")
    )
    gave_up = Ticket.objects.filter(state=TicketState.TIMED_OUT, closed_at__gte=start, created_at__gte=start)
    for at, alternatives in gave_up.filter(created_at__lt=end).values_list("created_at", "alternatives"):
        # Count only the preferred alternative.
        found += [(at, item["seats"]) for item in alternatives[0]["items"] if item["tool"] == tool.name]
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
