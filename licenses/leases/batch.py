"""Group commit: the requests of many threads, decided one after the other in one transaction.

Nothing waits for a timer. A thread that finds no batch under way leads one with the
requests that are there; those that arrive meanwhile form the next batch, which one of
their threads leads. A request without company is a batch of one. So the locks, the round
trips and the commit are shared exactly when there is something to share.

docs/development/architecture.md follows one borrow through it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from enum import Enum
from typing import Any

from django.db import DatabaseError, InterfaceError, NotSupportedError, OperationalError, transaction

from licenses import database
from licenses.errors import Refusal

from . import sql
from .decisions import Later, decide
from .ledger import Ledger
from .requests import Borrow, Renew, Request
from .snapshot import Snapshot, Stale, read, read_held

logger = logging.getLogger("licenses.batch")

# PostgreSQL's codes for "roll back and try again": serialization failure, deadlock, and a
# prepared statement whose columns a migration changed since (sql.STALE_PLAN).
# https://www.postgresql.org/docs/current/errcodes-appendix.html
TRY_AGAIN = {"40001", "40P01", sql.STALE_PLAN}
LOCK_NOT_AVAILABLE = "55P03"
UNIQUE_VIOLATION = "23505"
TRIES = 3
# The smallest step of time that both databases keep.
TICK = timedelta(microseconds=1)
# Requests that one transaction decides at most.
AT_ONCE = 64
# Milliseconds that a batch waits for a tool that another transaction has locked. Other
# batches are done sooner; a stranger who takes longer must not hold up all tools.
PATIENCE = 1000
# Seconds for which batches leave locked tools out, after one waited in vain.
CAUTION = 5.0


class Turn(Enum):
    """What the thread of a request does next."""

    WAIT = "wait until woken"
    LEAD = "lead a batch"
    ALONE = "decide in a transaction of its own"
    DONE = "return the answer"


class Entry:
    """A request in a lane, and what becomes of it. Only the thread that leads its batch
    changes it, until it wakes the thread of the request."""

    __slots__ = ("answer", "error", "request", "turn", "woken")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.answer: Any = None
        self.error: BaseException | None = None
        self.turn = Turn.WAIT
        self.woken = threading.Lock()
        self.woken.acquire()

    @property
    def is_done(self) -> bool:
        """Return whether there is an answer or an error."""
        return self.turn is Turn.DONE

    def finish(self, answer: Any = None, error: BaseException | None = None) -> None:
        """Set the answer."""
        self.answer, self.error, self.turn = answer, error, Turn.DONE

    def result(self) -> Any:
        """Return the answer, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.answer


class Lane:
    """Requests that are decided in batches, one batch at a time in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Entry] = deque()
        self._is_led = False
        self._cautious_until = 0.0

    def submit(self, request: Request) -> Any:
        """Return what a request is answered, once that is committed. Raises its Refusal:
        Busy, or the refusal that says why (``database.refusal``), if the database could
        not decide."""
        entry = Entry(request)
        with self._lock:
            self._waiting.append(entry)
            turn = Turn.WAIT if self._is_led else Turn.LEAD
            self._is_led = True
        while turn is not Turn.DONE:
            if turn is Turn.WAIT:
                # Each wait is ended by one release, which comes after all else.
                entry.woken.acquire()
                turn = entry.turn
            elif turn is Turn.LEAD:
                turn = self._lead(entry)
            else:
                _decide_alone(entry)
                turn = entry.turn
        return entry.result()

    def _lead(self, leader: Entry) -> Turn:
        """Decide one batch, and hand the lead on; return what ``leader`` does next."""
        leader.turn = Turn.WAIT
        batch = self._next_batch(leader)
        try:
            self._decide(batch)
        except BaseException:
            # Not an error of a decision: this thread is about to end.
            _refuse(batch, OperationalError("The thread that led the batch has ended."))
            raise
        finally:
            turn = self._hand_on(batch, leader)
        return turn

    def _next_batch(self, leader: Entry) -> list[Entry]:
        """Return the requests to decide, in order of arrival; ``leader``'s is among them.
        Two requests with one idempotency key never share a batch: the second is
        answered what the first was."""
        batch: list[Entry] = []
        left: list[Entry] = []
        keys: set[tuple[str, str]] = set()
        with self._lock:
            while self._waiting and len(batch) < AT_ONCE:
                entry = self._waiting.popleft()
                request = entry.request
                key = (request.key.caller, request.key.key) if isinstance(request, Borrow) and request.key else None
                if key is not None and key in keys:
                    left.append(entry)
                    continue
                if key is not None:
                    keys.add(key)
                batch.append(entry)
            self._waiting.extendleft(reversed(left))
        return batch

    def _hand_on(self, batch: Sequence[Entry], leader: Entry) -> Turn:
        """Wake the next leader, and all whose turn it is; return ``leader``'s turn."""
        again = [entry for entry in batch if entry.turn is Turn.WAIT]
        with self._lock:
            self._waiting.extendleft(reversed(again))
            following = self._waiting[0] if self._waiting else None
            self._is_led = following is not None
        # From its release on an entry is its own thread's.
        woken = [entry for entry in batch if entry is not leader and entry.turn is not Turn.WAIT]
        turn = leader.turn
        if following is leader:
            turn = Turn.LEAD
        elif following is not None:
            # The next batch first: it need not wait until all are woken.
            following.turn = Turn.LEAD
            following.woken.release()
        for entry in woken:
            entry.woken.release()
        return turn

    def _decide(self, batch: Sequence[Entry]) -> None:
        """Decide these requests in one transaction, or, if that fails for a reason that
        one of them may be to blame for, each in its own."""
        is_cautious = time.monotonic() < self._cautious_until
        try:
            _decide_together(batch, skip_locked=is_cautious, patience=PATIENCE)
        except (OperationalError, InterfaceError, NotSupportedError) as error:
            state = getattr(error.__cause__, "sqlstate", None)
            if state == LOCK_NOT_AVAILABLE:
                # Somebody holds a tool: each request for it waits in its own thread.
                self._cautious_until = time.monotonic() + CAUTION
                _decide_apart(batch)
            elif state in TRY_AGAIN:
                _decide_one_by_one(batch)
            else:
                _refuse(batch, error)
        except Exception as error:
            if len(batch) == 1:
                batch[0].finish(error=error)
            else:
                logger.warning(
                    "A batch of %d requests failed. Each gets a transaction of its own.", len(batch), exc_info=True
                )
                _decide_one_by_one(batch)


def _decide_together(batch: Sequence[Entry], *, skip_locked: bool = False, patience: int | None = None) -> None:
    """Decide requests in one transaction. What it returns is committed. Requests that
    must be decided again are left undone; those whose tools are locked by others are
    marked ``alone``."""
    decided: list[tuple[Entry, Any, Refusal | None]] = []
    alone = []
    with written() as begin:
        requests = [entry.request for entry in batch]
        renewals = [request for request in requests if isinstance(request, Renew)]
        snapshot = read_held(renewals) if renewals else read(requests, skip_locked=skip_locked, patience=patience)
        ledger = Ledger(snapshot)
        for entry in batch:
            if skip_locked and _is_locked_out(entry.request, snapshot):
                alone.append(entry)
                continue
            # One after the other, also for whoever sorts by time.
            snapshot.now += TICK
            try:
                decided.append((entry, decide(entry.request, snapshot, ledger), None))
            except Refusal as error:
                decided.append((entry, None, error))
            except Later:
                continue
            except Stale:
                alone.append(entry)
        begin(ledger.write)
    for entry, answer, refusal in decided:
        entry.finish(answer, refusal)
    for entry in alone:
        entry.turn = Turn.ALONE


@contextmanager
def written() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Run a durable transaction whose last writes and commit share a round trip: call
    what it yields with the function that sends these writes."""
    with ExitStack() as sending:

        def begin(write: Callable[[], None]) -> None:
            if sql.is_postgresql():
                sending.enter_context(sql.one_round_trip())
            write()

        with transaction.atomic(durable=True):
            yield begin


def _is_locked_out(request: Request, snapshot: Snapshot) -> bool:
    """Return whether a tool of the request may be locked by somebody else."""
    return isinstance(request, Borrow) and not request.request.tools() <= snapshot.tools.keys()


def _decide_apart(batch: Sequence[Entry]) -> None:
    """Decide the requests whose tools are not locked by others; leave the others to
    their threads."""
    try:
        if not isinstance(batch[0].request, Renew):
            _decide_together(batch, skip_locked=True)
    except (DatabaseError, InterfaceError):
        logger.info("A batch of %d requests could not lock its rows.", len(batch), exc_info=True)
    for entry in batch:
        if not entry.is_done:
            entry.turn = Turn.ALONE


def _decide_one_by_one(batch: Sequence[Entry]) -> None:
    for entry in batch:
        if not entry.is_done:
            _decide_alone(entry)


def _decide_alone(entry: Entry) -> None:
    """Decide one request in its own transaction.

    A deadlock, a serialization failure, a stale plan or a row that changed before it was
    locked is tried again, ``TRIES`` times in all. Nothing else is: a connection that
    breaks in the commit leaves it open whether the commit happened.
    """
    for left in reversed(range(TRIES)):
        entry.turn = Turn.WAIT
        try:
            while entry.turn is Turn.WAIT:
                _decide_together([entry])
        except (OperationalError, InterfaceError, NotSupportedError) as error:
            if getattr(error.__cause__, "sqlstate", None) in TRY_AGAIN and left:
                continue
            _refuse([entry], error)
        except DatabaseError as error:
            # Another process used the same idempotency key at the same time: its answer is there now.
            if getattr(error.__cause__, "sqlstate", None) == UNIQUE_VIOLATION and left:
                continue
            entry.finish(error=error)
        except Exception as error:  # noqa: BLE001 - it is raised again in its thread
            entry.finish(error=error)
        if entry.is_done:
            return
    _refuse([entry], OperationalError("Its rows changed at every try."))


def _refuse(entries: Sequence[Entry], error: DatabaseError | InterfaceError) -> None:
    for entry in entries:
        if not entry.is_done:
            refusal = database.refusal(error)
            refusal.__cause__ = error
            entry.finish(error=refusal)


SEATS = Lane()
HEARTBEATS = Lane()


def submit(request: Request) -> Any:
    """Return what a request is answered (``Lane.submit``). Heartbeats have a lane of
    their own: they wait for no tool."""
    return (HEARTBEATS if isinstance(request, Renew) else SEATS).submit(request)
