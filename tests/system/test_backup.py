"""Back up while clients borrow, and restore the backup elsewhere."""

import io
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import httpx
import psycopg
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection

from benchmarks.ports import free_port
from licenses.models import Tool
from tests.support.api import Api
from tests.support.contention import ledger
from tests.support.databases import empty_database
from tests.support.paths import ROOT
from tests.support.servers import Server, running_server, server_environment

CLIENTS = 8


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Load:
    """Clients that borrow and return every second lease, until they are stopped."""

    def __init__(self, server: Server) -> None:
        self.borrowed: list[str] = []
        self.returned: list[str] = []
        self.enough = threading.Condition()
        self.stopped = threading.Event()
        self.server = server
        self.clients = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for client in self.clients:
            client.start()

    def _run(self) -> None:
        with httpx.Client(base_url=self.server.url, timeout=60) as client:
            for turn in range(100_000):
                if self.stopped.is_set():
                    return
                lease = client.post("/licenses/borrow", json={"tool": "big", "user": "ana"}).json()["id"]
                with self.enough:
                    self.borrowed.append(lease)
                    self.enough.notify_all()
                if turn % 2:
                    client.post("/licenses/return", json={"id": lease}).raise_for_status()
                    with self.enough:
                        self.returned.append(lease)

    def acknowledged(self, at_least: int) -> tuple[set[str], set[str]]:
        """Wait for so many more borrows; what was borrowed and returned by then."""
        with self.enough:
            target = len(self.borrowed) + at_least
            assert self.enough.wait_for(lambda: len(self.borrowed) >= target, 60)
            return set(self.borrowed), set(self.returned)

    def stop(self) -> None:
        self.stopped.set()
        for client in self.clients:
            client.join()


def back_up(server: Server, file: Path) -> None:
    """Restore as docs/howto/backup.md says."""
    if "DATABASE_URL" not in server.environment:
        server.manage("backup", str(file))
        return
    from benchmarks.clusters import program

    subprocess.run(
        [program("pg_dump"), "--format=custom", f"--file={file}", server.environment["DATABASE_URL"]], check=True
    )


def restore(file: Path, folder: Path, closing: ExitStack) -> Server:
    """Return a stopped server with a database from a backup."""
    folder.mkdir()
    database = closing.enter_context(empty_database(folder))
    if "DATABASE_URL" in database:
        from benchmarks.clusters import program

        subprocess.run(
            [program("pg_restore"), "--no-owner", "--exit-on-error", f"--dbname={database['DATABASE_URL']}", str(file)],
            check=True,
        )
    else:
        Path(database["LICENSE_DB_PATH"]).write_bytes(file.read_bytes())
    port = free_port()
    server = Server(f"http://127.0.0.1:{port}", server_environment(folder, database, port), folder / "server.log")
    closing.callback(server.stop)
    return server


def test_a_backup_under_load_has_all_that_was_acknowledged_before(tmp_path: Path, closing: ExitStack) -> None:
    (tmp_path / "first").mkdir()
    with running_server(tmp_path / "first") as server:
        server.manage("seed", "--tool", "big=1000000")
        load = Load(server)
        try:
            borrowed, returned = load.acknowledged(100)
            back_up(server, tmp_path / "backup")
            # There was load: more was borrowed during or after the backup.
            later, _ = load.acknowledged(20)
        finally:
            load.stop()
    assert later > borrowed

    restored = restore(tmp_path / "backup", tmp_path / "second", closing)
    restored.start()
    rows = {lease: ended for lease, _, ended in ledger(restored)}
    assert borrowed <= rows.keys() <= set(load.borrowed)
    assert all(rows[lease] is not None for lease in returned)
    open_leases = [lease for lease, ended in rows.items() if ended is None]
    status = httpx.get(f"{restored.url}/licenses/big/status").json()
    assert status["borrowed"] == len(open_leases) > 0
    usage = restored.manage("usage_report", "usage", "--csv")
    restored.manage("rebuild_history")
    assert [line.split(",")[:3] for line in restored.manage("usage_report", "usage", "--csv").splitlines()] == [
        line.split(",")[:3] for line in usage.splitlines()
    ]

    # Holders continue; leases from after the backup are unknown.
    assert httpx.post(f"{restored.url}/licenses/renew", json={"id": open_leases[0]}).status_code == 200
    assert httpx.post(f"{restored.url}/licenses/return", json={"id": open_leases[0]}).status_code == 200
    unknown = next(iter(set(load.borrowed) - rows.keys()))
    refused = httpx.post(f"{restored.url}/licenses/renew", json={"id": unknown})
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_lease")
    # New rows get new numbers.
    assert httpx.post(f"{restored.url}/licenses/borrow", json={"tool": "big", "user": "ana"}).status_code == 200
    restored.manage("seed", "--tool", "new=1")
    assert "append-only" in audit_refuses_an_update(restored)


def audit_refuses_an_update(server: Server) -> str:
    """Try to change the audit and return the database's answer."""
    change = "UPDATE licenses_auditrecord SET note = 'changed'"
    if url := server.environment.get("DATABASE_URL"):
        with psycopg.connect(url) as session, pytest.raises(psycopg.errors.RestrictViolation) as refused:
            session.execute(change)
        return str(refused.value)
    with sqlite3.connect(server.environment["LICENSE_DB_PATH"]) as file, pytest.raises(sqlite3.Error) as failed:
        file.execute(change)
    return str(failed.value)


@pytest.mark.skipif(not os.environ.get("DATABASE_URL"), reason="PostgreSQL's archive")
def test_a_base_backup_and_the_archive_lead_back_to_a_moment(tmp_path: Path, closing: ExitStack) -> None:
    from benchmarks.clusters import Cluster, own_folder, run, wait_for

    archive = own_folder(tmp_path / "archive")
    first = Cluster.created(
        tmp_path / "first", "archive_mode = on", f"archive_command = 'test ! -f {archive}/%f && cp %p {archive}/%f'"
    )
    closing.callback(first.stop)
    (tmp_path / "server").mkdir()
    port = free_port()
    environment = server_environment(tmp_path / "server", {"DATABASE_URL": first.url}, port)
    server = Server(f"http://127.0.0.1:{port}", environment, tmp_path / "server.log")
    closing.callback(server.stop)
    server.manage("migrate", "--verbosity", "0")
    server.start()

    def borrow(tool: str) -> str:
        lease: str = httpx.post(f"{server.url}/licenses/borrow", json={"tool": tool, "user": "ana"}).json()["id"]
        return lease

    before = borrow("cad_tool")
    second = Cluster(own_folder(tmp_path / "second"))
    run("pg_basebackup", "-D", str(second.folder / "data"), "-d", first.url_of("postgres"), "-X", "none", "-c", "fast")
    between = borrow("simulation")
    with psycopg.connect(first.url, autocommit=True) as session:
        session.execute("SELECT pg_create_restore_point('the moment')")
    borrow("analysis")
    with psycopg.connect(first.url, autocommit=True) as session:
        session.execute("SELECT pg_switch_wal()")
        last = session.execute("SELECT pg_walfile_name(pg_current_wal_lsn() - 1)").fetchone()
    assert last is not None
    wait_for(lambda: (archive / last[0]).exists(), "the archive")
    server.stop()
    first.stop()

    second.configure(
        f"restore_command = 'cp {archive}/%f %p'",
        "recovery_target_name = 'the moment'",
        "recovery_target_action = 'promote'",
        "archive_mode = off",
    )
    (second.folder / "data" / "recovery.signal").touch()
    second.start()
    closing.callback(second.stop)
    server.environment["DATABASE_URL"] = second.url
    wait_for(second.is_primary, "the restored database")
    server.start()
    assert {lease for lease, _, _ in ledger(server)} == {before, between}


class TestTheCommand:
    @pytest.fixture(autouse=True)
    def on_sqlite(self, db: None) -> None:
        if connection.vendor != "sqlite":
            pytest.skip("for SQLite")

    def test_refuses_to_replace_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "backup").write_text("precious")
        with pytest.raises(CommandError, match="exists"):
            call_command("backup", tmp_path / "backup")
        assert (tmp_path / "backup").read_text() == "precious"

    def test_a_backup_does_not_touch_another_one_to_the_same_file(self, tmp_path: Path) -> None:
        (tmp_path / "backup.part").write_text("half of it")
        with pytest.raises(CommandError, match="File exists"):
            call_command("backup", tmp_path / "backup")
        assert (tmp_path / "backup.part").read_text() == "half of it"

    def test_leaves_nothing_behind_when_it_fails(self, tmp_path: Path) -> None:
        empty = {"LICENSE_DB_PATH": str(tmp_path / "empty.db"), "SECRET_KEY": settings.SECRET_KEY}
        failed = subprocess.run(
            [sys.executable, "manage.py", "backup", str(tmp_path / "backup")],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"} | empty,
            capture_output=True,
            text=True,
        )
        assert failed.returncode == 1
        assert "no such table" in failed.stderr
        assert not list(tmp_path.glob("backup*"))

    def test_says_so_if_the_folder_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match="can't be written"):
            call_command("backup", tmp_path / "nowhere" / "backup")

    def test_the_file_is_complete_and_private(self, tmp_path: Path) -> None:
        (tmp_path / "server").mkdir()
        with running_server(tmp_path / "server") as server:
            httpx.post(f"{server.url}/licenses/borrow", json={"tool": "cad_tool", "user": "ana"}).raise_for_status()
            told = server.manage("backup", str(tmp_path / "backup"))
        assert "1 open lease(s)" in told
        assert [path.name for path in tmp_path.glob("backup*")] == ["backup"]
        assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o600


def test_on_postgresql_the_command_names_the_programs_to_use(db: None, tmp_path: Path) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("for PostgreSQL")
    with pytest.raises(CommandError, match="PostgreSQL"):
        call_command("backup", tmp_path / "backup")


def test_after_a_restore_no_fence_is_given_out_twice(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool(capacity=5)
    kept = api.borrow().json()["fence"]
    # The leases from after the backup.
    lost = [kept + number for number in range(1, 1000)]
    told = io.StringIO()
    call_command("restored", stdout=told)
    assert api.borrow().json()["fence"] > max(lost)
    assert "cad: 8:00:00, or longer" in told.getvalue()
    assert api.status()["borrowed"] == 2


def test_after_a_restore_the_command_shows_leases_without_an_end(make_tool: Callable[..., Tool]) -> None:
    make_tool(default_ttl=None)
    make_tool("mesher", max_ttl=timedelta(hours=2), default_ttl=timedelta(hours=1))
    told = io.StringIO()
    call_command("restored", stdout=told)
    assert "cad: without a limit" in told.getvalue()
    assert "mesher: 2:00:00\n" in told.getvalue()
