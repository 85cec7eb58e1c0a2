"""Let the capacity of tools follow their contracts.

``Tool.capacity_changes_at`` is the next moment at which a contract changes the capacity. The
batch that locks a tool after that moment applies the change before it decides; a read without
a lock shows it. So nothing needs to run at midnight, and a tool without a due change costs one
comparison.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime

from licenses import auditing
from licenses.auditing import Actor
from licenses.models import Action, ActorKind, Contract, Tool
from licenses.models.contract import Schedule

# The dates of contracts change a capacity, nobody who calls.
CALENDAR = Actor(ActorKind.CALENDAR, "", "contracts")


def _due(tools: Iterable[Tool], now: datetime) -> list[Tool]:
    return [tool for tool in tools if tool.capacity_changes_at is not None and tool.capacity_changes_at <= now]


def schedules(tools: Collection[Tool]) -> dict[int, Schedule]:
    """Return the schedule of each of these tools that has contracts, in one query."""
    of_tool = defaultdict(list)
    for contract in Contract.objects.filter(tool__in=list(tools)).order_by():
        of_tool[contract.tool_id].append(contract)
    return {tool: Schedule.of(contracts) for tool, contracts in of_tool.items()}


def show(tools: Iterable[Tool], now: datetime) -> None:
    """Give tools that are not locked the capacity that is valid at ``now``. Writes nothing."""
    if due := _due(tools, now):
        known = schedules(due)
        for tool in due:
            schedule = known.get(tool.pk)
            tool.capacity = schedule.at(now) if schedule else tool.capacity
            tool.capacity_changes_at = schedule.next_change(now) if schedule else None


def changes_until(tool: Tool, schedule: Schedule, now: datetime) -> list[tuple[datetime, int]]:
    """Return the due changes of a tool that are not applied: their moments, and the capacity from then."""
    since = tool.capacity_changes_at
    if since is None or since > now:
        return []
    changes = [(moment, seats) for moment, seats in schedule.between(since, now)]
    return changes or [(since, schedule.at(now))]


def apply(tools: Iterable[Tool], now: datetime) -> None:
    """Write the due changes of locked tools, and record each in the audit with its moment (``since``), from
    which the history knows it. Part of the caller's transaction."""
    if not (due := _due(tools, now)):
        return
    known = schedules(due)
    for tool in due:
        schedule = known.get(tool.pk, Schedule(tool.capacity, ()))
        for moment, seats in changes_until(tool, schedule, now):
            if seats != tool.capacity:
                before, after = {"capacity": tool.capacity}, {"capacity": seats, "since": moment}
                auditing.record(CALENDAR, action=Action.CHANGED, subject=tool, before=before, after=after, at=now)
            tool.capacity = seats
        tool.capacity_changes_at = schedule.next_change(now)
        tool.save(update_fields=["capacity", "capacity_changes_at"])
