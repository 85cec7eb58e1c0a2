"""Report what each tool costs, how it is used in working hours and at all hours, and what other numbers of
seats would have done."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from licenses.leases import capacity
from licenses.models import Tool

from . import contracts, days, reports, whatif
from .reports import Period, Recent, Span
from .timeline import Steps
from .whatif import Outcome
from .working_hours import WorkingHours

# The capacities to try: these numbers of seats fewer or more.
FEWER, TODAY, MORE = -1, 0, 1


@dataclass(frozen=True, slots=True)
class ToolCost:
    """The cost and the use of a tool in a span up to now.

    ``share`` and ``working_share`` are seat time as a share of the seats that were owned at each moment, at all
    hours and in working hours; None if there were no seats. ``outcomes`` are by the difference to today's
    capacity; empty if they were not replayed.
    """

    tool: Tool
    peak: int
    share: float | None
    working_share: float | None
    working_time: timedelta
    usage: reports.Usage | None
    contract_cost: Decimal | None
    idle_cost: Decimal | None
    outcomes: Mapping[int, Outcome]

    @property
    def money(self) -> Decimal:
        """Return what the tool costs: the price of its seats if it is known, else the cost of its use."""
        if self.contract_cost is not None:
            return self.contract_cost
        return (self.usage.cost if self.usage else None) or Decimal(0)


@dataclass(frozen=True, slots=True)
class MonthCost:
    """The cost of use and of contracts in a month, named by its first day."""

    month: date
    usage: reports.Usage | None
    contract_cost: Decimal
    idle_cost: Decimal


def by_month(*, span: Span, recent: Recent | None = None) -> list[MonthCost]:
    """Return the cost of each month of a span with use or contracts, up to now."""
    recent = recent or Recent.read()
    usage = {row.key["month"]: row for row in reports.usage(by=["month"], span=span, recent=recent)}
    months = [
        MonthCost(row.month, usage.get(row.month.isoformat()), row.cost, row.idle_cost)
        for row in contracts.by_month(span=span, recent=recent)
    ]
    return [row for row in months if row.usage or row.contract_cost]


def by_tool(*, span: Span, at_most: int | None, recent: Recent | None = None) -> list[ToolCost]:
    """Return the cost of each tool, the most expensive first.

    Without ``outcomes`` if more than ``at_most`` borrows are recorded; None is no limit.
    """
    recent = recent or Recent.read()
    now = recent.now
    tools = list(Tool.objects.order_by("name"))
    capacity.show(tools, now)
    hours = WorkingHours.of_site()
    peaks: defaultdict[str, int] = defaultdict(int)
    for row in reports.utilization(tools=tools, span=span, period=Period.MONTH, recent=recent):
        peaks[row.tool] = max(peaks[row.tool], row.peak)
    usage = {row.key["tool"]: row for row in reports.usage(by=["tool"], span=span, recent=recent)}
    working = reports.working_time(tools=tools, span=span, hours=hours, recent=recent)
    costs: defaultdict[int, list[contracts.ContractCost]] = defaultdict(list)
    for cost in contracts.costs(span=span, recent=recent):
        costs[cost.contract.tool_id].append(cost)
    outcomes = _outcomes(tools, span, at_most)
    owned = days.capacities_by_tool()
    end = min(span.end, now)
    # Cut to now, because nothing is known of later hours.
    windows = hours.between(span.start, end).spans if span.start < end else []
    found = [
        ToolCost(
            tool=tool,
            peak=peaks[tool.name],
            share=_share(_seat_time(usage.get(tool.name)), owned[tool.pk], [(span.start, end)]),
            working_share=_share(working.get(tool.pk, timedelta(0)), owned[tool.pk], windows),
            working_time=working.get(tool.pk, timedelta(0)),
            usage=usage.get(tool.name),
            contract_cost=_total([cost.cost for cost in costs[tool.pk]]),
            idle_cost=_total([cost.idle_cost for cost in costs[tool.pk]]),
            outcomes=outcomes.get(tool.pk, {}),
        )
        for tool in tools
    ]
    return sorted(found, key=lambda row: (-row.money, row.tool.name))


def _outcomes(tools: Sequence[Tool], span: Span, at_most: int | None) -> dict[int, dict[int, Outcome]]:
    try:
        recorded = whatif.recorded(tools, span, at_most)
    except whatif.TooMuch:
        return {}
    return {
        tool.pk: {
            seats: whatif.outcome(recorded[tool.pk].demands, tool.capacity + seats, recorded[tool.pk].until)
            for seats in (FEWER, TODAY, MORE)
            if tool.capacity + seats >= 0
        }
        for tool in tools
    }


def _seat_time(usage: reports.Usage | None) -> timedelta:
    return usage.seat_time if usage else timedelta(0)


def _share(used: timedelta, owned: Steps, spans: Iterable[tuple[datetime, datetime]]) -> float | None:
    total = sum((owned.total(start, end) for start, end in spans if start < end), timedelta(0))
    return used / total if total else None


def _total(costs: Sequence[Decimal | None]) -> Decimal | None:
    """Return the sum of the known costs, or None if none is known."""
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if known else None
