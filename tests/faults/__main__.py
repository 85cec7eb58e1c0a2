"""Run the fault harness: ``python -m tests.faults [--seed N] [--database sqlite]``."""

import argparse
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from .jobs import side_by_side
from .run import Plan, Verdict


def main() -> None:
    """Run one plan or several seeds; exit 1 if a promise was broken."""
    options = _arguments()
    seeds = options.seeds or [options.seed if options.seed is not None else secrets.randbelow(1_000_000)]
    plans = [
        Plan(seed, options.database, options.faults, options.operations, tuple(options.kind or ())) for seed in seeds
    ]
    verdicts: list[Verdict] = []
    folder = options.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    with side_by_side(options.database, options.jobs) as run_all:
        for verdict in run_all((plan, folder / f"{plan.database}-{plan.seed}") for plan in plans):
            report(verdict)
            verdicts.append(verdict)
            if verdict.is_good and not options.keep:
                shutil.rmtree(verdict.folder)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()
    bad = sum(not verdict.is_good for verdict in verdicts)
    operations, faults, cuts = (
        sum(counts)
        for counts in zip(
            *((verdict.operations, verdict.faults.total(), verdict.cuts) for verdict in verdicts), strict=True
        )
    )
    slowest = max(verdict.slowest_recovery for verdict in verdicts)
    print(
        f"{len(verdicts) - bad} passed, {bad} failed: {operations} operations, {faults} faults, {cuts} cuts; "
        f"slowest recovery {slowest:.2f} s"
    )
    sys.exit(1 if bad else 0)


def report(verdict: Verdict) -> None:
    """Print what happened in a run, and what it broke."""
    plan = verdict.plan
    print(
        f"seed {plan.seed}, {plan.database}: {verdict.operations} operations, {verdict.faults.total()} faults, "
        f"{verdict.cuts} cuts in {verdict.seconds:.0f} s; slowest recovery {verdict.slowest_recovery:.2f} s"
    )
    print(f"  faults: {_counts(verdict.faults)}\n  happened: {_counts(verdict.happened)}")
    for sentence in verdict.violations[:20]:
        print(f"  VIOLATION {sentence}")
    if len(verdict.violations) > 20:
        print(f"  and {len(verdict.violations) - 20} more")
    if verdict.failure:
        print(f"  BROKE OFF {verdict.failure}")
    if verdict.missing:
        print(f"  NOTHING TESTED: it never came about: {', '.join(verdict.missing)}")
    if not verdict.is_good:
        print(f"  kept in {verdict.folder}; again with: make faults SEED={plan.seed}")
    sys.stdout.flush()


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()) if count)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="repeats the schedule of an earlier run; random if absent")
    parser.add_argument("--seeds", type=int, nargs="+", help="several runs")
    parser.add_argument("--jobs", type=int, default=1, help="so many runs at once; 1")
    parser.add_argument("--database", choices=["postgres", "sqlite"], default="postgres")
    parser.add_argument("--faults", type=int, default=64, help="how many faults; 64")
    parser.add_argument("--operations", type=int, default=10_000, help="at least so many calls; 10000")
    parser.add_argument("--kind", action="append", help="only faults of this kind; repeatable")
    parser.add_argument("--keep", type=Path, help="keep histories, rows and logs in this folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
