"""Many clients against several workers never get more seats than the capacity."""

import itertools
import queue
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx

from .conftest import Server

CLIENTS = 64
OPERATIONS = 5_000
CAPACITY = 5


@dataclass
class History:
    """What the clients saw. A lease is surely out from the moment its borrow
    was answered to the moment its return was sent."""

    held: list[tuple[float, float]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    granted: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def most_at_once(self) -> int:
        # A return at the same instant as a borrow comes first.
        steps = sorted(itertools.chain.from_iterable(((start, 1), (end, -1)) for start, end in self.held))
        return max(itertools.accumulate((change for _, change in steps), initial=0))


def borrow_and_return(server: Server, number: int, turns: "queue.SimpleQueue[int]", history: History) -> None:
    """Borrow and return until all turns are taken."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        while True:
            try:
                turns.get_nowait()
            except queue.Empty:
                return
            answer = client.post("/licenses/borrow", json={"tool": "cad_tool", "user": f"user{number}"})
            start = time.monotonic()
            with history.lock:
                history.statuses[answer.status_code] += 1
            if answer.status_code != 200:
                continue
            lease_id = answer.json()["id"]
            end = time.monotonic()
            returned = client.post("/licenses/return", json={"id": lease_id})
            with history.lock:
                history.held.append((start, end))
                history.granted.append(lease_id)
                history.statuses[returned.status_code] += 1


def ledger(server: Server) -> list[tuple[str, float, float | None]]:
    """Return every lease of the database, read in pages of the API."""
    from datetime import datetime

    rows = []
    url: str | None = f"{server.url}/api/v1/leases/?page_size=200"
    while url:
        page = httpx.get(url).json()
        for lease in page["results"]:
            ended = lease["ended_at"] and datetime.fromisoformat(lease["ended_at"]).timestamp()
            rows.append((lease["id"], datetime.fromisoformat(lease["borrowed_at"]).timestamp(), ended))
        url = page["next"]
    return rows


def test_64_clients_never_hold_more_than_the_capacity(server: Server) -> None:
    turns: queue.SimpleQueue[int] = queue.SimpleQueue()
    for turn in range(OPERATIONS):
        turns.put(turn)
    history = History()
    clients = [
        threading.Thread(target=borrow_and_return, args=(server, number, turns, history)) for number in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()

    # Without contention the run would show nothing.
    assert history.statuses[200] > 200
    assert history.statuses[409] > 100
    assert set(history.statuses) == {200, 409}
    assert 1 <= history.most_at_once() <= CAPACITY

    rows = ledger(server)
    assert sorted(history.granted) == sorted(lease_id for lease_id, _, _ in rows)
    # The database's times, taken under the lock, are exact.
    steps = sorted([(start, 1) for _, start, _ in rows] + [(ended, -1) for _, _, ended in rows if ended is not None])
    assert max(itertools.accumulate((change for _, change in steps), initial=0)) <= CAPACITY
    assert all(ended is not None for _, _, ended in rows)

    status = httpx.get(f"{server.url}/licenses/cad_tool/status").json()
    assert (status["borrowed"], status["available"]) == (0, CAPACITY)
    metrics = httpx.get(f"{server.url}/metrics").text.splitlines()
    granted = len(history.granted)
    refused = OPERATIONS - granted
    assert f'license_borrow_attempts_total{{tool="cad_tool"}} {float(OPERATIONS)}' in metrics
    assert f'license_borrow_success_total{{tool="cad_tool"}} {float(granted)}' in metrics
    assert f'license_borrow_failure_total{{reason="exhausted",tool="cad_tool"}} {float(refused)}' in metrics
    assert f'license_returns_total{{reason="returned",tool="cad_tool"}} {float(granted)}' in metrics


def test_one_lease_returned_by_many_at_once_is_freed_once(server: Server) -> None:
    leases = [
        httpx.post(f"{server.url}/licenses/borrow", json={"tool": "cad_tool", "user": "ana"}).json()["id"]
        for _ in range(2)
    ]
    statuses: queue.SimpleQueue[int] = queue.SimpleQueue()

    def give_back() -> None:
        statuses.put(httpx.post(f"{server.url}/licenses/return", json={"id": leases[0]}, timeout=60).status_code)

    threads = [threading.Thread(target=give_back) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {statuses.get() for _ in threads} == {200}
    assert httpx.get(f"{server.url}/licenses/cad_tool/status").json()["borrowed"] == 1
