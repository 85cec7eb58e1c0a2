"""Servers that are wrong on purpose: the harness must catch each of them.

``python -m tests.faults.mutants [NAME ...]`` copies the server's code, makes one
mistake in it, and runs the harness on it. A mutant that no rule finds makes it
exit with 1. Each is text to find and text to put in its place, so that a mutant
whose place has moved fails instead of testing nothing.
"""

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .run import Plan, run
from .stack import ROOT

CODE = ("licenses", "licenseserver", "manage.py")


@dataclass(frozen=True)
class Mutant:
    """One mistake: replacements by file, and the faults that bring it to light."""

    name: str
    changes: tuple[tuple[str, str, str], ...]
    kinds: tuple[str, ...] = ("kill_sweeper",)
    faults: int = 2
    operations: int = 3_000


MUTANTS = [
    Mutant(
        "no lock",
        (
            (
                "licenses/models/tool.py",
                "return self.select_for_update(no_key=True).filter(name__in",
                "return self.filter(name__in",
            ),
        ),
    ),
    Mutant(
        "repeatable read",
        (
            ("licenseserver/settings.py", "IsolationLevel.READ_COMMITTED", "IsolationLevel.REPEATABLE_READ"),
            # Tried again, it would be slow and right: the tool's row is always written.
            ("licenses/leasing.py", "TRIES = 3\n", "TRIES = 1\n"),
        ),
    ),
    Mutant("key ignored", (("licenses/leasing.py", "    if retry is None:\n", "    if True:\n"),)),
    Mutant(
        "refusals not kept",
        (
            (
                "licenses/leasing.py",
                "    _keep(kept, outcome)\n",
                "    if isinstance(outcome, Refusal):\n        kept.delete()\n    else:\n        _keep(kept, outcome)\n",
            ),
        ),
    ),
    Mutant(
        "counter in another transaction",
        (
            (
                "licenses/statements.py",
                '"UPDATE licenses_tool SET in_use = %s, kept_back = %s, overdraft_total = %s, last_fence = %s'
                ' WHERE id = %s",\n            [tool.in_use, tool.kept_back, tool.overdraft_total, tool.last_fence, tool.pk],',
                '"UPDATE licenses_tool SET last_fence = %s WHERE id = %s",\n            [tool.last_fence, tool.pk],',
            ),
            (
                "licenses/statements.py",
                "def write_end(",
                "def _later(tool: Tool) -> None:\n"
                "    from django.db import transaction\n"
                "    values = [tool.in_use, tool.kept_back, tool.overdraft_total, tool.pk]\n"
                "    sql = 'UPDATE licenses_tool SET in_use = %s, kept_back = %s, overdraft_total = %s WHERE id = %s'\n"
                "    transaction.on_commit(lambda: connection.cursor().execute(sql, values))\n\n\n"
                "def write_end(",
            ),
            (
                "licenses/leasing.py",
                "statements.write_lease(lease, tool=tool, rationed=share is not None)",
                "statements.write_lease(lease, tool=tool, rationed=share is not None)\n        statements._later(tool)",
            ),
        ),
    ),
    Mutant(
        "unguarded return",
        (("licenses/leasing.py", "        if lease.ended_at is not None:\n            continue\n", ""),),
    ),
    Mutant(
        "the server's clock",
        (
            (
                "licenses/statements.py",
                "    return tools, [Team(pk=pk, name=name) for pk, name in teams or ()], now",
                "    return tools, [Team(pk=pk, name=name) for pk, name in teams or ()], timezone.now()",
            ),
        ),
        kinds=("shift_clock",),
    ),
    Mutant(
        "a late heartbeat revives",
        (
            ("licenses/leasing.py", "    if any(lease.is_over(now) for lease in leases):\n", "    if False:\n"),
            ("licenses/leasing.py", "for lease in leases]).active(Now())", "for lease in leases]).open()"),
        ),
    ),
    Mutant(
        "the queue ignores order",
        (
            (
                "licenses/pools.py",
                "live = live.filter(ticket__lt=ahead_of.number)",
                "live = live.none()",
            ),
        ),
    ),
    Mutant(
        "quota read before the lock",
        (
            (
                "licenses/pools.py",
                '    allotments = Allotment.objects.filter(tool__in=tools, team__name__in=teams).select_related("team")\n',
                "    key = (tuple(tool.pk for tool in tools), tuple(sorted(teams)))\n"
                "    from time import monotonic\n"
                "    if _early.get(key, (0.0, None))[0] < monotonic() - 0.5:\n"
                '        rows = Allotment.objects.filter(tool__in=tools, team__name__in=teams).select_related("team")\n'
                "        _early[key] = (monotonic(), list(rows))\n"
                "    allotments = _early[key][1]\n",
            ),
            (
                "licenses/pools.py",
                "    if not overdue_is_out:\n        allotments",
                "    if False:\n        allotments",
            ),
            ("licenses/pools.py", "Claims = dict[int", "_early: dict = {}\nClaims = dict[int"),
        ),
    ),
    Mutant(
        "answers swapped",
        (
            (
                "licenses/leasing.py",
                "    if replayed:\n        metrics",
                "    _previous.append(outcome)\n"
                "    if len(_previous) > 1:\n"
                "        outcome = _previous.pop(0)\n"
                "    if replayed:\n        metrics",
            ),
            ("licenses/leasing.py", "TRIES = 3\n", "TRIES = 3\n_previous: list = []\n"),
        ),
    ),
    Mutant(
        "fence reused",
        (("licenses/leasing.py", "tool.last_fence += 1", "tool.last_fence += tool.in_use == 0"),),
    ),
    Mutant(
        "commits that a crash loses",
        (("licenseserver/settings.py", "-c lock_timeout=3s", "-c lock_timeout=3s -c synchronous_commit=off"),),
        kinds=("crash_database",),
        faults=10,
    ),
    Mutant(
        "a force return without a record",
        (
            (
                "licenses/leasing.py",
                "    _record_end(by, Action.FORCE_RETURNED, leases, ended, note)\n",
                "",
            ),
        ),
        operations=4_000,
    ),
    Mutant(
        "everybody's leases are everybody's",
        (
            (
                "licenses/api/permissions.py",
                "    if found is None or not may_act_for(caller, found[0]):\n        raise unknown\n",
                "    if found is None:\n        raise unknown\n",
            ),
        ),
    ),
]


def main() -> None:
    """Run the named mutants, or all; exit 1 if one is not caught."""
    wanted = sys.argv[1:]
    survivors = []
    for mutant in MUTANTS:
        if wanted and mutant.name not in wanted:
            continue
        with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as folder:
            code = make(mutant, Path(folder) / "code")
            plan = Plan(
                1, faults=mutant.faults, operations=mutant.operations, kinds=mutant.kinds, code=code, quick=True
            )
            try:
                verdict = run(plan, Path(folder) / "run")
                rules = sorted({sentence.partition(":")[0] for sentence in verdict.violations})
            except Exception as error:  # noqa: BLE001 - it broke the server beyond use
                rules = [f"the run failed: {type(error).__name__}"]
        print(f"{mutant.name}: {', '.join(rules) or 'NOT CAUGHT'}", flush=True)
        if not rules:
            survivors.append(mutant.name)
    print(f"{len(survivors)} not caught")
    sys.exit(1 if survivors else 0)


def make(mutant: Mutant, folder: Path) -> Path:
    """A copy of the server's code with this mistake; raises ValueError if its place
    isn't there exactly once."""
    folder.mkdir()
    for name in CODE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    for path, old, new in mutant.changes:
        file = folder / path
        text = file.read_text()
        if text.count(old) != 1:
            raise ValueError(f"{mutant.name}: {path} has {text.count(old)} places for it")
        file.write_text(text.replace(old, new))
    return folder


if __name__ == "__main__":
    main()
