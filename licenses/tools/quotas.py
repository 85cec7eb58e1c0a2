"""Change quotas, reservations, user limits and access rules of tools.

These services lock the tool, as a borrow does, so that no borrow sees half of a
change.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from django.core.exceptions import ValidationError
from django.db import transaction

from licenses import auditing
from licenses.auditing import Actor, Change
from licenses.errors import OverReserved, UnknownRow, UnknownTeam
from licenses.leases import ledger
from licenses.models import AccessRule, Allotment, SubjectKind, Team, Tool, UserLimit
from licenses.models.team import TEAM_NAME_PATTERN
from licenses.preconditions import Check, accept

from .constraints import explained
from .locking import lock

Rule = UserLimit | AccessRule
R = TypeVar("R", bound=Rule)


@dataclass(frozen=True, slots=True)
class AllotmentTerms:
    """The most seats of a team (``quota``; None is no limit) and its reserved seats (``reservation``)."""

    quota: int | None = None
    reservation: int = 0


@transaction.atomic
def put_quota(
    *, tool: str, team: str, values: Mapping[str, Any], by: Actor, check: Check = accept
) -> Change[Allotment]:
    """Set the ``quota`` and ``reservation`` of a team for a tool. A value that is not given stays; a new quota
    is no limit, a new reservation 0. Return what changed.

    Raises UnknownTool, UnknownTeam, OverReserved, ValidationError, or what ``check`` raises; nothing is changed then.
    """
    locked, known = lock([tool])[tool], find_team(team)
    mine = Allotment.objects.filter(tool=locked, team=known).first()
    check(mine)
    given = {name: getattr(mine, name) for name in ("quota", "reservation")} if mine else {}
    wanted = Allotment(tool=locked, team=known, **given | dict(values))
    wanted.clean_fields(exclude=["tool", "team"])
    (change,) = allot(tool=tool, terms={known: AllotmentTerms(wanted.quota, wanted.reservation)}, by=by)
    return change


@transaction.atomic
def delete_quota(*, tool: str, team: str, by: Actor, check: Check = accept) -> None:
    """Remove the quota and the reservation of a team for a tool.

    Raises UnknownTool, UnknownTeam, UnknownRow, or what ``check`` raises.
    """
    locked, known = lock([tool])[tool], find_team(team)
    mine = Allotment.objects.filter(tool=locked, team=known).first()
    check(mine)
    if mine is None:
        raise UnknownRow(kind="quota", name=f"of {team} for {tool}")
    allot(tool=tool, terms={known: None}, by=by)


@transaction.atomic
def put_user_limit(*, tool: str, user: str, seats: int, by: Actor, check: Check = accept) -> Change[UserLimit]:
    """Set the most seats of a tool that a user can have. Return what changed.

    Raises UnknownTool, ValidationError, or what ``check`` raises.
    """
    limit = UserLimit(tool=lock([tool])[tool], user=user, seats=seats)
    limit.clean_fields(exclude=["tool"])
    known = UserLimit.objects.filter(tool=limit.tool, user=user).first()
    check(known)
    if known is not None:
        known.seats = limit.seats
    return save_rules(rules=[known or limit], by=by)[0]


@transaction.atomic
def delete_user_limit(*, tool: str, user: str, by: Actor, check: Check = accept) -> None:
    """Remove the limit of a user for a tool.

    Raises UnknownTool, UnknownRow, ValidationError for an invalid name, or what ``check`` raises.
    """
    wanted = UserLimit(tool=lock([tool])[tool], user=user, seats=0)
    wanted.clean_fields(exclude=["tool"])
    known = UserLimit.objects.filter(tool=wanted.tool, user=user).first()
    check(known)
    if known is None:
        raise UnknownRow(kind="user limit", name=f"of {user} for {tool}")
    delete_rules(rules=[known], by=by)


@transaction.atomic
def put_access_rule(
    *, tool: str, effect: str, kind: str, name: str, by: Actor, check: Check = accept
) -> Change[AccessRule]:
    """Include or exclude (``effect``) the user, team, host or project (``kind``) of this name. Return what changed.

    Raises UnknownTool, UnknownTeam, ValidationError, or what ``check`` raises.
    """
    rule = _access_rule(lock([tool])[tool], effect, kind, name)
    known = _find_access_rule(rule)
    check(known)
    return Change(known) if known is not None else save_rules(rules=[rule], by=by)[0]


@transaction.atomic
def delete_access_rule(*, tool: str, effect: str, kind: str, name: str, by: Actor, check: Check = accept) -> None:
    """Delete an access rule.

    Raises UnknownTool, UnknownTeam, UnknownRow, ValidationError for an invalid one, or what ``check`` raises.
    """
    known = _find_access_rule(_access_rule(lock([tool])[tool], effect, kind, name))
    check(known)
    if known is None:
        raise UnknownRow(kind="access rule", name=f"to {effect} {kind} {name} for {tool}")
    delete_rules(rules=[known], by=by)


def find_team(name: str) -> Team:
    """Return the team of this name. Raises UnknownTeam."""
    team = Team.objects.filter(name=name).first() if re.fullmatch(TEAM_NAME_PATTERN, name) else None
    if team is None:
        raise UnknownTeam(team=name)
    return team


def _access_rule(tool: Tool, effect: str, kind: str, name: str) -> AccessRule:
    """Return an unsaved rule. Raises UnknownTeam, or ValidationError if it is invalid."""
    of_team = kind == SubjectKind.TEAM
    team = find_team(name) if of_team else None
    rule = AccessRule(tool=tool, effect=effect, kind=kind, team=team, name="" if of_team else name)
    rule.clean_fields(exclude=["tool", "team"])
    if not (of_team or name):
        raise ValidationError({"name": "Give the name of a user, host or project."})
    return rule


def _find_access_rule(rule: AccessRule) -> AccessRule | None:
    same = AccessRule.objects.filter(tool=rule.tool, effect=rule.effect, kind=rule.kind, team=rule.team, name=rule.name)
    return same.select_related("tool", "team").first()


@transaction.atomic
def allot(
    *, tool: str, terms: Mapping[Team, AllotmentTerms | None], by: Actor, may_exceed: bool = False
) -> list[Change[Allotment]]:
    """Set the quotas and reservations of teams for a tool in one transaction. Return what changed, for each team
    with terms.

    None removes those of a team. Active leases do not end. ``may_exceed``: reservations may exceed the capacity, as
    they do after the capacity fell. Raises UnknownTool, or what ``check_terms`` raises; nothing is changed then.
    """
    locked = lock([tool])[tool]
    check_terms(tool=locked, terms=terms, may_exceed=may_exceed)
    changes = []
    for team, wanted in terms.items():
        mine = Allotment.objects.filter(tool=locked, team=team).first()
        if wanted is None:
            if mine is not None:
                with auditing.deleting(mine, by=by):
                    mine.delete()
            continue
        if mine is None:
            mine = Allotment(tool=locked, team=team, borrowed=ledger.seats_of_team(locked, team))
        mine.quota, mine.reservation = wanted.quota, wanted.reservation
        mine.clean_fields(exclude=["tool", "team"])
        with auditing.changing(mine, by=by) as change, explained([mine]):
            # Write only these fields: leases change the borrowed seats.
            mine.save(update_fields=["quota", "reservation"] if mine.pk else None)
        changes.append(change)
    ledger.settle(locked)
    return changes


def check_terms(*, tool: Tool, terms: Mapping[Team, AllotmentTerms | None], may_exceed: bool = False) -> None:
    """Check what ``allot`` would set for a locked tool.

    Raises ValidationError if a team would have more seats reserved than its quota, or, unless they
    ``may_exceed`` it, OverReserved if a reservation grows and all of them together exceed the capacity.
    """
    before = dict(tool.allotments.values_list("team", "reservation"))
    after = before | {team.pk: wanted.reservation if wanted else 0 for team, wanted in terms.items()}
    for team, wanted in terms.items():
        if wanted and wanted.quota is not None and wanted.reservation > wanted.quota:
            text = f"has {wanted.reservation} seats reserved, more than its quota of {wanted.quota}."
            raise ValidationError(f"%(tool)s: team %(team)s {text}", params={"tool": tool.name, "team": team.name})
    grows = any(seats > before.get(team, 0) for team, seats in after.items())
    if grows and not may_exceed and sum(after.values()) > tool.capacity:
        raise OverReserved(tool=tool.name, capacity=tool.capacity, reserved=sum(after.values()))


@transaction.atomic
def remove_allotments(*, allotments: Iterable[Allotment], by: Actor) -> None:
    """Remove quotas and reservations of any tools in one transaction."""
    chosen = list(allotments)
    lock({allotment.tool.name for allotment in chosen})
    for allotment in chosen:
        allot(tool=allotment.tool.name, terms={allotment.team: None}, by=by)


@transaction.atomic
def save_rules(*, rules: Iterable[R], by: Actor) -> list[Change[R]]:
    """Save user limits and access rules of any tools, new or changed, all or none. Return what changed: the new
    ones first.

    Raises UnknownTool, or ValidationError for the first that is invalid or exists already.
    """
    chosen = list(rules)
    tools = lock({rule.tool.name for rule in chosen})
    for rule in chosen:
        # The tool and the team are rows that were read.
        rule.clean_fields(exclude=["tool", "team"])
        rule.clean()
    new, known = [rule for rule in chosen if rule.pk is None], [rule for rule in chosen if rule.pk is not None]
    with explained(new):
        for rule in new:
            rule.save(force_insert=True)
    auditing.created(new, by=by)
    changes = [Change(rule, is_new=True, after=auditing.state(rule)) for rule in new]
    for rule in known:
        with auditing.changing(rule, by=by) as change, explained([rule]):
            rule.save()
        changes.append(change)
    for tool in tools.values():
        ledger.settle(tool)
    return changes


@transaction.atomic
def delete_rules(*, rules: Sequence[Rule], by: Actor) -> None:
    """Delete user limits and access rules of any tools in one transaction. Raises UnknownTool."""
    tools = lock({rule.tool.name for rule in rules})
    for rule in rules:
        with auditing.deleting(rule, by=by):
            rule.delete()
    for tool in tools.values():
        ledger.settle(tool)
