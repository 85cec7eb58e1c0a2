"""Two replicas behind PgBouncer, which gives a connection to another client after each
transaction. Skipped without PgBouncer."""

import itertools
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest

from benchmarks.ports import free_port
from tests.support.contention import CAPACITY, History, borrow_and_return, ledger
from tests.support.databases import migrated_database
from tests.support.servers import Server, server_environment

CLIENTS = 32
OPERATIONS = 2_000
# Connections to PostgreSQL; the replicas have 16 to the pooler.
POOL = 3
# The values of docs/howto/scaling.md, except the lock's, which a test waits for. The
# isolation and the time zone must have no effect.
LIMITS = {
    "statement_timeout": "5s",
    "lock_timeout": "300ms",
    "idle_in_transaction_session_timeout": "10s",
    "default_transaction_isolation": "repeatable read",
    "timezone": "Asia/Kathmandu",
}


@dataclass
class Pooled:
    """Two servers, and a connection to their database without the pooler."""

    servers: list[Server]
    direct: str
    pooler: str


def pooled_replicas(folder: Path, stack: ExitStack, limits: dict[str, str]) -> Pooled:
    from benchmarks import clusters

    direct = stack.enter_context(migrated_database(folder))["DATABASE_URL"]
    with psycopg.connect(direct, autocommit=True) as connection:
        for name, value in limits.items():
            connection.execute(f"ALTER DATABASE \"{connection.info.dbname}\" SET {name} = '{value}'")
    pooler = stack.enter_context(clusters.pooled(folder / "pgbouncer", direct, "query_wait_timeout = 1", size=POOL))
    servers: list[Server] = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        port = free_port()
        database = {"DATABASE_URL": pooler, "LICENSE_DB_POOLER": "true"}
        environment = server_environment(folder / name, database, port)
        server = Server(f"http://127.0.0.1:{port}", environment, folder / name / "server.log")
        stack.callback(server.stop)
        server.start()
        servers.append(server)
    return Pooled(servers, direct, pooler)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    if not os.environ.get("DATABASE_URL"):
        pytest.skip("PgBouncer is for PostgreSQL")
    from benchmarks import clusters

    if clusters.pgbouncer() is None:
        pytest.skip("PgBouncer is not installed")
    with ExitStack() as closing:
        yield closing


@pytest.fixture
def pooled(tmp_path: Path, stack: ExitStack) -> Pooled:
    return pooled_replicas(tmp_path, stack, LIMITS)


def test_two_replicas_never_lend_more_than_the_capacity(pooled: Pooled) -> None:
    turns: queue.SimpleQueue[int] = queue.SimpleQueue()
    for turn in range(OPERATIONS):
        turns.put(turn)
    history = History()
    clients = [
        threading.Thread(target=borrow_and_return, args=(pooled.servers[number % 2], number, turns, history))
        for number in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()

    assert history.statuses[200] > 200
    assert history.statuses[409] > 50
    assert set(history.statuses) == {200, 409}
    assert 1 <= history.most_at_once() <= CAPACITY
    rows = ledger(pooled.servers[0])
    assert sorted(history.granted) == sorted(lease_id for lease_id, _, _ in rows)
    assert all(ended is not None for _, _, ended in rows)
    steps = sorted([(start, 1) for _, start, _ in rows] + [(ended, -1) for _, _, ended in rows if ended is not None])
    assert max(itertools.accumulate((change for _, change in steps), initial=0)) <= CAPACITY

    # 16 threads shared this number of sessions.
    with psycopg.connect(pooled.direct) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert row is not None
    assert 1 <= row[0] <= POOL


def test_a_ticket_of_one_replica_is_granted_by_the_other(pooled: Pooled) -> None:
    one, two = (server.url for server in pooled.servers)
    held = httpx.post(f"{one}/licenses/borrow", json={"user": "ana", "tool": "analysis", "seats": 2}).json()["id"]
    asked = {"user": "ben", "tool": "analysis", "wait_seconds": 600}
    ticket = httpx.post(f"{one}/licenses/borrow", json=asked).json()["ticket"]
    assert httpx.get(f"{two}/licenses/queue/{ticket}").status_code == 202
    assert httpx.post(f"{two}/licenses/return", json={"id": held}).status_code == 200
    granted = httpx.get(f"{two}/licenses/queue/{ticket}")
    assert granted.status_code == 200
    assert httpx.post(f"{one}/licenses/renew", json={"id": granted.json()["id"]}).status_code == 200


def test_a_retry_at_the_other_replica_takes_no_second_seat(pooled: Pooled) -> None:
    answers = [
        httpx.post(
            f"{server.url}/licenses/borrow",
            json={"user": "ana", "tool": "cad_tool"},
            headers={"Idempotency-Key": "job-7"},
        )
        for server in pooled.servers
    ]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert httpx.get(f"{pooled.servers[0].url}/licenses/cad_tool/status").json()["borrowed"] == 1


def test_the_limits_of_the_database_hold_behind_a_pooler(pooled: Pooled) -> None:
    with psycopg.connect(pooled.direct) as holder:
        holder.execute("SELECT 1 FROM licenses_tool WHERE name = 'cad_tool' FOR UPDATE")
        refused = httpx.post(
            f"{pooled.servers[0].url}/licenses/borrow", json={"tool": "cad_tool", "user": "ana"}, timeout=30
        )
    assert (refused.status_code, refused.json()["code"]) == (503, "busy")
    assert "no lock_timeout" not in pooled.servers[0].log.read_text()


def test_a_pool_without_a_free_connection_is_a_busy_database(pooled: Pooled) -> None:
    with ExitStack() as holding:
        for _ in range(POOL):
            # Each keeps its connection to PostgreSQL until its transaction ends.
            holding.enter_context(psycopg.connect(pooled.pooler)).execute("SELECT 1")
        refused = httpx.post(
            f"{pooled.servers[0].url}/licenses/borrow", json={"tool": "cad_tool", "user": "ana"}, timeout=30
        )
    assert (refused.status_code, refused.json()["code"]) == (503, "busy")
    granted = httpx.post(f"{pooled.servers[0].url}/licenses/borrow", json={"tool": "cad_tool", "user": "ana"})
    assert granted.status_code == 200


def test_a_server_says_at_its_start_that_limits_are_missing(tmp_path: Path, stack: ExitStack) -> None:
    pooled = pooled_replicas(tmp_path, stack, {"statement_timeout": "5s"})
    assert "PostgreSQL has no idle_in_transaction_session_timeout, lock_timeout for this server" in (
        pooled.servers[0].log.read_text()
    )
