"""Write an import plan to the tables.

Adds and changes rows, but removes none: a quota that is no longer in the file stays
until somebody removes it in the admin. A second import changes nothing.
"""

from collections.abc import Iterator
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from licenses import auditing, rationing
from licenses.auditing import Actor
from licenses.leases import expiry
from licenses.models import AccessRule, Allotment, MemberSource, Team, TeamMember, Tool, UserLimit

from .plan import Plan, ToolPlan


class _Undone(Exception):
    """Raised to roll back."""


def bring_in(plan: Plan, *, by: Actor, for_real: bool) -> list[str]:
    """Carry out a plan in one transaction. Return a line for each change.

    If not ``for_real``, make the changes and roll them back, so that the lines show
    what would change. Raises ValidationError, OverReserved, or IntegrityError if
    another program creates the same rows; then nothing has changed.
    """
    try:
        return _bring_in(plan, by, for_real, with_constraints=False)
    except IntegrityError:
        # To ask about each constraint of each tool takes far longer than to save the
        # tool: so only to say which one it was.
        return _bring_in(plan, by, for_real, with_constraints=True)


def _bring_in(plan: Plan, by: Actor, for_real: bool, *, with_constraints: bool) -> list[str]:
    changes: list[str] = []
    try:
        with transaction.atomic(durable=True):
            # Lock all tools first, in the order that borrows of several tools use.
            tools = {tool.name: tool for tool in Tool.objects.locked(plan.tools)}
            Team.objects.filter(name__in=plan.teams).lock()
            for name, members in sorted(plan.teams.items()):
                changes += _team(name, members, by, plan.ignores_case)
            for name, wanted in sorted(plan.tools.items()):
                tool = tools.get(name) or Tool(name=name, capacity=wanted.capacity)
                changes += _tool(tool, wanted, by, with_constraints)
            if not for_real:
                raise _Undone
    except _Undone:
        pass
    return changes


def _team(name: str, members: set[str], by: Actor, ignores_case: bool) -> Iterator[str]:
    team = Team.objects.filter(name=name).first() or Team(name=name)
    is_new = team.pk is None
    if is_new or (ignores_case and not team.ignores_case):
        team.ignores_case |= ignores_case
        team.full_clean()
        with auditing.changing(team, by=by):
            team.save()
        if is_new:
            yield f"team {name}: new"
        if ignores_case:
            yield f"team {name}: names of members match in any case"
    known = set(TeamMember.objects.filter(team=team).values_list("user", flat=True))
    for user in sorted(members - known):
        # As a manual member, because the administrator chose the file.
        member = TeamMember(team=team, user=user, source=MemberSource.MANUAL)
        member.full_clean()
        with auditing.changing(member, by=by):
            member.save()
        yield f"team {name}: {user} joins"


def _tool(tool: Tool, wanted: ToolPlan, by: Actor, with_constraints: bool) -> Iterator[str]:
    name, is_new = tool.name, tool.pk is None
    values: dict[str, Any] = {
        "capacity": wanted.capacity,
        "overdraft": wanted.overdraft,
        # Keep an administrator's name: the file has only the name of the daemon.
        "vendor": tool.vendor or wanted.vendor,
        "valid_from": wanted.valid_from,
        "valid_until": wanted.valid_until,
    }
    if wanted.user_limit is not None:
        values["user_limit"] = wanted.user_limit
    if wanted.ignores_case:
        values["ignores_case"] = True
    changed = {field: value for field, value in values.items() if is_new or getattr(tool, field) != value}
    before = {field: getattr(tool, field) for field in changed}
    for field, value in changed.items():
        setattr(tool, field, value)
    if is_new or changed:
        # A tool may have a name from before it was reserved.
        exclude = None if is_new else ["name"]
        try:
            tool.full_clean(exclude, validate_unique=with_constraints, validate_constraints=with_constraints)
        except ValidationError as error:
            raise ValidationError([f"{name}: {message}" for message in error.messages]) from None
        with auditing.changing(tool, by=by):
            # Write only these fields: leases change the borrowed seats.
            tool.save(update_fields=None if is_new else list(changed))
        if "valid_until" in changed and not is_new:
            expiry.follow_validity(tool=name, previous=before["valid_until"])
    if is_new:
        yield f"{name}: new, {_values(values)}"
    for field, value in {} if is_new else changed.items():
        yield f"{name}: {field} {_value(before[field])} -> {_value(value)}"
    rules = [*_allotments(tool, wanted, by), *_limits(tool, wanted, by), *_lists(tool, wanted, by)]
    yield from rules
    if rules:
        rationing.settle(tool=name)
    if "capacity" not in changed or (is_new and not rules):
        return
    tool.refresh_from_db(fields=["reserved"])
    if tool.reserved > tool.capacity:
        yield f"{name}: {tool.reserved} seats are reserved, more than the capacity of {tool.capacity}"


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{field} {_value(value)}" for field, value in values.items() if value or field == "capacity")


def _value(value: Any) -> str:
    return "none" if value in (None, "") else f"{value:%Y-%m-%d}" if hasattr(value, "year") else str(value)


def _allotments(tool: Tool, wanted: ToolPlan, by: Actor) -> Iterator[str]:
    allowances: dict[Team, rationing.Allowance | None] = {}
    for name in sorted({*wanted.quotas, *wanted.reservations}):
        team = Team.objects.get(name=name)
        mine = Allotment.objects.filter(tool=tool, team=team).first()
        before = rationing.Allowance(mine.quota, mine.reservation) if mine else rationing.Allowance()
        allowance = rationing.Allowance(
            wanted.quotas.get(name, before.quota), wanted.reservations.get(name, before.reservation)
        )
        if allowance.quota is not None and allowance.reservation > allowance.quota:
            text = f"{tool.name}: team {name} has {allowance.reservation} seats reserved"
            raise ValidationError(f"{text}, more than its quota of {allowance.quota}")
        if allowance != before:
            allowances[team] = allowance
            quota = "no quota" if allowance.quota is None else f"quota {allowance.quota}"
            yield f"{tool.name}: team {name}: {quota}, reservation {allowance.reservation}"
    if allowances:
        rationing.allot(tool=tool.name, allowances=allowances, by=by)


def _limits(tool: Tool, wanted: ToolPlan, by: Actor) -> Iterator[str]:
    for user, seats in sorted(wanted.user_limits.items()):
        limit = UserLimit.objects.filter(tool=tool, user=user).first() or UserLimit(tool=tool, user=user)
        if limit.seats == seats:
            continue
        limit.seats = seats
        limit.full_clean()
        with auditing.changing(limit, by=by):
            limit.save()
        yield f"{tool.name}: user {user}: at most {seats}"


def _lists(tool: Tool, wanted: ToolPlan, by: Actor) -> Iterator[str]:
    for effect, kind, name in sorted(wanted.lists):
        of_team = kind == "team"
        line = {
            "tool": tool,
            "effect": effect,
            "kind": kind,
            "team": Team.objects.get(name=name) if of_team else None,
            "name": "" if of_team else name,
        }
        if AccessRule.objects.filter(**line).exists():
            continue
        rule = AccessRule(**line)
        try:
            rule.full_clean()
        except ValidationError as error:
            raise ValidationError([f"{effect} {kind} {name}: {message}" for message in error.messages]) from None
        with auditing.changing(rule, by=by):
            rule.save()
        yield f"{tool.name}: {effect} {kind} {name}"
