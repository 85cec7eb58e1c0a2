"""Measure what growth costs: throughput against connections, workers, tools, past and open
leases, teams with quotas, people who wait.

    python -m benchmarks.growth [--only DIMENSION] [--database sqlite]

Every size of a dimension has a server with a database of its own, filled by SQL; the rounds
alternate between them. Ends with 1 if a request was not answered as it should be, or if the
rows disagree afterwards.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from . import bench, rows, stack, table
from .bench import HOT, MANY, Bench, Round
from .load import Workload

# The last sizes of an assortment are what hurts.
CONNECTIONS = (1, 4, 16, 64, 256)
WORKERS = (1, 2, 4)
TOOLS = (1, 10, 50, 1000)
PAST = (0, 10_000, 1_000_000)
OPEN = (0, 1_000, 10_000)
TEAMS = (0, 10, 100)
WAITERS = (0, 100, 1_000)


@dataclass(frozen=True)
class Cell:
    """One size of a dimension, and how to measure it."""

    size: int
    measure: Callable[[], Round]


@dataclass(frozen=True)
class Line:
    """The cells of one load along a dimension."""

    dimension: str
    load: str
    cells: Sequence[Cell]


@dataclass
class Growth:
    """The dimensions, of one database."""

    bench: Bench
    vendor: str
    closing: ExitStack

    def site(
        self, name: str, fill: Callable[[rows.Sql], object] = lambda sql: None, workers: int | None = None
    ) -> stack.Stack:
        """A server that runs until the dimension is measured."""
        return self.closing.enter_context(self.bench.site(name, fill, vendor=self.vendor, workers=workers))

    def line(self, dimension: str, load: str, cells: dict[int, tuple[stack.Stack, Workload, int]]) -> Line:
        return Line(
            dimension,
            load,
            [
                Cell(size, partial(self.bench.load, f"{dimension} {size:,}: {load}", running, workload, connections))
                for size, (running, workload, connections) in cells.items()
            ],
        )

    def connections(self) -> list[Line]:
        """How many ask at once."""
        site = self.site("connections")
        return [
            self.line("connections", load, {size: (site, workload, size) for size in CONNECTIONS})
            for load, workload in {"one hot tool": HOT, "50 tools": MANY}.items()
        ]

    def workers(self) -> list[Line]:
        """gunicorn's processes."""
        sites = {size: self.site(f"workers{size}", workers=size) for size in WORKERS}
        return [
            self.line("workers", load, {size: (site, workload, 16) for size, site in sites.items()})
            for load, workload in {"one hot tool": HOT, "50 tools": MANY}.items()
        ]

    def tools(self) -> list[Line]:
        """Tools that are borrowed in turn."""
        names = [f"bench{number}" for number in range(1, max(TOOLS) + 1)]
        site = self.site("tools", lambda sql: rows.tools(sql, names, stack.CAPACITY))
        return [
            self.line(
                "tools", "all in turn", {size: (site, Workload("borrow", tuple(names[:size])), 16) for size in TOOLS}
            )
        ]

    def past(self) -> list[Line]:
        """Leases that were returned, of 50 tools."""
        sites = {size: self.site(f"past{size}", partial(_past, size=size)) for size in PAST}
        return [self.line("past leases", "one hot tool", {size: (site, HOT, 16) for size, site in sites.items()})]

    def open(self) -> list[Line]:
        """Leases that are open, all of the tool that is borrowed."""
        sites = {size: self.site(f"open{size}", partial(_open, size=size)) for size in OPEN}
        return [
            self.line("open leases", "the tool of them all", {size: (site, HOT, 16) for size, site in sites.items()})
        ]

    def teams(self) -> list[Line]:
        """Teams with a quota of the tool, whose people borrow in turn."""
        sites = {size: self.site(f"teams{size}", partial(_teams, size=size)) for size in TEAMS}
        people = {size: tuple((f"bench{number}", "") for number in range(1, max(size, 1) + 1)) for size in TEAMS}
        cells = {size: (site, Workload("borrow", HOT.things, people[size]), 16) for size, site in sites.items()}
        return [self.line("teams with quotas", "one hot tool", cells)]

    def waiters(self) -> list[Line]:
        """People who wait for the tool and another one: those whom it concerns borrow it
        all the same, those who wait ask for their turn."""
        ids: dict[int, list[str]] = {}
        sites = {size: self.site(f"waiters{size}", partial(_waiters, size=size, ids=ids)) for size in WAITERS}
        polls = {
            size: (site, Workload("get", tuple(f"/licenses/queue/{id}" for id in ids[size]), expected=(202,)), 16)
            for size, site in sites.items()
            if ids[size]
        }
        return [
            self.line("waiters", "one hot tool", {size: (site, HOT, 16) for size, site in sites.items()}),
            self.line("waiters", "their polls", polls),
        ]


def _past(sql: rows.Sql, size: int) -> None:
    rows.past(sql, size, stack.TOOLS)


def _open(sql: rows.Sql, size: int) -> None:
    rows.open_leases(sql, size, HOT.things)


def _teams(sql: rows.Sql, size: int) -> None:
    rows.teams(sql, size, size, HOT.things, quota=1000)


def _waiters(sql: rows.Sql, size: int, ids: dict[int, list[str]]) -> None:
    ids[size] = rows.waiters(sql, size, HOT.things[0], stack.EXHAUSTED)


DIMENSIONS: dict[str, Callable[[Growth], list[Line]]] = {
    "connections": Growth.connections,
    "workers": Growth.workers,
    "tools": Growth.tools,
    "past": Growth.past,
    "open": Growth.open,
    "teams": Growth.teams,
    "waiters": Growth.waiters,
}
HEAD = ("", "load", "size", "requests/s", "of the first", "p50", "p99", "server's CPU/request")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    bench.add_options(parser, list(DIMENSIONS), rounds=3, seconds=3)
    parser.add_argument("--database", choices=[stack.POSTGRESQL, stack.SQLITE], default=stack.POSTGRESQL)
    options = bench.parsed(parser)
    cells: list[list[str]] = []
    with bench.started(options) as run:
        for name in options.only or DIMENSIONS:
            with ExitStack() as closing:
                for line in DIMENSIONS[name](Growth(run, options.database, closing)):
                    found = run.in_turns({str(cell.size): cell.measure for cell in line.cells})
                    lines = cells_of(line, found)
                    cells += lines
                    sys.stdout.write(table.text(HEAD, lines) + "\n\n")
                    sys.stdout.flush()
        environment = run.environment()
    where = ", ".join(f"{name} {value}" for name, value in environment.items())
    sys.stdout.write(f"\n{table.text(HEAD, cells)}\n\n{where}\n")
    for wrong in run.wrong:
        sys.stdout.write(f"WRONG {wrong}\n")
    if options.json:
        measured = {name: [vars(one) for one in rounds] for name, rounds in run.details.items()}
        options.json.write_text(json.dumps({"environment": environment, "rounds": measured}, indent=2) + "\n")
    if options.write and not run.wrong:
        table.put(bench.PAGE, f"growth, {options.database}", f"{table.markdown(HEAD, cells)}\n\n{where}.")
    return 1 if run.wrong else 0


def cells_of(line: Line, found: dict[str, list[Round]]) -> list[list[str]]:
    """The medians of each size, and how its rate compares with the first one's, round by round."""
    first, *_ = found.values()
    lines = []
    for size, rounds in found.items():
        share = statistics.median(table.ratios([one.rate for one in rounds], [one.rate for one in first]))
        lines.append(
            [
                line.dimension,
                line.load,
                f"{int(size):,}",
                f"{statistics.median(one.rate for one in rounds):.0f}",
                f"{share:.2f}",
                f"{statistics.median(one.p50 for one in rounds):.1f} ms",
                f"{statistics.median(one.p99 for one in rounds):.1f} ms",
                f"{statistics.median(one.cpu for one in rounds):.2f} ms",
            ]
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
