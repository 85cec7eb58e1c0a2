"""Limit many callers with token buckets.

Buckets are in memory, so that no call waits for a database. Each process counts
its own calls.
"""

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass

# The most callers with a bucket. Above it, the caller with the oldest call is
# forgotten and begins with a full bucket.
CALLERS = 10_000
# Seconds between two log lines about the same caller.
LOG_EVERY = 60.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float
    logged_at: float = -math.inf
    # The calls under way, and what one costs: a moving average.
    running: int = 0
    cost: float = 1


class Buckets:
    """One bucket per caller, with at most ``size`` tokens; ``rate`` tokens come back per second.

    A bucket can owe up to ``size`` tokens, because the cost of a call is known only
    after it. ``now`` is in seconds of a monotonic clock.
    """

    def __init__(self, callers: int = CALLERS) -> None:
        self._buckets: OrderedDict[bytes, _Bucket] = OrderedDict()
        self._callers = callers
        self._lock = threading.Lock()

    def __contains__(self, caller: bytes) -> bool:
        return caller in self._buckets

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: bytes, *, rate: float, size: float, now: float) -> float:
        """Take one token. Return 0, or the seconds until there is one."""
        with self._lock:
            bucket = self._filled(caller, rate, size, now)
            if bucket.tokens < 1:
                return (1 - bucket.tokens) / rate
            bucket.tokens -= 1
            return 0

    def enter(self, caller: bytes, *, rate: float, size: float, now: float) -> float:
        """Take one token for a call that begins. Return 0, or the seconds until there are enough.

        There must be tokens for the calls of this caller that are under way, too, by what its calls cost
        recently. So a caller without savings has one expensive call at a time. Each
        call that enters must ``leave``.
        """
        with self._lock:
            bucket = self._filled(caller, rate, size, now)
            needed = min(1 + bucket.running * bucket.cost, size)
            if bucket.tokens < needed:
                return (needed - bucket.tokens) / rate
            bucket.tokens -= 1
            bucket.running += 1
            return 0

    def leave(self, caller: bytes, cost: float, *, rate: float, size: float, now: float) -> None:
        """Charge a call that entered with what it cost in all; 0 gives its token back."""
        with self._lock:
            bucket = self._filled(caller, rate, size, now)
            bucket.running = max(bucket.running - 1, 0)
            bucket.cost = max((bucket.cost + cost) / 2, 1)
            bucket.tokens = min(max(bucket.tokens - (cost - 1), -size), size)

    def charge(self, caller: bytes, tokens: float, *, rate: float, size: float, now: float) -> None:
        """Take tokens for a call that did not enter."""
        with self._lock:
            bucket = self._filled(caller, rate, size, now)
            bucket.tokens = min(max(bucket.tokens - tokens, -size), size)

    def forget(self, caller: bytes) -> None:
        """Drop a caller's bucket."""
        with self._lock:
            self._buckets.pop(caller, None)

    def worth_a_line(self, caller: bytes, *, now: float) -> bool:
        """Return whether to log about this caller: at most once in ``LOG_EVERY`` seconds."""
        with self._lock:
            bucket = self._buckets.get(caller)
            if bucket is None or bucket.logged_at > now - LOG_EVERY:
                return False
            bucket.logged_at = now
            return True

    def _filled(self, caller: bytes, rate: float, size: float, now: float) -> _Bucket:
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = _Bucket(size, now)
            while len(self._buckets) > self._callers:
                self._buckets.popitem(last=False)
            return bucket
        self._buckets.move_to_end(caller)
        bucket.tokens = min(bucket.tokens + max(now - bucket.filled_at, 0) * rate, size)
        bucket.filled_at = now
        return bucket
