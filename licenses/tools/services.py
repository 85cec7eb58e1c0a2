"""Create, change and delete tools."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from licenses import auditing
from licenses.auditing import Actor
from licenses.clock import database_now
from licenses.errors import InUse, UnknownTool
from licenses.leases import expiry
from licenses.models import Tool
from licenses.models.contract import Schedule
from licenses.preconditions import Check, accept

from . import contracts
from .constraints import explained
from .contracts import ContractChange
from .locking import lock, lock_known

# The key of a tool's contracts among its values: a list of contracts, by field.
CONTRACTS = "contracts"


@dataclass(frozen=True, slots=True)
class ToolChange:
    """A tool, and its fields that were changed: their values before and after. A new tool has only the
    values after, those that were given. ``contracts`` are those that were changed."""

    tool: Tool
    is_new: bool = False
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    contracts: Sequence[ContractChange] = ()

    def __bool__(self) -> bool:
        """Return whether anything changed."""
        return self.is_new or bool(self.after) or bool(self.contracts)

    @property
    def is_resized(self) -> bool:
        """Return whether a tool that existed has another capacity."""
        return not self.is_new and "capacity" in self.after


@transaction.atomic
def put(*, tools: Mapping[str, Mapping[str, Any]], by: Actor) -> list[ToolChange]:
    """Create or change tools of these names, all or none (``create``, ``change``). Return one change for
    each, in their order.

    Raises ValidationError, with the name of the tool in front of each message.
    """
    known = lock_known(tools)
    changes = []
    for name, values in tools.items():
        try:
            changes.append(_put(known.get(name), name, values, by, accept))
        except ValidationError as error:
            raise ValidationError([f"{name}: {message}" for message in error.messages]) from error
    return changes


@transaction.atomic
def put_tool(*, name: str, values: Mapping[str, Any], by: Actor, check: Check = accept) -> ToolChange:
    """Create or change the tool of this name (``create``, ``change``). Fields that are not given stay.

    Raises ValidationError if a value is invalid, or what ``check`` raises; nothing is changed then.
    """
    return _put(lock_known([name]).get(name), name, values, by, check)


@transaction.atomic
def create(*, name: str, values: Mapping[str, Any], by: Actor) -> ToolChange:
    """Create a tool. Fields without a value get their default. ``contracts`` among the values is a list of
    contracts, by field; the capacity follows them, and must be the same if it is given too.

    Raises ValidationError if a value is invalid or a tool of this name exists; nothing is changed then.
    """
    return _create(name, values, by)


@transaction.atomic
def change(*, name: str, values: Mapping[str, Any], by: Actor) -> ToolChange:
    """Change these fields of a tool, and no others. ``contracts`` is as in ``create``, and replaces all
    contracts of the tool (``contracts.replace``).

    If the end of the license changes, leases follow it (``expiry.follow_validity``). If the
    capacity gets lower than the borrowed seats, leases go on and nothing is granted.

    Raises UnknownTool, or ValidationError if a value is invalid; nothing is changed then.
    """
    return _change(lock([name])[name], values, by)


@transaction.atomic
def delete(*, name: str, by: Actor, check: Check = accept) -> None:
    """Delete a tool with its contracts, quotas, limits and access rules.

    Raises UnknownTool, what ``check`` raises, or InUse if it has leases: disable it then, to keep its history.
    """
    tool = lock_known([name]).get(name)
    check(tool)
    if tool is None:
        raise UnknownTool(tool=name)
    if tool.leases.exists():
        raise InUse(f"There are leases of {name}. Disable it instead, so that its history stays.", tool=name)
    with auditing.deleting(tool, by=by):
        tool.delete()


def _put(tool: Tool | None, name: str, values: Mapping[str, Any], by: Actor, check: Check) -> ToolChange:
    check(tool)
    if tool is None:
        try:
            return _create(name, values, by)
        except ValidationError:
            # Another transaction may have created the tool meanwhile.
            tool = lock_known([name]).get(name)
            if tool is None:
                raise
            check(tool)
    return _change(tool, values, by)


def _create(name: str, values: Mapping[str, Any], by: Actor) -> ToolChange:
    plain = {field: value for field, value in values.items() if field != CONTRACTS}
    wanted = values.get(CONTRACTS) or ()
    tool = Tool(name=name, **plain)
    if wanted:
        now = database_now()
        schedule = Schedule.of(contracts.read(tool, wanted))
        _refuse_capacity(plain, schedule.at(now))
        tool.capacity, tool.capacity_changes_at = schedule.at(now), schedule.next_change(now)
    tool.full_clean(validate_unique=False, validate_constraints=False)
    with auditing.changing(tool, by=by), explained([tool]):
        tool.save(force_insert=True)
    changes = contracts.replace(tool, wanted, by=by) if wanted else []
    after = {field: getattr(tool, field) for field in plain}
    return ToolChange(tool, is_new=True, after=after, contracts=changes)


def _change(tool: Tool, values: Mapping[str, Any], by: Actor) -> ToolChange:
    plain = {field: value for field, value in values.items() if field != CONTRACTS}
    changes, seats = [], tool.capacity
    if CONTRACTS in values:
        changes = contracts.replace(tool, values[CONTRACTS], by=by)
        if values[CONTRACTS]:
            _refuse_capacity(plain, seats, tool.capacity)
            plain.pop("capacity", None)
    before = {field: getattr(tool, field) for field in plain}
    for name, value in plain.items():
        setattr(tool, name, value)
    # A tool may have a name from before it was reserved.
    tool.full_clean(["name"], validate_unique=False, validate_constraints=False)
    after = {field: getattr(tool, field) for field in plain if getattr(tool, field) != before[field]}
    if "capacity" in after and tool.contracts.exists():
        raise ValidationError({"capacity": "The tool has contracts, which set its capacity. Change the contracts."})
    if after:
        with auditing.changing(tool, by=by), explained([tool], exclude=["name"]):
            # Write only these fields: leases change the borrowed seats.
            tool.save(update_fields=list(after))
    if "valid_until" in after:
        expiry.follow_validity(tool=tool.name, previous=before["valid_until"])
    if tool.capacity != seats:
        before["capacity"], after["capacity"] = seats, tool.capacity
    return ToolChange(tool, before={field: before[field] for field in after}, after=after, contracts=changes)


def _refuse_capacity(plain: Mapping[str, Any], *known: int) -> None:
    """Refuse a capacity of a tool with contracts, unless it is one of ``known``."""
    if "capacity" in plain and plain["capacity"] not in known:
        raise ValidationError({"capacity": "Give contracts or a capacity, not both: contracts set the capacity."})
