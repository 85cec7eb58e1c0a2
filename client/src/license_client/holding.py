"""Borrow seats, keep them with heartbeats, and return them however the work ends."""

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

# The limit of a call after an interrupt, when the user wants to leave.
SETTLE_SECONDS = 5.0
# Limits of the pause between calls of one kind, whatever the server asks for.
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
    """Borrow seats; wait at most ``wait`` seconds in the queue.

    ``on_wait`` is called with the ticket at each poll. ``on_granted`` is called
    just before this returns the lease. If anything ends this early, also an
    exception of a signal handler or of these two, it leaves the queue and returns
    seats that were granted. Raises Refused or Unreachable.
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
                # Wait no longer than the deadline, and poll not too often.
                pause = min(outcome.poll_after, deadline - time.monotonic())
                platforms.CURRENT.sleep(max(pause, SHORTEST_PAUSE))
                # Keep waiting while the server is away.
                patience = max(deadline - time.monotonic(), client.patience)
                outcome = client.but(timeout=client.timeout, patience=patience).poll(outcome.id)
            if on_granted is not None:
                on_granted()
            return outcome
        except Refused as refused:
            # The server dropped the ticket because no poll came in time. Join the queue again.
            missed = refused.code == "queue_dropped" or (refused.status, refused.code) == (410, "expired")
            if not missed or time.monotonic() >= max(deadline, start + client.patience):
                raise
        except BaseException as error:
            with contextlib.suppress(LicenseError):
                hurried = client.but(timeout=SETTLE_SECONDS, patience=0)
                if outcome is None and not isinstance(error, Unreachable):
                    # The answer was not read. The same key returns it.
                    outcome = ask(hurried)
                if isinstance(outcome, Ticket):
                    hurried.leave(outcome.id)
                elif outcome is not None:
                    hurried.give_back(outcome.id)
            raise


class Holding:
    """Keep a lease alive in a background thread until it is returned.

    If the server does not answer, heartbeats are tried until the lease would have
    ended. ``lost`` is set if the lease ends for another reason than
    ``give_back``. ``reason`` says why, and ``on_lost`` is called with it in the
    background thread.
    """

    def __init__(self, client: Client, lease: Lease, *, on_lost: Callable[[str], None] | None = None) -> None:
        self.client = client
        self.lease = lease
        self.lost = threading.Event()
        self.reason = ""
        self._on_lost = on_lost
        self._over = threading.Event()
        self._end_is_known = False
        self._thread = threading.Thread(target=self._keep, name="license-heartbeat", daemon=True)
        if self._beat() is not None:
            self._thread.start()

    def give_back(self) -> None:
        """Stop the heartbeats and return the seats.

        Raises Unreachable if the server does not answer; the seats are then free when
        the lease ends. Raises Refused if the credential may not return the lease.
        """
        self._over.set()
        if self._end_is_known:
            return
        if self.lost.is_set():
            # A heartbeat whose answer was lost may have extended the lease.
            with contextlib.suppress(LicenseError):
                self.client.but(timeout=SETTLE_SECONDS, patience=0).give_back(self.lease.id)
            return
        # A heartbeat that is under way is harmless: it does not revive an ended lease.
        self.client.give_back(self.lease.id)

    def _keep(self) -> None:
        beat = self._beat()
        pause, failures = beat, 0
        while beat is not None and not self._over.wait(pause):
            # Try once and leave time for the next try. The pauses are set below.
            hurried = self.client.but(timeout=min(self.client.timeout, max(beat, 1)), patience=0)
            try:
                self.lease = hurried.renew(self.lease.id)
            except Refused as refused:
                # After another status the lease may still be active, but this client may not renew it.
                self._end_is_known = refused.status in {404, 410}
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
                # Make the last try when the lease ends.
                pause = min(pause, left) if left is not None else pause
            else:
                beat = self._beat()
                pause, failures = beat, 0

    def _left(self) -> float | None:
        """Return the seconds until the lease ends without a heartbeat; None if it has no end."""
        return self.lease.ends - time.monotonic() if self.lease.ends is not None else None

    def _beat(self) -> float | None:
        """Return the seconds until the next heartbeat; None if none is needed.

        A lease may end with its tool's license before a heartbeat is due. Then call
        at that end, to learn of it.
        """
        left = self._left()
        due = self.lease.heartbeat_seconds
        if due is not None:
            # Spread the clients, and never be late.
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
    """Hold seats during a block of Python:

        with License("cad_tool", wait="30m") as lease:
            ...

    Give ``tool`` and ``seats``; or ``items``, a set of several tools; or
    ``alternatives``, several such sets, of which the first free one is borrowed.
    Durations are seconds, timedeltas or texts like ``"30m"``. If not given, server,
    token, user, team and project come from the environment or the configuration
    file. Calls to a server that does not answer are retried for ``patience``.

    Entering raises Refused or Unreachable. ``lease.lost`` is set if the lease ends
    during the block. If the seats can't be returned after the block, a warning is
    logged and they are free when the lease ends.
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
            raise ValueError("give one of tool, items and alternatives")
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
            raise RuntimeError("this License is in use; create another one")
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
        except LicenseError as error:
            lease = holding.lease
            logger.warning(
                "Lease %s was not returned: %s %s",
                lease.id,
                error,
                f"It ends at {lease.expires_at}." if lease.expires_at else "It has no end: return it yourself.",
            )
