"""What clients and administrators did and saw, one JSON line an operation."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Operation:
    """One call, from its start to its end in seconds of the recorder's clock.

    ``status`` is the HTTP status, or None if the answer never came whole: such
    a call may have happened or not. ``facts`` say what the caller knew, for
    example the lease that it renewed.
    """

    caller: str
    kind: str
    start: float
    end: float
    status: int | None
    facts: dict[str, Any] = field(default_factory=dict)
    answer: Any = None
    replayed: bool = False

    @property
    def is_unknown(self) -> bool:
        """Whether the call may have happened or not."""
        return self.status is None or self.status >= 500


NAMES = [field.name for field in fields(Operation)]


class Recorder:
    """Writes operations to a file as they end, from many threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w", encoding="utf-8")
        self._lock = threading.Lock()
        self._started = time.monotonic()
        # How many calls were decided: their outcome is known.
        self.count = 0
        # When the last call ended that changed or read seats as asked.
        self.last_success = 0.0

    def now(self) -> float:
        """Seconds since the recorder was made, on the monotonic clock."""
        return time.monotonic() - self._started

    def write(self, operation: Operation) -> None:
        """Add one operation."""
        line = json.dumps({name: getattr(operation, name) for name in NAMES})
        with self._lock:
            self._file.write(line + "\n")
            self.count += not operation.is_unknown
            if operation.kind in {"borrow", "return"} and operation.status in {200, 202, 409}:
                self.last_success = max(self.last_success, operation.start)

    def flush(self) -> int:
        """Let others read what was written, and return how many bytes that is."""
        with self._lock:
            self._file.flush()
            return self._file.tell()

    def close(self) -> None:
        self._file.close()


def read(path: Path, size: int | None = None) -> Iterator[Operation]:
    """Yield the operations of a file in the order in which they ended; of its first
    ``size`` bytes, if that is given."""
    read = 0
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            # JSON is written in ASCII: a character is a byte.
            read += len(line)
            if size is not None and read > size:
                return
            yield Operation(**json.loads(line))
