"""The services that change seats: borrow, wait, renew, give back, force return, expire.

The only code that locks a tool and changes ``Tool.in_use``. Each service is
one short transaction: lock the tools' rows, decide, write, commit. Nothing
slow happens under a lock, and events are counted only after the commit.
"""

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from . import metrics, policy, queueing, statements
from .clock import database_now
from .errors import (
    BORROW_REFUSALS,
    AlreadyGranted,
    Busy,
    KeyReused,
    LeaseEnded,
    QueueTimeout,
    Refusal,
    UnknownLease,
    UnknownTicket,
    UnknownTool,
)
from .models import BorrowKey, Denial, EndReason, Lease, Sweep, Ticket, TicketState, Tool
from .models.denial import EPISODE_WINDOW
from .policy import Item
from .queueing import Waiting

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# PostgreSQL's codes for "roll back and try again": serialization failure,
# deadlock. https://www.postgresql.org/docs/current/errcodes-appendix.html
TRY_AGAIN = {"40001", "40P01"}
TRIES = 3
# How exactly Tool.denied_at is kept: a retry loop needn't write it each time.
DENIED_AT_STEP = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Asked:
    """A borrow as it was asked for.

    ``alternatives`` are sets of items, the preferred one first; one set is
    granted as a whole or not at all. Within a set each tool stands once.
    ``ttl`` None leaves the time to the tools; ``wait`` is how long it may stand
    in the queue.
    """

    user: str
    alternatives: tuple[tuple[Item, ...], ...]
    host: str = ""
    ttl: timedelta | None = None
    wait: timedelta = timedelta(0)

    def tools(self) -> set[str]:
        return {item.tool for items in self.alternatives for item in items}

    def fingerprint(self) -> str:
        """The same for the same request, however it was written."""
        return hashlib.sha256(json.dumps(asdict(self), default=str, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Retry:
    """The key by which a caller makes its retries known."""

    caller: str
    key: str


@dataclass(frozen=True, slots=True)
class Held:
    """A borrow as it is at ``now``: one lease a tool, the head first."""

    leases: list[Lease]
    now: datetime

    @property
    def head(self) -> Lease:
        return self.leases[0]


@dataclass(frozen=True, slots=True)
class Granted(Held):
    """A borrow that was granted: the set that is number ``alternative`` of
    those asked for, from 0. ``replayed`` if an earlier call was granted it."""

    alternative: int
    replayed: bool = False


Outcome = Granted | Waiting | Refusal


def _transaction(service: Callable[P, R]) -> Callable[P, R]:
    """Run a service as its own durable transaction.

    A deadlock or serialization failure is tried again, at most three times in
    all; PostgreSQL has undone the whole transaction then. What the database
    can't do in time becomes Busy: nothing else is tried again, since a
    connection that breaks in the commit leaves it open whether it happened.
    """

    @wraps(service)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        tries = 0
        while True:
            tries += 1
            try:
                with transaction.atomic(durable=True):
                    return service(*args, **kwargs)
            except (OperationalError, InterfaceError) as error:
                if getattr(error.__cause__, "sqlstate", None) not in TRY_AGAIN or tries == TRIES:
                    logger.warning("Answered busy: %s", error)
                    raise Busy from error

    return run


def _lock(names: Iterable[str]) -> tuple[dict[str, Tool], datetime]:
    """The tools that there are of these names, locked, and the time since."""
    tools, now = statements.lock(names)
    return {tool.name: tool for tool in tools}, now


# --- Borrowing --------------------------------------------------------------


def borrow(asked: Asked, *, retry: Retry | None = None) -> Granted | Waiting:
    """Take seats for a user: the first of the alternatives that fits.

    When this returns, what it returns is committed: the leases, or, if none
    fits and the user would wait, a ticket. With ``retry``, a call that was
    decided before gets the same outcome again and changes nothing.

    Raises a Refusal: UnknownTool, TtlTooLong, Disabled, NotStarted, Expired,
    Exhausted (the preferred alternative's), KeyReused, or Busy when the
    database could not decide in time. Every decision is counted: a grant for
    each tool of the set, a refusal for the tool that stood in the way.
    """
    start = time.perf_counter()
    try:
        outcome, replayed = _borrow(asked, retry)
    except KeyReused:
        raise
    except BaseException as error:
        reason = error.code if isinstance(error, Refusal) else "error"
        metrics.borrow_failed(min(asked.tools()), reason, time.perf_counter() - start)
        raise
    if replayed:
        metrics.borrow_replayed(min(asked.tools()))
    else:
        _count(outcome, time.perf_counter() - start)
    if isinstance(outcome, Refusal):
        raise outcome
    if isinstance(outcome, Ticket):
        return poll(ticket_id=outcome.id)
    return outcome


def _count(outcome: Outcome | Ticket, seconds: float) -> None:
    if isinstance(outcome, Granted):
        for lease in outcome.leases:
            metrics.borrow_granted(lease.tool.name, seconds)
    elif isinstance(outcome, Refusal):
        metrics.borrow_failed(outcome.tool or "", outcome.code, seconds)


@_transaction
def _borrow(asked: Asked, retry: Retry | None) -> tuple[Outcome | Ticket, bool]:
    """The outcome, and whether it is that of an earlier call."""
    if retry is None:
        return _decide(asked), False
    kept, new = BorrowKey.objects.take(caller=retry.caller, key=retry.key, fingerprint=asked.fingerprint())
    if not new:
        return _recall(kept, asked), True
    outcome = _decide(asked)
    _keep(kept, outcome)
    return outcome, False


def _decide(asked: Asked) -> Outcome:
    tools, now = _lock(asked.tools())
    for name in tools:
        metrics.know(name)
    if missing := asked.tools() - tools.keys():
        return UnknownTool(tool=min(missing))
    ahead = queueing.seats_ahead(tools.values(), now)
    refusals = []
    for number, items in enumerate(asked.alternatives):
        refusal = _refusal(items, asked.ttl, tools, ahead, now)
        if refusal is None:
            return Granted(_grant(asked, items, tools, now), now, number)
        refusals.append(refusal)
    waitable = {number: asked.alternatives[number] for number, why in enumerate(refusals) if why.passes}
    if asked.wait and waitable:
        ticket = queueing.enqueue(
            user=asked.user,
            host=asked.host,
            ttl=asked.ttl,
            alternatives=waitable,
            wait=asked.wait,
            tools=tools,
            now=now,
        )
        return queueing.place(ticket, tools, now)
    _record_denial(asked, refusals[0], tools, now)
    return refusals[0]


def _refusal(
    items: Iterable[Item], ttl: timedelta | None, tools: dict[str, Tool], ahead: dict[int, int], now: datetime
) -> Refusal | None:
    """Why a set can't be had from these locked tools; None if it can.

    Of several reasons the one that waiting doesn't cure.
    """
    refusals = []
    for item in items:
        tool = tools[item.tool]
        set_aside = ahead.get(tool.pk, 0)
        if tool.in_use + set_aside + item.seats > tool.capacity:
            # Only now: as long as there are seats enough, closing what is
            # overdue would change nothing, at the price of a statement.
            _close_overdue(tool, now)
        if refusal := policy.refusal(tool.pool(set_aside=set_aside), seats=item.seats, ttl=ttl, now=now):
            refusals.append(refusal)
    return min(refusals, key=lambda refusal: refusal.passes, default=None)


def _grant(asked: Asked, items: Sequence[Item], tools: dict[str, Tool], now: datetime) -> list[Lease]:
    """Write a lease an item and move the counters; all tools are locked."""
    ttl = asked.ttl
    if ttl is None:
        # One heartbeat for all of a set: the shortest of their times.
        defaults = [tools[item.tool].default_ttl for item in items]
        ttl = min((default for default in defaults if default is not None), default=None)
    expires_at = _end_of(now, ttl, [tools[item.tool] for item in items])
    leases: list[Lease] = []
    for item in items:
        tool = tools[item.tool]
        tool.last_fence += 1
        tool.in_use += item.seats
        lease = Lease(
            tool=tool,
            part_of=leases[0] if leases else None,
            place=len(leases),
            fence=tool.last_fence,
            user=asked.user,
            host=asked.host,
            seats=item.seats,
            borrowed_at=now,
            ttl=ttl,
            expires_at=expires_at,
        )
        statements.write_lease(lease, tool=tool)
        leases.append(lease)
    since = now - EPISODE_WINDOW - DENIED_AT_STEP
    if denied := [tool for tool in tools.values() if tool.denied_at is not None and tool.denied_at > since]:
        Denial.objects.resolve(tools=denied, user=asked.user, lease=leases[0], now=now)
    return leases


def _end_of(now: datetime, ttl: timedelta | None, tools: Iterable[Tool]) -> datetime | None:
    """When a lease ends without a heartbeat after ``now``: after its ttl, and
    with the licence of each of its tools; None is never."""
    ends = [tool.valid_until for tool in tools if tool.valid_until is not None]
    if ttl is not None:
        ends.append(now + ttl)
    return min(ends, default=None)


def _record_denial(asked: Asked, refusal: Refusal, tools: dict[str, Tool], now: datetime) -> None:
    if not refusal.denial:
        return
    tool = tools[refusal.facts["tool"]]
    seats = next(item.seats for items in asked.alternatives for item in items if item.tool == tool.name)
    Denial.objects.record(tool=tool, user=asked.user, host=asked.host, code=refusal.code, seats=seats, now=now)
    if tool.denied_at is None or tool.denied_at < now - DENIED_AT_STEP:
        Tool.objects.filter(pk=tool.pk).update(denied_at=now)


# --- Retries ----------------------------------------------------------------


def _keep(kept: BorrowKey, outcome: Outcome) -> None:
    """Write down what the first call with a key was answered."""
    if isinstance(outcome, Granted):
        kept.lease = outcome.head
        kept.alternative = outcome.alternative
        kept.expires_at = outcome.head.expires_at
    elif isinstance(outcome, Waiting):
        kept.ticket = outcome.ticket
    else:
        kept.refusal = outcome.code
        kept.detail = outcome.detail
        kept.facts = json.dumps(outcome.facts)
    kept.save(update_fields=["lease", "alternative", "expires_at", "ticket", "refusal", "detail", "facts"])


def _recall(kept: BorrowKey, asked: Asked) -> Outcome | Ticket:
    """What the first call with a key was answered; raises KeyReused.

    A lease is told as it was then, whatever has become of it: the answers to
    one key are the same. A ticket is told as it is now.
    """
    if kept.fingerprint != asked.fingerprint():
        raise KeyReused
    if kept.ticket is not None:
        return kept.ticket
    if kept.lease_id is None:
        return BORROW_REFUSALS[kept.refusal].again(kept.detail, json.loads(kept.facts))
    leases = list(Lease.objects.borrowed_as(kept.lease_id).select_related("tool"))
    for lease in leases:
        lease.expires_at = kept.expires_at
        lease.ended_at = None
        lease.end_reason = lease.end_note = ""
    return Granted(leases, leases[0].borrowed_at, kept.alternative, replayed=True)


# --- Waiting ----------------------------------------------------------------


def poll(*, ticket_id: uuid.UUID) -> Granted | Waiting:
    """Ask for the seats that a ticket waits for; keeps its place.

    Asked again after the seats were granted, it tells the lease again. Raises
    UnknownTicket, QueueTimeout, QueueDropped, QueueLeft or Busy.
    """
    start = time.perf_counter()
    outcome, closed = _poll(ticket_id=ticket_id)
    if closed is not None:
        tool = outcome.head.tool.name if isinstance(outcome, Granted) else queueing.first_item(closed).tool
        metrics.wait_ended(tool, closed)
        # Now the borrow is decided. One that was given up never was.
        if isinstance(outcome, Granted | QueueTimeout):
            _count(outcome, time.perf_counter() - start)
    if isinstance(outcome, Refusal):
        raise outcome
    return outcome


@_transaction
def _poll(*, ticket_id: uuid.UUID) -> tuple[Outcome, Ticket | None]:
    """The outcome, and the ticket if this has closed it."""
    ticket, tools, now = _lock_ticket(ticket_id)
    if ticket.lease_id is not None:
        leases = list(Lease.objects.borrowed_as(ticket.lease_id).select_related("tool"))
        return Granted(leases, now, ticket.alternative), None
    if ticket.state != TicketState.WAITING:
        return queueing.ended(ticket), None
    if ticket.alive_until <= now:
        queueing.close_as_dead(ticket, now)
        return queueing.ended(ticket), ticket
    ahead = queueing.seats_ahead(tools.values(), now, of=ticket)
    alternatives = queueing.asked_for(ticket)
    asked = Asked(user=ticket.user, alternatives=tuple(alternatives.values()), host=ticket.host, ttl=ticket.ttl)
    for number, items in alternatives.items():
        if _refusal(items, asked.ttl, tools, ahead, now) is None:
            leases = _grant(asked, items, tools, now)
            queueing.close(ticket, TicketState.GRANTED, now, lease=leases[0], alternative=number)
            return Granted(leases, now, number), ticket
    queueing.keep_alive(ticket, now)
    return queueing.place(ticket, tools, now), None


def leave(*, ticket_id: uuid.UUID) -> None:
    """Give up waiting; harmless if the wait is over already.

    Raises UnknownTicket, Busy, or AlreadyGranted if there is a lease now.
    """
    closed = _leave(ticket_id=ticket_id)
    if closed is not None:
        metrics.wait_ended(queueing.first_item(closed).tool, closed)


@_transaction
def _leave(*, ticket_id: uuid.UUID) -> Ticket | None:
    ticket, _, now = _lock_ticket(ticket_id)
    if ticket.state == TicketState.GRANTED:
        raise AlreadyGranted(lease=str(ticket.lease_id))
    if ticket.state != TicketState.WAITING:
        return None
    queueing.close(ticket, TicketState.LEFT, now)
    return ticket


def _lock_ticket(ticket_id: uuid.UUID) -> tuple[Ticket, dict[str, Tool], datetime]:
    """A ticket, with its tools locked while it is open; raises UnknownTicket."""
    ticket = Ticket.objects.filter(id=ticket_id).first()
    if ticket is None:
        raise UnknownTicket
    if ticket.state != TicketState.WAITING:
        return ticket, {}, database_now()
    # A ticket never changes what it asks for, so that may be read before the lock.
    tools, now = _lock({item.tool for items in queueing.asked_for(ticket).values() for item in items})
    ticket.refresh_from_db()
    return ticket, tools, now


# --- Renewing ---------------------------------------------------------------


@_transaction
def renew(*, lease_id: uuid.UUID) -> Held:
    """Extend a live lease by its ttl, counted from now; the heartbeat.

    Locks no tool. A lease whose time is over is never revived, closed or not:
    that raises LeaseEnded with the reason. Raises UnknownLease or Busy too.
    """
    leases, now = _find(lease_id), database_now()
    if any(lease.is_over(now) for lease in leases):
        raise _ended(leases, now)
    expires_at = _end_of(now, leases[0].ttl, [lease.tool for lease in leases])
    if expires_at is None or expires_at > now:
        # Decided by the rows themselves: the time may have come since, and the
        # seats may be somebody else's already.
        live = Lease.objects.filter(pk__in=[lease.pk for lease in leases]).active(Now())
        if live.update(expires_at=expires_at) != len(leases):
            # Some rows may be extended: undone with the transaction.
            raise _ended(_find(lease_id), database_now())
        for lease in leases:
            lease.expires_at = expires_at
    return Held(leases, now)


def _find(lease_id: uuid.UUID) -> list[Lease]:
    """The leases of one borrow; raises UnknownLease."""
    leases = list(Lease.objects.borrowed_as(lease_id).select_related("tool"))
    if not leases:
        raise UnknownLease
    return leases


def _ended(leases: Sequence[Lease], now: datetime) -> LeaseEnded:
    """Why a borrow is over: its first lease that is."""
    lease = next((lease for lease in leases if lease.is_over(now)), leases[0])
    lease.end_when_over(now)
    return LeaseEnded(reason=lease.end_reason or EndReason.EXPIRED, note=lease.end_note, ended_at=lease.ended_at or now)


# --- Ending -----------------------------------------------------------------


@_transaction
def give_back(*, lease_id: uuid.UUID) -> list[Lease]:
    """Return the seats of a borrow, all of them; harmless if they are back.

    The seats are freed once, however often and from however many places this
    is called. Raises UnknownLease or Busy.
    """
    return _end(lease_id, EndReason.RETURNED)


@_transaction
def force_return(*, lease_id: uuid.UUID, note: str) -> list[Lease]:
    """Take the seats of a borrow back from their holder; ``note`` says why.

    A lease that has ended keeps the reason it ended with. Raises UnknownLease
    or Busy.
    """
    return _end(lease_id, EndReason.FORCED, note)


def _end(lease_id: uuid.UUID, reason: EndReason, note: str = "") -> list[Lease]:
    found, now = statements.lock_for_return(lease_id)
    if not found:
        raise UnknownLease
    tools = {tool.pk: tool for tool in found}
    # Read after the lock was got, under which alone they end.
    leases = statements.borrowed_as(lease_id)
    for lease in leases:
        lease.tool = tools[lease.tool_id]
        if lease.ended_at is not None:
            continue
        lease.end_when_over(now)
        if lease.ended_at is None:
            # A clock that was set back must not end a lease before it began.
            lease.ended_at, lease.end_reason, lease.end_note = max(now, lease.borrowed_at), reason, note
        statements.write_end(lease, tool=lease.tool)
    return leases


def _free(tool: Tool, *, seats: int, ended: dict[EndReason, int]) -> None:
    """Count leases that were closed, so many of each reason, with their seats."""
    totals = {f"{reason}_total": F(f"{reason}_total") + count for reason, count in ended.items()}
    Tool.objects.filter(pk=tool.pk).update(in_use=F("in_use") - seats, **totals)
    tool.in_use -= seats


def _close_overdue(tool: Tool, now: datetime) -> int:
    """Close the leases of a locked tool whose time is over, as of their end."""
    overdue = Lease.objects.overdue(now).filter(tool=tool)
    # Locked too: a heartbeat takes no lock of the tool's.
    seats = sum(overdue.order_by("pk").select_for_update().values_list("seats", flat=True))
    if not seats:
        return 0
    ended = {EndReason.REVOKED: 0, EndReason.EXPIRED: 0}
    if tool.valid_until is not None:
        # As Lease.reason_of_expiry() has it.
        ended[EndReason.REVOKED] = _close(overdue.filter(expires_at__gte=tool.valid_until), EndReason.REVOKED)
    ended[EndReason.EXPIRED] = _close(overdue, EndReason.EXPIRED)
    _free(tool, seats=seats, ended=ended)
    return sum(ended.values())


def _close(overdue: QuerySet[Lease], reason: EndReason) -> int:
    return overdue.update(ended_at=F("expires_at"), end_reason=reason)


def follow_validity(*, tool: str) -> None:
    """Let the open leases of a tool end with its licence, after its dates were
    changed: those that lasted longer end earlier, and those without a heartbeat
    last as long as it does. Part of the caller's transaction."""
    with transaction.atomic():
        tools, now = _lock([tool])
        until = tools[tool].valid_until
        live = Lease.objects.filter(tool=tools[tool]).active(now)
        end = max(until, now) if until is not None else None
        live.filter(ttl__isnull=True).update(expires_at=end)
        if end is not None:
            live.filter(expires_at__gt=end).update(expires_at=end)


@dataclass(frozen=True, slots=True)
class Tidied:
    """How many rows a tidying has closed or deleted."""

    leases: int
    tickets: int
    keys: int


def tidy() -> Tidied:
    """Close leases and tickets whose time is over, and delete old keys.

    Nobody waits for it: seats are free at their lease's end, and places in the
    queue at their ticket's, whether or not this runs. Safe to run in many
    copies at once. Raises Busy.
    """
    now = database_now()
    overdue = Lease.objects.overdue(now).order_by().values_list("tool__name", flat=True).distinct()
    leases = sum(_tidy_tool(tool=name) for name in list(overdue))
    tickets = sum(
        _tidy_ticket(ticket_id=ticket) for ticket in list(Ticket.objects.dead(now).values_list("id", flat=True))
    )
    keys, _ = BorrowKey.objects.outdated(now).delete()
    Sweep.objects.finished()
    return Tidied(leases, tickets, keys)


@_transaction
def _tidy_tool(*, tool: str) -> int:
    # One tool a transaction, so that no borrow waits for the whole tidying.
    tools, now = _lock([tool])
    return _close_overdue(tools[tool], now)


@_transaction
def _tidy_ticket(*, ticket_id: uuid.UUID) -> bool:
    ticket, _, now = _lock_ticket(ticket_id)
    if ticket.state != TicketState.WAITING or ticket.alive_until > now:
        return False
    queueing.close_as_dead(ticket, now)
    return True
