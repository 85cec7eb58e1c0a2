"""One run: a site, its people, its faults, and the verdict."""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks import clusters

from . import checker, history, nemeses, rows
from .administrators import Administrators, borrowed_in_full
from .checker import Evidence
from .clients import Client, Shared
from .history import Operation, Recorder
from .nemeses import Target
from .proxy import Proxy
from .site import CLIENTS, LONGEST_TTL, Site, set_up
from .stack import ROOT, Api, Postgres, Sqlite, Sweeper, environment, free_port, migrate

# At the beginning, without a fault: everything must go well.
CALM_SECONDS = 4.0
# Between two faults, so that each one's recovery is seen.
PAUSE_SECONDS = 0.3
LONGEST_RUN_SECONDS = 1800


@dataclass(frozen=True)
class Plan:
    """What a run consists of. ``kinds`` are the faults, all of them if empty."""

    seed: int
    database: str = "postgres"
    faults: int = 64
    operations: int = 10_000
    kinds: tuple[str, ...] = ()
    code: Path = ROOT
    quick: bool = False


@dataclass
class Verdict:
    """What came of a run: broken promises, and what never came about."""

    plan: Plan
    folder: Path
    operations: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    slowest_recovery: float = 0.0
    cuts: int = 0

    @property
    def is_good(self) -> bool:
        return not self.violations and not self.missing


def run(plan: Plan, folder: Path | None = None) -> Verdict:
    """Carry out a plan; the folder keeps the history, the rows and the server's log."""
    folder = folder or Path(tempfile.mkdtemp(prefix=f"faults-{plan.seed}-"))
    folder.mkdir(parents=True, exist_ok=True)
    verdict = Verdict(plan, folder)
    started = time.monotonic()
    with ExitStack() as closing:
        database = closing.enter_context(_database(plan, folder))
        port = free_port()
        variables = environment(database, port)
        migrate(plan.code, variables)
        site = set_up(plan.code, variables)
        api = Api(plan.code, folder, variables, port)
        closing.callback(api.stop)
        api.start()
        recorder = Recorder(folder / "history.jsonl")
        proxy = Proxy(port, plan.seed)
        proxy.start()
        closing.callback(proxy.stop)
        sweepers = [Sweeper(plan.code, variables, folder / "sweeper.log") for _ in range(2)]
        for sweeper in sweepers:
            closing.callback(sweeper.stop)
        shared = Shared(proxy.port, recorder)
        target = Target(api, database, sweepers, proxy, random.Random(f"{plan.seed}-faults"), shared.stopping)
        watch = _Watch(database, shared.stopping)
        watch.start()
        left_over = _work(plan, site, shared, target, verdict)
        missing = _everybody_gone(api.port, site)
        metrics = _metrics(api.port)
        for sweeper in sweepers:
            sweeper.stop()
        _tidy(plan.code, variables)
        api.stop()
        left_over += [f"process {pid} is left over" for pid in api.leftovers()]
        left_over += watch.findings(database)
        recorder.write(
            Operation("run", "final", recorder.now(), recorder.now(), 200, {"missing": missing, "left_over": left_over})
        )
        recorder.close()
        final = rows.read(database)
        (folder / "rows.json").write_text(json.dumps(final))
        evidence = Evidence(list(history.read(recorder.path)), final, metrics)
        verdict.violations = checker.violations(evidence)
        verdict.happened = checker.what_happened(evidence)
        verdict.missing = [] if plan.quick else checker.missing(evidence)
        verdict.operations = recorder.count
        verdict.slowest_recovery = max((seconds for _, seconds in checker.recoveries(evidence)), default=0.0)
        verdict.cuts = proxy.cuts
        if verdict.violations:
            _dump(database, folder)
    verdict.seconds = time.monotonic() - started
    return verdict


def _work(plan: Plan, site: Site, shared: Shared, target: Target, verdict: Verdict) -> list[str]:
    """Let everybody work while faults happen; the threads that did not end."""
    administrators = Administrators(shared, plan.code, target.api.environment, site.tokens["admin"], plan.seed)
    clients = [Client(shared, number, site.tokens[f"user{number}"], plan.seed) for number in range(CLIENTS)]
    everybody: list[Client | Administrators] = [*clients, administrators]
    for thread in everybody:
        thread.start()
    deadline = time.monotonic() + LONGEST_RUN_SECONDS
    schedule = _schedule(plan, target)
    try:
        time.sleep(CALM_SECONDS)
        shared.recorder.write(Operation("run", "calm", 0, shared.recorder.now(), 200))
        while verdict.faults.total() < plan.faults or shared.recorder.count < plan.operations:
            if time.monotonic() > deadline:
                return [f"the run did not end within {LONGEST_RUN_SECONDS} s"]
            if verdict.faults.total() < plan.faults:
                name, nemesis = next(schedule)
                start = shared.recorder.now()
                nemesis(target)
                end = shared.recorder.now()
                shared.recorder.write(Operation("run", "fault", start, end, 200, {"name": name}))
                verdict.faults[name] += 1
                _wait_for_success(shared, end)
            time.sleep(PAUSE_SECONDS)
    finally:
        shared.stopping.set()
        target.api.wait_until_ready()
        for thread in everybody:
            thread.join(60)
        administrators.stop()
    for thread in everybody:
        if thread.failure is not None:
            raise RuntimeError(f"{thread.name} failed") from thread.failure
    return [f"{thread.name} did not end" for thread in clients if thread.is_alive()]


def _schedule(plan: Plan, target: Target) -> Iterator[tuple[str, nemeses.Nemesis]]:
    """All kinds of faults, shuffled, again and again."""
    every = nemeses.ON_POSTGRES if plan.database == "postgres" else nemeses.ON_SQLITE
    kinds = [(name, nemesis) for name, nemesis in every.items() if not plan.kinds or name in plan.kinds]
    if nemeses.faketime() is None:
        kinds = [kind for kind in kinds if kind[0] != "shift_clock"]
    while True:
        target.chance.shuffle(kinds)
        yield from kinds


def _wait_for_success(shared: Shared, since: float) -> None:
    """Until a call succeeded that was sent after the fault, or that is overdue."""
    deadline = time.monotonic() + 2 * checker.RECOVERY_SECONDS
    while shared.recorder.last_success < since and time.monotonic() < deadline:
        time.sleep(0.01)


def _everybody_gone(port: int, site: Site) -> dict[str, str]:
    """Wait until every seat can be borrowed again; what is missing in the end."""
    deadline = time.monotonic() + LONGEST_TTL + 15
    while True:
        missing = borrowed_in_full(port, site.tokens["admin"])
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.5)


def _metrics(port: int) -> dict[str, float]:
    lines = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {series: float(value) for series, value in pairs}


def _tidy(code: Path, variables: dict[str, str]) -> None:
    command = [sys.executable, "manage.py", "expire_leases"]
    done = subprocess.run(command, cwd=code, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the sweeper failed in the end:\n{done.stdout}{done.stderr}")


class _Watch(threading.Thread):
    """Looks once a second for sessions that hold a transaction open and do nothing."""

    LONGEST_IDLE_SECONDS = 12

    def __init__(self, database: Postgres | Sqlite, stopping: threading.Event) -> None:
        super().__init__(name="watch", daemon=True)
        self.database, self.stopping = database, stopping
        self.longest = 0.0

    def run(self) -> None:
        if not isinstance(self.database, Postgres):
            return
        import psycopg

        while not self.stopping.wait(1):
            try:
                with self.database.session() as connection:
                    found = connection.execute(
                        "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - state_change)), 0)"
                        " FROM pg_stat_activity WHERE usename = 'licenses' AND state LIKE 'idle in transaction%'"
                    ).fetchone()
                self.longest = max(self.longest, float(found[0]) if found else 0.0)
            except psycopg.Error:
                continue

    def findings(self, database: Postgres | Sqlite) -> list[str]:
        """What a stopped server must not have left in the database."""
        found = []
        if self.longest > self.LONGEST_IDLE_SECONDS:
            found.append(f"a session was idle in a transaction for {self.longest:.1f} s")
        if isinstance(database, Postgres):
            with database.session() as connection:
                row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'licenses'").fetchone()
            if row and row[0]:
                found.append(f"{row[0]} sessions of the server are still open")
        return found


@contextmanager
def _database(plan: Plan, folder: Path) -> Iterator[Postgres | Sqlite]:
    if plan.database == "postgres":
        database = Postgres.created(folder)
        try:
            database.prepare()
            yield database
        finally:
            database.stop()
        return
    disk = folder / "disk"
    disk.mkdir()
    is_small = nemeses.small_file_system(disk)
    try:
        yield Sqlite(disk / "licenses.db")
    finally:
        if is_small:
            nemeses.unmount(disk)


def _dump(database: Postgres | Sqlite, folder: Path) -> None:
    """Keep the whole database of a run that broke a promise."""
    if isinstance(database, Postgres):
        target = clusters.own_folder(folder / "dump")
        clusters.run("pg_dump", "--format=custom", f"--file={target / 'licenses.dump'}", database.cluster.url)
    else:
        shutil.copy(database.path, folder / "licenses.db")
