"""A server with more requests than threads refuses requests that waited too long, and keeps leases."""

import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.support.servers import Server, running_server

# More than a worker has threads, by more than as many again.
WAITERS = 48


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[Server]:
    """Provide a server with one worker, so that its threads are soon all busy."""
    with running_server(
        tmp_path, WEB_CONCURRENCY="1", LICENSE_RATE_PER_ADDRESS="off", LICENSE_LONGEST_WAIT="2"
    ) as server:
        yield server


@contextmanager
def somebody_writes(server: Server) -> Iterator[None]:
    """Keep every change waiting, as an administrator at a prompt does."""
    if url := server.environment.get("DATABASE_URL"):
        with psycopg.connect(url) as connection:
            connection.execute("SELECT 1 FROM licenses_tool FOR UPDATE")
            yield
            connection.rollback()
    else:
        with closing(sqlite3.connect(server.environment["LICENSE_DB_PATH"], isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            yield
            file.execute("ROLLBACK")


def requests_in_flight(server: Server) -> float:
    """Return the requests that are being answered, with this one."""
    (line,) = re.findall(r"^licenseserver_requests_in_flight\S* (\S+)", httpx.get(f"{server.url}/metrics").text, re.M)
    return float(line)


def test_a_request_that_waited_too_long_is_refused_and_a_heartbeat_is_not(small_server: Server) -> None:
    url = small_server.url
    lease = httpx.post(f"{url}/licenses/borrow", json={"tool": "cad_tool", "user": "ana"}).json()["id"]
    sent: list[httpx.Request] = []
    answers: list[httpx.Response] = []
    heartbeats: list[httpx.Response] = []

    limits = httpx.Limits(max_connections=WAITERS)
    client = httpx.Client(timeout=60, limits=limits, event_hooks={"request": [sent.append]})

    def borrow() -> None:
        answers.append(client.post(f"{url}/licenses/borrow", json={"tool": "cad_tool", "user": "ben"}))

    def renew() -> None:
        heartbeats.append(httpx.post(f"{url}/licenses/renew", json={"id": lease}, timeout=60))

    threads = [threading.Thread(target=borrow) for _ in range(WAITERS)]
    pause = threading.Event()
    with somebody_writes(small_server):
        threads[0].start()
        while requests_in_flight(small_server) < 2:
            pause.wait(0.01)
        # The first one waits for the database. The others wait for their turn.
        for thread in threads[1:]:
            thread.start()
        while len(sent) < WAITERS:
            pause.wait(0.01)
        # All threads are busy for longer than a request may wait.
        pause.wait(2.5)
        threads.append(threading.Thread(target=renew))
        threads[-1].start()
        pause.wait(1)
    for thread in threads:
        thread.join()
    client.close()

    codes = Counter(answer.json().get("code", "granted") for answer in answers)
    assert codes["overloaded"] > WAITERS / 2, codes
    refused = next(answer for answer in answers if answer.json().get("code") == "overloaded")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert heartbeats[0].status_code == 200, heartbeats[0].text
    # The overload is over.
    assert httpx.post(f"{url}/licenses/return", json={"id": lease}).status_code == 200
    assert httpx.get(f"{url}/licenses/status").status_code == 200
    log = small_server.log.read_text()
    assert log.count("Overloaded: a request waited") == 1
    assert log.count("code=overloaded") + log.count('"code":"overloaded"') == 0
