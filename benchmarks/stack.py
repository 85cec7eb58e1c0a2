"""The server as it is deployed, on databases of its own that commit durably."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from . import rows
from .ports import free_port

ROOT = Path(__file__).resolve().parent.parent
# Enough that nothing is refused but where a workload wants it.
CAPACITY = 1_000_000
TOOLS = [f"bench{number}" for number in range(1, 51)]
# All its seats are out, of somebody who keeps them.
EXHAUSTED = "bench_exhausted"
# All load comes from one caller here.
UNLIMITED = dict.fromkeys(("LICENSE_RATE_PER_CREDENTIAL", "LICENSE_RATE_PER_ADDRESS", "LICENSE_RATE_HEARTBEATS"), "off")
POSTGRESQL, SQLITE = "postgresql", "sqlite"


@dataclass(frozen=True)
class Stack:
    """A server that runs: its address, its database (a URL of PostgreSQL, or the path
    of SQLite's file), and its first process."""

    url: str
    database: str
    master: int = 0

    @property
    def workers(self) -> list[int]:
        """The processes that answer; right after the start there may be few yet."""
        return children_of(self.master)


@dataclass
class Databases:
    """Databases with every migration and tools to borrow, each a copy of one template.

    PostgreSQL is the one of DATABASE_URL, whose role then must be able to create
    databases, or one that is started in ``folder``.
    """

    folder: Path
    vendor: str
    closing: ExitStack
    server: str = ""
    template: str = ""
    made: list[str] = field(default_factory=list)

    def new(self, name: str) -> str:
        """Make a database; return its URL or path."""
        if not self.template:
            self._make_template()
        if self.vendor == SQLITE:
            path = self.folder / f"{name}.db"
            shutil.copyfile(self.template, path)
            return str(path)
        return self._created(name, self.template)

    def _make_template(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.vendor == SQLITE:
            template = str(self.folder / "template.db")
        else:
            self.server = os.environ.get("DATABASE_URL") or self.closing.enter_context(postgres(self.folder / "data"))
            template = self._created("template")
        prepare(template)
        self.template = template

    def _created(self, name: str, template: str = "") -> str:
        database = f"licenseserver_bench_{os.getpid()}_{name}"
        with psycopg.connect(self.server, autocommit=True) as connection:
            source = f" TEMPLATE {urllib.parse.urlsplit(template).path[1:]}" if template else ""
            connection.execute(f"CREATE DATABASE {database}{source}")
        self.closing.callback(self._drop, database)
        return urllib.parse.urlsplit(self.server)._replace(path=f"/{database}").geturl()

    def _drop(self, database: str) -> None:
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {database} WITH (FORCE)")


@contextmanager
def started(workers: int | None, *, pool: int | None = None) -> Iterator[Stack]:
    """The stack in a temporary folder, with tools to borrow, and its end; with
    ``pool``, behind a PgBouncer that has so many connections."""
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="licenseserver-bench-")))
        database = os.environ.get("DATABASE_URL") or closing.enter_context(postgres(folder / "postgres"))
        prepare(database)
        yield closing.enter_context(serving(database, folder, workers=workers, pool=pool))


def prepare(database: str) -> None:
    """Migrate a database, and fill it with tools."""
    environment = environment_of(database) | {"DATABASE_STATEMENT_TIMEOUT": "0"}
    manage(environment, "migrate", "--verbosity", "0")
    manage(environment, "seed", *[f"--tool={name}={CAPACITY}" for name in TOOLS], f"--tool={EXHAUSTED}=5")
    with rows.connected(database) as sql:
        rows.take_all_seats(sql, EXHAUSTED)


def environment_of(database: str) -> dict[str, str]:
    """The variables of a server on this database, with all that would refuse the load off.
    It logs what a server logs, a line a request."""
    # With compiled modules, as in the image.
    unwanted = {"DATABASE_URL", "PYTHONDONTWRITEBYTECODE"}
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    where = "DATABASE_URL" if is_postgresql(database) else "LICENSE_DB_PATH"
    return environment | {
        where: database,
        "SECRET_KEY": os.environ.get("SECRET_KEY") or secrets.token_urlsafe(48),
        "SECURE_SSL": "false",
        "LICENSE_AUTH": "open",
        "LICENSE_KEYS_PER_DAY": "0",
        **UNLIMITED,
    }


def is_postgresql(database: str) -> bool:
    return database.startswith("postgres")


def manage(environment: Mapping[str, str], *arguments: str) -> str:
    """Run ``manage.py`` to its end; return what it prints."""
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def serving(
    database: str,
    folder: Path,
    *,
    workers: int | None = None,
    pool: int | None = None,
    log: Path | None = None,
    settings: Mapping[str, str] | None = None,
    pause: float = 0.1,
) -> Iterator[Stack]:
    """A server on a prepared database, ready, which is asked every ``pause`` seconds; what
    it has to say goes to ``log``, or a file in ``folder``. ``settings`` are further variables."""
    with ExitStack() as closing:
        folder.mkdir(parents=True, exist_ok=True)
        if is_postgresql(database):
            _demand_durability(database)
        port = free_port()
        environment = environment_of(database) | {
            "BIND": f"127.0.0.1:{port}",
            "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
            **(settings or {}),
        }
        if workers is not None:
            environment["WEB_CONCURRENCY"] = str(workers)
        if pool is not None:
            from .clusters import pooled

            environment["DATABASE_URL"] = closing.enter_context(pooled(folder / "pgbouncer", database, size=pool))
            environment["LICENSE_DB_POOLER"] = "true"
        server = closing.enter_context(
            running([sys.executable, "-m", "licenseserver"], environment, log or folder / "server.log")
        )
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, server, pause=pause)
        yield Stack(url, database, server.pid)


@contextmanager
def running(
    command: list[str], environment: Mapping[str, str], log: Path, cwd: Path = ROOT
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process, and its end; its output goes to ``log``."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=output, stderr=output)
    try:
        yield process
    except BaseException:
        if process.poll() is not None:
            sys.stderr.write(log.read_text(errors="replace")[-2000:])
        raise
    finally:
        end(process)


def version(database: str) -> str:
    """The database's name and version."""
    with rows.connected(database) as sql:
        if sql.vendor == SQLITE:
            return f"SQLite {sql('SELECT sqlite_version()')[0][0]}"
        return "PostgreSQL " + str(sql("SHOW server_version")[0][0]).split()[0]


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL with its defaults, but for connections enough for several servers
    and pgbench; reached over TCP, as in most places."""
    from .clusters import Cluster

    cluster = Cluster.created(folder, "max_connections = 400")
    try:
        yield cluster.url
    finally:
        cluster.stop()


def _demand_durability(database: str) -> None:
    with psycopg.connect(database) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            row = connection.execute("SELECT current_setting(%s)", [setting]).fetchone()
            if row is None or row[0] != "on":
                sys.exit(f"{setting} is {row and row[0]}: figures of a database that can lose commits mean nothing.")


def wait_until_ready(
    url: str, server: "subprocess.Popen[bytes]", path: str = "/readyz", pause: float = 0.1, seconds: float = 60
) -> None:
    """Ask every ``pause`` seconds until the server answers 200."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError("The server did not start.")
        try:
            with urllib.request.urlopen(f"{url}{path}", timeout=5):  # noqa: S310 - our own server
                return
        except (urllib.error.URLError, OSError):
            time.sleep(pause)
    raise TimeoutError(f"The server is not ready after {seconds:.0f} s.")


def end(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(40)
    except subprocess.TimeoutExpired:
        server.kill()


def children_of(pid: int) -> list[int]:
    """The processes that this one has started."""
    return _numbers(Path(f"/proc/{pid}/task/{pid}/children"))


def tree_of(master: int) -> list[int]:
    """This process and all below it."""
    return [master, *(below for child in children_of(master) for below in tree_of(child))]


def cpu_seconds(master: int) -> float:
    """The processor time that this process and those below it have used; 0 where
    there is no /proc."""
    ticks = 0
    for pid in tree_of(master):
        try:
            # After the name, which may have blanks in it.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Memory:
    """Of one process, in MB: all that it has in memory, and its part where pages are shared."""

    rss: float
    pss: float


def memory_of(pid: int) -> Memory:
    """What a process has in memory."""
    found = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if ":" in line[:20]
    )
    rss, pss = (int(found[name].split()[0]) / 1000 * 1.024 for name in ("Rss", "Pss"))
    return Memory(rss, pss)


def _numbers(path: Path) -> list[int]:
    try:
        return [int(word) for word in path.read_text().split()]
    except OSError:
        return []
