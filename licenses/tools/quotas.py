"""Change quotas, reservations, user limits and access rules of tools.

These services lock the tool, as a borrow does, so that no borrow sees half of a
change.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from django.core.exceptions import ValidationError
from django.db import transaction

from licenses import auditing
from licenses.auditing import Actor
from licenses.errors import OverReserved
from licenses.leases import ledger
from licenses.models import AccessRule, Allotment, Team, Tool, UserLimit

from .constraints import explained
from .locking import lock

Rule = UserLimit | AccessRule


@dataclass(frozen=True, slots=True)
class AllotmentTerms:
    """The most seats of a team (``quota``; None is no limit) and its reserved seats (``reservation``)."""

    quota: int | None = None
    reservation: int = 0


@transaction.atomic
def allot(*, tool: str, terms: Mapping[Team, AllotmentTerms | None], by: Actor) -> None:
    """Set the quotas and reservations of teams for a tool in one transaction.

    None removes those of a team. Active leases do not end. Raises UnknownTool, or what
    ``check`` raises; nothing is changed then.
    """
    locked = lock([tool])[tool]
    check(tool=locked, terms=terms)
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
        with auditing.changing(mine, by=by), explained([mine]):
            # Write only these fields: leases change the borrowed seats.
            mine.save(update_fields=["quota", "reservation"] if mine.pk else None)
    ledger.settle(locked)


def check(*, tool: Tool, terms: Mapping[Team, AllotmentTerms | None]) -> None:
    """Check what ``allot`` would set for a locked tool.

    Raises ValidationError if a team would have more seats reserved than its quota, or
    OverReserved if a reservation grows and all of them together exceed the capacity.
    """
    before = dict(tool.allotments.values_list("team", "reservation"))
    after = before | {team.pk: wanted.reservation if wanted else 0 for team, wanted in terms.items()}
    for team, wanted in terms.items():
        if wanted and wanted.quota is not None and wanted.reservation > wanted.quota:
            text = f"{tool.name}: team {team.name} has {wanted.reservation} seats reserved"
            raise ValidationError(f"{text}, more than its quota of {wanted.quota}")
    if any(seats > before.get(team, 0) for team, seats in after.items()) and sum(after.values()) > tool.capacity:
        raise OverReserved(tool=tool.name, capacity=tool.capacity, reserved=sum(after.values()))


@transaction.atomic
def remove_allotments(*, allotments: Iterable[Allotment], by: Actor) -> None:
    """Remove quotas and reservations of any tools in one transaction."""
    chosen = list(allotments)
    lock({allotment.tool.name for allotment in chosen})
    for allotment in chosen:
        allot(tool=allotment.tool.name, terms={allotment.team: None}, by=by)


@transaction.atomic
def save_rules(*, rules: Iterable[Rule], by: Actor) -> None:
    """Save user limits and access rules of any tools, new or changed, all or none.

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
    for rule in known:
        with auditing.changing(rule, by=by), explained([rule]):
            rule.save()
    for tool in tools.values():
        ledger.settle(tool)


@transaction.atomic
def delete_rules(*, rules: Sequence[Rule], by: Actor) -> None:
    """Delete user limits and access rules of any tools in one transaction. Raises UnknownTool."""
    tools = lock({rule.tool.name for rule in rules})
    for rule in rules:
        with auditing.deleting(rule, by=by):
            rule.delete()
    for tool in tools.values():
        ledger.settle(tool)
