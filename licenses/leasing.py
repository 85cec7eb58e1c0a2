"""The services that change seats: borrow, give back, force return.

The only code that locks a tool and changes ``Tool.in_use``. Each service is
one short transaction: lock the tool's row, decide, write, commit. Nothing slow
happens under the lock, and events are counted only after the commit.
"""

import time
import uuid
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import F
from django.utils import timezone

from . import metrics, policy
from .errors import Busy, Refusal, UnknownLease, UnknownTool
from .models import EndReason, Lease, Tool

P = ParamSpec("P")
R = TypeVar("R")

# PostgreSQL's codes for "roll back and try again": serialization failure,
# deadlock. https://www.postgresql.org/docs/current/errcodes-appendix.html
TRY_AGAIN = {"40001", "40P01"}
TRIES = 3


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
                    raise Busy from error

    return run


def _now() -> datetime:
    """The database's time. Called under the lock, it is not stale by the
    wait for the lock as ``now()``, the transaction's start, would be."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


def borrow(*, tool: str, user: str, seats: int = 1, host: str = "") -> Lease:
    """Take ``seats`` seats of a tool for a user and return the lease.

    When this returns, the lease is committed. Raises a Refusal: UnknownTool,
    Disabled, NotStarted, Expired, Exhausted, or Busy when the database could
    not decide in time. Every call is counted, whatever its outcome.
    """
    start = time.perf_counter()
    try:
        lease = _borrow(tool=tool, user=user, seats=seats, host=host)
    except BaseException as error:
        reason = error.code if isinstance(error, Refusal) else "error"
        metrics.borrow_failed(tool, reason, time.perf_counter() - start)
        raise
    metrics.borrow_granted(tool, time.perf_counter() - start)
    return lease


@_transaction
def _borrow(*, tool: str, user: str, seats: int, host: str) -> Lease:
    pool = Tool.objects.locked([tool]).first()
    if pool is None:
        raise UnknownTool
    metrics.know(pool.name)
    now = _now()
    if refusal := policy.refusal(pool.pool(), seats=seats, now=now):
        raise refusal
    lease = Lease.objects.create(tool=pool, user=user, host=host, seats=seats, borrowed_at=now)
    Tool.objects.filter(pk=pool.pk).update(in_use=F("in_use") + seats)
    return lease


def give_back(*, lease_id: uuid.UUID) -> Lease:
    """Return a lease's seats; harmless if they are back already.

    The seats are freed once, however often and from however many places this
    is called. Raises UnknownLease or Busy.
    """
    return _end_and_count(lease_id=lease_id, reason=EndReason.RETURNED, note="")


def force_return(*, lease_id: uuid.UUID, note: str) -> Lease:
    """Take a lease's seats back from its holder; ``note`` says why.

    A lease that has ended keeps the reason it ended with. Raises UnknownLease
    or Busy.
    """
    return _end_and_count(lease_id=lease_id, reason=EndReason.FORCED, note=note)


def _end_and_count(*, lease_id: uuid.UUID, reason: EndReason, note: str) -> Lease:
    lease, ended_now = _end(lease_id=lease_id, reason=reason, note=note)
    if ended_now:
        metrics.know(lease.tool.name)
        metrics.returned(lease.tool.name, reason)
    return lease


@_transaction
def _end(*, lease_id: uuid.UUID, reason: EndReason, note: str) -> tuple[Lease, bool]:
    # A lease never changes its tool, so the name may be read before the lock.
    name = Tool.objects.filter(leases=lease_id).values_list("name", flat=True).first()
    if name is None:
        raise UnknownLease
    tool = Tool.objects.locked([name]).get()
    lease = Lease.objects.get(pk=lease_id)
    lease.tool = tool
    if not lease.active:
        return lease, False
    # A clock that was set back must not end a lease before it began.
    lease.ended_at = max(_now(), lease.borrowed_at)
    lease.end_reason = reason
    lease.end_note = note
    lease.save(update_fields=["ended_at", "end_reason", "end_note"])
    Tool.objects.filter(pk=tool.pk).update(in_use=F("in_use") - lease.seats)
    return lease, True
