"""What is said on stderr: to people, or as one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Mapping

from . import platforms, units
from .api import Ticket, Unreachable

STDERR = 2
CLEAR_LINE = "\r\x1b[K"
# A place that doesn't change is told again after so long: a log that stands
# still looks like a job that hangs.
STILL_WAITING = 60.0


class Messages:
    """Never fails: that nobody reads it is no reason to lose a seat."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._rewrites = platforms.CURRENT.rewrites_lines(STDERR) and not as_json
        self._line_is_open = False
        self._waiting_since: float | None = None
        self._told: tuple[int, float] | None = None
        # Heartbeats have something to say, too.
        self._lock = threading.RLock()

    def say(self, event: str, text: str, facts: Mapping[str, object] | None = None) -> None:
        """News; ``event`` and ``facts`` are for programs."""
        self._line({**(facts or {}), "event": event, "detail": text})

    def fail(self, code: str, text: str, facts: Mapping[str, object] | None = None) -> None:
        """Why the exit code is what it is."""
        self._line({**(facts or {}), "code": code, "detail": text})

    def retrying(self, error: Unreachable, left: float) -> None:
        """A call is tried again for so many seconds."""
        self.say("retrying", f"{error} Trying for {units.spoken(left)} more.", {"seconds": round(left)})

    def waiting(self, ticket: Ticket) -> None:
        """The place in the queue: on a terminal a line that is rewritten, else
        a line when the place changes, and now and then."""
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if not self._rewrites:
            if self._told and self._told[0] == ticket.position and now - self._told[1] < STILL_WAITING:
                return
            self._told = (ticket.position, now)
        expected = f", about {units.spoken(ticket.eta_seconds)} to go" if ticket.eta_seconds is not None else ""
        text = f"waiting, place {ticket.position}{expected}, {units.spoken(now - self._waiting_since)} so far"
        if self._rewrites:
            self._write(f"{CLEAR_LINE}license: {text}", open_line=True)
        else:
            self.say("waiting", text, ticket.raw)

    def waited(self) -> None:
        """The wait is over: take its line away."""
        self._write("")

    def _line(self, entry: Mapping[str, object]) -> None:
        self._write((json.dumps(entry) if self.as_json else f"license: {entry['detail']}") + "\n")

    def _write(self, text: str, *, open_line: bool = False) -> None:
        with self._lock:
            if self._line_is_open and not open_line:
                text = CLEAR_LINE + text
            self._line_is_open = open_line
            # Past Python's own buffer, which would fail once more at the exit, and change its code.
            with contextlib.suppress(OSError):
                os.write(STDERR, text.encode(platforms.CURRENT.encoding(STDERR), errors="replace"))
