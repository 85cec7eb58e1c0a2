"""Report the cost of contracts, and the part of it for seats that nobody borrowed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from licenses.clock import database_now
from licenses.models import Contract, Tool

from . import days, reports
from .reports import Period, Span


@dataclass(frozen=True, slots=True)
class ContractCost:
    """A contract, and its cost in a span up to now. ``cost`` is None without a price, a first or a last day."""

    contract: Contract
    cost: Decimal | None
    idle_cost: Decimal | None


@dataclass(frozen=True, slots=True)
class _Part:
    """A period of a tool, and the share of its capacity that was not borrowed."""

    start: datetime
    end: datetime
    idle: Decimal


def costs(*, span: Span, tool: Tool | None = None) -> list[ContractCost]:
    """Return the contracts that were valid in a span, by tool, with their cost in it up to now.

    The price is spread evenly over the days of the contract. The seats of a tool are one pool,
    so a day's cost of each of its contracts is idle by the share of the capacity that was not
    borrowed on that day.
    """
    end = min(span.end, database_now())
    rows = Contract.objects.select_related("tool").filter(**({"tool": tool} if tool else {}))
    contracts = [row for row in rows if _overlaps(row, span.start, end)]
    priced = [row for row in contracts if row.cost_between(span.start, end) is not None]
    parts = _parts(list({row.tool.pk: row.tool for row in priced}.values()), span, end) if priced else {}
    return [_cost(row, span.start, end, parts.get(row.tool_id, ())) for row in contracts]


def _overlaps(contract: Contract, start: datetime, end: datetime) -> bool:
    starts, ends = contract.starts_at, contract.ends_at
    return (starts is None or starts < end) and (ends is None or ends > start)


def _parts(tools: Sequence[Tool], span: Span, end: datetime) -> dict[int, list[_Part]]:
    """Return the days of a span, by tool."""
    capacities = days.capacities_by_tool()
    keys = {tool.name: tool.pk for tool in tools}
    bounds = {name: (start, min(until, end)) for name, start, until in span.periods(Period.DAY)}
    parts: dict[int, list[_Part]] = defaultdict(list)
    for row in reports.utilization(tools=tools, span=span, period=Period.DAY):
        start, until = bounds[row.start]
        owned = capacities[keys[row.tool]].total(start, until)
        used = row.mean * (until - start)
        idle = max(1 - used / owned, 0.0) if owned else 0.0
        parts[keys[row.tool]].append(_Part(start, until, Decimal(idle)))
    return parts


def _cost(contract: Contract, start: datetime, end: datetime, parts: Sequence[_Part]) -> ContractCost:
    cost = contract.cost_between(start, end)
    if cost is None:
        return ContractCost(contract, None, None)
    idle = sum(((contract.cost_between(part.start, part.end) or 0) * part.idle for part in parts), Decimal(0))
    return ContractCost(contract, cost, idle)
