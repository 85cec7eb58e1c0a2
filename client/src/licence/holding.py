"""Getting a seat, keeping it while one works, and giving it back on every way out."""

import contextlib
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from types import TracebackType

from .api import Client, Item, Lease, LicenceError, Refused, Ticket, Unreachable
from .config import load
from .units import seconds

# A seat that may or may not have been granted is looked for this long on the way out.
SETTLE_SECONDS = 10.0
SHORTEST_PAUSE = 0.2


def acquire(
    client: Client,
    alternatives: Sequence[Sequence[Item]],
    *,
    user: str,
    host: str = "",
    ttl: float | None = None,
    wait: float = 0,
    on_wait: Callable[[Ticket], None] | None = None,
) -> Lease:
    """Seats, after a wait of at most ``wait`` seconds in the queue.

    ``on_wait`` is told the place each time it is asked for. Whatever ends this
    early, an exception from a signal handler too, leaves nothing behind: the
    queue is left, and a seat that was granted meanwhile is returned. Raises
    Refused or Unreachable.
    """
    deadline = time.monotonic() + wait
    while True:
        key = uuid.uuid4().hex
        left = max(deadline - time.monotonic(), 0)

        def ask(patience: float | None = None, key: str = key, left: float = left) -> Lease | Ticket:
            asker = client if patience is None else _with_patience(client, patience)
            return asker.borrow(alternatives, user=user, host=host, ttl=ttl, wait=left, key=key)

        outcome: Lease | Ticket | None = None
        try:
            outcome = ask()
            while isinstance(outcome, Ticket):
                if on_wait is not None:
                    on_wait(outcome)
                time.sleep(outcome.poll_after)
                # A server that is away for a while ends no wait.
                outcome = client.poll(outcome.id, patience=max(deadline - time.monotonic(), client.patience))
            return outcome
        except Refused as refused:
            # The server was away for longer than it waits for us: stand in line again.
            if refused.code == "queue_dropped" and time.monotonic() < deadline:
                continue
            raise
        except BaseException:
            with contextlib.suppress(LicenceError):
                hurried = _with_patience(client, SETTLE_SECONDS)
                if outcome is None:
                    # Asked, and no answer read: only the same key can tell.
                    outcome = ask(SETTLE_SECONDS)
                if isinstance(outcome, Ticket):
                    hurried.leave(outcome.id)
                else:
                    hurried.give_back(outcome.id)
            raise


def _with_patience(client: Client, patience: float) -> Client:
    return Client(client.server, token=client.token, timeout=min(client.timeout, patience), patience=patience)


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
        self._thread = threading.Thread(target=self._keep, name="licence-heartbeat", daemon=True)
        if lease.heartbeat_seconds is not None:
            self._thread.start()

    def give_back(self) -> None:
        """Stop the heartbeats and return the seats; raises Unreachable if that
        can't be said to the server, which then frees them at the lease's end."""
        self._over.set()
        if self._thread.is_alive():
            # A heartbeat on its way is harmless: an ended lease isn't revived.
            self._thread.join(timeout=0.1)
        if not self.lost.is_set():
            self.client.give_back(self.lease.id)

    def _keep(self) -> None:
        pause = self._beat()
        while not self._over.wait(pause):
            try:
                # One try: a longer one would delay the way out.
                self.lease = self.client.renew(self.lease.id, patience=0)
            except Refused as refused:
                self._lose(refused.detail)
                return
            except Unreachable as error:
                if self.lease.ends is not None and time.monotonic() >= self.lease.ends:
                    self._lose(f"No heartbeat has reached the server in time. {error}")
                    return
                pause = max(self._beat() / 10, SHORTEST_PAUSE)
            else:
                pause = self._beat()

    def _beat(self) -> float:
        # Not all clients at once, and never later than told.
        return (self.lease.heartbeat_seconds or 0) * random.uniform(0.8, 1)  # noqa: S311

    def _lose(self, reason: str) -> None:
        if self._over.is_set():
            return
        self.reason = reason
        self.lost.set()
        if self._on_lost is not None:
            self._on_lost(reason)


class Licence:
    """Seats for a block of Python:

        with Licence("cad_tool", wait="30m") as lease:
            ...

    ``seats`` are of ``tool``; ``items`` in its place are a set of several
    tools. Durations are seconds or texts like ``"30m"``. Server, token and user
    come from the environment or the configuration file unless given. Entering
    raises Refused or Unreachable; ``lease.lost`` is set if the seat is lost
    meanwhile.
    """

    def __init__(
        self,
        tool: str | None = None,
        seats: int = 1,
        *,
        items: Sequence[Item] = (),
        wait: str | float = 0,
        ttl: str | float | None = None,
        server: str | None = None,
        token: str | None = None,
        user: str | None = None,
        host: str | None = None,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        if (tool is None) == (not items):
            raise ValueError("name a tool, or items")
        config = load(server=server, token=token, user=user)
        self.client = Client(config.server, token=config.token)
        self._items = tuple(items) or (Item(str(tool), seats),)
        self._user = config.user
        self._host = host if host is not None else socket.gethostname()
        self._wait = seconds(wait)
        self._ttl = seconds(ttl) if ttl is not None else None
        self._on_lost = on_lost
        self._holding: Holding | None = None

    def __enter__(self) -> Holding:
        if self._holding is not None:
            raise RuntimeError("this licence is in use; make another")
        lease = acquire(self.client, [self._items], user=self._user, host=self._host, ttl=self._ttl, wait=self._wait)
        self._holding = Holding(self.client, lease, on_lost=self._on_lost)
        return self._holding

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        holding, self._holding = self._holding, None
        if holding is None:
            return
        try:
            holding.give_back()
        except LicenceError:
            # The block's own error matters more, and the seat comes back by itself.
            if error is None:
                raise
