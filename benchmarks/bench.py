"""What the benchmarks of throughput share: servers on databases of their own, rounds in turn, checks."""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from . import limit, load, rows, stack
from .load import Workload

T = TypeVar("T")
PAGE = stack.ROOT / "docs" / "performance.md"

HOT = Workload("borrow", (stack.TOOLS[0],))
MANY = Workload("borrow", tuple(stack.TOOLS))
REFUSED = Workload("borrow", (stack.EXHAUSTED,), expected=(409,))
STATUS = Workload("get", (f"/licenses/{stack.TOOLS[0]}/status",))


@dataclass(frozen=True)
class Round:
    """One round of a load: what was measured, and the processor time in ms that the
    server spent on a request."""

    rate: float
    p50: float
    p99: float
    cpu: float


@dataclass
class Bench:
    """A run: how long, how often, and what went wrong meanwhile."""

    closing: ExitStack
    folder: Path
    rounds: int
    seconds: float
    pool: int | None = None
    workers: int | None = None
    wrong: list[str] = field(default_factory=list)
    details: dict[str, list[Round]] = field(default_factory=dict)
    databases: dict[str, stack.Databases] = field(default_factory=dict)
    _plain: stack.Stack | None = None
    _serial: int = 0

    @property
    def plain(self) -> stack.Stack:
        """A server on PostgreSQL with tools and nothing else, for the whole run."""
        if self._plain is None:
            self._plain = self.closing.enter_context(self.site("plain", workers=self.workers, pool=self.pool))
        return self._plain

    @contextmanager
    def site(
        self,
        name: str,
        fill: Callable[[rows.Sql], object] = lambda sql: None,
        *,
        vendor: str = stack.POSTGRESQL,
        workers: int | None = None,
        pool: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Iterator[stack.Stack]:
        """A server on a database of its own, which ``fill`` fills; warm."""
        self._serial += 1
        database = self.database(f"{name}_{self._serial}", fill, vendor=vendor)
        folder = self.folder / f"{name}_{self._serial}"
        with stack.serving(database, folder, workers=workers, pool=pool, settings=settings) as running:
            if not settings:
                load.run(running.url, MANY, connections=16, seconds=2)
            yield running

    def database(
        self, name: str, fill: Callable[[rows.Sql], object] = lambda sql: None, *, vendor: str = stack.POSTGRESQL
    ) -> str:
        """A database with tools, which ``fill`` fills; its URL or path."""
        if vendor not in self.databases:
            self.databases[vendor] = stack.Databases(self.folder / vendor, vendor, self.closing)
        database = self.databases[vendor].new(name)
        with rows.connected(database) as sql:
            fill(sql)
            rows.settle(sql)
        return database

    def load(
        self, name: str, running: stack.Stack, workload: Workload, connections: int, seconds: float | None = None
    ) -> Round:
        """Load a server that has forgotten the load before; note what is wrong with the
        answers, and with the rows afterwards."""
        rows.reset(running.database)
        if workload.what == "renew":
            leases = load.borrowed(running.url, workload.things[0], 100)
            workload = Workload("renew", leases, workload.callers, expected=workload.expected)
        before = stack.cpu_seconds(running.master)
        found = load.run(running.url, workload, connections=connections, seconds=seconds or self.seconds)
        spent = stack.cpu_seconds(running.master) - before
        if found.wrong or not found.requests:
            answers = ", ".join(f"{count} x {answer}" for answer, count in found.wrong.items())
            self.wrong.append(f"{name}: of {found.requests} requests, these should not be: {answers or 'none at all'}")
        self.wrong += [f"{name}: {line}" for line in rows.disagreements(running.database)]
        measured = Round(found.rate, found.p50, found.p99, 1000 * spent / max(found.requests, 1))
        self.details.setdefault(name, []).append(measured)
        return measured

    def pgbench(self, tools: int, connections: int) -> float:
        """What PostgreSQL commits of the same transactions, a second; not a number
        without pgbench."""
        program = limit.pgbench()
        if program is None:
            return float("nan")
        rows.reset(self.plain.database)
        return limit.transactions_per_second(
            program, self.plain.database, tools=tools, connections=connections, seconds=self.seconds
        )

    def in_turns(self, sides: Mapping[str, Callable[[], T]], rounds: int | None = None) -> dict[str, list[T]]:
        """Measure each side once a round, so that a slow minute of the machine meets all;
        every other round begins with the last one."""
        found: dict[str, list[T]] = {name: [] for name in sides}
        for number in range(rounds or self.rounds):
            for name in list(sides)[:: -1 if number % 2 else 1]:
                found[name].append(sides[name]())
        return found

    def environment(self) -> dict[str, Any]:
        """Where and how it was measured."""
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=stack.ROOT, capture_output=True, text=True
        ).stdout.strip()
        versions = [stack.version(databases.template) for databases in self.databases.values() if databases.template]
        return {
            "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
            "commit": commit,
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "databases": " and ".join(versions),
            "load": load.generator(),
            "rounds": self.rounds,
            "seconds": self.seconds,
        }


@contextmanager
def started(options: argparse.Namespace) -> Iterator[Bench]:
    """A run in a temporary folder, and the end of all that it started."""
    busy = os.getloadavg()[0]
    if busy > 0.5:
        sys.stderr.write(f"Other work goes on (a load of {busy:.1f}): compare shares, not figures.\n")
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="licenseserver-bench-")))
        yield Bench(
            closing,
            folder,
            options.rounds,
            options.seconds,
            pool=getattr(options, "pooler", None),
            workers=getattr(options, "workers", None),
        )


def add_options(parser: argparse.ArgumentParser, names: list[str], *, rounds: int, seconds: float) -> None:
    """The options of both programs."""
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help=f"repeatable: {', '.join(names)}"
    )
    parser.add_argument("--rounds", type=int, default=rounds, help=f"of which the median counts; {rounds}")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"a round lasts; {seconds}")
    parser.add_argument("--quick", action="store_true", help="one round of 2 s, a tenth of the past: does it work?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--write", action="store_true", help="replace the table in docs/performance.md")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options; --quick makes the others small."""
    options = parser.parse_args()
    if options.quick:
        if options.write:
            parser.error("--quick measures nothing that is worth writing down.")
        options.rounds, options.seconds = 1, 2
    return options
