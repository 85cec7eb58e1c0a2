"""Let the capacity of tools follow their contracts.

``Tool.capacity_changes_at`` is the next moment at which a contract changes the capacity. The
batch that locks a tool after that moment applies the change before it decides; a read without
a lock shows it. So nothing needs to run at midnight, and a tool without a due change costs one
comparison.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from licenses import auditing
from licenses.auditing import Actor
from licenses.models import Action, ActorKind, Contract, Tool
from licenses.models.contract import Schedule

# The dates of contracts change a capacity, and no caller does.
CALENDAR = Actor(ActorKind.CALENDAR, "", "contracts")


@dataclass(frozen=True, slots=True)
class Due:
    """The due changes of a tool: their moments with the capacity from then, and the moment of the next change."""

    tool: Tool
    changes: list[tuple[datetime, int]]
    next_change: datetime | None


def schedules(tools: Collection[Tool]) -> dict[int, Schedule]:
    """Return the schedule of each of these tools that has contracts, in one query."""
    of_tool = defaultdict(list)
    for contract in Contract.objects.filter(tool__in=list(tools)).order_by():
        of_tool[contract.tool_id].append(contract)
    return {tool: Schedule.of(contracts) for tool, contracts in of_tool.items()}


def due(tools: Iterable[Tool], now: datetime) -> list[Due]:
    """Return the changes that are due at ``now`` and not applied yet. Costs a query only if there are any."""
    late = [tool for tool in tools if tool.capacity_changes_at is not None and tool.capacity_changes_at <= now]
    if not late:
        return []
    known = schedules(late)
    return [_due(tool, known.get(tool.pk, Schedule(tool.capacity, ())), now) for tool in late]


def _due(tool: Tool, schedule: Schedule, now: datetime) -> Due:
    since = tool.capacity_changes_at or now
    changes = schedule.between(since, now) or [(since, schedule.at(now))]
    return Due(tool, changes, schedule.next_change(now))


def show(tools: Iterable[Tool], now: datetime) -> None:
    """Set the capacity that is valid at ``now`` on tools that are not locked. Writes nothing."""
    for change in due(tools, now):
        change.tool.capacity = change.changes[-1][1]
        change.tool.capacity_changes_at = change.next_change


def apply(tools: Iterable[Tool], now: datetime) -> None:
    """Write the due changes of locked tools. Record each in the audit with its moment
    (``since``), which the history uses. Part of the caller's transaction."""
    for change in due(tools, now):
        tool = change.tool
        for moment, seats in change.changes:
            if seats != tool.capacity:
                before, after = {"capacity": tool.capacity}, {"capacity": seats, "since": moment}
                auditing.record(CALENDAR, action=Action.CHANGED, subject=tool, before=before, after=after, at=now)
            tool.capacity = seats
        tool.capacity_changes_at = change.next_change
        tool.save(update_fields=["capacity", "capacity_changes_at"])
