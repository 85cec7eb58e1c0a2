"""The queue for seats. Everything here is part of the caller's transaction,
which holds the locks of the tools in question.

Nobody hands out seats: a waiter asks about its ticket, and gets its seats then,
if enough are free beside those that the live tickets ahead of it want. So the
seats that come free are set aside for the first in the queue until it asks, or
until it hasn't asked for too long (``patience``). A newcomer comes after all tickets; so
nobody is overtaken, and the first waits for no more than returns.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count, F, Q

from .errors import QueueDropped, QueueEnded, QueueFull, QueueLeft, QueueTimeout, Refusal, Shortage, TooManyTickets
from .models import Denial, Lease, Team, Ticket, TicketClaim, TicketState, Tool
from .models.waiting import TicketQuerySet
from .policy import Item, Subject

# A waiter is told to ask again after one of these at least and at most.
SOONEST, LATEST = timedelta(seconds=1), timedelta(seconds=90)
# The first in a queue asks this often at least.
SELDOM = timedelta(seconds=10)
# How long a waiter that doesn't ask keeps its place at least.
PATIENCE = timedelta(seconds=20)
# Dead tickets that a borrow closes at most.
DEAD_AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class Waiting:
    """A borrow that waits: its place in the queue (1 is the next), and in how
    long it may expect its seats; None if nothing is known about that."""

    ticket: Ticket
    position: int
    eta: timedelta | None
    poll_after: timedelta


def poll_after(*, position: int, eta: timedelta | None, waited: timedelta) -> timedelta:
    """Return when to ask again: soon for the first in the queue and where seats are
    expected soon, seldom for the others.

    Seats stay idle from a return to the next question, and each question costs. So the
    one at ``position`` asks every that many seconds, and one that ``waited`` long no
    sooner than after an eighth of that, up to ``SELDOM``, which adds little to the wait.
    Seats expected in ``eta`` are asked for at half the time.
    """
    by_place = max(position * SOONEST, min(waited / 8, SELDOM))
    by_eta = eta / 2 if eta is not None else by_place
    return max(SOONEST, min(by_place, by_eta, LATEST))


def patience(again: timedelta) -> timedelta:
    """Return how long a waiter that was told to ask again after this keeps its place."""
    return max(PATIENCE, 2 * again)


def enqueue(
    *,
    subject: Subject,
    team: Team | None,
    ttl: timedelta | None,
    alternatives: Mapping[int, Sequence[Item]],
    wait: timedelta,
    eta: timedelta | None,
    tools: dict[str, Tool],
    now: datetime,
    borrowed_by: str = "",
) -> Waiting:
    """Put a borrow at the end of the queue, for at most ``wait``; it counts for
    ``team``, ``borrowed_by`` acts for its user, and its seats are expected in ``eta``.
    The alternatives go by their numbers in the borrow, of which they may be some."""
    close_dead(tools.values(), now)
    wanted: dict[str, int] = {}
    for items in alternatives.values():
        for item in items:
            # One of the alternatives will be taken: the most of each tool is enough.
            wanted[item.tool] = max(item.seats, wanted.get(item.tool, 0))
    position = _ahead([tools[name] for name in wanted], now).count() + 1
    again = poll_after(position=position, eta=eta, waited=timedelta(0))
    ticket = Ticket.objects.create(
        user=subject.user,
        team=team,
        project=subject.project,
        host=subject.host,
        ttl=ttl,
        alternatives=[
            {"number": number, "items": [{"tool": item.tool, "seats": item.seats} for item in items]}
            for number, items in alternatives.items()
        ],
        created_at=now,
        alive_until=now + min(patience(again), wait),
        deadline=now + wait,
        borrowed_by=borrowed_by,
    )
    TicketClaim.objects.bulk_create(
        TicketClaim(ticket=ticket, tool=tools[name], seats=seats) for name, seats in wanted.items()
    )
    _change_waiting([tools[name] for name in wanted], +1)
    return Waiting(ticket, position, eta, max(min(again, wait), SOONEST))


def full(user: str, tools: Collection[Tool], now: datetime) -> Refusal | None:
    """Return why one more ticket for these locked tools is too many; None if it is not."""
    per_user, per_tool = settings.LICENSE_QUEUE_PER_USER, settings.LICENSE_QUEUE_PER_TOOL
    least = min(limit or math.inf for limit in (per_user, per_tool))
    # Counts the dead too: an upper bound that costs nothing.
    crowded = {tool.pk: tool for tool in tools if tool.waiting >= least}
    if not crowded:
        return None
    live = TicketClaim.objects.live(now).filter(tool__in=crowded).order_by()
    counts = live.values("tool").annotate(waiting=Count("pk"), own=Count("pk", filter=Q(ticket__user=user)))
    for tool, waiting, own in counts.values_list("tool", "waiting", "own"):
        if per_user and own >= per_user:
            return TooManyTickets(tool=crowded[tool].name, user=user, limit=per_user)
        if per_tool and waiting >= per_tool:
            return QueueFull(tool=crowded[tool].name, limit=per_tool)
    return None


def asked_for(ticket: Ticket) -> dict[int, tuple[Item, ...]]:
    """The sets of items that a ticket waits for, by their numbers."""
    return {entry["number"]: tuple(Item(**item) for item in entry["items"]) for entry in ticket.alternatives}


def first_item(ticket: Ticket) -> Item:
    """What a ticket wants first of all."""
    return next(iter(asked_for(ticket).values()))[0]


def keep_place(ticket: Ticket, tools: dict[str, Tool], now: datetime, eta: timedelta | None) -> Waiting:
    """Return where a ticket stands that was asked about, and keep it alive; ``tools``
    are at least those it waits for."""
    wanted = [tools[item.tool] for items in asked_for(ticket).values() for item in items]
    position = _ahead(wanted, now).filter(number__lt=ticket.number).count() + 1
    again = poll_after(position=position, eta=eta, waited=now - ticket.created_at)
    ticket.alive_until = min(now + patience(again), ticket.deadline)
    ticket.save(update_fields=["alive_until"])
    return Waiting(ticket, position, eta, max(min(again, ticket.deadline - now), SOONEST))


def _ahead(tools: Iterable[Tool], now: datetime) -> TicketQuerySet:
    """The live tickets that want seats of any of these tools."""
    return Ticket.objects.waiting().filter(alive_until__gt=now, claims__tool__in=tools).distinct()


def expected_in(alternatives: Iterable[Iterable[Refusal]], tools: Mapping[str, Tool]) -> timedelta | None:
    """When seats are expected, by what stands in the way of each alternative:
    if they are held for as long as of late, then ``short_by`` seats of the
    ``out`` that are take short_by / out of a holding time. None if unknown, or
    never."""
    expected = []
    for reasons in alternatives:
        waits = [_wait_for(reason, tools) for reason in reasons]
        known = [wait for wait in waits if wait is not None]
        if len(known) == len(waits):
            expected.append(max(known, default=timedelta(0)))
    return min(expected, default=None)


def _wait_for(reason: Refusal, tools: Mapping[str, Tool]) -> timedelta | None:
    if not isinstance(reason, Shortage) or not reason.passes or not reason.out:
        return None
    held = tools[reason.facts["tool"]].holding_time
    return held * reason.short_by / reason.out if held is not None else None


def close(
    ticket: Ticket, state: TicketState, now: datetime, *, lease: Lease | None = None, alternative: int = 0
) -> None:
    """End a wait. All tools of the ticket are locked, and it is open."""
    ticket.state = state
    ticket.closed_at = now
    ticket.lease = lease
    ticket.alternative = alternative
    ticket.save(update_fields=["state", "closed_at", "lease", "alternative"])
    _change_waiting([claim.tool for claim in ticket.claims.select_related("tool")], -1)
    ticket.claims.all().delete()
    if state == TicketState.TIMED_OUT:
        first = first_item(ticket)
        tool = Tool.objects.get(name=first.tool)
        Denial.objects.record(
            tool=tool,
            user=ticket.user,
            team=ticket.team,
            host=ticket.host,
            code=QueueTimeout.code,
            seats=first.seats,
            now=now,
        )
        Tool.objects.filter(pk=tool.pk).update(denied_at=now)


def close_as_dead(ticket: Ticket, now: datetime) -> None:
    """Close a ticket whose time is over: it has waited to its deadline, or
    stopped asking before."""
    close(ticket, TicketState.TIMED_OUT if ticket.alive_until >= ticket.deadline else TicketState.DROPPED, now)


def close_dead(tools: Iterable[Tool], now: datetime) -> None:
    """Close some dead tickets that want nothing but these, locked, tools: more
    than come, so that they go where no sweeper runs."""
    queued = [tool for tool in tools if tool.waiting]
    if not queued:
        return
    elsewhere = TicketClaim.objects.exclude(tool__in=queued)
    dead = Ticket.objects.dead(now).filter(claims__tool__in=queued).exclude(pk__in=elsewhere.values("ticket"))
    for ticket in dead.distinct()[:DEAD_AT_ONCE]:
        close_as_dead(ticket, now)


def ended(ticket: Ticket) -> QueueEnded:
    """What a waiter without a seat is told."""
    refusals: dict[Any, type[QueueEnded]] = {
        TicketState.TIMED_OUT: QueueTimeout,
        TicketState.DROPPED: QueueDropped,
        TicketState.LEFT: QueueLeft,
    }
    return refusals[ticket.state](tool=first_item(ticket).tool)


def _change_waiting(tools: Iterable[Tool], change: int) -> None:
    tools = list(tools)
    Tool.objects.filter(pk__in=[tool.pk for tool in tools]).update(waiting=F("waiting") + change)
    for tool in tools:
        tool.waiting += change
