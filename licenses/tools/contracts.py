"""Change the contracts of tools.

A tool with contracts has the seats of those that are valid now; without contracts it has its
plain capacity. If the capacity gets lower than the borrowed seats, leases go on and nothing is
granted until enough seats come back.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from licenses import auditing
from licenses.auditing import Actor
from licenses.clock import database_now
from licenses.errors import UnknownRow
from licenses.leases import capacity
from licenses.models import Contract, Tool
from licenses.models.contract import Schedule
from licenses.models.tool import MAX_CAPACITY
from licenses.preconditions import Check, accept

from .constraints import explained
from .locking import lock

# What makes a contract the same as one in a list: all of it, or less and less. A contract that was
# extended has its first day still.
SAME = (
    ("reference", "first_day", "last_day", "seats", "price", "note"),
    ("reference", "first_day", "last_day", "seats"),
    ("reference", "first_day", "last_day"),
    ("reference", "first_day"),
)


class Change(StrEnum):
    """What became of a contract."""

    NEW = "new"
    CHANGED = "changed"
    ENDED = "ended"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class ContractChange:
    """A changed contract; ``before`` is its text before a change, '' if it is new. ``old`` are the fields
    that were changed, with their values before."""

    change: Change
    contract: Contract
    before: str = ""
    old: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return a line that describes it."""
        if self.change == Change.CHANGED and self.before != self.contract.terms:
            return f"{self.before} -> {self.contract.terms}"
        return f"{self.before or self.contract.terms}: {self.change}"


@transaction.atomic
def add(*, tool: str, values: Mapping[str, Any], by: Actor, check: Check = accept) -> auditing.Change[Contract]:
    """Give a tool another contract with these values, by field. The capacity of the tool follows.

    Raises UnknownTool, ValidationError, or what ``check`` raises; nothing is changed then.
    """
    locked = lock([tool])[tool]
    check(None)
    contract = Contract(tool=locked, **values)
    contract.clean_fields(exclude=["tool"])
    change = _save(contract, by)
    _follow(locked, database_now(), by)
    return change


@transaction.atomic
def change(*, key: int, values: Mapping[str, Any], by: Actor, check: Check = accept) -> auditing.Change[Contract]:
    """Change these fields of the contract with this key. The capacity of its tool follows. Return what changed.

    Raises UnknownRow, ValidationError, or what ``check`` raises; nothing is changed then.
    """
    contract = _locked_contract(key)
    check(contract)
    for name, value in values.items():
        setattr(contract, name, value)
    contract.clean_fields(exclude=["tool"])
    done = _save(contract, by)
    if done:
        _follow(contract.tool, database_now(), by)
    return done


@transaction.atomic
def remove(*, key: int, by: Actor, check: Check = accept) -> None:
    """Delete the contract with this key (``delete``). Raises UnknownRow, or what ``check`` raises."""
    contract = _locked_contract(key)
    check(contract)
    delete(contracts=[contract], by=by)


def _locked_contract(key: int) -> Contract:
    """Return a contract, with its tool locked. Raises UnknownRow."""
    # The tool of a contract never changes.
    name = Contract.objects.filter(pk=key).order_by().values_list("tool__name", flat=True).first()
    tool = lock([name])[name] if name is not None else None
    contract = Contract.objects.filter(pk=key, tool=tool).first() if tool else None
    if tool is None or contract is None:
        raise UnknownRow(kind="contract", name=str(key))
    contract.tool = tool
    return contract


@transaction.atomic
def save(*, contracts: Iterable[Contract], by: Actor) -> list[Tool]:
    """Save contracts of any tools, new or changed, all or none. The capacity of the tools follows. Return those
    whose capacity changed.

    Raises UnknownTool, or ValidationError for the first that is invalid.
    """
    chosen = list(contracts)
    tools, now = _locked(chosen)
    for contract in chosen:
        # The tool is a row that was read.
        contract.clean_fields(exclude=["tool"])
        _save(contract, by)
    return [tool for tool in tools if _follow(tool, now, by)]


@transaction.atomic
def delete(*, contracts: Iterable[Contract], by: Actor) -> list[Tool]:
    """Delete contracts of any tools. The capacity of the tools follows; a tool without contracts keeps its
    capacity. Return those whose capacity changed. Raises UnknownTool."""
    chosen = list(contracts)
    tools, now = _locked(chosen)
    for contract in chosen:
        with auditing.deleting(contract, by=by):
            contract.delete()
    return [tool for tool in tools if _follow(tool, now, by)]


def read(tool: Tool, wanted: Iterable[Mapping[str, Any]]) -> list[Contract]:
    """Return unsaved contracts with these values, by field. Raises ValidationError."""
    contracts = [Contract(tool=tool, **values) for values in wanted]
    for contract in contracts:
        contract.clean_fields(exclude=["tool"])
    if (most := Schedule.of(contracts).most) > MAX_CAPACITY:
        raise ValidationError(f"The contracts have {most:,} seats at once, more than {MAX_CAPACITY:,}.")
    return contracts


def replace(tool: Tool, wanted: Sequence[Mapping[str, Any]], *, by: Actor) -> list[ContractChange]:
    """Let a locked tool have these contracts, by field, and no others. Return what changed.

    Fields that are not given stay. A contract that is not wanted ends yesterday if it has
    begun, because reports need it, and is deleted otherwise. Part of the caller's transaction.
    Raises ValidationError.
    """
    now = database_now()
    changes = _replace(tool, wanted, now, by)
    if changes:
        _follow(tool, now, by)
    return changes


def _replace(tool: Tool, wanted: Sequence[Mapping[str, Any]], now: datetime, by: Actor) -> list[ContractChange]:
    given = read(tool, wanted)
    changes = compare(given, wanted, list(tool.contracts.all()), now.astimezone(UTC).date())
    for done in changes:
        if done.change == Change.REMOVED:
            with auditing.deleting(done.contract, by=by):
                done.contract.delete()
        else:
            _save(done.contract, by)
    return changes


def compare(
    given: Sequence[Contract], wanted: Sequence[Mapping[str, Any]], known: Sequence[Contract], today: date
) -> list[ContractChange]:
    """Return what ``replace`` changes, and set the values of the changed contracts, unsaved.

    ``given`` are unsaved contracts with the values ``wanted``, and ``known`` those of the tool.
    """
    matched, left = _match(given, known)
    changes = []
    for number, contract in enumerate(given):
        row = matched.get(number)
        if row is None:
            changes.append(ContractChange(Change.NEW, contract))
            continue
        before = row.terms
        fields = [name for name in wanted[number] if getattr(row, name) != getattr(contract, name)]
        if fields:
            old = {name: getattr(row, name) for name in fields}
            for name in fields:
                setattr(row, name, getattr(contract, name))
            changes.append(ContractChange(Change.CHANGED, row, before, old))
    for row in left:
        before = row.terms
        if row.last_day is not None and row.last_day < today:
            continue
        if row.first_day is None or row.first_day < today:
            old = {"last_day": row.last_day}
            row.last_day = today - timedelta(days=1)
            changes.append(ContractChange(Change.ENDED, row, before, old))
        else:
            changes.append(ContractChange(Change.REMOVED, row, before))
    return changes


def _match(given: Sequence[Contract], known: Sequence[Contract]) -> tuple[dict[int, Contract], list[Contract]]:
    """Return the known contract of each given one that has one, by its number, and the other known ones."""
    matched: dict[int, Contract] = {}
    left = list(known)
    for keys in SAME:
        by_key: dict[tuple[Any, ...], list[Contract]] = defaultdict(list)
        for contract in reversed(left):
            by_key[tuple(getattr(contract, key) for key in keys)].append(contract)
        for number, contract in enumerate(given):
            if number not in matched and (found := by_key[tuple(getattr(contract, key) for key in keys)]):
                matched[number] = found.pop()
        taken = {contract.pk for contract in matched.values()}
        left = [contract for contract in left if contract.pk not in taken]
    return matched, left


def _save(contract: Contract, by: Actor) -> auditing.Change[Contract]:
    with auditing.changing(contract, by=by) as change, explained([contract]):
        contract.save()
    return change


def _locked(contracts: Iterable[Contract]) -> tuple[list[Tool], datetime]:
    """Lock the tools of these contracts, and return them with the time."""
    tools = list(lock({contract.tool.name for contract in contracts}).values())
    return tools, database_now()


def _follow(tool: Tool, now: datetime, by: Actor) -> bool:
    """Give a locked tool the capacity of its contracts, after they were changed. Return whether it is another."""
    before = tool.capacity
    schedule = capacity.schedules([tool]).get(tool.pk)
    if schedule is not None and schedule.most > MAX_CAPACITY:
        raise ValidationError(
            f"The contracts of %(tool)s have {schedule.most:,} seats at once, more than {MAX_CAPACITY:,}.",
            params={"tool": tool.name},
        )
    with auditing.changing(tool, by=by):
        if schedule is not None:
            tool.capacity = schedule.at(now)
        tool.capacity_changes_at = schedule.next_change(now) if schedule is not None else None
        tool.save(update_fields=["capacity", "capacity_changes_at"])
    return tool.capacity != before
