"""Write messages to stderr: as text, or as one JSON object per line."""

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
# Seconds until an unchanged position is reported again. Without it a CI job looks stuck.
STILL_WAITING = 60.0


class Messages:
    """Write messages. Ignores a closed stderr, because that is no reason to lose a seat."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._rewrites = platforms.CURRENT.rewrites_lines(STDERR) and not as_json
        self._line_is_open = False
        self._waiting_since: float | None = None
        self._reported: tuple[int, float] | None = None
        # The heartbeat thread writes messages too.
        self._lock = threading.RLock()

    def say(self, event: str, text: str, facts: Mapping[str, object] | None = None) -> None:
        """Write a message. ``event`` and ``facts`` are for programs."""
        self._line({**(facts or {}), "event": event, "detail": text})

    def fail(self, code: str, text: str, facts: Mapping[str, object] | None = None) -> None:
        """Write the reason of the exit code."""
        self._line({**(facts or {}), "code": code, "detail": text})

    def retrying(self, error: Unreachable, left: float) -> None:
        """Report that a call is retried for ``left`` seconds."""
        self.say("retrying", f"{error} Retrying for {units.spoken(left)}.", {"seconds": round(left)})

    def waiting(self, ticket: Ticket) -> None:
        """Show the position in the queue.

        On a terminal, rewrite one line. Elsewhere, write a line when the position
        changes, and every STILL_WAITING seconds.
        """
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if not self._rewrites:
            if self._reported and self._reported[0] == ticket.position and now - self._reported[1] < STILL_WAITING:
                return
            self._reported = (ticket.position, now)
        waited = units.spoken(now - self._waiting_since)
        left = f", about {units.spoken(ticket.eta_seconds)} left" if ticket.eta_seconds is not None else ""
        text = f"waiting for a seat: position {ticket.position}, waited {waited}{left}"
        if self._rewrites:
            self._write(f"{CLEAR_LINE}license: {text}", open_line=True)
        else:
            self.say("waiting", text, ticket.raw)

    def waited(self) -> None:
        """Remove the line of the wait."""
        self._write("")

    def _line(self, entry: Mapping[str, object]) -> None:
        self._write((json.dumps(entry) if self.as_json else f"license: {entry['detail']}") + "\n")

    def _write(self, text: str, *, open_line: bool = False) -> None:
        with self._lock:
            if self._line_is_open and not open_line:
                text = CLEAR_LINE + text
            self._line_is_open = open_line
            # Bypass Python's buffer: it would fail again at the exit and change the exit code.
            with contextlib.suppress(OSError):
                os.write(STDERR, text.encode(platforms.CURRENT.encoding(STDERR), errors="replace"))
