"""A command that runs while its seats are held, and the signals on the way."""

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

EX_NOT_EXECUTABLE = 126


class Interrupted(BaseException):
    """A signal has come that ends programs."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """What becomes of the signals that end programs: they interrupt what goes
    on, or are kept for later, or go to a receiver.

    Those that come within SETTLE_SECONDS of one that has interrupted don't
    interrupt the tidying up: a closed terminal, a service manager and an
    impatient person send several and mean one.
    """

    def __init__(self) -> None:
        self._react: Callable[[int], None] = self._interrupt
        self._quiet_until = 0.0
        self._kept: int | None = None
        for number in platforms.CURRENT.ending:
            # What we were started to ignore (nohup), the command ignores too.
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def keep(self) -> None:
        """From here on until ``send_to`` nothing is interrupted, and nothing forgotten."""
        self._react = self._keep

    def send_to(self, receiver: Callable[[int], None]) -> None:
        """Call the receiver for each signal, and for one that was kept."""
        self._react = receiver
        if self._kept is not None:
            receiver(self._kept)

    def interrupt(self, *, after: float) -> None:
        """Interrupt again, but nothing of the next ``after`` seconds."""
        self._quiet_until = time.monotonic() + after
        self._react = self._interrupt

    def ignore(self) -> None:
        """What is over can't be interrupted: a signal that comes while Python ends
        would replace the exit code."""
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
    """A command while its seats are held; the signals are kept until it begins."""

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
        # What came while the command was being started, and is for us to send.
        self._unsent: list[int] = []
        self._holding = Holding(client, lease, on_lost=self._lost)

    def result(self) -> int:
        """Run the command, return the seats; the command's exit code."""
        try:
            self._signals.send_to(self._pass_on)
            return self._run()
        finally:
            # Who ended the command needn't wait for a server that is away, but
            # one more signal right after it is no wish to leave the seats out.
            self._signals.interrupt(after=SETTLE_SECONDS)
            self._give_back()

    def _run(self) -> int:
        lease = self._holding.lease
        told = {
            "LICENSE_LEASE_ID": lease.id,
            "LICENSE_TOOL": lease.items[0].tool,
            "LICENSE_FENCE": str(lease.fence if lease.fence is not None else ""),
            "LICENSE_EXPIRES_AT": lease.expires_at or "",
        }
        environment = {**os.environ, **former.in_both_names(told)}
        arguments, file = self._command
        if self._signalled is not None:
            return 128 + self._signalled
        try:
            self._process = subprocess.Popen(arguments, executable=file, env=environment)  # noqa: S603
        except OSError as error:
            self._messages.fail("command", f"{self._command.file or self._command.arguments[0]}: {error.strerror}")
            return EX_NOT_EXECUTABLE
        # Popen may return long after the command has begun.
        for number in self._unsent:
            platforms.CURRENT.pass_on(self._process, number)
        if self._holding.lost.is_set():
            self._stop()
        return platforms.CURRENT.wait(self._process)

    def _pass_on(self, number: int) -> None:
        """Send the command what does not reach it anyway.

        Never a terminal's Ctrl-C once more: many tools quit at once on the second,
        and lose work. One that comes in the moment before the command exists is
        lost; the person presses again. Without a terminal, a signal to the whole
        process group looks like one to us only: the command gets it twice, because
        a job that is never asked to end is worse.
        """
        self._signalled = number
        if platforms.CURRENT.reaches_command(number):
            return
        if self._process is None:
            self._unsent.append(number)
        else:
            platforms.CURRENT.pass_on(self._process, number)

    def _lost(self, reason: str) -> None:
        self._messages.say("lost", f"THE LEASE IS LOST. {reason}", {"lease": self._holding.lease.id})
        self._stop()

    def _stop(self) -> None:
        """End the command, if that is what is wanted when the lease is lost."""
        if self._kill_when_lost and self._process is not None:
            platforms.CURRENT.end(self._process)

    def _give_back(self) -> None:
        lease = self._holding.lease
        try:
            self._holding.give_back()
        except (LicenseError, Interrupted) as error:
            why = "Interrupted." if isinstance(error, Interrupted) else str(error)
            end = self._holding.lease.expires_at
            then = (
                f"It comes back at {end}." if end else f"It stays out until somebody calls: license return {lease.id}"
            )
            self._messages.say("not_returned", f"The seat was not returned. {why} {then}", {"lease": lease.id})
