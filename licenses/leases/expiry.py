"""Close leases and tickets that have expired, and delete old idempotency keys."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import InterfaceError, NotSupportedError, OperationalError, transaction

from licenses import database
from licenses.clock import database_now
from licenses.models import BorrowKey, Lease, Sweep, Ticket, TicketClaim, Tool

from . import ledger, queue, sql
from .batch import submit
from .decisions import close_overdue
from .requests import CloseDead, CloseOverdue, Offer
from .snapshot import in_reach, read_locked

P = ParamSpec("P")
R = TypeVar("R")

# Old keys that one transaction deletes at most.
KEYS_AT_ONCE = 200
# More leases of a tool than were ever given out between a backup and its restore.
# Nine million restores later a fence would be more than a JSON number holds.
FENCES_AT_MOST = 10**9


@dataclass(frozen=True, slots=True)
class Tidied:
    """How many rows a tidying has closed or deleted, and how many tickets it has offered seats."""

    leases: int
    tickets: int
    keys: int
    offers: int


def tidy() -> Tidied:
    """Close leases and tickets whose time is over, offer seats to kept tickets, and delete old keys.

    Only people with kept tickets wait for it: seats are free at their lease's end, and
    places in the queue at their ticket's, whether or not this runs. Safe to run in many
    copies at once. Raises Busy.
    """
    now = database_now()
    overdue = set(Lease.objects.overdue(now).order_by().values_list("tool__name", flat=True).distinct())
    # A batch also applies the changes of capacity that are due: so the audit has them soon.
    changing = set(Tool.objects.filter(capacity_changes_at__lte=now).values_list("name", flat=True))
    leases = sum(_close_all(name) for name in sorted(overdue | changing))
    dead = list(Ticket.objects.dead(now).values_list("id", flat=True))
    tickets = sum(submit(CloseDead(ticket)) for ticket in dead)
    offers = len(offer_seats())
    keys = 0
    while deleted := forget_keys():
        keys += deleted
    Sweep.objects.finished()
    return Tidied(leases, tickets, keys, offers)


def _close_all(tool: str) -> int:
    """Close all leases of a tool whose time is over. One tool a transaction and not too
    many leases, so that no borrow waits for the whole tidying."""
    closed = 0
    while some := submit(CloseOverdue(tool)):
        closed += some
        if some < sql.OVERDUE_AT_ONCE:
            break
    return closed


def offer_seats() -> list[Ticket]:
    """Extend the kept tickets, and offer seats to those that a poll would grant them now;
    return these. An offer whose seats are gone again, because the capacity fell, ends. Raises Busy."""
    now = database_now()
    kept = Ticket.objects.live(now).filter(kept=True)
    tickets = list(kept.values_list("number", "id", "offered_at"))
    if not tickets:
        return []
    _keep_places(now)
    wanted = TicketClaim.objects.filter(ticket__in=kept).values("tool")
    ready = in_reach(list(Tool.objects.with_current_counts().filter(pk__in=wanted)), now)
    due = [ticket for number, ticket, offered_at in tickets if (number in ready) != (offered_at is not None)]
    offered: Iterator[Ticket | None] = (submit(Offer(ticket)) for ticket in due)
    return [ticket for ticket in offered if ticket is not None]


def _durable(service: Callable[P, R]) -> Callable[P, R]:
    """Run a service as its own durable transaction. Raises the refusal that says what the
    database could not do."""

    @wraps(service)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with transaction.atomic(durable=True):
                return service(*args, **kwargs)
        except (OperationalError, InterfaceError, NotSupportedError) as error:
            raise database.refusal(error) from error

    return run


@_durable
def _keep_places(now: datetime) -> None:
    queue.keep_places(now)


@_durable
def forget_keys() -> int:
    """Delete some keys that are too old for a retry. Return their number. Raises Busy."""
    return BorrowKey.objects.forget(database_now(), at_most=KEYS_AT_ONCE)


@_durable
def skip_fences() -> None:
    """Let every tool go on with fences above all that it ever gave out, after a restore
    forgot the last of them. Raises Busy."""
    ledger.skip_fences(FENCES_AT_MOST)


@transaction.atomic
def follow_validity(*, tool: str, previous: datetime | None) -> None:
    """Let the open leases of a tool end with its license, after its dates were changed:
    those that lasted longer end earlier, and those without a heartbeat last as long as it
    does. Leases that are over by now ended under the ``previous`` end of the license.
    Part of the caller's transaction, which has locked the tool."""
    # All at once, in their order. A heartbeat that knows the old end must not extend one of them after this.
    list(Lease.objects.open().filter(tool__name=tool).under_lock().values_list("pk", flat=True))
    closed = sql.OVERDUE_AT_ONCE
    while closed == sql.OVERDUE_AT_ONCE:
        snapshot = read_locked([CloseOverdue(tool)])
        locked, now = snapshot.tools[tool], snapshot.now
        until, locked.valid_until = locked.valid_until, previous
        book = ledger.Ledger(snapshot)
        closed = close_overdue(snapshot, book, locked)
        book.write()
    locked.valid_until = until
    ledger.end_with_license(locked, now)
