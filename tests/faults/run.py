"""One run: a site, its people, its faults, and the verdict."""

import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks import clusters
from benchmarks.ports import free_port

from . import checker, history, nemeses, rows
from .administrators import Administrators, borrowed_in_full
from .checker import Evidence
from .clients import Client, Shared
from .history import Operation, Recorder
from .nemeses import Target
from .proxy import Proxy
from .site import CLIENTS, LONGEST_TTL, Site
from .stack import ROOT, Api, NotInTime, Postgres, Sqlite, Sweeper, environment, manage
from .template import Template

# At the beginning, without a fault: everything must go well.
CALM_SECONDS = 4.0
# Between two faults, so that each one's recovery is seen.
PAUSE_SECONDS = 0.3
LONGEST_RUN_SECONDS = 3600


@dataclass(frozen=True)
class Plan:
    """What a run consists of. ``kinds`` are the faults, and ``deeds`` what clients and
    administrators do; all if empty. With ``until``, the name of a rule, the run ends when
    that is broken."""

    seed: int
    database: str = "postgres"
    faults: int = 64
    operations: int = 10_000
    kinds: tuple[str, ...] = ()
    deeds: tuple[str, ...] = ()
    clients: int = CLIENTS
    # Where the server's code is.
    code: Path = ROOT
    until: str = ""


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
    # Why the run itself broke off.
    failure: str = ""

    @property
    def is_good(self) -> bool:
        return not (self.violations or self.missing or self.failure)


def run(plan: Plan, template: Template, folder: Path) -> Verdict:
    """Carry out a plan; the new folder keeps the history, the rows and the server's log."""
    folder.mkdir(parents=True)
    verdict = Verdict(plan, folder)
    started = time.monotonic()
    with ExitStack() as closing:
        database = closing.enter_context(template.copied(folder))
        site, port = template.site, free_port()
        variables = environment(database, port)
        api = Api(plan.code, folder, variables, port)
        closing.callback(api.stop)
        api.start()
        recorder = Recorder(folder / "history.jsonl")
        closing.callback(recorder.close)
        proxy = Proxy(port, plan.seed)
        proxy.start()
        closing.callback(proxy.stop)
        sweepers = [Sweeper(plan.code, variables, folder / "sweeper.log") for _ in range(2)]
        for sweeper in sweepers:
            closing.callback(sweeper.stop)
        shared = Shared(proxy.port, recorder)
        target = Target(api, database, sweepers, proxy, random.Random(f"{plan.seed}-faults"), recorder, folder)
        watch = _Watch(database, shared.stopping)
        watch.start()
        unfinished = _work(plan, site, shared, target, verdict)
        verdict.operations, verdict.cuts = recorder.count, proxy.cuts
        if not verdict.violations:
            _see_off(plan, site, target, watch, unfinished)
            recorder.close()
            final, metrics = rows.read(database), _saved_metrics(folder)
            (folder / "rows.json").write_text(json.dumps(final))
            evidence = Evidence(list(history.read(recorder.path)), final, metrics)
            verdict.violations = checker.violations(evidence)
            verdict.happened = checker.what_happened(evidence)
            verdict.missing = [] if plan.until else checker.missing(evidence)
            verdict.slowest_recovery = max((seconds for _, seconds in checker.recoveries(evidence)), default=0.0)
        if verdict.violations:
            _dump(database, folder)
    verdict.seconds = time.monotonic() - started
    return verdict


def _work(plan: Plan, site: Site, shared: Shared, target: Target, verdict: Verdict) -> list[str]:
    """Let everybody work while faults happen; what did not come to its end. The verdict has
    violations already if the plan ends with those."""
    recorder, unfinished = shared.recorder, []
    administrators = Administrators(shared, site, plan.seed, plan.deeds)
    clients = [
        Client(shared, number, site.tokens[f"user{number}"], plan.seed, plan.deeds) for number in range(plan.clients)
    ]
    everybody: list[Client | Administrators] = [*clients, administrators]
    for thread in everybody:
        thread.start()
    deadline = time.monotonic() + LONGEST_RUN_SECONDS
    schedule = _schedule(plan, target)
    try:
        time.sleep(CALM_SECONDS)
        recorder.write(Operation("run", "calm", 0, recorder.now(), 200))
        while verdict.faults.total() < plan.faults or recorder.count < plan.operations:
            if time.monotonic() > deadline:
                unfinished.append(f"the run did not end within {LONGEST_RUN_SECONDS} s")
                break
            if plan.until:
                found = _broken_so_far(target)
                if plan.until in map(checker.rule_of, found):
                    verdict.violations = found
                    break
            if verdict.faults.total() < plan.faults:
                name, nemesis = next(schedule)
                start = recorder.now()
                nemesis(target)
                end = recorder.now()
                recorder.write(Operation("run", "fault", start, end, 200, {"name": name}))
                verdict.faults[name] += 1
                _wait_for_success(shared, end)
            time.sleep(PAUSE_SECONDS)
    except NotInTime as error:
        unfinished.append(str(error))
    finally:
        shared.stopping.set()
        for thread in everybody:
            thread.join(60)
    unfinished += [f"{thread.name} did not end" for thread in everybody if thread.is_alive()]
    unfinished += [f"{thread.name} failed: {thread.failure!r}" for thread in everybody if thread.failure]
    if not verdict.violations:
        try:
            target.api.wait_until_ready()
            administrators.stop()
        except NotInTime as error:
            unfinished.append(str(error))
    return unfinished


def _broken_so_far(target: Target) -> list[str]:
    acknowledged = target.recorder.flush()
    found = rows.read(target.database)
    return checker.violations_so_far(Evidence(list(history.read(target.recorder.path, acknowledged)), found))


def _see_off(plan: Plan, site: Site, target: Target, watch: "_Watch", unfinished: list[str]) -> None:
    """Wait until every seat is back, stop everything, and record what was left and what backups held."""
    api, recorder = target.api, target.recorder
    missing: dict[str, str] = {}
    try:
        missing = _everybody_gone(api.port, site)
        (target.folder / "metrics.txt").write_text(httpx.get(f"http://127.0.0.1:{api.port}/metrics", timeout=30).text)
        unfinished += ["a sweeper ended" for sweeper in target.sweepers if sweeper.process.poll() is not None]
        for sweeper in target.sweepers:
            sweeper.stop()
        manage(plan.code, api.environment, "expire_leases")
    except (NotInTime, httpx.TransportError, RuntimeError) as error:
        unfinished.append(str(error))
    api.stop()
    left_over = [f"process {pid} is left over" for pid in api.leftovers()] + watch.findings(target.database)
    for acknowledged, path in target.backups:
        known = list(history.read(recorder.path, acknowledged))
        broken = checker.violations_so_far(Evidence(known, json.loads(path.read_text())))
        # What was answered is not the backup's fault, and is reported apart.
        broken = [violation for violation in broken if not violation.startswith("s0")]
        recorder.write(Operation("run", "backup", recorder.now(), recorder.now(), 200, {"broken": broken}))
    facts = {"missing": missing, "left_over": left_over, "unfinished": unfinished}
    recorder.write(Operation("run", "final", recorder.now(), recorder.now(), 200, facts))


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


def _saved_metrics(folder: Path) -> dict[str, float]:
    file = folder / "metrics.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {series: float(value) for series, value in pairs}


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


def _dump(database: Postgres | Sqlite, folder: Path) -> None:
    """Keep the whole database of a run that broke a promise."""
    if isinstance(database, Postgres):
        target = clusters.own_folder(folder / "dump")
        clusters.run("pg_dump", "--format=custom", f"--file={target / 'licenses.dump'}", database.cluster.url)
    else:
        shutil.copy(database.path, folder / "licenses.db")
