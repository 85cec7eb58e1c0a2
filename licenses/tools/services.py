"""Create, change and delete tools."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from licenses import auditing
from licenses.auditing import Actor
from licenses.errors import UnknownTool
from licenses.leases import expiry
from licenses.models import Tool

from .constraints import explained


@dataclass(frozen=True, slots=True)
class ToolChange:
    """A tool, and its fields that were changed: their values before and after. A new tool has only the
    values after, those that were given."""

    tool: Tool
    is_new: bool = False
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)


@transaction.atomic
def put(*, tools: Mapping[str, Mapping[str, Any]], by: Actor) -> list[ToolChange]:
    """Create or change tools of these names, all or none (``create``, ``change``). Return one change for
    each, in their order.

    Raises ValidationError, with the name of the tool in front of each message.
    """
    known = {tool.name: tool for tool in Tool.objects.locked(tools)}
    changes = []
    for name, values in tools.items():
        tool = known.get(name)
        try:
            changes.append(_change(tool, values, by) if tool is not None else _create(name, values, by))
        except ValidationError as error:
            raise ValidationError([f"{name}: {message}" for message in error.messages]) from error
    return changes


@transaction.atomic
def create(*, name: str, values: Mapping[str, Any], by: Actor) -> ToolChange:
    """Create a tool. Fields without a value get their default.

    Raises ValidationError if a value is invalid or a tool of this name exists; nothing is changed then.
    """
    return _create(name, values, by)


@transaction.atomic
def change(*, name: str, values: Mapping[str, Any], by: Actor) -> ToolChange:
    """Change these fields of a tool, and no others.

    If the end of the license changes, leases follow it (``expiry.follow_validity``). If the
    capacity gets lower than the borrowed seats, leases go on and nothing is granted.

    Raises UnknownTool, or ValidationError if a value is invalid; nothing is changed then.
    """
    return _change(_lock(name), values, by)


@transaction.atomic
def delete(*, name: str, by: Actor) -> None:
    """Delete a tool with its quotas, limits and access rules.

    Raises UnknownTool, or ValidationError if it has leases: disable it then, to keep its history.
    """
    tool = _lock(name)
    if tool.leases.exists():
        raise ValidationError(f"{name} has leases. Disable it instead, so that its history stays.")
    with auditing.deleting(tool, by=by):
        tool.delete()


def _lock(name: str) -> Tool:
    tool = Tool.objects.locked([name]).first()
    if tool is None:
        raise UnknownTool(tool=name)
    return tool


def _create(name: str, values: Mapping[str, Any], by: Actor) -> ToolChange:
    tool = Tool(name=name, **values)
    tool.full_clean(validate_unique=False, validate_constraints=False)
    with auditing.changing(tool, by=by), explained([tool]):
        tool.save(force_insert=True)
    return ToolChange(tool, is_new=True, after={field: getattr(tool, field) for field in values})


def _change(tool: Tool, values: Mapping[str, Any], by: Actor) -> ToolChange:
    before = {field: getattr(tool, field) for field in values}
    for name, value in values.items():
        setattr(tool, name, value)
    # A tool may have a name from before it was reserved.
    tool.full_clean(["name"], validate_unique=False, validate_constraints=False)
    after = {field: getattr(tool, field) for field in values if getattr(tool, field) != before[field]}
    if after:
        with auditing.changing(tool, by=by), explained([tool], exclude=["name"]):
            # Write only these fields: leases change the borrowed seats.
            tool.save(update_fields=list(after))
    if "valid_until" in after:
        expiry.follow_validity(tool=tool.name, previous=before["valid_until"])
    return ToolChange(tool, before={field: before[field] for field in after}, after=after)
