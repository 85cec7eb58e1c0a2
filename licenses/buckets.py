"""Token buckets: how much each of many callers has used of late.

Kept in the process: no call waits for a database, and each process counts for
itself.
"""

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass

# More callers than this at once are forgotten, the longest unseen first; a
# forgotten one begins with a full bucket.
CALLERS = 10_000
# Seconds between two lines in the log about the same caller.
LOG_EVERY = 60.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float
    logged_at: float = -math.inf


class Buckets:
    """One bucket per caller: it holds ``size`` tokens at most and gets ``rate``
    back each second.

    A bucket may owe up to ``size`` tokens: what a call costs is known only when
    it is over. ``now`` is in seconds, of a clock that never goes back.
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
        """Take one token. Return 0, or, if there is none to take, the seconds
        until there is."""
        with self._lock:
            bucket = self._filled(caller, rate, size, now)
            if bucket.tokens < 1:
                return (1 - bucket.tokens) / rate
            bucket.tokens -= 1
            return 0

    def charge(self, caller: bytes, tokens: float, *, rate: float, size: float, now: float) -> None:
        """Take tokens that were used already; give some back if below 0."""
        with self._lock:
            bucket = self._filled(caller, rate, size, now)
            bucket.tokens = min(max(bucket.tokens - tokens, -size), size)

    def forget(self, caller: bytes) -> None:
        """Drop a caller's bucket."""
        with self._lock:
            self._buckets.pop(caller, None)

    def worth_a_line(self, caller: bytes, *, now: float) -> bool:
        """Whether nothing was logged about this caller within ``LOG_EVERY``;
        from now on something was."""
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
