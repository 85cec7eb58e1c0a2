"""Run the fault harness: ``python -m tests.faults [--seed N] [--database sqlite]``."""

import argparse
import secrets
import shutil
import signal
import sys
from pathlib import Path

from .run import Plan, Verdict, run


def main() -> None:
    """Run one plan or several seeds; exit 1 if a promise was broken."""
    options = _arguments()
    # Whatever ends it, the servers that it started end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seeds = options.seeds or [options.seed if options.seed is not None else secrets.randbelow(1_000_000)]
    bad = 0
    for seed in seeds:
        plan = Plan(seed, options.database, options.faults, options.operations, tuple(options.kind or ()))
        print(f"seed {seed}: {plan.faults} faults, {plan.operations} operations, {plan.database}", flush=True)
        verdict = run(plan, options.keep / str(seed) if options.keep else None)
        report(verdict)
        bad += not verdict.is_good
        if verdict.is_good and not options.keep:
            shutil.rmtree(verdict.folder, ignore_errors=True)
    print(f"{len(seeds) - bad} passed, {bad} failed")
    sys.exit(1 if bad else 0)


def report(verdict: Verdict) -> None:
    """Print what happened in a run, and what it broke."""
    faults = ", ".join(f"{name} {count}" for name, count in sorted(verdict.faults.items()))
    happened = ", ".join(f"{name} {count}" for name, count in sorted(verdict.happened.items()) if count)
    print(
        f"  {verdict.operations} operations, {verdict.faults.total()} faults, {verdict.cuts} cuts in "
        f"{verdict.seconds:.0f} s; slowest recovery {verdict.slowest_recovery:.2f} s"
    )
    print(f"  faults: {faults}\n  happened: {happened}")
    for sentence in verdict.violations[:20]:
        print(f"  VIOLATION {sentence}")
    if len(verdict.violations) > 20:
        print(f"  and {len(verdict.violations) - 20} more")
    if verdict.missing:
        print(f"  NOTHING TESTED: it never came about: {', '.join(verdict.missing)}")
    if not verdict.is_good:
        print(f"  kept in {verdict.folder}; again with: make faults SEED={verdict.plan.seed}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="repeats the schedule of an earlier run; random if absent")
    parser.add_argument("--seeds", type=int, nargs="+", help="several runs, one after the other")
    parser.add_argument("--database", choices=["postgres", "sqlite"], default="postgres")
    parser.add_argument("--faults", type=int, default=64, help="how many faults; 64")
    parser.add_argument("--operations", type=int, default=10_000, help="at least so many calls; 10000")
    parser.add_argument("--kind", action="append", help="only faults of this kind; repeatable")
    parser.add_argument("--keep", type=Path, help="keep histories, rows and logs in this folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
