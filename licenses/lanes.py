"""Let calls share one transaction, or one statement, for the requests that they have at the same time.

A call has a thread of its own, or is one of the many of a worker's loop (``licenseserver.hub``).
Nothing waits for a timer. A call that finds no batch under way leads one with the
requests that have arrived. Requests that arrive during a batch form the next one, and one
of their calls leads it. A single request is a batch of one. This is flat combining:
https://doi.org/10.1145/1810479.1810540 (Hendler and others, 2010).
"""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import Enum
from typing import Any, Generic, TypeVar

from django.db import DatabaseError, InterfaceError, OperationalError

from licenseserver import hub

from . import database

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Requests of one batch at most.
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
    ALONE = "decide it without others"
    DONE = "return the answer"


class Entry:
    """A request in a lane, and its answer. Only the thread that leads its batch changes it, until
    it wakes the thread of the request."""

    __slots__ = ("answer", "apart", "error", "hub", "request", "since", "tries", "turn", "woken")

    def __init__(self, request: Any, apart: Hashable = None) -> None:
        self.request = request
        # What no two requests of a batch may have in common.
        self.apart = apart
        # Since when it waits for its turn.
        self.since = time.monotonic()
        self.answer: Any = None
        self.error: BaseException | None = None
        self.turn = Turn.WAIT
        # How often its rows changed between the reading and the lock.
        self.tries = 0
        # The hub of a greenlet; a thread waits by itself.
        self.hub = hub.here()
        self.woken: threading.Lock | hub.Signal
        if self.hub is not None:
            self.woken = hub.Signal(self.hub)
        else:
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


class Lane(ABC):
    """Requests that are decided in batches, one batch at a time in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Entry] = deque()
        self._is_led = False

    @abstractmethod
    def decide(self, batch: Sequence[Entry]) -> None:
        """Finish each entry. One whose turn stays WAIT is decided again with the next batch. One
        that must be decided without others gets that turn, and its thread calls ``decide_alone``."""

    @abstractmethod
    def decide_alone(self, entry: Entry) -> None:
        """Finish one entry."""

    def apart(self, request: Any) -> Hashable:
        """Return what no two requests of a batch may have in common; None for nothing."""
        return None

    def submit(self, request: Any) -> Any:
        """Return the answer to a request, or raise its error. Raises Busy if the thread that led
        its batch has ended."""
        entry = Entry(request, self.apart(request))
        try:
            with self._lock:
                self._waiting.append(entry)
                turn = entry.turn = Turn.WAIT if self._is_led else Turn.LEAD
                self._is_led = True
            while turn is not Turn.DONE:
                if turn is Turn.WAIT:
                    turn = self._wait(entry)
                elif turn is Turn.LEAD:
                    turn = self._lead(entry) if entry.hub is None else entry.hub.lead(self._lead, entry)
                else:
                    hub.aside(self.decide_alone, entry)
                    turn = entry.turn
        except BaseException:
            self._abandon(entry)
            raise
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
        if leader.hub is None:
            # Let threads that are about to submit a request do so: a larger batch costs each less.
            for _ in range(YIELDS):
                time.sleep(0)
        batch = self._next_batch(leader)
        try:
            self.decide(batch)
        except BaseException:
            # Not an error of a decision: this thread is about to end.
            refuse(batch, OperationalError("The thread that led the batch has ended."))
            raise
        finally:
            turn = self._hand_on(batch, leader)
        return turn

    def _next_batch(self, leader: Entry) -> list[Entry]:
        """Return the requests to decide, in order of arrival; ``leader`` is the first."""
        batch: list[Entry] = []
        left: list[Entry] = []
        taken: set[Hashable] = set()
        with self._lock:
            while self._waiting and len(batch) < AT_ONCE:
                entry = self._waiting.popleft()
                if entry.apart is not None:
                    if entry.apart in taken:
                        left.append(entry)
                        continue
                    taken.add(entry.apart)
                batch.append(entry)
            self._waiting.extendleft(reversed(left))
            leader.turn = Turn.WAIT
        return batch

    def _hand_on(self, batch: Sequence[Entry], leader: Entry) -> Turn:
        """Wake the next leader, and all threads with an answer; return ``leader``'s turn."""
        with self._lock:
            again = [entry for entry in batch if entry.turn is Turn.WAIT]
            # From its release on an entry is its own thread's.
            woken = [entry for entry in batch if entry is not leader and entry.turn is not Turn.WAIT]
            self._waiting.extendleft(reversed(again))
            following = self._next_leader()
        turn = leader.turn
        # The next batch first: it need not wait until all are woken.
        if following is not None and following is not leader:
            following.woken.release()
        for entry in woken:
            entry.woken.release()
        return turn

    def _next_leader(self) -> Entry | None:
        """Return who leads the next batch, under the lock; its thread must be woken."""
        following = self._waiting[0] if self._waiting else None
        self._is_led = following is not None
        if following is not None:
            following.turn = Turn.LEAD
        return following

    def _abandon(self, entry: Entry) -> None:
        """Take the entry of a thread that ends out of the lane. If it is to lead, the next one does."""
        following = None
        with self._lock:
            if entry in self._waiting:
                self._waiting.remove(entry)
            if entry.turn is Turn.LEAD:
                following = self._next_leader()
            if not entry.is_done:
                # Its batch may be under way. It is not decided again with the next one.
                entry.turn = Turn.ALONE
        if following is not None:
            following.woken.release()


def refuse(entries: Sequence[Entry], error: DatabaseError | InterfaceError) -> None:
    """Refuse those of these requests that have no answer, because of an error of the database."""
    for entry in entries:
        if not entry.is_done:
            refusal = database.refusal(error)
            refusal.__cause__ = error
            entry.finish(error=refusal)


class Reading(Lane, Generic[K, V]):
    """A reading of rows by their keys, with one statement for all threads that ask at the same time.

    ``read`` returns what it finds, by key. Threads share it, so nobody may change it. It was read
    after each of them has asked.
    """

    def __init__(self, read: Callable[[list[K]], Mapping[K, V]]) -> None:
        super().__init__()
        self.read = read

    def of(self, key: K) -> V | None:
        """Return what there is for a key, or None. Raises what ``read`` raises."""
        found: V | None = self.submit(key)
        return found

    def decide(self, batch: Sequence[Entry]) -> None:
        """Read for all. If that fails, each reads by itself, and raises its own error."""
        try:
            found = self.read(list({entry.request: None for entry in batch}))
        except Exception as error:  # noqa: BLE001 - it is raised again in its thread
            if len(batch) == 1:
                batch[0].finish(error=error)
                return
            for entry in batch:
                entry.turn = Turn.ALONE
            return
        for entry in batch:
            entry.finish(found.get(entry.request))

    def decide_alone(self, entry: Entry) -> None:
        """Read for one."""
        self.decide([entry])
