"""Write messages to stderr: as text, or as one JSON object per line."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from . import platforms, units
from .api import Ticket, Unreachable
from .output import STDERR, Colors

CLEAR_LINE = "\r\x1b[K"
# Seconds until an unchanged position is reported again. Without it a CI job looks stuck.
STILL_WAITING = 60.0
# Seconds between two updates of the line on a terminal.
TICK = 1.0


class _Wait(NamedTuple):
    """A wait in the queue, as the server saw it at ``seen``; times are monotonic."""

    ticket: Ticket
    wanted: str
    since: float
    seen: float

    def text(self, now: float) -> str:
        waited = units.spoken(now - self.since)
        parts = [f"waiting for {self.wanted}: position {self.ticket.position}, waited {waited}"]
        if self.ticket.eta_seconds is not None:
            left = self.ticket.eta_seconds - (now - self.seen)
            parts.append(f"about {units.spoken(left)} left" if left >= 1 else "a seat is expected soon")
        return ", ".join(parts)


def _columns() -> int:
    """Return the width of the terminal; a large number if it is unknown."""
    try:
        return os.get_terminal_size(STDERR).columns or 10_000
    except OSError:
        return 10_000


class Messages:
    """Write messages. Ignores a closed stderr, because that is no reason to lose a seat."""

    def __init__(self, *, as_json: bool, colors: Colors | None = None) -> None:
        self.as_json = as_json
        self._colors = colors if colors is not None and not as_json else Colors(on=False)
        self._rewrites = platforms.CURRENT.rewrites_lines(STDERR) and not as_json
        self._line_is_open = False
        self._wait: _Wait | None = None
        self._reported: tuple[int, float] | None = None
        self._over = threading.Event()
        # The heartbeat thread writes messages too, and so does the one that updates the line.
        self._lock = threading.RLock()

    def say(self, event: str, text: str, facts: Mapping[str, object] | None = None, *, style: str = "") -> None:
        """Write a message. ``event`` and ``facts`` are for programs."""
        self._line({**(facts or {}), "event": event, "detail": text}, style=style)

    def fail(self, code: str, text: str, facts: Mapping[str, object] | None = None) -> None:
        """Write the reason of the exit code."""
        self._line({**(facts or {}), "code": code, "detail": text}, style="bad")

    def retrying(self, error: Unreachable, left: float) -> None:
        """Report that a call is retried for ``left`` seconds."""
        self.say("retrying", f"{error} Retrying for {units.spoken(left)}.", {"seconds": round(left)})

    def waiting(self, ticket: Ticket, wanted: str) -> None:
        """Show the place in the queue for the ``wanted`` seats.

        On a terminal, rewrite one line each second. Elsewhere, write a line when the
        position changes, and every STILL_WAITING seconds.
        """
        now = time.monotonic()
        with self._lock:
            first = self._wait is None
            since = now if self._wait is None else self._wait.since
            self._wait = _Wait(ticket, wanted, since=since, seen=now)
            if self._rewrites:
                self._update()
                if first:
                    threading.Thread(target=self._keep_updating, name="license-progress", daemon=True).start()
                return
        if self._reported and self._reported[0] == ticket.position and now - self._reported[1] < STILL_WAITING:
            return
        self._reported = (ticket.position, now)
        self.say("waiting", self._wait.text(now), ticket.raw)

    def waited(self) -> None:
        """Remove the line of the wait."""
        with self._lock:
            self._wait = None
            self._reported = None
            self._write("")
        self._over.set()

    def _keep_updating(self) -> None:
        while not self._over.wait(TICK):
            self._update()

    def _update(self) -> None:
        with self._lock:
            if self._wait is not None:
                text = f"license: {self._wait.text(time.monotonic())}"
                # A line that wraps could not be rewritten.
                self._write(CLEAR_LINE + text[: _columns() - 1], open_line=True)

    def _line(self, entry: Mapping[str, object], *, style: str) -> None:
        text = json.dumps(entry) if self.as_json else f"license: {self._colors.paint(style, str(entry['detail']))}"
        self._write(text + "\n")

    def _write(self, text: str, *, open_line: bool = False) -> None:
        with self._lock:
            if self._line_is_open and not open_line:
                text = CLEAR_LINE + text
            self._line_is_open = open_line
            if sys.stderr is None:
                # The caller closed it, so its number can be that of a connection.
                return
            # Bypass Python's buffer: it would fail again at the exit and change the exit code.
            with contextlib.suppress(OSError):
                os.write(STDERR, text.encode(platforms.CURRENT.encoding(STDERR), errors="replace"))
