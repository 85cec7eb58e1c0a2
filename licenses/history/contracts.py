"""Report the cost of contracts, and the part of it for seats that nobody borrowed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from licenses.clock import database_now
from licenses.models import Contract, Tool

from . import days, reports
from .reports import Period, Recent, Span


@dataclass(frozen=True, slots=True)
class ContractCost:
    """A contract, and its cost in a span up to now. ``cost`` is None without a price, a first or a last day."""

    contract: Contract
    cost: Decimal | None
    idle_cost: Decimal | None


@dataclass(frozen=True, slots=True)
class MonthCost:
    """The cost of contracts in a month, named by its first day, and the part of it for seats that nobody borrowed."""

    month: date
    cost: Decimal
    idle_cost: Decimal


@dataclass(frozen=True, slots=True)
class _Part:
    """A period of a tool, and the share of its capacity that was not borrowed."""

    start: datetime
    end: datetime
    idle: Decimal


def costs(*, span: Span, tool: Tool | None = None, recent: Recent | None = None) -> list[ContractCost]:
    """Return the contracts that were valid in a span, by tool, with their cost in it up to now.

    The price is spread evenly over the days of the contract. The seats of a tool are one pool,
    so a day's cost of each of its contracts is idle by the share of the capacity that was not
    borrowed on that day.
    """
    end = min(span.end, recent.now if recent else database_now())
    contracts, parts = _read(span, end, recent, tool)
    return [_cost(row, span.start, end, parts.get(row.tool_id, ())) for row in contracts]


def by_month(*, span: Span, recent: Recent | None = None) -> list[MonthCost]:
    """Return the cost of all contracts in each month of a span, up to now."""
    now_or_end = min(span.end, recent.now if recent else database_now())
    contracts, parts = _read(span, now_or_end, recent)
    found = []
    for name, start, until in span.periods(Period.MONTH):
        end = min(until, now_or_end)
        if start < end and isinstance(name, date):
            costs = [
                _cost(row, start, end, [part for part in parts.get(row.tool_id, ()) if start <= part.start < end])
                for row in contracts
            ]
            cost = sum((row.cost for row in costs if row.cost is not None), Decimal(0))
            idle = sum((row.idle_cost for row in costs if row.idle_cost is not None), Decimal(0))
            found.append(MonthCost(name, cost, idle))
    return found


def _read(
    span: Span, end: datetime, recent: Recent | None, tool: Tool | None = None
) -> tuple[list[Contract], dict[int, list[_Part]]]:
    """Return the contracts that were valid in a span, and the days of the tools whose contracts have a cost."""
    rows = Contract.objects.select_related("tool").filter(**({"tool": tool} if tool else {}))
    contracts = [row for row in rows if _overlaps(row, span.start, end)]
    priced = [row for row in contracts if row.cost_between(span.start, end) is not None]
    return contracts, _parts(
        list({row.tool.pk: row.tool for row in priced}.values()), span, end, recent
    ) if priced else {}


def _overlaps(contract: Contract, start: datetime, end: datetime) -> bool:
    starts, ends = contract.starts_at, contract.ends_at
    return (starts is None or starts < end) and (ends is None or ends > start)


def _parts(tools: Sequence[Tool], span: Span, end: datetime, recent: Recent | None) -> dict[int, list[_Part]]:
    """Return the days of a span since the creation of the tool, by tool."""
    capacities = days.capacities_by_tool()
    used = reports.seat_time_by_day(tools=tools, span=span, recent=recent)
    parts: dict[int, list[_Part]] = defaultdict(list)
    for name, start, until in span.periods(Period.DAY):
        last = min(until, end)
        for tool in tools:
            # Before its creation there was nothing to borrow.
            begin = max(start, tool.created_at)
            if begin < last:
                owned = capacities[tool.pk].total(begin, last)
                idle = max(1 - used.get((tool.pk, name), timedelta(0)) / owned, 0.0) if owned else 0.0
                parts[tool.pk].append(_Part(begin, last, Decimal(idle)))
    return parts


def _cost(contract: Contract, start: datetime, end: datetime, parts: Sequence[_Part]) -> ContractCost:
    cost = contract.cost_between(start, end)
    if cost is None:
        return ContractCost(contract, None, None)
    idle = sum(((contract.cost_between(part.start, part.end) or 0) * part.idle for part in parts), Decimal(0))
    return ContractCost(contract, cost, idle)
