"""Getting a seat, keeping it while one works, and giving it back on every way out."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from types import TracebackType

from . import platforms
from .api import Client, Item, Lease, LicenseError, Refused, Ticket, Unreachable
from .config import load
from .units import seconds

logger = logging.getLogger(__name__)

# Who has been interrupted wants to go; a call on the way out gets so long.
SETTLE_SECONDS = 5.0
# Between calls of one kind, whatever the server asks for.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.2, 30.0


def acquire(
    client: Client,
    alternatives: Sequence[Sequence[Item]],
    *,
    user: str,
    team: str | None = None,
    project: str = "",
    host: str = "",
    ttl: float | None = None,
    wait: float = 0,
    on_wait: Callable[[Ticket], None] | None = None,
    on_granted: Callable[[], None] | None = None,
) -> Lease:
    """Seats, after a wait of at most ``wait`` seconds in the queue.

    ``on_wait`` is told the place each time it is asked for; ``on_granted`` is
    called when the seats are there, just before this returns them. Whatever
    ends this early, also what a signal handler or one of these two raises,
    leaves nothing behind: the queue is left, and seats that were granted
    meanwhile are returned. Raises Refused or Unreachable.
    """
    start = time.monotonic()
    deadline = start + wait
    while True:
        ask = partial(
            Client.borrow,
            alternatives=alternatives,
            user=user,
            team=team,
            project=project,
            host=host,
            ttl=ttl,
            wait=max(deadline - time.monotonic(), 0),
            key=uuid.uuid4().hex,
        )
        outcome: Lease | Ticket | None = None
        try:
            outcome = ask(client)
            while isinstance(outcome, Ticket):
                if on_wait is not None:
                    on_wait(outcome)
                # No longer than the wait itself, and never so often that it hammers.
                pause = min(outcome.poll_after, deadline - time.monotonic())
                platforms.CURRENT.sleep(max(pause, SHORTEST_PAUSE))
                # A server that is away for a while ends no wait.
                patience = max(deadline - time.monotonic(), client.patience)
                outcome = client.but(timeout=client.timeout, patience=patience).poll(outcome.id)
            if on_granted is not None:
                on_granted()
            return outcome
        except Refused as refused:
            # Neither is somebody's wish: the server heard nothing of us, or we
            # nothing of it, for too long. Stand in line once more.
            missed = refused.code == "queue_dropped" or (refused.status, refused.code) == (410, "expired")
            if not missed or time.monotonic() >= max(deadline, start + client.patience):
                raise
        except BaseException as error:
            with contextlib.suppress(LicenseError):
                hurried = client.but(timeout=SETTLE_SECONDS, patience=0)
                if outcome is None and not isinstance(error, Unreachable):
                    # Asked, and no answer read: only the same key can tell.
                    outcome = ask(hurried)
                if isinstance(outcome, Ticket):
                    hurried.leave(outcome.id)
                elif outcome is not None:
                    hurried.give_back(outcome.id)
            raise


class Holding:
    """A lease that is kept alive in the background until it is given back.

    While the server doesn't answer, heartbeats are tried again until the lease
    would have ended. ``lost`` is set when it has ended for any other reason
    than ``give_back``; ``reason`` says why, and ``on_lost`` is called with it,
    in the background's thread.
    """

    def __init__(self, client: Client, lease: Lease, *, on_lost: Callable[[str], None] | None = None) -> None:
        self.client = client
        self.lease = lease
        self.lost = threading.Event()
        self.reason = ""
        self._on_lost = on_lost
        self._over = threading.Event()
        self._told_of_end = False
        self._thread = threading.Thread(target=self._keep, name="license-heartbeat", daemon=True)
        if self._beat() is not None:
            self._thread.start()

    def give_back(self) -> None:
        """Stop the heartbeats and return the seats; raises Unreachable if that
        can't be said to the server, which then frees them at the lease's end,
        and Refused if it doesn't let one."""
        self._over.set()
        if self._told_of_end:
            return
        if self.lost.is_set():
            # Most likely over. But a heartbeat whose answer was lost may have extended it.
            with contextlib.suppress(LicenseError):
                self.client.but(timeout=SETTLE_SECONDS, patience=0).give_back(self.lease.id)
            return
        # A heartbeat on its way is harmless: an ended lease isn't revived.
        self.client.give_back(self.lease.id)

    def _keep(self) -> None:
        beat = self._beat()
        pause, failures = beat, 0
        while beat is not None and not self._over.wait(pause):
            # One try, which must leave time for the next: so the pauses are ours.
            hurried = self.client.but(timeout=min(self.client.timeout, max(beat, 1)), patience=0)
            try:
                self.lease = hurried.renew(self.lease.id)
            except Refused as refused:
                # Else it isn't ours to renew any more, but may well be out.
                self._told_of_end = refused.status in {404, 410}
                self._lose(str(refused))
                return
            except Unreachable as error:
                left = self._left()
                if left is not None and left <= 0:
                    self._lose(f"No heartbeat has reached the server in time. {error}")
                    return
                again = min(max(beat / 10, SHORTEST_PAUSE) * 2**failures, beat / 2, LONGEST_PAUSE)
                failures += 1
                pause = max(again * random.uniform(0.5, 1), error.retry_after or 0)  # noqa: S311
                # The last try is at the end, when it is known whether it was in time.
                pause = min(pause, left) if left is not None else pause
            else:
                beat = self._beat()
                pause, failures = beat, 0

    def _left(self) -> float | None:
        """The seconds until the lease ends without a heartbeat; None if it doesn't."""
        return self.lease.ends - time.monotonic() if self.lease.ends is not None else None

    def _beat(self) -> float | None:
        """The seconds until the next heartbeat; None if none is needed.

        A lease may end, with its tool's license, before a heartbeat is due:
        then, to be told so.
        """
        left = self._left()
        due = self.lease.heartbeat_seconds
        if due is not None:
            # Not all clients at once, and never later than told.
            due *= random.uniform(0.8, 1)  # noqa: S311
        pauses = [pause for pause in (due, left) if pause is not None]
        return max(min(*pauses, threading.TIMEOUT_MAX), SHORTEST_PAUSE) if pauses else None

    def _lose(self, reason: str) -> None:
        if self._over.is_set():
            return
        self.reason = reason
        self.lost.set()
        if self._on_lost is not None:
            self._on_lost(reason)


class License:
    """Seats for a block of Python:

        with License("cad_tool", wait="30m") as lease:
            ...

    ``seats`` are of ``tool``; ``items`` in its place are a set of several
    tools, ``alternatives`` are such sets, of which the first that is free is
    taken. Durations are seconds, timedeltas or texts like ``"30m"``. Server,
    token, user, team and project come from the environment or the configuration
    file unless given; ``patience`` is for how long a silent server is tried.

    Entering raises Refused or Unreachable; ``lease.lost`` is set if the seats
    are lost meanwhile. Seats that can't be returned at the block's end come
    back by themselves: that is logged, and no reason to lose the block's work.
    """

    def __init__(
        self,
        tool: str | None = None,
        seats: int = 1,
        *,
        items: Sequence[Item] = (),
        alternatives: Sequence[Sequence[Item]] = (),
        wait: str | float | timedelta = 0,
        ttl: str | float | timedelta | None = None,
        server: str | None = None,
        token: str | None = None,
        user: str | None = None,
        team: str | None = None,
        project: str | None = None,
        host: str | None = None,
        patience: str | float | timedelta = 60,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        if [tool is not None, bool(items), bool(alternatives)].count(True) != 1:
            raise ValueError("name a tool, or items, or alternatives")
        config = load(server=server, token=token, user=user, team=team, project=project)
        self.client = config.client(patience=seconds(patience))
        self._alternatives = alternatives or [items or [Item(str(tool), seats)]]
        self._config = config
        self._host = host if host is not None else socket.gethostname()
        self._wait = seconds(wait)
        self._ttl = seconds(ttl) if ttl is not None else None
        self._on_lost = on_lost
        self._holding: Holding | None = None

    def __enter__(self) -> Holding:
        if self._holding is not None:
            raise RuntimeError("this license is in use; make another")
        lease = acquire(
            self.client,
            self._alternatives,
            user=self._config.user,
            team=self._config.team,
            project=self._config.project,
            host=self._host,
            ttl=self._ttl,
            wait=self._wait,
        )
        try:
            self._holding = Holding(self.client, lease, on_lost=self._on_lost)
        except BaseException:
            self.client.give_back(lease.id)
            raise
        return self._holding

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        holding, self._holding = self._holding, None
        if holding is None:
            return
        try:
            holding.give_back()
        except LicenseError as unsaid:
            lease = holding.lease
            logger.warning(
                "Lease %s was not returned: %s It ends at %s.", lease.id, unsaid, lease.expires_at or "no time"
            )
