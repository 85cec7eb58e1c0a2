"""The queue for seats. Everything here is part of a batch, which has locked the tools.

No process hands out seats. A client polls its ticket. It gets its seats if enough are free
in addition to those that the live tickets ahead want. So a seat that comes back is set
aside for the first in the queue, until its client polls, or has not polled for too long
(``patience``). A new borrow comes after all tickets, so no ticket is overtaken.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import DateTimeField, F, Value
from django.db.models.functions import Least

from licenses.errors import (
    QueueDropped,
    QueueEnded,
    QueueFull,
    QueueLeft,
    QueueTimeout,
    Refusal,
    TooManyTickets,
)
from licenses.models import Lease, Team, Ticket, TicketClaim, TicketState, Tool
from licenses.policy import Claim, Item, Shortage, Subject

from .ledger import Ledger
from .requests import Waiting
from .snapshot import Place, Snapshot, alternatives_of, open_tickets, tools_of

# The server asks a client to poll again after one of these at least and at most.
SOONEST, LATEST = timedelta(seconds=1), timedelta(seconds=90)
# The first in a queue polls this often at least.
SELDOM = timedelta(seconds=10)
# A ticket that is not polled keeps its place at least this long.
PATIENCE = timedelta(seconds=20)
# A kept ticket keeps its place this long after the sweeper has extended it: so a dead
# sweeper leaves no seats idle for longer.
KEPT = timedelta(minutes=15)
# Dead tickets that a borrow closes at most.
DEAD_AT_ONCE = 10


def poll_after(*, position: int, eta: timedelta | None, waited: timedelta) -> timedelta:
    """Return the time until the next poll: short for the first in the queue and if seats are expected soon, long
    for the others.

    A seat is idle from its return to the next poll, and each poll costs. The ticket at
    ``position`` polls every ``position`` seconds. A ticket that has
    ``waited`` long polls at the earliest after an eighth of that time, up to ``SELDOM``, which
    adds little to the wait. If seats are expected in ``eta``, the next poll is after half of it.
    """
    by_place = max(position * SOONEST, min(waited / 8, SELDOM))
    by_eta = eta / 2 if eta is not None else by_place
    return max(SOONEST, min(by_place, by_eta, LATEST))


def patience(again: timedelta) -> timedelta:
    """Return how long a ticket keeps its place without a poll, if its client should poll after ``again``."""
    return max(PATIENCE, 2 * again)


def enqueue(
    snapshot: Snapshot,
    ledger: Ledger,
    *,
    subject: Subject,
    team: Team | None,
    ttl: timedelta | None,
    alternatives: Mapping[int, Sequence[Item]],
    wait: timedelta,
    eta: timedelta | None,
    borrowed_by: str,
    kept: bool,
) -> Waiting:
    """Put a borrow at the end of the queue, for at most ``wait``. It counts for ``team``,
    ``borrowed_by`` acts for its user, and its seats are expected in ``eta``. The
    alternatives go by their numbers in the borrow, of which they may be some. If it is
    ``kept``, it holds its place without polls."""
    now = snapshot.now
    wanted: dict[str, int] = {}
    for items in alternatives.values():
        for item in items:
            # One of the alternatives will be taken: the most of each tool is enough.
            wanted[item.tool] = max(item.seats, wanted.get(item.tool, 0))
    tools = [snapshot.tools[name] for name in wanted]
    close_dead(snapshot, ledger)
    position = _ahead(snapshot, tools, None) + 1
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
        alive_until=now + min(KEPT if kept else patience(again), wait),
        deadline=now + wait,
        kept=kept,
        borrowed_by=borrowed_by,
    )
    TicketClaim.objects.bulk_create(TicketClaim(ticket=ticket, tool=tool, seats=wanted[tool.name]) for tool in tools)
    for tool in tools:
        snapshot.places.setdefault(tool.pk, []).append(Place(ticket.number, Claim(wanted[tool.name], subject)))
        ledger.change_waiting(tool, +1)
    snapshot.change_borrows(subject.user, waiting=+1)
    return Waiting(ticket, position, eta, max(min(again, wait), SOONEST))


def full(user: str, tools: Collection[Tool], now: datetime) -> Refusal | None:
    """Return why one more ticket for these locked tools is too many; None if it is not."""
    per_user, per_tool = settings.LICENSE_QUEUE_PER_USER, settings.LICENSE_QUEUE_PER_TOOL
    least = min(limit or math.inf for limit in (per_user, per_tool))
    # Counts the dead too: an upper bound that costs nothing.
    crowded = {tool.pk: tool for tool in tools if tool.waiting >= least}
    if not crowded:
        return None
    for tool, (waiting, own) in open_tickets(crowded.values(), now, user=user).items():
        if per_user and own >= per_user:
            return TooManyTickets(tool=crowded[tool].name, user=user, limit=per_user)
        if per_tool and waiting >= per_tool:
            return QueueFull(tool=crowded[tool].name, limit=per_tool)
    return None


def first_item(ticket: Ticket) -> Item:
    """Return the first item that a ticket waits for."""
    return next(iter(alternatives_of(ticket).values()))[0]


def keep_place(snapshot: Snapshot, ticket: Ticket, eta: timedelta | None) -> Waiting:
    """Keep a polled ticket alive and return its place."""
    now = snapshot.now
    position = _ahead(snapshot, [snapshot.tools[name] for name in tools_of(ticket)], ticket) + 1
    again = poll_after(position=position, eta=eta, waited=now - ticket.created_at)
    ticket.alive_until = min(now + (KEPT if ticket.kept else patience(again)), ticket.deadline)
    # Seats that were offered are not there any more.
    ticket.offered_at = None
    ticket.save(update_fields=["alive_until", "offered_at"])
    return Waiting(ticket, position, eta, max(min(again, ticket.deadline - now), SOONEST))


def offer(ticket: Ticket, now: datetime) -> None:
    """Keep the seats of a kept ticket for the offer window, also if its longest wait ends before."""
    ticket.offered_at = now
    ticket.alive_until = now + timedelta(minutes=settings.LICENSE_OFFER_MINUTES)
    ticket.deadline = max(ticket.deadline, ticket.alive_until)
    ticket.save(update_fields=["offered_at", "alive_until", "deadline"])


def keep_places(now: datetime) -> None:
    """Extend the kept tickets that wait for an offer. Part of the caller's transaction, which
    has locked no tool: it waits for no ticket that a batch has changed."""
    due = Ticket.objects.live(now).filter(kept=True, offered_at=None, alive_until__lte=now + KEPT / 2)
    due = due.filter(alive_until__lt=F("deadline")).select_for_update(skip_locked=True, of=("self",))
    until = Least(F("deadline"), Value(now + KEPT, output_field=DateTimeField()))
    Ticket.objects.filter(pk__in=list(due.values_list("pk", flat=True))).update(alive_until=until)


def _ahead(snapshot: Snapshot, tools: Iterable[Tool], ticket: Ticket | None) -> int:
    """Return the number of live tickets that want seats of any of these tools; with ``ticket``,
    only of those before it."""
    ahead = {place.ticket for tool in tools for place in snapshot.places.get(tool.pk, ())}
    return len(ahead if ticket is None else {number for number in ahead if number < ticket.number})


def expected_in(alternatives: Iterable[Iterable[Refusal]], tools: Mapping[str, Tool]) -> timedelta | None:
    """Return when seats are expected, by what stands in the way of each alternative. If
    leases last as long as recently, ``short_by`` seats of the ``out`` that are out come
    back in short_by / out of a holding time. None if unknown, or never."""
    expected = []
    for reasons in alternatives:
        waits = [_wait_for(reason, tools) for reason in reasons]
        known = [wait for wait in waits if wait is not None]
        if len(known) == len(waits):
            expected.append(max(known, default=timedelta(0)))
    return min(expected, default=None)


def _wait_for(reason: Refusal, tools: Mapping[str, Tool]) -> timedelta | None:
    if not isinstance(reason, Shortage) or not reason.is_temporary or not reason.out:
        return None
    held = tools[reason.facts["tool"]].holding_time
    return held * reason.short_by / reason.out if held is not None else None


def close(
    snapshot: Snapshot,
    ledger: Ledger,
    ticket: Ticket,
    state: TicketState,
    *,
    lease: Lease | None = None,
    alternative: int = 0,
) -> None:
    """End a wait. The ticket is open, and all its tools are locked."""
    ticket.state = state
    ticket.closed_at = snapshot.now
    ticket.lease = lease
    ticket.alternative = alternative
    ticket.save(update_fields=["state", "closed_at", "lease", "alternative"])
    for name in tools_of(ticket):
        tool = snapshot.tools[name]
        ledger.change_waiting(tool, -1)
        places = snapshot.places.get(tool.pk, [])
        places[:] = [place for place in places if place.ticket != ticket.number]
    TicketClaim.objects.filter(ticket=ticket).delete()
    if snapshot.has_counted(ticket.alive_until):
        snapshot.change_borrows(ticket.user, waiting=-1)
    if state == TicketState.TIMED_OUT:
        first = first_item(ticket)
        ledger.deny(
            snapshot.tools[first.tool],
            user=ticket.user,
            team=ticket.team,
            host=ticket.host,
            code=QueueTimeout.code,
            seats=first.seats,
        )


def close_as_dead(snapshot: Snapshot, ledger: Ledger, ticket: Ticket) -> None:
    """Close a ticket whose time is over: it has waited to its deadline, or its client
    stopped polling before, or its person did not take the offered seats."""
    timed_out = ticket.alive_until >= ticket.deadline and ticket.offered_at is None
    close(snapshot, ledger, ticket, TicketState.TIMED_OUT if timed_out else TicketState.DROPPED)


def close_dead(snapshot: Snapshot, ledger: Ledger) -> None:
    """Close some dead tickets that want only the locked tools. It closes more than arrive, so
    that they do not pile up without a sweeper."""
    queued = [tool for tool in snapshot.tools.values() if tool.waiting]
    if not queued:
        return
    elsewhere = TicketClaim.objects.exclude(tool__in=queued)
    dead = Ticket.objects.dead(snapshot.now).filter(claims__tool__in=queued)
    dead = dead.exclude(pk__in=elsewhere.values("ticket")).select_related("team")
    # A ticket that another request of the batch is about has one row in memory.
    mine = {ticket.number: ticket for ticket in snapshot.tickets.values()}
    for found in dead.distinct()[:DEAD_AT_ONCE]:
        ticket = mine.get(found.number, found)
        if ticket.state == TicketState.WAITING:
            close_as_dead(snapshot, ledger, ticket)


def ended(ticket: Ticket) -> QueueEnded:
    """Return the answer to the client of a ticket that ended without a seat."""
    tool = first_item(ticket).tool
    if ticket.state == TicketState.DROPPED:
        return QueueDropped(tool=tool, offered=ticket.offered_at is not None)
    if ticket.state == TicketState.TIMED_OUT:
        return QueueTimeout(tool=tool, wait=ticket.deadline - ticket.created_at)
    return QueueLeft(tool=tool)
