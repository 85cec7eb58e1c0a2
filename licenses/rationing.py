"""Change quotas, reservations, user limits and access rules of a tool.

These services lock the tool, as a borrow does, so that no borrow sees half of a
change.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import transaction

from . import auditing
from .auditing import Actor
from .errors import OverReserved, UnknownTool
from .leases import ledger
from .models import AccessRule, Allotment, Team, Tool, UserLimit


@dataclass(frozen=True, slots=True)
class Allowance:
    """The most seats of a team (``quota``; None is no limit) and its reserved seats (``reservation``)."""

    quota: int | None = None
    reservation: int = 0


@transaction.atomic
def allot(*, tool: str, allowances: Mapping[Team, Allowance | None], by: Actor) -> None:
    """Set the quotas and reservations of teams for a tool in one transaction.

    None removes those of a team. Active leases do not end. Raises UnknownTool, or
    OverReserved if a reservation grows and all of them together exceed the capacity.
    """
    locked = _lock(tool)
    grows = False
    for team, allowance in allowances.items():
        mine = Allotment.objects.filter(tool=locked, team=team).first()
        if allowance is None:
            if mine is not None:
                with auditing.deleting(mine, by=by):
                    mine.delete()
            continue
        grows |= allowance.reservation > (mine.reservation if mine else 0)
        if mine is None:
            mine = Allotment(tool=locked, team=team, in_use=ledger.seats_of_team(locked, team))
        mine.quota, mine.reservation = allowance.quota, allowance.reservation
        with auditing.changing(mine, by=by):
            # Write only these fields: leases change the borrowed seats.
            mine.save(update_fields=["quota", "reservation"] if mine.pk else None)
    ledger.settle(locked)
    if grows and locked.reserved > locked.capacity:
        raise OverReserved(tool=tool, capacity=locked.capacity, reserved=locked.reserved)


@contextmanager
def settling(*, tool: str) -> Iterator[Tool]:
    """Lock a tool in one transaction while its user limits and access rules change.

    At the end update what the tool stores about them. Raises UnknownTool.
    """
    with transaction.atomic():
        locked = _lock(tool)
        yield locked
        ledger.settle(locked)


def add(*, tool: str, rows: Sequence[UserLimit | AccessRule], by: Actor) -> None:
    """Add user limits or access rules to a tool, all or none. The rows must be valid and new.

    Raises UnknownTool.
    """
    with settling(tool=tool):
        for row in rows:
            row.save(force_insert=True)
        auditing.created(rows, by=by)


@transaction.atomic
def settle(*, tool: str) -> None:
    """Update what a tool stores about its user limits and access rules.

    Call it in the transaction of the change. Raises UnknownTool.
    """
    ledger.settle(_lock(tool))


def _lock(name: str) -> Tool:
    tool = Tool.objects.locked([name]).first()
    if tool is None:
        raise UnknownTool(tool=name)
    return tool
