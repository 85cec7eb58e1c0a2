"""Servers that are wrong on purpose: the harness must catch each of them.

``python -m tests.faults.mutants [NAME ...]`` copies the server's code, makes one
mistake in it, and runs the harness on it until the first broken promise. A mutant
that no rule finds makes it exit with 1. Each is text to find and text to put in its
place, so that a mutant whose place has moved fails instead of testing nothing.
"""

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .checker import rule_of
from .jobs import side_by_side
from .run import Plan
from .site import CLIENTS
from .stack import ROOT

CODE = ("licenses", "licenseserver", "manage.py")

# The files that most mistakes are made in.
BATCH = "licenses/leases/batch.py"
DECISIONS = "licenses/leases/decisions.py"
LEDGER = "licenses/leases/ledger.py"
SNAPSHOT = "licenses/leases/snapshot.py"
SETTINGS = "licenseserver/settings.py"


@dataclass(frozen=True)
class Mutant:
    """One mistake: the rule that must catch it, replacements by file, and the deeds and
    faults that bring it to light."""

    name: str
    rule: str
    changes: tuple[tuple[str, str, str], ...]
    deeds: tuple[str, ...]
    kinds: tuple[str, ...] = ("kill_sweeper",)
    faults: int = 2
    operations: int = 4_000
    clients: int = CLIENTS


BORROWS = ("work", "retry_with_a_key", "send_a_key_at_once")

MUTANTS = [
    Mutant(
        # Two grants at once would have the same fence, which the database refuses.
        "no lock",
        "s7_counters_are_rows",
        (
            (
                "licenses/models/tool.py",
                "return self.select_for_update(no_key=True, skip_locked=skip_locked).order_by",
                "return self.order_by",
            ),
        ),
        deeds=BORROWS,
    ),
    Mutant(
        "repeatable read",
        "s0_no_failure_without_a_fault",
        (
            (SETTINGS, "IsolationLevel.READ_COMMITTED", "IsolationLevel.REPEATABLE_READ"),
            # Tried again, it would be slow and right: the tool's row is always written.
            (BATCH, "TRIES = 3\n", "TRIES = 1\n"),
        ),
        deeds=BORROWS,
    ),
    Mutant(
        "key ignored",
        "s5_one_key_is_one_borrow",
        ((DECISIONS, "    if key is None:\n        return _new(", "    if True:\n        return _new("),),
        deeds=("retry_with_a_key", "send_a_key_at_once", "reuse_a_key"),
    ),
    Mutant(
        "refusals not kept",
        "s5_one_key_is_one_borrow",
        (
            (
                DECISIONS,
                "    ledger.keep(_kept(key, request, outcome))\n",
                "    if not isinstance(outcome, Refusal):\n        ledger.keep(_kept(key, request, outcome))\n",
            ),
        ),
        deeds=("send_a_key_at_once", "work"),
    ),
    Mutant(
        "counter in another transaction",
        "s1_never_oversold_in_the_ledger",
        (
            (LEDGER, 'COUNTED = (\n    "borrowed",\n', "COUNTED = (\n"),
            (
                LEDGER,
                "        sql.write(*writes)\n",
                "        sql.write(*writes)\n"
                "        from django.db import transaction\n"
                "        tools = list(self._tools.values())\n"
                '        later = sql.update(Tool, "borrowed")\n'
                "        if tools:\n"
                "            transaction.on_commit(lambda: sql.write(later.of(tools)))\n",
            ),
        ),
        deeds=BORROWS,
    ),
    Mutant(
        "unguarded return",
        "s6_a_lease_ends_once",
        (
            (
                DECISIONS,
                "        if lease.ended_at is None:\n            ledger.end(lease, reason,",
                "        if True:\n            ledger.end(lease, reason,",
            ),
        ),
        deeds=("work_twice_as_polite",),
    ),
    Mutant(
        "the server's clock",
        "s11_fences_grow",
        ((SNAPSHOT, "database_now() if not tools.more else tools.more[-1]", "timezone.now()"),),
        deeds=BORROWS,
        kinds=("shift_clock",),
    ),
    Mutant(
        "a late heartbeat revives",
        "s10_a_lease_lives_until_its_end_and_not_longer",
        (
            (
                DECISIONS,
                "    if any(lease.is_over(now) for lease in leases):\n",
                "    if any(lease.ended_at is not None for lease in leases):\n",
            ),
        ),
        deeds=("oversleep",),
        # There are seats enough, so that nobody closes a lease because it is overdue.
        clients=5,
    ),
    Mutant(
        "the queue ignores order",
        "s9_nobody_is_overtaken",
        ((SNAPSHOT, "if ahead_of is None or place.ticket < ahead_of.number]", "if ahead_of is None]"),),
        deeds=("wait_for_the_one_seat",),
    ),
    Mutant(
        "quota read before the lock",
        "s8_quotas_reservations_and_limits_hold",
        (
            (
                SNAPSHOT,
                "        allotments = _by_tool_and_team(found)\n",
                "        if overdue_is_out:\n"
                "            key = (tuple(tool.pk for tool in ruled), tuple(sorted(teams)))\n"
                "            from time import monotonic\n"
                "            if _early.get(key, (0.0, None))[0] < monotonic() - 0.5:\n"
                "                _early[key] = (monotonic(), found)\n"
                "            found = _early[key][1]\n"
                "        allotments = _by_tool_and_team(found)\n",
            ),
            (SNAPSHOT, "class Place(NamedTuple):", "_early: dict = {}\n\n\nclass Place(NamedTuple):"),
        ),
        deeds=("hurry_for_a_team",),
    ),
    Mutant(
        "batch answers swapped",
        "s3_no_acknowledged_lease_is_lost",
        (
            (
                BATCH,
                "    for entry, answer, refusal in decided:\n",
                "    swapped = [one for one in decided if isinstance(one[0].request, Borrow)]\n"
                "    others = [one for one in decided if not isinstance(one[0].request, Borrow)]\n"
                "    answers = [one[1:] for one in swapped[1:] + swapped[:1]]\n"
                "    decided = others + [(one[0], *got) for one, got in zip(swapped, answers)]\n"
                "    for entry, answer, refusal in decided:\n",
            ),
        ),
        deeds=BORROWS,
    ),
    Mutant(
        "a batch forgets its own grants",
        "s1_never_oversold_in_the_ledger",
        (
            (
                SNAPSHOT,
                "        self.now = now\n        self.tools = {tool.name: tool for tool in tools}\n",
                "        self.now = now\n        self.tools = {tool.name: tool for tool in tools}\n"
                "        self.before = {tool.pk: tool.borrowed for tool in self.tools.values()}\n",
            ),
            (
                SNAPSHOT,
                "return _pool(tool, tool.borrowed, tool.reserved_idle,",
                "return _pool(tool, self.before[tool.pk], tool.reserved_idle,",
            ),
        ),
        deeds=BORROWS,
    ),
    Mutant(
        # The database refuses the second lease: the borrow fails.
        "fence reused",
        "s0_no_failure_without_a_fault",
        ((LEDGER, "tool.last_fence += 1", "tool.last_fence += tool.borrowed == 0"),),
        deeds=BORROWS,
    ),
    Mutant(
        "fences out of order",
        "s11_fences_grow",
        ((LEDGER, "fence=tool.last_fence,", "fence=tool.last_fence ^ 1,"),),
        deeds=BORROWS,
    ),
    Mutant(
        "commits that a crash loses",
        "s3_no_acknowledged_lease_is_lost",
        ((SETTINGS, "-c lock_timeout=3s", "-c lock_timeout=3s -c synchronous_commit=off"),),
        deeds=BORROWS,
        kinds=("crash_database",),
        faults=20,
    ),
    Mutant(
        "a force return without a record",
        "s14_every_force_return_is_audited_once",
        (
            (
                DECISIONS,
                "    if by is not None and own:\n",
                "    if by is not None and own and reason != EndReason.FORCED:\n",
            ),
        ),
        deeds=("work", "force_a_return"),
    ),
    Mutant(
        "everybody's leases are everybody's",
        "s13_nobody_touches_what_is_not_theirs",
        (
            (
                "licenses/access/rules.py",
                "    if found is None or not may_act_for(caller, found[0]):\n        raise unknown\n",
                "    if found is None:\n        raise unknown\n",
            ),
            ("licenses/access/rules.py", "    return caller.name or None\n", "    return None\n"),
        ),
        deeds=("work", "touch_what_is_not_mine"),
    ),
]


def main() -> None:
    """Run the named mutants, or all; exit 1 if one is not caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a mutant; all if absent")
    parser.add_argument("--jobs", type=int, default=2, help="so many at once; 2")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if not options.names or mutant.name in options.names]
    survivors = []
    with (
        tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder,
        side_by_side("postgres", options.jobs) as run_all,
    ):
        plans = [_plan(mutant, Path(folder) / f"{number}-code") for number, mutant in enumerate(chosen)]
        for verdict in run_all((plan, Path(folder) / str(number)) for number, plan in enumerate(plans)):
            mutant = chosen[int(verdict.folder.name)]
            found = set(map(rule_of, verdict.violations))
            if mutant.rule not in found:
                survivors.append(mutant.name)
                print(f"{mutant.name}: NOT CAUGHT by {mutant.rule} {verdict.failure}")
            print(
                f"{mutant.name}: {', '.join(sorted(found))}; {verdict.operations} operations, {verdict.seconds:.0f} s",
                flush=True,
            )
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} caught")
    sys.exit(1 if survivors else 0)


def _plan(mutant: Mutant, code: Path) -> Plan:
    return Plan(
        1,
        faults=mutant.faults,
        operations=mutant.operations,
        kinds=mutant.kinds,
        deeds=mutant.deeds,
        clients=mutant.clients,
        code=make(mutant, code),
        until=mutant.rule,
    )


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
