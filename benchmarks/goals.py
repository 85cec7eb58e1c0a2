"""The goals, and how each is measured. Ratios are taken round by round."""

import http.client
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import demo, load, rows, stack
from .bench import HOT, MANY, REFUSED, STATUS, Bench, Round
from .load import Workload
from .ports import free_port
from .table import Goal, Row, ratios

HEARTBEAT = Workload("renew", HOT.things)
PAST, OPEN = 1_000_000, 10_000
MANY_TOOLS = [f"bench{number}" for number in range(1, 1001)]
PEOPLE, TEAMS = 20, 4
TOKENS = """
import sys, django
django.setup()
from licenses.access import tokens
from licenses.auditing import Actor
from licenses.models import ApiToken
for name in sys.argv[1:]:
    token = ApiToken(name="bench", user=name, may_read=True, may_borrow=True)
    print(name, tokens.issue(token, by=Actor.of_command("bench")))
"""


def against_pgbench(
    bench: Bench, name: str, workload: Workload, connections: int, share: float, p99: float = 0
) -> list[Row]:
    """The share of what PostgreSQL commits of the same transactions; the slowest answers
    of one tool at 16 connections."""
    found = bench.in_turns(
        {
            "server": lambda: bench.load(name, bench.plain, workload, connections),
            "pgbench": lambda: Round(bench.pgbench(len(workload.things), connections), 0, 0, 0),
        }
    )
    what = "one hot tool" if workload is HOT else f"{len(workload.things)} tools"
    shares = ratios(_rates(found["server"]), _rates(found["pgbench"]))
    return [
        Row(Goal(f"{what}, {connections} connections: share of pgbench", ">=", share), shares),
        Row(Goal(f"{what}, {connections} connections: requests/s", unit="/s"), _rates(found["server"])),
        Row(Goal(f"{what}, {connections} connections: pgbench/s", unit="/s"), _rates(found["pgbench"])),
        Row(
            Goal(f"{what}, {connections} connections: p99", "<=" if p99 else "", p99, "ms"),
            tuple(one.p99 for one in found["server"]),
        ),
    ]


def against_hot(bench: Bench, name: str, workload: Workload, what: str, bound: float) -> list[Row]:
    """A rate against that of borrows and returns of the hot tool, both at 16 connections."""
    found = bench.in_turns(
        {
            "hot": lambda: bench.load("hot-16", bench.plain, HOT, 16),
            name: lambda: bench.load(name, bench.plain, workload, 16),
        }
    )
    return [
        Row(Goal(f"{what}: share of the borrow rate", ">=", bound), ratios(_rates(found[name]), _rates(found["hot"]))),
        Row(Goal(f"{what}: requests/s", unit="/s"), _rates(found[name])),
    ]


def sqlite(bench: Bench) -> list[Row]:
    """What ``make run`` starts, on SQLite, against the stand-in for the original demo."""
    file = bench.database("make_run", vendor=stack.SQLITE)
    with made(bench, file) as ours, demo.serving(bench.folder / "demo", HOT.things[0], stack.CAPACITY) as theirs:

        def of_the_demo() -> Round:
            demo.forget(theirs.database)
            before = stack.cpu_seconds(theirs.master)
            found = load.run(theirs.url, HOT, connections=16, seconds=bench.seconds)
            spent = stack.cpu_seconds(theirs.master) - before
            if found.wrong:
                sys.stderr.write(
                    f"The demo's stand-in failed {sum(found.wrong.values())} of {found.requests} requests.\n"
                )
            measured = Round(found.rate, found.p50, found.p99, 1000 * spent / max(found.requests, 1))
            bench.details.setdefault("demo, SQLite", []).append(measured)
            return measured

        load.run(ours.url, HOT, connections=16, seconds=2)
        found = bench.in_turns(
            {"ours": lambda: bench.load("make run, SQLite", ours, HOT, 16), "theirs": of_the_demo},
        )
    slowest = [tuple(one.p99 for one in found[side]) for side in ("theirs", "ours")]
    return [
        Row(Goal("make run on SQLite: times the original demo", ">=", 4), ratios(*map(_rates, found.values()))),
        Row(Goal("make run on SQLite: requests/s", unit="/s"), _rates(found["ours"])),
        Row(Goal("the original demo's stand-in: requests/s", unit="/s"), _rates(found["theirs"])),
        Row(Goal("the demo's p99: times that of make run on SQLite", ">=", 15), ratios(*slowest)),
        Row(Goal("make run on SQLite: p99", unit="ms"), slowest[1]),
    ]


def cpu(bench: Bench) -> list[Row]:
    """The processor time of a borrow with its return in the process, without an HTTP server."""
    command = [sys.executable, "-m", "benchmarks.path", "--database", "postgresql"]
    result = subprocess.run(command, cwd=stack.ROOT, capture_output=True, text=True)
    times = re.findall(r"^borrow\+return +([\d.]+)$", result.stdout, re.M)
    if not times:
        sys.stderr.write(f"benchmarks.path: {result.stdout}{result.stderr[-500:]}\n")
    goal = Goal("borrow + return: processor time in the process", "<=", 0.9, "ms")
    return [Row(goal, tuple(map(float, times)))]


def past(bench: Bench) -> list[Row]:
    """Everything with a long past and many open leases, against the same without."""
    leases = PAST // 10 if bench.seconds <= 2 else PAST

    def fill(sql: rows.Sql) -> None:
        rows.past(sql, leases, stack.TOOLS)
        rows.open_leases(sql, OPEN, stack.TOOLS)

    workloads = {"one hot tool": HOT, "50 tools": MANY, "refusals": REFUSED, "heartbeats": HEARTBEAT, "status": STATUS}
    found = []
    # 5 % is less than rounds differ by: shorter ones, and more of them.
    seconds, rounds = max(0.6 * bench.seconds, 1), bench.rounds if bench.rounds == 1 else 2 * bench.rounds + 1
    with bench.site("past", fill) as old:
        for what, workload in workloads.items():
            sides = {"without": bench.plain, "with": old}
            measured = bench.in_turns(
                {
                    side: lambda side=side, running=running, what=what, workload=workload: bench.load(  # type: ignore[misc]
                        f"{what}, {side} a past", running, workload, 16, seconds
                    )
                    for side, running in sides.items()
                },
                rounds,
            )
            goal = Goal(f"{leases:,} past, {OPEN:,} open leases: {what}, share of the rate without", ">=", 0.95)
            found.append(Row(goal, ratios(_rates(measured["with"]), _rates(measured["without"]))))
    return found


def secured(bench: Bench) -> list[Row]:
    """Bearer tokens of people in teams with quotas, and a key for each borrow, against none of it."""

    def fill(sql: rows.Sql) -> None:
        rows.teams(sql, TEAMS, PEOPLE, stack.TOOLS, quota=1000)

    found = []
    with bench.site("secured", fill, settings={"LICENSE_AUTH": "required"}) as running:
        callers = tokens(running.database)
        for what, plain in {"one hot tool": HOT, "50 tools": MANY}.items():
            guarded = Workload("borrow", plain.things, callers, keyed=True)
            load.run(running.url, guarded, connections=16, seconds=1)
            measured = bench.in_turns(
                {
                    "plain": lambda plain=plain, what=what: bench.load(f"{what}, plain", bench.plain, plain, 16),  # type: ignore[misc]
                    "secured": lambda guarded=guarded, what=what: bench.load(  # type: ignore[misc]
                        f"{what}, secured", running, guarded, 16
                    ),
                }
            )
            goal = Goal(f"tokens, Idempotency-Keys and quotas: {what}, share of the plain rate", ">=", 0.8)
            found.append(Row(goal, ratios(_rates(measured["secured"]), _rates(measured["plain"]))))
    return found


def metrics(bench: Bench) -> list[Row]:
    """A scrape with 1,000 tools, all of which every worker has counted borrows of."""

    def fill(sql: rows.Sql) -> None:
        rows.tools(sql, MANY_TOOLS, stack.CAPACITY)
        rows.open_leases(sql, OPEN, MANY_TOOLS)

    with bench.site("tools", fill) as running:
        bench.load("1,000 tools", running, Workload("borrow", tuple(MANY_TOOLS)), 16)
        connections = [
            http.client.HTTPConnection(urllib.parse.urlsplit(running.url).netloc, timeout=60)
            for _ in range(2 * len(running.workers))
        ]
        scrapes = [_scrape(connection) for _ in range(4) for connection in connections]
        size = scrapes[-1][1]
    times = tuple(1000 * seconds for seconds, _ in scrapes[len(connections) :])
    return [
        Row(Goal(f"/metrics with 1,000 tools, {OPEN:,} open leases", "<=", 50, "ms"), times),
        Row(Goal("/metrics: the size of the page", unit="MB"), (size / 1_000_000,)),
    ]


def memory(bench: Bench) -> list[Row]:
    """What each worker has in memory after it worked."""
    for workload in (MANY, STATUS, REFUSED):
        bench.load("before memory", bench.plain, workload, 64)
    found = [stack.memory_of(pid) for pid in bench.plain.workers]
    return [
        Row(Goal("memory of a worker (RSS, with what it shares)", "<=", 90, "MB"), tuple(one.rss for one in found)),
        Row(Goal("memory of a worker (PSS, its part of what is shared)", unit="MB"), tuple(one.pss for one in found)),
    ]


def start(bench: Bench) -> list[Row]:
    """From the command to the first answer of /readyz; and of all that ``make run`` does."""
    database, file = bench.database("start"), bench.database("start", vendor=stack.SQLITE)
    server, make = [], []
    for number in range(bench.rounds):
        begin = time.perf_counter()
        with stack.serving(database, bench.folder / f"start{number}", pause=0.01):
            server.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        with made(bench, file, pause=0.01):
            make.append(time.perf_counter() - begin)
    return [
        Row(Goal("start: until /readyz answers", "<=", 2, "s"), tuple(server)),
        Row(Goal("start of make run, with migrations and static files", unit="s"), tuple(make)),
    ]


GOALS: dict[str, Callable[[Bench], list[Row]]] = {
    "hot-16": lambda bench: against_pgbench(bench, "hot-16", HOT, 16, 1.0, p99=25),
    "hot-64": lambda bench: against_pgbench(bench, "hot-64", HOT, 64, 2.0),
    "many-16": lambda bench: against_pgbench(bench, "many-16", MANY, 16, 0.35),
    "many-64": lambda bench: against_pgbench(bench, "many-64", MANY, 64, 0.55),
    "refused": lambda bench: against_hot(bench, "refused", REFUSED, "refusals on an exhausted tool", 1.0),
    "heartbeat": lambda bench: against_hot(bench, "heartbeat", HEARTBEAT, "heartbeats", 1.2),
    "status": lambda bench: against_hot(bench, "status", STATUS, "status of one tool", 2.0),
    "sqlite": sqlite,
    "cpu": cpu,
    "past": past,
    "secured": secured,
    "metrics": metrics,
    "memory": memory,
    "start": start,
}


@contextmanager
def made(bench: Bench, file: str, *, pause: float = 0.1) -> Iterator[stack.Stack]:
    """What ``make run`` starts, on this file of SQLite, ready."""
    port = free_port()
    environment = stack.environment_of(file) | {"BIND": f"127.0.0.1:{port}"}
    command = ["make", "--no-print-directory", "serve", f"BIN={Path(sys.executable).parent}"]
    with stack.running(command, environment, bench.folder / "make.log") as make:
        url = f"http://127.0.0.1:{port}"
        stack.wait_until_ready(url, make, pause=pause)
        yield stack.Stack(url, file, make.pid)


def tokens(database: str) -> tuple[tuple[str, str], ...]:
    """Make a token for each of the people; return their names and secrets."""
    result = subprocess.run(
        [sys.executable, "-c", TOKENS, *(f"bench{number}" for number in range(1, PEOPLE + 1))],
        cwd=stack.ROOT,
        env=stack.environment_of(database) | {"DJANGO_SETTINGS_MODULE": "licenseserver.settings"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return tuple((name, secret) for name, secret in (line.split() for line in result.stdout.splitlines()))


def _rates(found: list[Round]) -> tuple[float, ...]:
    return tuple(one.rate for one in found)


def _scrape(connection: http.client.HTTPConnection) -> tuple[float, int]:
    """Seconds and bytes of one scrape."""
    begin = time.perf_counter()
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    page = answer.read()
    took = time.perf_counter() - begin
    if answer.status != 200 or b"license_borrow_success_total" not in page:
        raise RuntimeError(f"/metrics: {answer.status} {page[:200]!r}")
    return took, len(page)
