"""Write an import plan to the tables.

Adds and changes rows, but removes none: a quota that is no longer in the file stays
until somebody removes it in the admin. A second import changes nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any, NamedTuple

from django.db import transaction

from licenses.access import teams
from licenses.auditing import Actor
from licenses.models import (
    AccessRule,
    Allotment,
    Contract,
    ContractSource,
    Team,
    Tool,
    UserLimit,
)
from licenses.models.contract import FIRST_DAY, LAST_DAY
from licenses.tools import notes, quotas
from licenses.tools import services as tools

from .plan import Plan, ToolPlan


class _Undone(Exception):
    """Raised to roll back."""


class Outcome(NamedTuple):
    """The changes of an import, and notes about what stays different from the files; a line of text for each."""

    changes: list[str]
    notes: list[str]


class PlanChanged(Exception):
    """The outcome is not the one that the administrator saw. ``outcome`` is the one of now."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


def bring_in(plan: Plan, *, by: Actor, for_real: bool, shown: Outcome | None = None) -> Outcome:
    """Carry out a plan in one transaction. Return its outcome.

    If not ``for_real``, make the changes and roll them back, so that the outcome shows
    what would change. ``shown`` is the outcome that an administrator confirmed: raises
    PlanChanged if its changes differ. Raises ValidationError, OverReserved, or IntegrityError if
    another program creates the same teams. Then nothing has changed.
    """
    outcome = Outcome([], [])
    try:
        with transaction.atomic(durable=True):
            # Lock all tools first, in the order that borrows of several tools use.
            known = {tool.name: tool for tool in Tool.objects.locked(plan.tools)}
            Team.objects.filter(name__in=plan.teams).lock()
            for name, members in sorted(plan.teams.items()):
                outcome.changes.extend(_team(name, members, by, plan.ignores_case))
            wanted = sorted(plan.tools.items())
            by_hand = _with_contracts(known.values(), ContractSource.MANUAL)
            imported = _with_contracts(known.values(), ContractSource.IMPORT)
            values = {name: _values(known.get(name), tool, name in by_hand, name in imported) for name, tool in wanted}
            done = tools.put(tools=values, by=by)
            for change, (name, tool) in zip(done, wanted, strict=True):
                outcome.changes.extend(_tool(change, tool, by))
                outcome.notes.extend(_differences(change, tool, name in by_hand))
            resized = [change.tool for change in done if change.is_resized]
            outcome.notes.extend(notes.of_capacities(resized))
            # The notes count borrowed seats, which change all the time.
            if shown is not None and outcome.changes != shown.changes:
                raise PlanChanged(outcome)
            if not for_real:
                raise _Undone
    except _Undone:
        pass
    return outcome


def _team(name: str, members: set[str], by: Actor, ignores_case: bool) -> Iterator[str]:
    done = teams.put_team(name=name, values={"ignores_case": True} if ignores_case else {}, by=by)
    if done.team.is_new:
        yield f"team {name}: new"
    if done.team.after.get("ignores_case"):
        yield f"team {name}: names of members match in any case"
    # By hand, because the administrator chose the file.
    for member in teams.add_members(team=done.team.row, users=sorted(members), by=by):
        yield f"team {name}: {member.user} joins"


def _with_contracts(known: Iterable[Tool], source: ContractSource) -> set[str]:
    """Return the names of the tools that have contracts from this source."""
    of_source = Contract.objects.filter(tool__in=list(known), source=source)
    return set(of_source.order_by().values_list("tool__name", flat=True).distinct())


def _values(known: Tool | None, wanted: ToolPlan, is_by_hand: bool, is_imported: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "overdraft": wanted.overdraft,
        # Keep an administrator's name: the file has only the name of the daemon.
        "vendor": (known.vendor if known else "") or wanted.vendor,
        "valid_from": wanted.valid_from,
        "valid_until": wanted.valid_until,
    }
    if is_by_hand:
        pass
    elif wanted.has_dates or is_imported:
        values["contracts"] = [
            {
                "seats": contract.seats,
                "first_day": _in_range(contract.first_day),
                "last_day": _in_range(contract.last_day),
                "reference": contract.reference,
                "source": ContractSource.IMPORT,
            }
            for contract in wanted.contracts
        ]
    else:
        values["capacity"] = wanted.capacity
    if wanted.user_limit is not None:
        values["user_limit"] = wanted.user_limit
    if wanted.ignores_case:
        values["ignores_case"] = True
    return values


def _in_range(day: date | None) -> date | None:
    """Return a day of a file as contracts can have it: one far away is none."""
    return day if day is not None and FIRST_DAY <= day <= LAST_DAY else None


def _tool(done: tools.ToolChange, wanted: ToolPlan, by: Actor) -> Iterator[str]:
    tool = done.tool
    if done.is_new:
        yield f"{tool.name}: new, {_written({'capacity': tool.capacity} | dict(done.after))}"
    else:
        for field, value in done.after.items():
            yield f"{tool.name}: {field} {_value(done.before[field])} -> {_value(value)}"
    yield from (f"{tool.name}: contract {change}" for change in done.contracts)
    yield from _allotments(tool, wanted, by)
    yield from _limits(tool, wanted, by)
    yield from _lists(tool, wanted, by)


def _differences(done: tools.ToolChange, wanted: ToolPlan, is_by_hand: bool) -> Iterator[str]:
    """Yield what is different from the file or from what one expects, after the changes."""
    tool = done.tool
    if is_by_hand and tool.capacity != wanted.capacity:
        yield (
            f"{tool.name}: its contracts were entered by hand and stay; they have {tool.capacity} seats now, the "
            f"file has {wanted.capacity}"
        )
    # A new tool without reservations in the file has none.
    if "capacity" in done.after and not (done.is_new and not wanted.reservations):
        tool.refresh_from_db(fields=["reserved"])
        if tool.reserved > tool.capacity:
            yield f"{tool.name}: {tool.reserved} seats are reserved, more than the capacity of {tool.capacity}"


def _written(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{field} {_value(value)}" for field, value in values.items() if value or field == "capacity")


def _value(value: Any) -> str:
    return "none" if value in (None, "") else f"{value:%Y-%m-%d}" if hasattr(value, "year") else str(value)


def _allotments(tool: Tool, wanted: ToolPlan, by: Actor) -> Iterator[str]:
    terms: dict[Team, quotas.AllotmentTerms | None] = {}
    for name in sorted({*wanted.quotas, *wanted.reservations}):
        team = Team.objects.get(name=name)
        mine = Allotment.objects.filter(tool=tool, team=team).first()
        before = quotas.AllotmentTerms(mine.quota, mine.reservation) if mine else quotas.AllotmentTerms()
        after = quotas.AllotmentTerms(
            wanted.quotas.get(name, before.quota), wanted.reservations.get(name, before.reservation)
        )
        if after != before:
            terms[team] = after
            quota = "no quota" if after.quota is None else f"quota {after.quota}"
            yield f"{tool.name}: team {name}: {quota}, reservation {after.reservation}"
    if terms:
        quotas.allot(tool=tool.name, terms=terms, by=by)


def _limits(tool: Tool, wanted: ToolPlan, by: Actor) -> Iterator[str]:
    limits: list[UserLimit] = []
    for user, seats in sorted(wanted.user_limits.items()):
        limit = UserLimit.objects.filter(tool=tool, user=user).first() or UserLimit(tool=tool, user=user)
        if limit.seats != seats:
            limit.seats = seats
            limits.append(limit)
            yield f"{tool.name}: user {user}: at most {seats}"
    if limits:
        quotas.save_rules(rules=limits, by=by)


def _lists(tool: Tool, wanted: ToolPlan, by: Actor) -> Iterator[str]:
    rules: list[AccessRule] = []
    for effect, kind, name in sorted(wanted.lists):
        of_team = kind == "team"
        line = {
            "tool": tool,
            "effect": effect,
            "kind": kind,
            "team": Team.objects.get(name=name) if of_team else None,
            "name": "" if of_team else name,
        }
        if not AccessRule.objects.filter(**line).exists():
            rules.append(AccessRule(**line))
            yield f"{tool.name}: {effect} {kind} {name}"
    if rules:
        quotas.save_rules(rules=rules, by=by)
