"""Group commit: decide the requests of many threads one after the other in one transaction.

Nothing waits for a timer. A thread that finds no batch under way leads one with the
requests that have arrived. Requests that arrive during a batch form the next one, and one
of their threads leads it. A single request is a batch of one. So the locks, the round trips
and the commit are shared whenever there are requests to share them.

docs/development/architecture.md follows one borrow through it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from enum import Enum
from typing import Any

from django.db import DatabaseError, InterfaceError, NotSupportedError, OperationalError, transaction

from licenses import database
from licenses.errors import Busy, Refusal

from . import sql
from .decisions import Later, decide
from .ledger import Ledger
from .requests import Borrow, Renew, Request
from .snapshot import Stale, read_held, read_locked

logger = logging.getLogger("licenses.batch")

# PostgreSQL's codes for "roll back and try again": serialization failure, deadlock; a prepared statement
# whose columns a migration changed since, or that is gone; a lost race for an idempotency key, whose answer
# is there now. https://www.postgresql.org/docs/current/errcodes-appendix.html
TRY_AGAIN = {"40001", "40P01", "0A000", "26000", "23505"}
LOCK_NOT_AVAILABLE = "55P03"
# The database could not decide; other errors of it are defects.
UNDECIDED = (OperationalError, InterfaceError, NotSupportedError)
TRIES = 3
# The smallest step of time that both databases keep.
TICK = timedelta(microseconds=1)
# Requests that one transaction decides at most.
AT_ONCE = 64
# Seconds after which a request no longer waits for the batch before its own. Others are
# done sooner: that one waits for a tool that a stranger has locked.
PATIENCE = 1.0
# How often a leader lets other threads run before it takes the batch. No sleep: without
# other threads it goes on at once.
YIELDS = 4


class Turn(Enum):
    """The next step of the thread of a request."""

    WAIT = "wait until woken"
    LEAD = "lead a batch"
    ALONE = "decide in a transaction of its own"
    DONE = "return the answer"


class Entry:
    """A request in a lane, and its answer. Only the thread that leads its batch changes it, until
    it wakes the thread of the request."""

    __slots__ = ("answer", "error", "request", "tries", "turn", "woken")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.answer: Any = None
        self.error: BaseException | None = None
        self.turn = Turn.WAIT
        # How often its rows changed between the reading and the lock.
        self.tries = 0
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
                turn = self._wait(entry)
            elif turn is Turn.LEAD:
                turn = self._lead(entry)
            else:
                _decide_alone(entry)
                turn = entry.turn
        return entry.result()

    def _wait(self, entry: Entry) -> Turn:
        """Wait until it is this entry's turn. One that waits too long for its batch to begin
        leaves the lane: its tool is not the one that everybody waits for, or it is, and then
        it waits for it in its own transaction."""
        if not entry.woken.acquire(timeout=PATIENCE):
            with self._lock:
                if entry in self._waiting and entry.turn is Turn.WAIT:
                    self._waiting.remove(entry)
                    return Turn.ALONE
            # Its batch is under way, or it was just made the leader.
            entry.woken.acquire()
        return entry.turn

    def _lead(self, leader: Entry) -> Turn:
        """Decide one batch, and hand the lead on; return what ``leader`` does next."""
        leader.turn = Turn.WAIT
        # Let threads that are about to submit a request do so: a larger batch costs each less.
        for _ in range(YIELDS):
            time.sleep(0)
        batch = self._next_batch()
        try:
            self._decide(batch)
        except BaseException:
            # Not an error of a decision: this thread is about to end.
            _refuse(batch, OperationalError("The thread that led the batch has ended."))
            raise
        finally:
            turn = self._hand_on(batch, leader)
        return turn

    def _next_batch(self) -> list[Entry]:
        """Return the requests to decide, in order of arrival; the leader's is the first.
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
        """Wake the next leader, and all threads with an answer; return ``leader``'s turn."""
        again = [entry for entry in batch if entry.turn is Turn.WAIT]
        # From its release on an entry is its own thread's.
        woken = [entry for entry in batch if entry is not leader and entry.turn is not Turn.WAIT]
        with self._lock:
            self._waiting.extendleft(reversed(again))
            following = self._waiting[0] if self._waiting else None
            self._is_led = following is not None
            if following is not None:
                following.turn = Turn.LEAD
        turn = leader.turn
        # The next batch first: it need not wait until all are woken.
        if following is not None and following is not leader:
            following.woken.release()
        for entry in woken:
            entry.woken.release()
        return turn

    def _decide(self, batch: Sequence[Entry]) -> None:
        """Decide these requests in one transaction, or, if that fails for a reason that
        one of them may be to blame for, each in its own."""
        try:
            _decide_together(batch)
        except Exception as error:
            state = _state(error)
            if state == LOCK_NOT_AVAILABLE and len(batch) > 1:
                # A stranger holds a tool: only those who need it go on waiting.
                for entry in batch:
                    entry.turn = Turn.ALONE
            elif state in TRY_AGAIN:
                _decide_one_by_one(batch)
            elif isinstance(error, UNDECIDED):
                _refuse(batch, error)
            elif len(batch) == 1:
                batch[0].finish(error=error)
            else:
                text = "A batch of %d requests failed. Each gets a transaction of its own."
                logger.warning(text, len(batch), exc_info=True)
                _decide_one_by_one(batch)


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


def _decide_one_by_one(batch: Sequence[Entry]) -> None:
    for entry in batch:
        if not entry.is_done:
            _decide_alone(entry)


def _decide_alone(entry: Entry) -> None:
    """Decide one request in its own transaction.

    A deadlock, a serialization failure, a stale plan or a lost race for an idempotency key
    is tried again, ``TRIES`` times in all. Nothing else is: a connection that
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
            if isinstance(error, UNDECIDED):
                _refuse([entry], error)
            else:
                entry.finish(error=error)
        return


def _state(error: Exception) -> str | None:
    """Return PostgreSQL's code for an error, if it is one of PostgreSQL's."""
    return getattr(error.__cause__, "sqlstate", None)


def _refuse(entries: Sequence[Entry], error: DatabaseError | InterfaceError) -> None:
    for entry in entries:
        if not entry.is_done:
            refusal = database.refusal(error)
            refusal.__cause__ = error
            entry.finish(error=refusal)


SEATS = Lane()
HEARTBEATS = Lane()


def submit(request: Request) -> Any:
    """Return the answer to a request (``Lane.submit``). Heartbeats have their own lane, because
    they wait for no tool."""
    return (HEARTBEATS if isinstance(request, Renew) else SEATS).submit(request)
