"""Let the loop of a worker answer many calls in one thread: each in a greenlet, which leaves the loop while it waits.

Calls that only wait for a batch (``licenses.lanes``) need no thread of their own. With one each, a call
cost eleven switches between threads, a sixth of its time. What blocks happens in threads: the loop starts
all batches, waits for them a moment, and then goes on with other calls. https://greenlet.readthedocs.io
"""

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from itertools import count
from typing import Any, Generic, ParamSpec, TypeVar

from django.db import close_old_connections
from greenlet import getcurrent, greenlet

P = ParamSpec("P")
R = TypeVar("R")

# In seconds: the loop waits this long for batches. They usually take a tenth of it. One that takes longer
# waits for a tool that a stranger has locked, or for a database that does not answer.
MOMENT = 0.02

_thread = threading.local()


def here() -> "Hub | None":
    """Return the hub whose greenlet runs this, or None in a thread of its own."""
    current = getcurrent()
    return current.hub if isinstance(current, _Call) else None


def start_leading() -> None:
    """Let this thread only decide batches for a loop: the first call of each of a hub's ``leaders``."""
    _thread.is_leader = True


def is_leader() -> bool:
    """Return whether this thread only decides batches for a loop."""
    return getattr(_thread, "is_leader", False)


def aside(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Return what a function returns that may block: from a thread, if this is a loop's greenlet."""
    hub = here()
    return function(*args, **kwargs) if hub is None else hub.aside(function, *args, **kwargs)


class Hub:
    """The greenlets of a loop. Make it in the loop's thread, the only one that may call ``start`` and ``go_on``.

    ``wake`` wakes the loop, from another thread. ``threads`` run what blocks, and ``leaders`` the
    batches: at most one of each lane at a time.
    """

    def __init__(self, wake: Callable[[], object], threads: Executor, leaders: Executor) -> None:
        self._wake, self._threads, self._leaders = wake, threads, leaders
        self._loop = getcurrent()
        self._ready: deque[Signal] = deque()
        self._leads: list[tuple[_Future[Any], Callable[[], None]]] = []
        self._deadlines: list[tuple[float, int, Signal]] = []
        self._numbers = count()
        # Whether the loop will look at what is ready without being woken.
        self._is_awake = True

    def start(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a function in a greenlet until it ends, or waits for the first time."""
        _Call(self, function).switch(*args, **kwargs)

    def go_on(self) -> None:
        """Go on with greenlets that need not wait any longer, and run batches that they lead."""
        self._resume()
        while self._leads:
            leads, self._leads = self._leads, []
            for _, run in leads:
                self._leaders.submit(run)
            until = time.monotonic() + MOMENT
            for future, _ in leads:
                future.wait(max(until - time.monotonic(), 0))
            self._resume()

    def sleeps(self, timeout: float) -> float:
        """Return the seconds that the loop may sleep, at most ``timeout``. From now on it must be woken."""
        self._is_awake = False
        if self._ready or self._leads:
            self._is_awake = True
            return 0
        while self._deadlines and not self._deadlines[0][2].is_awaited:
            heapq.heappop(self._deadlines)
        return min(timeout, max(self._deadlines[0][0] - time.monotonic(), 0)) if self._deadlines else timeout

    def awake(self) -> None:
        """Note that the loop sleeps no longer."""
        self._is_awake = True

    def aside(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what a function returns that runs in a thread."""
        future, run = self._future(function, *args, **kwargs)
        self._threads.submit(run)
        return future.result()

    def lead(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what a function returns that decides a batch: after the loop has started all calls
        that have arrived."""
        future, run = self._future(function, *args, **kwargs)
        self._leads.append((future, run))
        return future.result()

    def _future(
        self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> "tuple[_Future[R], Callable[[], None]]":
        future = _Future[R](Signal(self))
        context = copy_context()
        return future, lambda: future.run(lambda: context.run(function, *args, **kwargs))

    def _resume(self) -> None:
        while self._ready:
            signal = self._ready.popleft()
            if signal.is_awaited and signal.is_set:
                signal.call.switch()
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, signal = heapq.heappop(self._deadlines)
            if signal.is_awaited:
                signal.call.switch()

    def sleep(self, signal: "Signal", timeout: float) -> None:
        """Leave the loop to others until the signal is set; at most ``timeout`` seconds if not negative."""
        if timeout >= 0:
            heapq.heappush(self._deadlines, (time.monotonic() + timeout, next(self._numbers), signal))
        self._loop.switch()

    def notify(self, signal: "Signal") -> None:
        """Let the greenlet of a signal go on. Any thread may call it."""
        self._ready.append(signal)
        if not self._is_awake:
            self._wake()


class Signal:
    """A lock of one greenlet: made acquired, released by any thread."""

    __slots__ = ("call", "hub", "is_awaited", "is_set")

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.call = getcurrent()
        self.is_set = self.is_awaited = False

    def acquire(self, timeout: float = -1) -> bool:
        """Wait for the release; return whether it came within ``timeout`` seconds. Only its greenlet calls it."""
        if not self.is_set:
            self.is_awaited = True
            try:
                self.hub.sleep(self, timeout)
            finally:
                self.is_awaited = False
        was_set, self.is_set = self.is_set, False
        return was_set

    def release(self) -> None:
        """End the wait."""
        self.is_set = True
        self.hub.notify(self)


class _Call(greenlet):
    def __init__(self, hub: Hub, function: Callable[..., object]) -> None:
        super().__init__(function)
        self.hub = hub


class _Future(Generic[R]):
    """The result of a function in a thread, for a greenlet and for its loop."""

    def __init__(self, signal: Signal) -> None:
        self._signal = signal
        self._done = threading.Lock()
        self._done.acquire()
        self._error: BaseException | None = None

    def run(self, function: Callable[[], R]) -> None:
        """Run the function in this thread. Its connection to the database lives as long as that of a
        thread of requests."""
        try:
            close_old_connections()
            self._result = function()
        except BaseException as error:  # noqa: BLE001 - it is raised again in its greenlet
            self._error = error
        finally:
            self._signal.release()
            self._done.release()
        close_old_connections()

    def wait(self, timeout: float) -> None:
        """Let the loop wait for the end."""
        self._done.acquire(timeout=timeout)

    def result(self) -> R:
        """Wait for the end in the greenlet. Return the result, or raise the error."""
        self._signal.acquire()
        if self._error is not None:
            raise self._error
        return self._result
