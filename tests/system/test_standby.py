"""A standby of the database: a server that reads from it, and one that follows it
when it becomes the primary."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest
from django.db import connection

from benchmarks.ports import free_port
from tests.support.paths import ROOT
from tests.support.servers import Server, server_environment

if TYPE_CHECKING:
    from benchmarks.clusters import Cluster


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    if connection.vendor != "postgresql":
        pytest.skip("standbys are PostgreSQL's")
    with ExitStack() as closing:
        yield closing


@pytest.fixture
def pair(tmp_path: Path, stack: ExitStack) -> tuple["Cluster", "Cluster"]:
    """Provide a primary that waits for its standby with every commit, and the standby."""
    from benchmarks import clusters

    primary = clusters.Cluster.created(tmp_path / "primary")
    stack.callback(primary.stop)
    standby = primary.standby(tmp_path / "standby", "standby")
    stack.callback(standby.stop)
    # The standby has applied it, not only written it, so that reads see it.
    primary.configure("synchronous_standby_names = 'standby'", "synchronous_commit = remote_apply")
    primary.reload()

    def follows() -> bool:
        with psycopg.connect(primary.url) as session:
            return session.execute("SELECT sync_state FROM pg_stat_replication").fetchall() == [("sync",)]

    clusters.wait_for(follows, "the standby")
    return primary, standby


def answered(call: Callable[[], httpx.Response]) -> httpx.Response:
    """Return the answer to a call. Each thread finds out by itself that its connection is dead, and says so once
    to whoever asks."""
    from benchmarks import clusters

    answers: list[httpx.Response] = []

    def is_answered() -> bool:
        answers.append(call())
        return answers[-1].status_code == 200

    clusters.wait_for(is_answered, "the server")
    assert {answer.status_code for answer in answers} <= {200, 503}
    return answers[-1]


def serve(folder: Path, stack: ExitStack, database: str, **more: str) -> Server:
    folder.mkdir()
    port = free_port()
    environment = server_environment(folder, {"DATABASE_URL": database}, port) | more
    server = Server(f"http://127.0.0.1:{port}", environment, folder / "server.log")
    stack.callback(server.stop)
    return server


def migrate(server: Server) -> None:
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"], cwd=ROOT, env=server.environment, check=True
    )


def borrow(server: Server, **more: str) -> httpx.Response:
    return httpx.post(f"{server.url}/licenses/borrow", json={"tool": "cad_tool", "user": "ana"} | more, timeout=60)


def test_a_server_on_a_standby_answers_questions_and_refuses_changes(
    tmp_path: Path, stack: ExitStack, pair: tuple["Cluster", "Cluster"]
) -> None:
    primary, standby = pair
    writing = serve(tmp_path / "writing", stack, primary.url)
    migrate(writing)
    writing.start()
    lease = borrow(writing).json()["id"]
    reading = serve(tmp_path / "reading", stack, standby.url, LICENSE_DB_SEED="false")
    reading.start()

    for path in (
        "/licenses/cad_tool/status",
        "/borrows",
        "/api/v1/leases/",
        "/api/v1/reports/usage?by=tool",
        "/api/v1/reports/denials",
        "/api/v1/reports/utilisation",
        "/api/v1/reports/what-if?tool=cad_tool&capacity=4",
        "/metrics",
        "/",
    ):
        assert httpx.get(reading.url + path).status_code == 200, path
    assert httpx.get(f"{reading.url}/licenses/cad_tool/status").json()["borrowed"] == 1
    changes = [
        borrow(reading),
        httpx.post(f"{reading.url}/licenses/renew", json={"id": lease}),
        httpx.post(f"{reading.url}/licenses/return", json={"id": lease}),
    ]
    for refused in changes:
        assert (refused.status_code, refused.json()["code"]) == (503, "read_only")
        assert refused.headers["Retry-After"] == "5"
    assert httpx.get(f"{writing.url}/licenses/cad_tool/status").json()["borrowed"] == 1
    assert "ana" in reading.manage("usage_report", "usage")


def test_a_server_follows_the_primary_and_forgets_nothing_that_it_answered(
    tmp_path: Path, stack: ExitStack, pair: tuple["Cluster", "Cluster"]
) -> None:
    from benchmarks import clusters

    primary, standby = pair
    server = serve(tmp_path / "server", stack, clusters.url_of_any(primary, standby))
    migrate(server)
    server.start()
    leases = [borrow(server).json()["id"] for _ in range(4)]
    httpx.post(f"{server.url}/licenses/return", json={"id": leases.pop()}).raise_for_status()
    replayed = httpx.post(
        f"{server.url}/licenses/borrow", json={"tool": "simulation", "user": "ana"}, headers={"Idempotency-Key": "k"}
    )

    primary.kill()
    refused = borrow(server)
    assert (refused.status_code, refused.json()["code"]) == (503, "busy")
    assert httpx.get(f"{server.url}/livez").status_code == 200
    assert httpx.get(f"{server.url}/readyz").status_code == 503

    standby.promote()
    borrows = answered(lambda: httpx.get(f"{server.url}/borrows")).json()
    assert {lease["id"] for lease in borrows} == {*leases, replayed.json()["id"]}
    again = answered(
        lambda: httpx.post(
            f"{server.url}/licenses/borrow",
            json={"tool": "simulation", "user": "ana"},
            headers={"Idempotency-Key": "k"},
        )
    )
    assert again.json()["id"] == replayed.json()["id"]
    answered(lambda: borrow(server))
    status = answered(lambda: httpx.get(f"{server.url}/licenses/cad_tool/status"))
    assert status.json()["borrowed"] == len(leases) + 1
