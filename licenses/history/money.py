"""Report what a site and a team cost, how each tool is used in working hours and at all hours, and what other
numbers of seats would have done."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from licenses.leases import capacity
from licenses.models import Team, Tool

from . import contracts, days, reports, whatif
from .contracts import ContractCost
from .reports import Period, Recent, Span, Usage
from .timeline import HOUR
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


@dataclass(frozen=True, slots=True)
class Total:
    """The sum of some use. The cost is without that of tools that have no price."""

    borrows: int
    seat_hours: float
    cost: Decimal

    @classmethod
    def of(cls, rows: Sequence[Usage]) -> "Total":
        """Return the sum of these rows."""
        return cls(
            borrows=sum(row.borrows for row in rows),
            seat_hours=sum(row.seat_hours for row in rows),
            cost=sum((row.cost for row in rows if row.cost is not None), Decimal(0)),
        )


@dataclass(frozen=True, slots=True)
class SiteCosts:
    """The cost of everything in a span up to now.

    ``by`` has the use by vendor, team and project, the most expensive first. ``without_price`` are the seat-hours
    of tools without a price.
    """

    months: Sequence[MonthCost]
    by: Mapping[str, Sequence[Usage]]
    tools: Sequence[ToolCost]
    contracts: Sequence[ContractCost]
    total: Total
    contract_cost: Decimal
    idle_cost: Decimal
    without_price: float


@dataclass(frozen=True, slots=True)
class TeamCosts:
    """The use of a team in a span up to now, by month, and by tool and project, the most expensive first.

    ``working_hours`` are its seat-hours in working hours by tool. ``without_price`` are the seat-hours of tools
    without a price.
    """

    by: Mapping[str, Sequence[Usage]]
    working_hours: Mapping[str, float]
    total: Total
    without_price: float


def of_site(*, span: Span, at_most: int | None, recent: Recent | None = None) -> SiteCosts:
    """Return the cost of use, of contracts and of idle seats; ``at_most`` is that of ``by_tool``."""
    recent = recent or Recent.read()
    months = by_month(span=span, recent=recent)
    tools = by_tool(span=span, at_most=at_most, recent=recent)
    costs = contracts.costs(span=span, recent=recent)
    by = {key: reports.usage(by=[key], span=span, recent=recent) for key in ("vendor", "team", "project")}
    return SiteCosts(
        months=months,
        by={key: _by_cost(rows) for key, rows in by.items()},
        tools=tools,
        contracts=sorted(costs, key=lambda row: (-(row.idle_cost or Decimal(0)), row.contract.tool.name)),
        total=Total.of([row.usage for row in months if row.usage]),
        contract_cost=sum((row.contract_cost for row in months), Decimal(0)),
        idle_cost=sum((row.idle_cost for row in months), Decimal(0)),
        without_price=sum(row.usage.seat_hours for row in tools if row.usage and row.usage.cost is None),
    )


def of_team(*, team: Team, span: Span, recent: Recent | None = None) -> TeamCosts:
    """Return the use and the cost of a team."""
    recent = recent or Recent.read()
    by = {key: reports.usage(by=[key], span=span, team=team, recent=recent) for key in ("month", "tool", "project")}
    tools = list(Tool.objects.filter(name__in=[row.key["tool"] for row in by["tool"]]))
    hours = WorkingHours.of_site()
    working = reports.working_time(tools=tools, span=span, hours=hours, team=team, recent=recent)
    return TeamCosts(
        by={key: rows if key == "month" else _by_cost(rows) for key, rows in by.items()},
        working_hours={tool.name: working.get(tool.pk, timedelta(0)) / HOUR for tool in tools},
        total=Total.of(by["month"]),
        without_price=sum(row.seat_hours for row in by["tool"] if row.cost is None),
    )


def _by_cost(rows: Iterable[Usage]) -> list[Usage]:
    """Return rows by their cost, and then by their use, the largest first."""
    return sorted(rows, key=lambda row: (-(row.cost or Decimal(0)), -row.seat_time))


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
    windows = hours.between(span.start, end)
    found = [
        ToolCost(
            tool=tool,
            peak=peaks[tool.name],
            share=_share(_seat_time(usage.get(tool.name)), owned[tool.pk].total(span.start, end)),
            working_share=_share(
                working.get(tool.pk, timedelta(0)), owned[tool.pk].total(span.start, end, windows.within)
            ),
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


def _share(used: timedelta, owned: timedelta) -> float | None:
    return used / owned if owned else None


def _total(costs: Sequence[Decimal | None]) -> Decimal | None:
    """Return the sum of the known costs, or None if none is known."""
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if known else None
