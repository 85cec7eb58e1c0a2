"""Run a command while its seats are held, and handle signals."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from types import FrameType

from . import former, platforms
from .api import Client, Lease, LicenseError
from .holding import SETTLE_SECONDS, Holding
from .messages import Messages
from .units import clock_time

EX_NOT_EXECUTABLE = 126


class Interrupted(BaseException):
    """A signal that ends programs arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Handle the signals that end programs: interrupt, keep for later, or send to a receiver.

    Signals within SETTLE_SECONDS of one that interrupted do not interrupt the
    cleanup: a closed terminal, a service manager and a person often send several.
    """

    def __init__(self) -> None:
        self._react: Callable[[int], None] = self._interrupt
        self._quiet_until = 0.0
        self._kept: int | None = None
        for number in platforms.CURRENT.ending:
            # Keep a signal ignored that was ignored at the start (nohup). The command inherits that.
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def keep(self) -> None:
        """Keep signals until ``send_to``."""
        self._react = self._keep

    def send_to(self, receiver: Callable[[int], None]) -> None:
        """Call the receiver for each signal, and for a kept one."""
        self._react = receiver
        if self._kept is not None:
            receiver(self._kept)

    def interrupt(self, *, after: float) -> None:
        """Interrupt again, but not in the next ``after`` seconds."""
        self._quiet_until = time.monotonic() + after
        self._react = self._interrupt

    def ignore(self) -> None:
        """Ignore signals: one that arrives while Python exits would replace the exit code."""
        for number in platforms.CURRENT.ending:
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._react(number)

    def _keep(self, number: int) -> None:
        self._kept = number

    def _interrupt(self, number: int) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + SETTLE_SECONDS
            raise Interrupted(number)


class Run:
    """Run a command while its seats are held. Signals are kept until it starts."""

    def __init__(
        self,
        command: platforms.Command,
        *,
        client: Client,
        lease: Lease,
        signals: Signals,
        messages: Messages,
        kill_when_lost: bool,
    ) -> None:
        self._command = command
        self._signals = signals
        self._messages = messages
        self._kill_when_lost = kill_when_lost
        self._process: subprocess.Popen[bytes] | None = None
        self._signalled: int | None = None
        # Signals to pass on that arrived before the process existed.
        self._unsent: list[int] = []
        self._holding = Holding(client, lease, on_lost=self._lost)

    def result(self) -> int:
        """Run the command, return the seats, and return the command's exit code."""
        try:
            self._signals.send_to(self._pass_on)
            return self._run()
        finally:
            # A second signal cancels the return if the server is away, but not
            # right after the first one: that is most likely the same wish.
            self._signals.interrupt(after=SETTLE_SECONDS)
            self._give_back()

    def _run(self) -> int:
        lease = self._holding.lease
        variables = {
            "LICENSE_LEASE_ID": lease.id,
            "LICENSE_TOOL": lease.items[0].tool,
            "LICENSE_FENCE": str(lease.fence if lease.fence is not None else ""),
            "LICENSE_EXPIRES_AT": lease.expires_at or "",
        }
        environment = {**os.environ, **former.in_both_names(variables)}
        arguments, file = self._command
        if self._signalled is not None:
            return 128 + self._signalled
        try:
            self._process = subprocess.Popen(arguments, executable=file, env=environment)  # noqa: S603
        except OSError as error:
            self._messages.fail("command", f"{self._command.file or self._command.arguments[0]}: {error.strerror}")
            return EX_NOT_EXECUTABLE
        # Popen may return long after the command started.
        for number in self._unsent:
            platforms.CURRENT.pass_on(self._process, number)
        if self._holding.lost.is_set():
            self._stop()
        return platforms.CURRENT.wait(self._process)

    def _pass_on(self, number: int) -> None:
        """Pass a signal on, unless the terminal sends it to the command too.

        Never send a terminal's Ctrl-C again: many tools quit at once on the second
        one and lose work. One that arrives just before the command exists is lost;
        the person presses again. Without a terminal, a signal to the whole process
        group looks like one to this process: the command gets it twice, because a
        job that gets no signal at all is worse.
        """
        self._signalled = number
        if platforms.CURRENT.reaches_command(number):
            return
        if self._process is None:
            self._unsent.append(number)
        else:
            platforms.CURRENT.pass_on(self._process, number)

    def _lost(self, reason: str) -> None:
        self._messages.say("lost", f"THE LEASE IS LOST. {reason}", {"lease": self._holding.lease.id}, style="bad")
        self._stop()

    def _stop(self) -> None:
        """End the command, with --on-lost kill."""
        if self._kill_when_lost and self._process is not None:
            platforms.CURRENT.end(self._process)

    def _give_back(self) -> None:
        lease = self._holding.lease
        try:
            self._holding.give_back()
        except (LicenseError, Interrupted) as error:
            why = "Interrupted." if isinstance(error, Interrupted) else str(error)
            end = self._holding.lease.expires_at
            then = f"It is free again at {clock_time(end)}." if end else f"Return it with: license return {lease.id}"
            self._messages.say("not_returned", f"The seat was not returned. {why} {then}", {"lease": lease.id})
