"""Expiry, renewals, retries, sets and the queue at once keep the invariants, with several
sweepers and workers.

The clients record the answers. At the end the test compares them with the server's
leases, whose times are taken under the locks.
"""

import itertools
import random
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx

from tests.support.paths import ROOT
from tests.support.servers import Server

CLIENTS = 24
TURNS = 20
CAPACITY = {"cad_tool": 5, "simulation": 3, "analysis": 2, "single": 1}
WAIT_SECONDS = 300


@dataclass
class History:
    """What the clients were told."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    # Leases by id, as granted.
    granted: dict[str, dict[str, Any]] = field(default_factory=dict)
    returned: set[str] = field(default_factory=set)
    # The last end that a heartbeat was promised.
    promised: dict[str, str] = field(default_factory=dict)
    refused_renewals: set[str] = field(default_factory=set)
    # Ticket deadlines by the lease that came of them, and leases got at once.
    waited: dict[str, str] = field(default_factory=dict)
    at_once: set[str] = field(default_factory=set)
    answers_by_key: dict[str, set[tuple[int, str]]] = field(default_factory=lambda: defaultdict(set))
    happened: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)


class Worker:
    """One client with random actions."""

    def __init__(self, server: Server, number: int, history: History) -> None:
        self.http = httpx.Client(base_url=server.url, timeout=60)
        self.user = f"user{number}"
        self.chance = random.Random(number)
        self.history = history

    def run(self) -> None:
        deeds: list[Callable[[], None]] = [
            self.work,
            self.work_in_a_set,
            self.crash,
            self.work_long,
            self.retry,
            self.wait,
            self.wait_for_the_single_seat,
            self.take_the_single_seat,
        ]
        with self.http:
            for _ in range(TURNS):
                self.chance.choice(deeds)()

    # --- what it does

    def work(self) -> None:
        if lease := self.borrow({"tool": "cad_tool", "seats": self.chance.randint(1, 2)}):
            self.give_back(lease)

    def work_in_a_set(self) -> None:
        tools = self.chance.sample(["cad_tool", "simulation", "analysis"], self.chance.randint(2, 3))
        if lease := self.borrow({"items": [{"tool": tool} for tool in tools]}):
            self.history.happened["set"] += 1
            self.give_back(lease)

    def crash(self) -> None:
        self.borrow({"tool": self.chance.choice(["cad_tool", "simulation"]), "ttl_seconds": 1})

    def work_long(self) -> None:
        if lease := self.borrow({"tool": "simulation", "ttl_seconds": 1}):
            for _ in range(self.chance.randint(1, 4)):
                time.sleep(self.chance.choice([0.1, 0.3, 1.2]))
                if not self.renew(lease):
                    return
            self.give_back(lease)

    def retry(self) -> None:
        """Send the same request twice at once, as after a lost reply."""
        key = uuid.uuid4().hex
        leases: list[dict[str, Any] | None] = []
        twice = [
            threading.Thread(target=lambda: leases.append(self.borrow({"tool": "cad_tool"}, key=key))) for _ in range(2)
        ]
        for thread in twice:
            thread.start()
        for thread in twice:
            thread.join()
        if leases[0]:
            self.give_back(leases[0])

    def wait(self) -> None:
        self.wait_for({"items": [{"tool": "cad_tool", "seats": self.chance.randint(1, 3)}, {"tool": "analysis"}]})

    def wait_for_the_single_seat(self) -> None:
        self.wait_for({"tool": "single"}, leaves=False)

    def take_the_single_seat(self) -> None:
        if lease := self.borrow({"tool": "single"}):
            with self.history.lock:
                self.history.at_once.add(lease["id"])
            self.give_back(lease)

    # --- how it does it

    def borrow(self, wanted: dict[str, Any], key: str | None = None) -> dict[str, Any] | None:
        body = {"user": self.user, **wanted}
        answer = self.http.post("/licenses/borrow", json=body, headers={"Idempotency-Key": key} if key else {})
        with self.history.lock:
            if key:
                self.history.answers_by_key[key].add((answer.status_code, answer.text))
        return self.note(answer)

    def note(self, answer: httpx.Response) -> dict[str, Any] | None:
        with self.history.lock:
            self.history.happened[str(answer.status_code)] += 1
            if answer.headers.get("Idempotent-Replayed"):
                self.history.happened["replay"] += 1
            if answer.status_code == 200:
                lease: dict[str, Any] = answer.json()
                self.history.granted.setdefault(lease["id"], lease)
                self.history.promised.setdefault(lease["id"], lease["expires_at"])
                return lease
            if answer.status_code not in {202, 409}:
                self.history.unexpected.append(answer.text)
        return None

    def renew(self, lease: dict[str, Any]) -> bool:
        answer = self.http.post("/licenses/renew", json={"id": lease["id"]})
        with self.history.lock:
            self.history.happened[f"renew {answer.status_code}"] += 1
            if answer.status_code == 200:
                self.history.promised[lease["id"]] = answer.json()["expires_at"]
            elif answer.status_code == 410:
                self.history.refused_renewals.add(lease["id"])
            else:
                self.history.unexpected.append(answer.text)
        return answer.status_code == 200

    def give_back(self, lease: dict[str, Any]) -> None:
        answer = self.http.post("/licenses/return", json={"id": lease["id"]})
        with self.history.lock:
            if answer.status_code == 200:
                self.history.returned.add(lease["id"])
            else:
                self.history.unexpected.append(answer.text)

    def wait_for(self, wanted: dict[str, Any], *, leaves: bool = True) -> None:
        answer = self.http.post("/licenses/borrow", json={"user": self.user, "wait_seconds": WAIT_SECONDS, **wanted})
        lease = self.note(answer)
        if lease and not leaves:
            with self.history.lock:
                self.history.at_once.add(lease["id"])
        if answer.status_code == 202:
            ticket = answer.json()
            patience = self.chance.randint(1, 8) if leaves else 10_000
            for _ in range(patience):
                time.sleep(0.05)
                answer = self.http.get(f"/licenses/queue/{ticket['ticket']}")
                if lease := self.note(answer):
                    with self.history.lock:
                        self.history.waited[lease["id"]] = ticket["deadline"]
                        self.history.happened["waited"] += 1
                    break
            else:
                left = self.http.delete(f"/licenses/queue/{ticket['ticket']}").status_code
                with self.history.lock:
                    self.history.happened["left"] += 1
                    if left != 204:
                        self.history.unexpected.append(f"left with {left}")
        if lease:
            self.give_back(lease)


@contextmanager
def sweeping(server: Server, copies: int) -> Iterator[None]:
    """Several ``expire_leases --loop`` at once, one of which is killed."""
    sweepers = [
        subprocess.Popen(
            [sys.executable, "manage.py", "expire_leases", "--loop", "--every", "0.2"],
            cwd=ROOT,
            env=server.environment,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(copies)
    ]
    try:
        yield
        sweepers[0].kill()
    finally:
        for sweeper in sweepers:
            sweeper.terminate()
            sweeper.wait(30)
    assert {sweeper.returncode for sweeper in sweepers[1:]} == {0}


def ledger(server: Server) -> dict[str, dict[str, Any]]:
    """Return every lease of the server, with all names."""
    leases = {}
    made = server.manage("token", "create", "ledger", "--scope", "admin", "--scope", "read")
    secret = next(word for word in made.split() if word.startswith("lic_"))
    url: str | None = f"{server.url}/api/v1/leases/?page_size=200"
    while url:
        page = httpx.get(url, headers={"Authorization": f"Bearer {secret}"}).json()
        leases.update({lease["id"]: lease for lease in page["results"]})
        url = page["next"]
    return leases


def when(text: str) -> datetime:
    return datetime.fromisoformat(text)


def until_all_is_back(server: Server) -> dict[str, dict[str, Any]]:
    """Wait until the last seat is back and return the state of the tools."""
    deadline = time.monotonic() + 30
    while True:
        status = {entry["tool"]: entry for entry in httpx.get(f"{server.url}/licenses/status").json()}
        if not any(entry["borrowed"] or entry["queued"] for entry in status.values()):
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.1)


def test_whatever_happens_at_once_the_invariants_hold(server: Server) -> None:
    server.manage("seed", *itertools.chain.from_iterable(("--tool", f"{name}={n}") for name, n in CAPACITY.items()))
    history = History()
    workers = [Worker(server, number, history) for number in range(CLIENTS)]
    with sweeping(server, copies=2):
        threads = [threading.Thread(target=worker.run) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert history.unexpected == []
    status = until_all_is_back(server)
    leases = ledger(server)

    # Without contention the run would show nothing.
    for event in ("200", "202", "409", "replay", "set", "waited", "left", "renew 200", "renew 410"):
        assert history.happened[event] > 0, event
    assert any(lease["end_reason"] == "expired" for lease in leases.values())

    # Never more seats than the capacity, by the times that were taken under the locks.
    steps: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for lease in leases.values():
        for item in lease["items"]:
            steps[item["tool"]].append((when(lease["borrowed_at"]), item["seats"]))
            steps[item["tool"]].append((when(lease["ended_at"]), -item["seats"]))
    for tool, capacity in CAPACITY.items():
        most = max(itertools.accumulate(seats for _, seats in sorted(steps[tool])))
        assert 1 <= most <= capacity, tool

    # Never lost, and nothing that nobody was told of.
    assert set(leases) == set(history.granted)
    for lease_id, told in history.granted.items():
        assert {key: leases[lease_id][key] for key in ("user", "items", "borrowed_at", "fence")} == {
            key: told[key] for key in ("user", "items", "borrowed_at", "fence")
        }

    # Each lease ended once, with a reason, and not before its promised end.
    for lease_id, lease in leases.items():
        if lease["end_reason"] == "expired":
            assert when(lease["ended_at"]) >= when(history.promised[lease_id])
        else:
            assert lease["end_reason"] == "returned"
            assert lease_id in history.returned
    assert all(leases[lease_id]["end_reason"] == "expired" for lease_id in history.refused_renewals)

    # One key, one answer.
    assert all(len(answers) == 1 for answers in history.answers_by_key.values())

    # A later lease has a higher fence.
    by_tool: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for lease in leases.values():
        for item in lease["items"]:
            by_tool[item["tool"]].append((when(lease["borrowed_at"]), item["fence"]))
    for grants in by_tool.values():
        fences = [fence for _, fence in sorted(grants)]
        assert fences == sorted(set(fences))

    # A tool with one seat serves the queue in order, and no newcomer goes first.
    single = {id_: lease for id_, lease in leases.items() if lease["tool"] == "single"}
    waited = [(when(history.waited[id_]), lease) for id_, lease in single.items() if id_ in history.waited]
    fences = [lease["fence"] for _, lease in sorted(waited, key=lambda wait: wait[0])]
    assert len(fences) > 10
    assert fences == sorted(fences)
    waits = [(deadline - timedelta(seconds=WAIT_SECONDS), when(lease["borrowed_at"])) for deadline, lease in waited]
    for id_ in history.at_once & single.keys():
        taken = when(single[id_]["borrowed_at"])
        assert not any(came < taken < served for came, served in waits)

    # The counters equal the rows after the last expired lease is closed.
    server.manage("expire_leases")
    assert all((entry["borrowed"], entry["available"]) == (0, entry["total"]) for entry in status.values())
    metrics = dict(
        line.rsplit(" ", 1) for line in httpx.get(f"{server.url}/metrics").text.splitlines() if not line.startswith("#")
    )
    for tool in CAPACITY:
        rows = Counter(
            lease["end_reason"] for lease in leases.values() for item in lease["items"] if item["tool"] == tool
        )
        for reason in ("returned", "expired", "forced", "revoked"):
            assert float(metrics[f'license_returns_total{{reason="{reason}",tool="{tool}"}}']) == rows[reason]
        assert float(metrics[f'license_borrow_success_total{{tool="{tool}"}}']) == sum(rows.values())
        failures = sum(
            float(value)
            for name, value in metrics.items()
            if name.startswith("license_borrow_failure_total{") and f'tool="{tool}"' in name
        )
        attempts = float(metrics[f'license_borrow_attempts_total{{tool="{tool}"}}'])
        assert attempts == sum(rows.values()) + failures
