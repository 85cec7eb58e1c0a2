"""Reserve disk space for the metric files of gunicorn's workers.

prometheus_client writes to a memory map of a sparse file. On a full disk the kernel
answers the write with SIGBUS, which ends each worker. Here a file gets its space before
a write, and values without space are left out. Import this after
PROMETHEUS_MULTIPROC_DIR is set, because the library reads it on import.
"""

import errno
import logging
import os
import time
from pathlib import Path

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

logger = logging.getLogger(__name__)

# In bytes. Files grow from this size by doubling, as in the library.
SMALLEST = 64 * 1024
# All series of 1,000 tools take half of it. Labels have closed sets of values, so no file
# should get here.
LARGEST = 16 * 1024 * 1024
# Seconds until a full disk is tried again.
PAUSE = 30


class ReservedFile(MmapedDict):
    """Store the values of a process in a file while there is space.

    The process keeps a value without space in memory, and the next event writes all of it.
    """

    _reported = False

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        self._fname = filename
        self._f = None  # type: ignore[assignment]
        self._used = 8
        self._positions: dict[str, int] = {}
        self._full_until = 0.0
        self._has_space(SMALLEST)

    def read_value(self, key: str) -> tuple[float, float]:
        """Return the value and its time; zeros if there is no space for it."""
        if key in self._positions or self._has_space(self._used + _size(key)):
            pair: tuple[float, float] = super().read_value(key)  # type: ignore[no-untyped-call]
            return pair
        return 0.0, 0.0

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Write the value, unless there is no space for it."""
        if key in self._positions or self._has_space(self._used + _size(key)):
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]

    def _has_space(self, size: int) -> bool:
        """Try to make the file this large. Return whether it is."""
        if self._f is not None and size <= self._capacity:
            return True
        if time.monotonic() < self._full_until:
            return False
        try:
            _reserve(self._fname, size)
            if self._f is None:
                super().__init__(self._fname)
        except OSError as error:
            self._full_until = time.monotonic() + PAUSE
            if not ReservedFile._reported:
                ReservedFile._reported = True
                logger.error("No space for metrics: /metrics lacks new series until there is space. (%s)", error)
            return False
        return True


def _size(key: str) -> int:
    """Return the most bytes of a value: the key's length, the padded key, two doubles."""
    return 4 + len(key.encode()) + 8 + 16


def _reserve(filename: str, size: int) -> None:
    """Extend the file with zeros on the disk. Raises OSError without space, and leaves it unchanged."""
    capacity = SMALLEST
    while capacity < size:
        capacity *= 2
    if capacity > LARGEST:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), filename)
    path = Path(filename)
    with path.open("ab", buffering=0) as file:
        before = held = file.tell()
        try:
            while held < capacity:
                held += file.write(bytes(min(capacity - held, SMALLEST)))
        except OSError:
            file.truncate(before)
            if not before:
                # The library can't read an empty file.
                path.unlink()
            raise


_pid = os.getpid()


def _forked() -> None:
    global _pid
    _pid = os.getpid()


def install() -> None:
    """Let prometheus_client use these files in this process and its children."""
    values.MmapedDict = ReservedFile  # type: ignore[attr-defined]
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        # The library would ask the kernel for the process id at each event.
        os.register_at_fork(after_in_child=_forked)
        values.ValueClass = values.MultiProcessValue(process_identifier=lambda: _pid)  # type: ignore[no-untyped-call]
