"""An unusable database: the log, the terminal and callers get the reason, at once and in one line."""

import contextlib
import json
import os
import pkgutil
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from django.db import connection

from benchmarks.ports import free_port
from licenses.management import commands
from tests.support.commands import run as run_command
from tests.support.databases import empty_database, migrated_database, migrated_template
from tests.support.paths import ROOT
from tests.support.servers import Server, server_environment

# Every command of the server with its arguments. Files for commands are in `folder`.
COMMANDS: dict[str, tuple[str, ...]] = {
    "apply": ("{folder}/site.toml",),
    "backup": ("{folder}/copy.db",),
    "changepassword": ("boss",),
    "createsuperuser": ("--noinput", "--username", "boss", "--email", ""),
    "ensure_admin": (),
    "expire_leases": (),
    "export": (),
    "forget": ("--older-than", "30", "--delete"),
    "import_flexlm": ("--license", "{folder}/some.lic", "--apply"),
    "migrate": (),
    "rebuild_history": (),
    "restored": (),
    "seed": (),
    "team": ("list",),
    "token": ("list",),
    "usage_report": ("usage",),
}
WITHOUT_DATABASE = {"sendtestemail"}


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def run(environment: dict[str, str], *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def run_each(folder: Path, environment: dict[str, str], *names: str) -> dict[str, "subprocess.CompletedProcess[str]"]:
    """Run these of the commands."""
    return {
        name: run_command(name, *(word.format(folder=folder) for word in COMMANDS[name]), environment=environment)
        for name in names
    }


def refused(environment: dict[str, str], *command: str) -> str:
    """Run a command that can't use its database; the one line that it says."""
    return why_refused(run(environment, *command))


def why_refused(done: "subprocess.CompletedProcess[str]") -> str:
    """Return the one line of a command that can't use its database."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" or "Traceback" not in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("licenseserver: the database can't be used: "), line
    return line.removeprefix("licenseserver: the database can't be used: ")


def environment_of(folder: Path, database: dict[str, str], **more: str) -> dict[str, str]:
    (folder / "some.lic").write_text("FEATURE cad acme 1.0 permanent 5 SIGN=0\n")
    (folder / "site.toml").write_text("[tools.cad]\ncapacity = 5\n")
    admin = {"ADMIN_USERNAME": "boss", "ADMIN_PASSWORD": "correct horse battery"}
    return server_environment(folder, database, free_port()) | admin | more


def out_of_reach(folder: Path) -> dict[str, str]:
    """Return a database of the suite's kind that nobody can open."""
    if connection.vendor == "postgresql":
        return {"DATABASE_URL": f"postgresql://licenses:secret@127.0.0.1:{free_port()}/licenses"}
    (folder / "licenses.db").write_text("No database, but a file that is long enough to be taken for one. " * 100)
    return {"LICENSE_DB_PATH": str(folder / "licenses.db")}


def test_the_commands_tried_here_are_all_that_there_are() -> None:
    assert {module.name for module in pkgutil.iter_modules(commands.__path__)} == COMMANDS.keys() | WITHOUT_DATABASE


def test_each_command_says_in_one_line_that_its_database_is_out_of_reach(tmp_path: Path) -> None:
    environment = environment_of(tmp_path, out_of_reach(tmp_path))
    # PostgreSQL has its own programs for a backup.
    tried = COMMANDS.keys() - ({"backup"} if connection.vendor == "postgresql" else set())
    for command, done in run_each(tmp_path, environment, *tried).items():
        line = why_refused(done)
        reason = "Connection refused" if connection.vendor == "postgresql" else "file is not a database"
        assert reason in line, command
        assert "secret" not in line, command


def test_each_command_says_that_its_database_is_not_migrated(tmp_path: Path) -> None:
    tried = ("seed", "token", "forget", "usage_report", "expire_leases", "ensure_admin")
    with empty_database(tmp_path) as database:
        results = run_each(tmp_path, environment_of(tmp_path, database), *tried)
    for command, done in results.items():
        line = why_refused(done)
        assert "does not exist" in line or "no such table" in line, command
        assert "manage.py migrate" in line, command


def test_a_traceback_is_shown_on_request(tmp_path: Path) -> None:
    environment = environment_of(tmp_path, out_of_reach(tmp_path))
    done = run(environment, "seed", "--traceback")
    assert done.returncode not in {0, 2}
    assert "Traceback" in done.stderr


@pytest.fixture
def cluster(tmp_path: Path, closing: ExitStack) -> Any:
    """Provide a PostgreSQL with passwords: user licenses, password right."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no passwords")
    from benchmarks import clusters

    cluster = clusters.Cluster.created(tmp_path / "cluster")
    closing.callback(cluster.stop)
    with psycopg.connect(cluster.url, autocommit=True) as session:
        session.execute("CREATE ROLE licenses LOGIN PASSWORD 'right'")
        session.execute("GRANT ALL ON SCHEMA public TO licenses")
    rules = cluster.folder / "data" / "pg_hba.conf"
    rules.write_text("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    cluster.reload()
    return cluster


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://licenses:wrong@127.0.0.1:{port}/licenses", "password authentication failed"),
        ("postgresql://licenses:right@127.0.0.1:{port}/nowhere", 'database "nowhere" does not exist'),
        ("postgresql://licenses:right@no-such-host.invalid:{port}/licenses", "failed to resolve host"),
    ],
)
def test_the_reason_is_postgresql_s_own(cluster: Any, tmp_path: Path, url: str, why: str) -> None:
    environment = environment_of(tmp_path, {"DATABASE_URL": url.format(port=cluster.port)})
    line = refused(environment, "migrate")
    assert why in line
    assert "wrong" not in line
    assert ("POSTGRES_PASSWORD only for a new volume" in line) == ("password" in why)


def test_a_role_without_the_right_to_make_tables_is_named_as_that(cluster: Any, tmp_path: Path) -> None:
    with psycopg.connect(cluster.url, autocommit=True) as session:
        session.execute("REVOKE ALL ON SCHEMA public FROM licenses, public")
        session.execute("GRANT USAGE ON SCHEMA public TO licenses")
    url = f"postgresql://licenses:right@127.0.0.1:{cluster.port}/licenses"
    line = refused(environment_of(tmp_path, {"DATABASE_URL": url}), "migrate")
    assert "permission denied for schema public" in line


# --- The server's log ---------------------------------------------------------


class Watched(Server):
    """A server whose log is read while it runs, whether or not it gets ready."""

    def launch(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.command], cwd=ROOT, env=self.environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come:\n{self.log.read_text()}"
            time.sleep(0.05)

    def lines(self, word: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]
        return [line for line in found if word in line["event"]]

    def is_up(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/livez").status_code == 200
        return False


def watched(folder: Path, closing: ExitStack, database: dict[str, str], **more: str) -> Watched:
    environment = environment_of(folder, database, **({"LICENSE_DB_SEED": "false"} | more))
    server = Watched(f"http://{environment['BIND']}", environment, folder / "server.log")
    closing.callback(server.stop)
    server.launch()
    return server


def ask_often(server: Server) -> list[httpx.Response]:
    """Enough probes that each of the four workers gets some."""
    return [httpx.get(f"{server.url}/readyz") for _ in range(24)]


def test_a_start_without_migrations_says_so_once_and_says_when_they_are_there(
    tmp_path: Path, closing: ExitStack
) -> None:
    database = closing.enter_context(empty_database(tmp_path))
    server = watched(tmp_path, closing, database)
    # Nobody has called it.
    server.wait_for(lambda: bool(server.lines("Not ready")), "the reason")
    server.wait_for(server.is_up, "the server")
    assert {answer.status_code for answer in ask_often(server)} == {503}
    (warning,) = server.lines("Not ready")
    assert warning["level"] == "warning"
    assert "migrations" in warning["event"] or "migration(s) are pending" in warning["event"]
    assert "manage.py migrate" in warning["event"]
    probe = next(line for line in server.lines("request") if line["path"] == "/readyz")
    assert (probe["status"], probe["level"]) == (503, "warning")
    assert "pending" in probe["reason"]

    assert run_command("migrate", environment=server.environment).returncode == 0
    assert {answer.status_code for answer in ask_often(server)} == {200}
    (news,) = server.lines("Ready again")
    assert news["level"] == "info"
    assert len(server.lines("Not ready")) == 1


def test_a_start_out_of_its_database_s_reach_says_why(tmp_path: Path, closing: ExitStack) -> None:
    server = watched(tmp_path, closing, out_of_reach(tmp_path))
    server.wait_for(lambda: bool(server.lines("Not ready")), "the reason")
    server.wait_for(server.is_up, "the server")
    answers = ask_often(server)
    # Everybody can call /readyz, so hosts and roles are only in the log.
    assert {answer.json()["detail"] for answer in answers} == {"The database does not answer."}
    (warning,) = server.lines("Not ready")
    assert ("Connection refused" if connection.vendor == "postgresql" else "not a database") in warning["event"]
    assert "secret" not in server.log.read_text()


def test_a_start_that_can_t_seed_ends_with_one_line_that_says_why(tmp_path: Path, closing: ExitStack) -> None:
    database = closing.enter_context(empty_database(tmp_path))
    server = watched(tmp_path, closing, database, LICENSE_DB_SEED="true")
    assert server.process is not None
    assert server.process.wait(60) == 2
    (line,) = server.lines("Can't seed")
    assert "manage.py migrate" in line["event"]
    assert "Traceback" not in server.log.read_text()


def test_a_password_that_is_changed_while_it_serves_is_in_the_log(
    cluster: Any, tmp_path: Path, closing: ExitStack
) -> None:
    url = f"postgresql://licenses:right@127.0.0.1:{cluster.port}/licenses"
    assert run_command("migrate", environment=environment_of(tmp_path, {"DATABASE_URL": url})).returncode == 0
    server = watched(tmp_path, closing, {"DATABASE_URL": url})
    server.wait_for(lambda: server.is_up() and httpx.get(f"{server.url}/readyz").status_code == 200, "the server")
    assert not server.lines("Not ready")
    with psycopg.connect(cluster.url, autocommit=True) as session:
        session.execute("ALTER ROLE licenses PASSWORD 'other'")
        session.execute("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = 'licenses'")
    assert {answer.status_code for answer in ask_often(server)} == {503}
    (warning,) = server.lines("Not ready")
    assert "password authentication failed" in warning["event"]
    with psycopg.connect(cluster.url, autocommit=True) as session:
        session.execute("ALTER ROLE licenses PASSWORD 'right'")
    assert {answer.status_code for answer in ask_often(server)} == {200}
    assert len(server.lines("Ready again")) == 1


def test_connections_that_were_cut_are_no_news(cluster: Any, tmp_path: Path, closing: ExitStack) -> None:
    url = f"postgresql://licenses:right@127.0.0.1:{cluster.port}/licenses"
    assert run_command("migrate", environment=environment_of(tmp_path, {"DATABASE_URL": url})).returncode == 0
    server = watched(tmp_path, closing, {"DATABASE_URL": url})
    server.wait_for(server.is_up, "the server")
    ask_often(server)
    with psycopg.connect(cluster.url, autocommit=True) as session:
        session.execute("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = 'licenses'")
    assert {answer.status_code for answer in ask_often(server)} == {200}
    assert not server.lines("Not ready")


def test_a_database_that_takes_no_changes_is_named_at_the_start(
    cluster: Any, tmp_path: Path, closing: ExitStack
) -> None:
    url = f"postgresql://licenses:right@127.0.0.1:{cluster.port}/licenses"
    environment = environment_of(tmp_path, {"DATABASE_URL": url})
    assert run_command("migrate", environment=environment).returncode == 0
    with psycopg.connect(cluster.url, autocommit=True) as session:
        session.execute("ALTER ROLE licenses SET default_transaction_read_only = on")
    server = watched(tmp_path, closing, {"DATABASE_URL": url})
    server.wait_for(lambda: bool(server.lines("Read-only")), "the reason")
    server.wait_for(server.is_up, "the server")
    # It answers read-only calls, as on a standby.
    (answer,) = {answer.text for answer in ask_often(server)}
    assert json.loads(answer) == {"status": "ok", "detail": "The database is read-only."}
    assert len(server.lines("Read-only")) == 1
    assert "read-only" in refused(environment, "seed")


def test_sessions_that_began_read_only_are_left_when_the_database_takes_changes_again(
    cluster: Any, tmp_path: Path, closing: ExitStack
) -> None:
    url = f"postgresql://licenses:right@127.0.0.1:{cluster.port}/licenses"
    assert run_command("migrate", environment=environment_of(tmp_path, {"DATABASE_URL": url})).returncode == 0
    # One thread has one session.
    variables = {"LICENSE_DB_SEED": "true", "WEB_CONCURRENCY": "1", "GUNICORN_CMD_ARGS": "--threads 1"}
    server = watched(tmp_path, closing, {"DATABASE_URL": url}, **variables)
    server.wait_for(lambda: server.is_up() and httpx.get(f"{server.url}/readyz").status_code == 200, "the server")

    def borrow() -> httpx.Response:
        return httpx.post(f"{server.url}/licenses/borrow", json={"tool": "cad_tool", "user": "ana"}, timeout=30)

    with psycopg.connect(cluster.url, autocommit=True) as session:
        session.execute("ALTER ROLE licenses SET default_transaction_read_only = on")
        session.execute("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = 'licenses'")
        server.wait_for(lambda: borrow().json().get("code") == "read_only", "a session that is read-only")
        # The sessions of now stay as they are.
        session.execute("ALTER ROLE licenses RESET default_transaction_read_only")
    server.wait_for(
        lambda: {borrow().json().get("code") for _ in range(20)} <= {None, "exhausted"}, "only new sessions"
    )


# --- A full disk --------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path, closing: ExitStack) -> Path:
    """Provide a file system of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=24m,mode=0777", "small", str(disk)]
    if shutil.which("mount") is None or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    closing.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
    return disk


@pytest.fixture
def on_small_disk(small_disk: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """Provide a database of the suite's kind on it."""
    if connection.vendor != "postgresql":
        # With its tables, because migrations take longer than the test.
        shutil.copy(migrated_template(), small_disk / "licenses.db")
        return {"LICENSE_DB_PATH": str(small_disk / "licenses.db")}
    from benchmarks import clusters

    cluster = request.getfixturevalue("cluster")
    space = clusters.own_folder(small_disk / "space")
    with psycopg.connect(cluster.url, autocommit=True) as session:
        session.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
        session.execute("CREATE DATABASE small TABLESPACE small")
    return {"DATABASE_URL": cluster.url_of("small")}


def fill(disk: Path) -> Path:
    """Take all the room that is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    assert os.statvfs(disk).f_bavail == 0
    return ballast


def test_a_full_disk_is_reported_to_callers_in_the_log_and_to_probes(
    small_disk: Path, on_small_disk: dict[str, str], tmp_path: Path, closing: ExitStack
) -> None:
    environment = environment_of(tmp_path, on_small_disk)
    assert run_command("migrate", environment=environment).returncode == 0
    assert run_command("seed", "--tool", "cad_tool=100000", environment=environment).returncode == 0
    server = watched(tmp_path, closing, on_small_disk)
    server.wait_for(server.is_up, "the server")
    ballast = fill(small_disk)

    refusals: list[httpx.Response] = []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(3000):
            answer = client.post("/licenses/borrow", json={"tool": "cad_tool", "user": "ana"})
            if answer.status_code != 200:
                refusals.append(answer)
                break
    (refusal,) = refusals
    assert (refusal.status_code, refusal.json()["code"]) == (503, "storage_full")
    assert "disk" in refusal.json()["detail"]
    assert "Retry-After" in refusal.headers
    details = {answer.json().get("detail") for answer in ask_often(server)}
    assert details == {"The database's disk is full."}, server.log.read_text()
    (warning,) = server.lines("Not ready")
    assert "disk is full" in warning["event"]
    if connection.vendor == "sqlite":
        assert "full" in refused(environment, "seed", "--tool", "other=1", "--force")

    ballast.unlink()
    assert {answer.status_code for answer in ask_often(server)} == {200}
    assert len(server.lines("Ready again")) == 1
    again = httpx.post(f"{server.url}/licenses/borrow", json={"tool": "cad_tool", "user": "ana"})
    assert again.status_code == 200


def test_a_start_on_a_full_disk_says_so(
    small_disk: Path, on_small_disk: dict[str, str], tmp_path: Path, closing: ExitStack
) -> None:
    assert run_command("migrate", environment=environment_of(tmp_path, on_small_disk)).returncode == 0
    fill(small_disk)
    server = watched(tmp_path, closing, on_small_disk)
    server.wait_for(lambda: bool(server.lines("Not ready")), "the reason")
    assert "full" in server.lines("Not ready")[0]["event"]


# --- What callers are answered --------------------------------------------------


def test_a_missing_table_is_not_reported_as_a_busy_server(tmp_path: Path, closing: ExitStack) -> None:
    database = closing.enter_context(empty_database(tmp_path))
    server = watched(tmp_path, closing, database)
    server.wait_for(server.is_up, "the server")
    calls = [
        httpx.post(f"{server.url}/licenses/borrow", json={"tool": "cad_tool", "user": "ana"}),
        httpx.get(f"{server.url}/licenses/status"),
        httpx.get(f"{server.url}/borrows"),
    ]
    assert {(answer.status_code, answer.json()["code"]) for answer in calls} == {(503, "not_migrated")}


def test_probes_at_once_by_many_say_a_change_once(tmp_path: Path, closing: ExitStack) -> None:
    database = closing.enter_context(migrated_database(tmp_path))
    server = watched(tmp_path, closing, database)
    server.wait_for(server.is_up, "the server")
    *_, before, last = sorted(path.stem for path in (ROOT / "licenses" / "migrations").glob("[0-9]*.py"))
    assert run_command("migrate", "licenses", before, environment=server.environment).returncode == 0
    probing = [threading.Thread(target=ask_often, args=[server]) for _ in range(4)]
    for thread in probing:
        thread.start()
    for thread in probing:
        thread.join()
    (warning,) = server.lines("Not ready")
    assert f"licenses.{last}" in warning["event"]
