"""Measure the server against what its database can commit."""

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

from . import limit, load, stack


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8, help="a round lasts; 8")
    parser.add_argument("--rounds", type=int, default=3, help="of each workload, of which the median is told; 3")
    parser.add_argument("--connections", type=int, default=16, help="at once; 16")
    parser.add_argument("--workers", type=int, help="gunicorn's processes; by default as deployed")
    parser.add_argument("--pooler", type=int, metavar="N", help="behind PgBouncer with N connections to PostgreSQL")
    parser.add_argument("--workload", action="append", choices=sorted(load.WORKLOADS), help="only this (repeatable)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    workloads = [load.WORKLOADS[name] for name in options.workload or load.WORKLOADS]
    program = limit.pgbench()

    with stack.started(options.workers, pool=options.pooler) as running:
        measured: dict[str, list[load.Measured]] = {workload.name: [] for workload in workloads}
        limits: dict[str, list[float]] = {workload.name: [] for workload in workloads if _is_a_pair(workload)}
        wrong: list[str] = []
        load.run(running.url, load.WORKLOADS["many"], connections=options.connections, seconds=2)  # warm
        # In turns, so that a slow minute of the machine meets all alike.
        for _ in range(options.rounds):
            for workload in workloads:
                stack.reset(running)
                if program and workload.name in limits:
                    limits[workload.name].append(
                        limit.transactions_per_second(
                            program,
                            running,
                            tools=len(workload.tools),
                            connections=options.connections,
                            seconds=options.seconds,
                        )
                    )
                    stack.reset(running)
                result = load.run(running.url, workload, connections=options.connections, seconds=options.seconds)
                measured[workload.name].append(result)
                if result.wrong:
                    wrong.append(f"{workload.name}: {result.wrong} requests were not answered as they should")
                wrong += [f"{workload.name}: {leak}" for leak in stack.leaks(running)]
        figures = {
            name: {
                "ratio": statistics.median(rounds.rate / top for rounds, top in zip(results, limits[name], strict=True))
                if limits.get(name)
                else None,
                "requests_per_second": statistics.median(result.rate for result in results),
                "p50_ms": statistics.median(result.p50 for result in results),
                "p99_ms": statistics.median(result.p99 for result in results),
                "pgbench_per_second": statistics.median(limits[name]) if limits.get(name) else None,
            }
            for name, results in measured.items()
        }
        environment = {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "database": stack.version(running),
            "workers": running.workers,
            "connections": options.connections,
            "pooler": options.pooler,
            "load": load.generator(),
            "rounds": options.rounds,
            "seconds": options.seconds,
        }
    _print(figures, environment, wrong)
    if options.json:
        options.json.write_text(json.dumps({"environment": environment, "figures": figures}, indent=2) + "\n")
    return 1 if wrong else 0


def _is_a_pair(workload: load.Workload) -> bool:
    return bool(workload.tools) and workload.expected == (200,)


def _print(figures: dict[str, dict[str, Any]], environment: dict[str, Any], wrong: list[str]) -> None:
    say = sys.stdout.write
    say("share of what pgbench commits with the same transactions:\n")
    for name, figure in figures.items():
        if figure["ratio"] is not None:
            say(f"  {name:<12}{figure['ratio']:.2f}\n")
    say(f"\n{'':<12}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'pgbench/s':>12}\n")
    for name, figure in figures.items():
        top = f"{figure['pgbench_per_second']:.0f}" if figure["pgbench_per_second"] else ""
        say(
            f"{name:<12}{figure['requests_per_second']:>12.0f}{figure['p50_ms']:>10.1f}{figure['p99_ms']:>10.1f}{top:>12}\n"
        )
    say("\n" + ", ".join(f"{name} {value}" for name, value in environment.items()) + "\n")
    for line in wrong:
        say(f"WRONG {line}\n")


if __name__ == "__main__":
    sys.exit(main())
