"""The server as deployed: a database, gunicorn under a supervisor, sweepers."""

import contextlib
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx
import psycopg

from benchmarks import clusters
from benchmarks.clusters import Cluster
from benchmarks.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 4
# PostgreSQL's default limit on sessions.
MAX_CONNECTIONS = 100
# What an orderly stop may take: graceful_timeout (25 s), and more on a busy machine.
STOP_SECONDS = 60


class NotInTime(Exception):
    """The server did not start or stop in the time that it may take."""


class Database(Protocol):
    """What holds the seats, and can be made to fail."""

    @property
    def variables(self) -> dict[str, str]:
        """The environment that names it to the server."""

    def stop(self) -> None: ...


@dataclass
class Postgres:
    """A PostgreSQL of the harness's own, with durable commits."""

    cluster: Cluster
    name: str = clusters.DATABASE

    @classmethod
    def created(cls, folder: Path) -> "Postgres":
        return cls(
            Cluster.created(
                folder,
                f"max_connections = {MAX_CONNECTIONS}",
                "superuser_reserved_connections = 5",
                # After a crash, without a look at every file of the cluster.
                "recovery_init_sync_method = syncfs",
            )
        )

    @classmethod
    def copied(cls, template: Path, folder: Path) -> "Postgres":
        """A running copy of a stopped one."""
        cluster = Cluster(clusters.own_folder(folder))
        subprocess.run(["cp", "-a", str(template / "data"), str(folder)], check=True)
        cluster.start()
        return cls(cluster)

    @property
    def variables(self) -> dict[str, str]:
        # A role that isn't a superuser, so that a full server has room for the harness.
        return {"DATABASE_URL": self.cluster.url.replace("postgres@", "licenses@")}

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection]:
        """A superuser's session in autocommit mode."""
        url = self.cluster.url_of(self.name)
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            yield connection

    def prepare(self) -> None:
        """Make the server's role, which owns the database."""
        with self.session() as connection:
            connection.execute("CREATE ROLE licenses LOGIN")
            connection.execute("ALTER DATABASE licenses OWNER TO licenses")
            connection.execute("ALTER SCHEMA public OWNER TO licenses")

    @contextmanager
    def restored(self, folder: Path) -> Iterator["Postgres"]:
        """A copy of the database, restored from a dump that is taken now as docs/howto/backup.md says."""
        dump = clusters.own_folder(folder) / "licenses.dump"
        clusters.run("pg_dump", "--format=custom", f"--file={dump}", self.cluster.url_of(self.name))
        copy = Postgres(self.cluster, "restored")
        with self.session() as connection:
            connection.execute(f"CREATE DATABASE {copy.name}")
        clusters.run(
            "pg_restore", "--no-owner", "--exit-on-error", f"--dbname={self.cluster.url_of(copy.name)}", str(dump)
        )
        yield copy
        with self.session() as connection:
            connection.execute(f"DROP DATABASE {copy.name} WITH (FORCE)")

    def crash(self) -> None:
        """End it without a checkpoint, as a power cut does, and start it again."""
        process = self.cluster.process
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(30)
        self.cluster.start()

    def stop(self) -> None:
        self.cluster.stop()


@dataclass
class Sqlite:
    """A database file in a folder of its own, which may be a small file system."""

    path: Path

    @property
    def variables(self) -> dict[str, str]:
        return {"LICENSE_DB_PATH": str(self.path)}

    @contextmanager
    def session(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None, timeout=30)) as connection:
            yield connection

    @contextmanager
    def restored(self, folder: Path) -> Iterator["Sqlite"]:
        """A copy of the database from a backup that is taken now, by the server's own command."""
        folder.mkdir()
        manage(ROOT, environment(self, free_port()), "backup", str(folder / "copy.db"))
        yield Sqlite(folder / "copy.db")

    def stop(self) -> None:
        """There is no process to stop."""


@dataclass
class Api:
    """gunicorn, started again by a supervisor when it dies."""

    code: Path
    folder: Path
    environment: dict[str, str]
    port: int
    # More variables for the next start, for example to shift the clock.
    extra: dict[str, str] = field(default_factory=dict)
    starts: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    masters: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    _wanted: threading.Event = field(default_factory=threading.Event)
    _supervisor: threading.Thread | None = None

    def start(self) -> None:
        """Start it and keep it running; return when it is ready."""
        self._wanted.set()
        self._spawn()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._supervisor.start()
        self.wait_until_ready()

    def stop(self) -> None:
        """End it as an operator does."""
        self._wanted.clear()
        if self._supervisor is not None:
            self._supervisor.join(30)
        for master in self.masters:
            if master.poll() is None:
                master.terminate()
                master.wait(60)

    def kill_master(self) -> None:
        for master in self.masters:
            if master.poll() is None:
                os.kill(master.pid, signal.SIGKILL)

    def restart(self) -> None:
        """End it in order; the supervisor starts another. Raises NotInTime."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                raise NotInTime(f"the server did not stop within {STOP_SECONDS} s") from None
        self.wait_until_ready()

    def workers(self) -> list[int]:
        """The process ids of the workers that live."""
        if self.process is None:
            return []
        try:
            listing = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except OSError:
            return []
        return [int(pid) for pid in listing.split()]

    def leftovers(self) -> list[int]:
        """Processes of any start of it that still live."""
        left = []
        sessions = {master.pid for master in self.masters}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                # State, parent, group, session; a zombie is nothing but its exit status.
                if int(fields[3]) in sessions and fields[0] != "Z":
                    left.append(int(entry.name))
        return left

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def wait_until_ready(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise NotInTime(f"the server is not ready after {seconds:.0f} s: {self.log.read_text()[-1000:]}")
            time.sleep(0.05)

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def _spawn(self) -> None:
        self.starts += 1
        metrics = self.folder / f"metrics-{self.starts}"
        metrics.mkdir(mode=0o700)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "licenseserver"],
                cwd=self.code,
                env=self.environment | self.extra | {"PROMETHEUS_MULTIPROC_DIR": str(metrics)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.masters.append(self.process)

    def _supervise(self) -> None:
        while self._wanted.is_set():
            if self.process is not None and self.process.poll() is not None:
                self._spawn()
            time.sleep(0.05)


class Sweeper:
    """``expire_leases --loop`` as a process."""

    def __init__(self, code: Path, environment: dict[str, str], log: Path) -> None:
        self.code, self.environment, self.log = code, environment, log
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "expire_leases", "--loop", "--every", "1"],
                cwd=self.code,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def environment(database: Database, port: int) -> dict[str, str]:
    """The variables of a server where every call needs a credential."""
    inherited = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "LICENSE_DB_PATH"}}
    return (
        inherited
        | database.variables
        | {
            "DJANGO_SETTINGS_MODULE": "licenseserver.settings",
            "SECRET_KEY": secrets.token_urlsafe(48),
            "SECURE_SSL": "false",
            "LICENSE_AUTH": "required",
            "LICENSE_DB_SEED": "false",
            "LICENSE_METRICS_PUBLIC": "true",
            # All clients call from one address, as fast as they can.
            "LICENSE_RATE_PER_CREDENTIAL": "off",
            "LICENSE_RATE_PER_ADDRESS": "off",
            "LICENSE_RATE_HEARTBEATS": "off",
            # However slow the machine is; overload.py tries the default.
            "LICENSE_LONGEST_WAIT": "60",
            "LOG_FORMAT": "text",
            "LOG_LEVEL": "WARNING",
            "WEB_CONCURRENCY": str(WORKERS),
            "BIND": f"127.0.0.1:{port}",
        }
    )


def manage(code: Path, variables: Mapping[str, str], *arguments: str) -> None:
    """Run a management command to its end; raises RuntimeError with what it said."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=code, env=variables, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"manage.py {arguments[0]} failed:\n{done.stdout}{done.stderr}")
