"""Group commit: decide the requests of many threads one after the other in one transaction.

The locks, the round trips and the commit are shared whenever there are requests to share
them (``licenses.lanes``). A single request is a batch of one.

docs/development/architecture.md follows one borrow through it.
"""

import logging
import time
from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, TypeGuard

from django.conf import settings
from django.db import DatabaseError, InterfaceError, NotSupportedError, transaction

from licenses.database import fault
from licenses.errors import Busy, Overloaded, Refusal
from licenses.lanes import Entry, Lane, Turn, refuse

from . import sql
from .decisions import Later, decide
from .ledger import Ledger
from .requests import Borrow, Renew, Request
from .snapshot import Stale, read_held, read_locked

logger = logging.getLogger("licenses.batch")

# PostgreSQL's codes for "roll back and try again": serialization failure, deadlock; a prepared statement
# whose columns a migration changed since, or that is gone; a lost race for an idempotency key, whose answer
# is there now; a team that was deleted since. https://www.postgresql.org/docs/current/errcodes-appendix.html
TRY_AGAIN = {"40001", "40P01", "0A000", "26000", "23505", "23503"}
LOCK_NOT_AVAILABLE = "55P03"
TRIES = 3
# The smallest step of time that both databases keep.
TICK = timedelta(microseconds=1)


class GroupCommit(Lane):
    """Requests for seats, or heartbeats; each batch is one transaction.

    The answer is what ``decide`` returns, once that is committed. The error is its Refusal: Busy,
    or the refusal that says why (``database.refusal``), if the database could not decide.
    """

    def apart(self, request: Request) -> Hashable:
        """Keep two requests with one idempotency key apart: the second is answered what the first was."""
        return (request.key.caller, request.key.key) if isinstance(request, Borrow) and request.key else None

    def decide(self, batch: Sequence[Entry]) -> None:
        """Decide these requests in one transaction, or, if that fails for a reason that
        one of them may be to blame for, each in its own."""
        batch = _in_time(batch)
        if not batch:
            return
        try:
            _decide_together(batch)
        except Exception as error:
            state = _state(error)
            if state == LOCK_NOT_AVAILABLE and len(batch) > 1:
                # A stranger holds a tool: only those who need it go on waiting.
                for entry in batch:
                    entry.turn, entry.since = Turn.ALONE, time.monotonic()
            elif state in TRY_AGAIN:
                self._decide_one_by_one(batch)
            elif _is_undecided(error):
                refuse(batch, error)
            elif len(batch) == 1:
                batch[0].finish(error=error)
            else:
                text = "A batch of %d requests failed. Each gets a transaction of its own."
                logger.warning(text, len(batch), exc_info=True)
                self._decide_one_by_one(batch)

    def _decide_one_by_one(self, batch: Sequence[Entry]) -> None:
        for entry in batch:
            if not entry.is_done:
                self._decide_alone(entry)

    def decide_alone(self, entry: Entry) -> None:
        """Decide one request in its own transaction."""
        if _in_time([entry]):
            self._decide_alone(entry)

    def _decide_alone(self, entry: Entry) -> None:
        """Decide one request in its own transaction.

        A deadlock, a serialization failure, a stale plan, a lost race for an idempotency key or a
        deleted team is tried again, ``TRIES`` times in all. Nothing else is: a connection that
        breaks in the commit leaves it open whether the commit happened.
        """
        for left in reversed(range(TRIES)):
            entry.turn = Turn.WAIT
            try:
                while entry.turn is Turn.WAIT:
                    _decide_together([entry])
            except Exception as error:  # noqa: BLE001 - it is raised again in its thread
                if _state(error) in TRY_AGAIN and left:
                    continue
                if _is_undecided(error):
                    refuse([entry], error)
                else:
                    entry.finish(error=error)
            return


def _in_time(batch: Sequence[Entry]) -> list[Entry]:
    """Return the requests to decide. A borrow that has waited too long for its turn is refused, as one that
    waits too long for a thread is: its caller may have given up."""
    oldest = time.monotonic() - settings.LICENSE_LONGEST_WAIT
    for entry in batch:
        if entry.since < oldest and isinstance(entry.request, Borrow):
            entry.finish(error=Overloaded())
    return [entry for entry in batch if not entry.is_done]


def _decide_together(batch: Sequence[Entry]) -> None:
    """Decide requests in one transaction. What it returns is committed. Requests that
    must be decided again keep ``Turn.WAIT``."""
    decided: list[tuple[Entry, Any, Refusal | None]] = []
    requests = [entry.request for entry in batch]
    renewals = [request for request in requests if isinstance(request, Renew)]
    with ExitStack() as sending:
        # BEGIN goes with the first statements, COMMIT with the last.
        sending.enter_context(sql.one_round_trip())
        with transaction.atomic(durable=True):
            snapshot = read_held(renewals, sending) if renewals else read_locked(requests, sending)
            ledger = Ledger(snapshot)
            for entry in batch:
                # One after the other, also for a reader who sorts by time.
                snapshot.now += TICK
                try:
                    decided.append((entry, decide(entry.request, snapshot, ledger), None))
                except Refusal as error:
                    decided.append((entry, None, error))
                except Later:
                    continue
                except Stale:
                    entry.tries += 1
                    if entry.tries == TRIES:
                        decided.append((entry, None, Busy()))
            sql.commit_with(ledger.write)
    for entry, answer, refusal in decided:
        entry.finish(answer, refusal)


def _is_undecided(error: Exception) -> TypeGuard[DatabaseError | InterfaceError]:
    """Return whether the database could not decide. Its other errors are defects. The refusal is made in the thread
    of the connection, which may have to be closed (``database.refusal``)."""
    return isinstance(error, NotSupportedError) or (
        isinstance(error, (DatabaseError, InterfaceError)) and fault(error) is not None
    )


def _state(error: Exception) -> str | None:
    """Return PostgreSQL's code for an error, if it is one of PostgreSQL's."""
    return getattr(error.__cause__, "sqlstate", None)


SEATS = GroupCommit()
HEARTBEATS = GroupCommit()


def submit(request: Request) -> Any:
    """Return the answer to a request (``GroupCommit``). Heartbeats have their own lane, because
    they wait for no tool."""
    return (HEARTBEATS if isinstance(request, Renew) else SEATS).submit(request)
