"""Measure whether the server reaches its goals, against what its database can commit, the demo
that it replaced, and itself.

Prints a table of the goals and one of all rounds. Ends with 1 if a request was not answered
as it should be, or if the rows disagree afterwards.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from typing import Any

from . import bench, table
from .goals import GOALS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    bench.add_options(parser, list(GOALS), rounds=3, seconds=5)
    parser.add_argument("--workers", type=int, help="gunicorn's processes; by default as deployed")
    parser.add_argument("--pooler", type=int, metavar="N", help="behind PgBouncer with N connections to PostgreSQL")
    options = bench.parsed(parser)
    say, begin = sys.stdout.write, time.monotonic()
    found: dict[str, list[table.Row]] = {}
    with bench.started(options) as run:
        for name in options.only or GOALS:
            found[name] = GOALS[name](run)
            say(table.text(("", *table.HEAD[1:]), [row.cells() for row in found[name]]) + "\n\n")
            sys.stdout.flush()
        environment = run.environment() | {"minutes": round((time.monotonic() - begin) / 60, 1)}
        details = details_of(run)
    rows = [row for rows in found.values() for row in rows]
    where = ", ".join(f"{name} {value}" for name, value in environment.items())
    say(f"\n{table.text(DETAILS, details)}\n\n")
    say(f"{table.text(table.HEAD, [row.cells() for row in rows])}\n\n{where}\n")
    for line in run.wrong:
        say(f"WRONG {line}\n")
    if options.json:
        options.json.write_text(json.dumps(figures(found, run, environment), indent=2) + "\n")
    if options.write and not run.wrong:
        content = f"{table.markdown(table.HEAD, [row.cells() for row in rows])}\n\n{where}."
        table.put(bench.PAGE, "goals", content)
    return 1 if run.wrong else 0


DETAILS = ("", "requests/s", "p50 ms", "p99 ms", "server's CPU ms/request", "rounds")


def details_of(run: bench.Bench) -> list[list[str]]:
    """The medians of each load."""
    return [
        [
            name,
            f"{statistics.median(one.rate for one in rounds):.0f}",
            f"{statistics.median(one.p50 for one in rounds):.1f}",
            f"{statistics.median(one.p99 for one in rounds):.1f}",
            f"{statistics.median(one.cpu for one in rounds):.2f}",
            str(len(rounds)),
        ]
        for name, rounds in run.details.items()
    ]


def figures(found: dict[str, list[table.Row]], run: bench.Bench, environment: dict[str, Any]) -> dict[str, Any]:
    """All that was measured, for a program."""
    return {
        "environment": environment,
        "goals": [
            {
                "name": name,
                "what": row.goal.what,
                "goal": str(row.goal),
                "unit": row.goal.unit,
                "values": row.values,
                "measured": row.measured,
                "reached": row.reached,
            }
            for name, rows in found.items()
            for row in rows
        ],
        "rounds": {name: [dataclasses.asdict(one) for one in rounds] for name, rounds in run.details.items()},
        "wrong": run.wrong,
    }


if __name__ == "__main__":
    sys.exit(main())
