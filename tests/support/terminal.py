"""Run a command on a pseudo terminal, as a person does."""

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.waiting import PATIENCE


@dataclass
class Terminal:
    """A command on a terminal, and all that it wrote there."""

    process: "subprocess.Popen[bytes]"
    ours: int
    seen: bytes = b""

    def write(self, text: str) -> None:
        """Type a text."""
        os.write(self.ours, text.encode())

    def read_until(self, pattern: str) -> None:
        """Read until a text like this was written. Raises AssertionError at the end of the command."""
        while not re.search(pattern.encode(), self.seen):
            assert self._read(), f"{pattern!r} is not in {self.seen!r}"

    def finish(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and all that was written."""
        while self._read():
            pass
        return self.process.wait(PATIENCE), self.seen.decode()

    def _read(self) -> bool:
        ready, _, _ = select.select([self.ours], [], [], PATIENCE)
        assert ready, f"nothing was written after {self.seen!r}"
        # At its end the other side of a terminal is an I/O error on Linux.
        with contextlib.suppress(OSError):
            chunk = os.read(self.ours, 4096)
            self.seen += chunk
            return bool(chunk)
        return False


@contextmanager
def on_terminal(command: Sequence[str], environment: dict[str, str], *, columns: int = 0) -> Iterator[Terminal]:
    """Start a command whose streams are all a terminal with this width; 0 means unknown."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    process = subprocess.Popen(
        command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait(PATIENCE)
        os.close(ours)
