"""Many clients against several workers never get more seats than the capacity."""

import itertools
import queue
import threading

import httpx

from tests.support.contention import CAPACITY, History, borrow_and_return, ledger
from tests.support.servers import Server

CLIENTS = 64
OPERATIONS = 2_000


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
