"""The people and CI jobs of the site: each is a thread that borrows, works and returns.

A client writes down every call. One whose outcome it does not know it sends
again until it knows, as the documented retry rules ask of it.
"""

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any

from .history import Operation, Recorder
from .site import TEAMS, WITH_ONE_SEAT

# Longer than every limit of the server's own, so that its answer is seen.
TIMEOUT_SECONDS = 40
# After so long without a call a connection is not used again: the server closes it
# after 5 s, which may cross a call on its way.
IDLE_SECONDS = 4.0
# What a client waits after a refusal, and after a call of unknown outcome.
PAUSE_SECONDS = 0.03
PAUSE_AFTER_FAILURE_SECONDS = 0.5
# How long a client stands in the queue. A ticket may live for minutes without a
# poll, but not beyond that.
WAIT_SECONDS = 15


@dataclass
class Shared:
    """What all clients know: where the server is, and each other's leases."""

    port: int
    recorder: Recorder
    stopping: threading.Event = field(default_factory=threading.Event)
    # The newest lease of each client, for those who try what they may not do.
    newest: dict[str, str] = field(default_factory=dict)
    # Those that nobody has sent back yet.
    held: dict[str, str] = field(default_factory=dict)


class Cut(Exception):
    """The answer did not come, or not whole."""


class Caller:
    """A connection of one caller, and the record of its calls."""

    def __init__(self, shared: Shared, name: str, token: str) -> None:
        self.shared, self.name = shared, name
        self._headers = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        self._connection: socket.socket | None = None
        self._answers: BufferedReader | None = None
        self._used = 0.0

    def call(
        self,
        kind: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        facts: dict[str, Any] | None = None,
    ) -> Operation:
        """Send one request and record what came of it."""
        start = self.shared.recorder.now()
        status, answer, replayed = None, None, False
        try:
            status, replayed, text = self._exchange(method, path, body, key)
            answer = json.loads(text) if text else None
        except (OSError, Cut):
            self.close()
        done = Operation(
            self.name,
            kind,
            start,
            self.shared.recorder.now(),
            status,
            (facts or {}) | ({"key": key} if key else {}),
            answer,
            replayed,
        )
        self.shared.recorder.write(done)
        if done.is_unknown:
            # Or clients without an answer would keep the server from coming back.
            self.shared.stopping.wait(PAUSE_AFTER_FAILURE_SECONDS)
        return done

    def _exchange(self, method: str, path: str, body: Any, key: str | None) -> tuple[int, bool, bytes]:
        """The status of the answer, whether it is a replay, and its body. Raises Cut or OSError.

        Not http.client: it takes headers that break off for whole ones.
        """
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._headers}Content-Length: {len(content)}\r\n"
        if key:
            head += f"Idempotency-Key: {key}\r\n"
        if time.monotonic() - self._used > IDLE_SECONDS:
            self.close()
        if self._connection is None or self._answers is None:
            self._connection = socket.create_connection(("127.0.0.1", self.shared.port), TIMEOUT_SECONDS)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._answers = self._connection.makefile("rb")
        self._connection.sendall(head.encode() + b"\r\n" + content)
        lines = []
        while (line := self._answers.readline()) != b"\r\n":
            if not line.endswith(b"\r\n"):
                raise Cut
            lines.append(line)
        headers = dict(line.rstrip().lower().split(b": ", 1) for line in lines[1:])
        length = int(headers.get(b"content-length", 0))
        text = self._answers.read(length)
        if len(text) < length:
            raise Cut
        self._used = time.monotonic()
        if headers.get(b"connection") == b"close":
            self.close()
        return int(lines[0].split()[1]), headers.get(b"idempotent-replayed") == b"true", text

    def close(self) -> None:
        for part in (self._answers, self._connection):
            if part is not None:
                with contextlib.suppress(OSError):
                    part.close()
        self._answers = self._connection = None


class Client(threading.Thread):
    """One person: picks deeds at random until the run is over; only those named, if any are."""

    def __init__(self, shared: Shared, number: int, token: str, seed: int, only: tuple[str, ...] = ()) -> None:
        super().__init__(name=f"user{number}", daemon=True)
        self.shared, self.number = shared, number
        self.caller = Caller(shared, self.name, token)
        self.chance = random.Random(f"{seed}-{number}")
        self.borrows = 0
        self.failure: BaseException | None = None
        deeds: list[tuple[Callable[[], None], float]] = [
            (self.work, 30),
            (self.work_twice_as_polite, 8),
            (self.retry_with_a_key, 24),
            (self.send_a_key_at_once, 6),
            (self.reuse_a_key, 3),
            (self.work_in_a_set, 12),
            (self.take_what_there_is, 8),
            (self.renew_while_working, 8),
            (self.oversleep, 4),
            (self.abandon, 4),
            # Few, or everybody would stand in the queues all the time.
            (self.wait_for_the_one_seat, 4),
            (self.give_up_waiting, 3),
            (self.stop_asking, 0.3),
            (self.work_for_a_team, 24),
            (self.hurry_for_a_team, 8),
            (self.work_on_what_ends, 6),
            (self.touch_what_is_not_mine, 4),
        ]
        self.deeds = [(deed, weight) for deed, weight in deeds if not only or deed.__name__ in only]

    def run(self) -> None:
        deeds, weights = zip(*self.deeds, strict=True)
        try:
            # Not all at once.
            self._sleep(self.chance.random())
            while not self.shared.stopping.is_set():
                self.chance.choices(deeds, weights)[0]()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the thread is joined
            self.failure = error
        finally:
            self.caller.close()

    # --- What it does

    def work(self) -> None:
        self._use({"tool": self.chance.choice(["cad", "cad", "spare"]), "seats": self.chance.choice([1, 1, 2])})

    def work_twice_as_polite(self) -> None:
        """Return twice: the second time must change nothing."""
        lease = self._borrow({"tool": "cad"})
        if lease is not None:
            self._hold()
            self._give_back(lease)
            self._give_back(lease)

    def retry_with_a_key(self) -> None:
        """Ask again with the same key until the outcome is known."""
        lease = self._borrow({"tool": self.chance.choice(["cad", "duo", "spare"])}, key=self._new_key())
        if lease is not None:
            self._hold()
            self._give_back(lease)

    def send_a_key_at_once(self) -> None:
        """Ask again though the answer is known: it must be the same."""
        key, body = self._new_key(), self._request({"tool": "cad"})
        first = self._ask(body, key)
        again = self._ask(body, key)
        for operation in (first, again):
            if operation.status == 200:
                self._give_back(operation.answer)
                return

    def reuse_a_key(self) -> None:
        """Use a key for another request, which must be refused."""
        key = self._new_key()
        lease = self._borrow({"tool": "spare"}, key=key)
        if self.shared.stopping.is_set():
            # Perhaps nobody knows the key: the first use was not decided.
            return
        self.caller.call("misuse", "POST", "/licenses/borrow", self._request({"tool": "spare", "seats": 3}), key=key)
        if lease is not None:
            self._give_back(lease)

    def work_in_a_set(self) -> None:
        tools = self.chance.sample(["cad", "duo", "spare"], self.chance.choice([2, 2, 3]))
        self._use({"items": [{"tool": tool} for tool in tools]})

    def take_what_there_is(self) -> None:
        sets = [[{"tool": tool}] for tool in self.chance.sample(["single", "solo", "duo", "cad"], 2)]
        self._use({"alternatives": sets})

    def renew_while_working(self) -> None:
        lease = self._borrow({"tool": self.chance.choice(["cad", "duo"]), "ttl_seconds": 2})
        for _ in range(self.chance.randint(1, 4)):
            if lease is None:
                return
            self._sleep(self.chance.choice([0.05, 0.3, 0.7]))
            if self._renew(lease).status == 410:
                return
        if lease is not None:
            self._give_back(lease)

    def oversleep(self) -> None:
        """Send a heartbeat when the lease is surely over: it must not revive it."""
        asked = self.shared.recorder.now()
        lease = self._borrow({"tool": "spare", "ttl_seconds": 1})
        if lease is not None:
            known = self.shared.recorder.now()
            self._sleep(1.3)
            self._renew(lease, over_since=known + 1.0, asked=asked)

    def abandon(self) -> None:
        """Vanish without a return, as a client that crashed."""
        self._borrow({"tool": self.chance.choice(["cad", "duo"]), "ttl_seconds": self.chance.choice([1, 2])})

    def wait_for_the_one_seat(self) -> None:
        self._wait({"tool": self.chance.choice(WITH_ONE_SEAT)}, polls=200)

    def give_up_waiting(self) -> None:
        self._wait({"tool": self.chance.choice(WITH_ONE_SEAT)}, polls=self.chance.randint(1, 3))

    def stop_asking(self) -> None:
        """Take a place in the queue and vanish."""
        self._ask(self._request({"tool": self.chance.choice(WITH_ONE_SEAT), "wait_seconds": 1}), None)

    def work_for_a_team(self) -> None:
        body: dict[str, Any] = {"tool": "sim", "seats": self.chance.choice([1, 1, 2, 3])}
        if self.chance.random() < 0.5:
            body["team"] = self.chance.choice(list(TEAMS))
        lease = self._borrow(body)
        if lease is not None:
            # Long enough that others meet quotas, limits and reservations.
            self._sleep(self.chance.choice([0.2, 0.6, 1.0]))
            self._give_back(lease)

    def hurry_for_a_team(self) -> None:
        """Borrow and return at once, so that many decide about one quota."""
        if self.number not in TEAMS["red"]:
            self._sleep(PAUSE_SECONDS)
        elif lease := self._borrow({"tool": "sim", "team": "red"}):
            self._give_back(lease)

    def work_on_what_ends(self) -> None:
        lease = self._borrow({"tool": "dated"})
        if lease is not None:
            # Long enough that the license may end meanwhile.
            self._sleep(self.chance.choice([0.2, 1.0, 2.0]))
            self._give_back(lease)

    def touch_what_is_not_mine(self) -> None:
        """Return and renew another person's lease: it must not be found."""
        others = [lease for user, lease in list(self.shared.newest.items()) if user != self.name]
        if others:
            lease = self.chance.choice(others)
            kind = self.chance.choice(["return", "renew"])
            self.caller.call("trespass", "POST", f"/licenses/{kind}", {"id": lease}, facts={"lease": lease})

    # --- How it does it

    def _request(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """A borrow's body; its project is the same for no other borrow."""
        self.borrows += 1
        return {"user": self.name, "project": f"{self.name}-{self.borrows}", "ttl_seconds": 6, **wanted}

    def _new_key(self) -> str:
        return f"{self.name}-{self.chance.getrandbits(64):x}"

    def _ask(self, body: dict[str, Any], key: str | None) -> Operation:
        facts = {"project": body["project"], "team": body.get("team")}
        return self.caller.call("borrow", "POST", "/licenses/borrow", body, key=key, facts=facts)

    def _borrow(self, wanted: dict[str, Any], key: str | None = None) -> dict[str, Any] | None:
        """The lease, or None if it was refused or nobody knows; with a key, it
        asks until it knows."""
        body = self._request(wanted)
        operation = self._ask(body, key)
        while key is not None and operation.is_unknown and not self.shared.stopping.is_set():
            operation = self._ask(body, key)
        if operation.status == 200:
            self.shared.newest[self.name] = self.shared.held[self.name] = operation.answer["id"]
            lease: dict[str, Any] = operation.answer
            return lease
        self._sleep(PAUSE_SECONDS)
        return None

    def _use(self, wanted: dict[str, Any]) -> None:
        lease = self._borrow(wanted)
        if lease is not None:
            self._hold()
            self._give_back(lease)

    def _hold(self, longest: float = 1.0) -> None:
        """Work; now and then for much longer than a call takes, so that two who hold one
        seat would see each other."""
        self._sleep(min(self.chance.choice([0.0, 0.01, 0.03, 0.2, 1.0]), longest))

    def _renew(self, lease: dict[str, Any], **facts: float) -> Operation:
        return self.caller.call(
            "renew", "POST", "/licenses/renew", {"id": lease["id"]}, facts={"lease": lease["id"], **facts}
        )

    def _give_back(self, lease: dict[str, Any]) -> None:
        facts = {"lease": lease["id"]}
        self.shared.held.pop(self.name, None)
        while True:
            done = self.caller.call("return", "POST", "/licenses/return", {"id": lease["id"]}, facts=facts)
            if not done.is_unknown or self.shared.stopping.is_set():
                return

    def _wait(self, wanted: dict[str, Any], *, polls: int) -> None:
        """Stand in the queue; leave it after so many polls without a seat."""
        operation = self._ask(self._request({**wanted, "wait_seconds": WAIT_SECONDS}), None)
        if operation.status == 200:
            self._hold(0.1)
            self._give_back(operation.answer)
        if operation.status != 202:
            return
        ticket = operation.answer["ticket"]
        for _ in range(polls):
            if self.shared.stopping.is_set():
                return
            self._sleep(self.chance.choice([0.05, 0.1, 0.3]))
            polled = self.caller.call("poll", "GET", f"/licenses/queue/{ticket}", facts={"ticket": ticket})
            if polled.status == 200:
                self._hold(0.1)
                self._give_back(polled.answer)
            if polled.status in {200, 404, 410}:
                return
        left = self.caller.call("leave", "DELETE", f"/licenses/queue/{ticket}", facts={"ticket": ticket})
        if left.status == 409:
            # The seat came just before: it is ours, and goes back.
            self._give_back({"id": left.answer["lease"]})

    def _sleep(self, seconds: float) -> None:
        self.shared.stopping.wait(seconds)
