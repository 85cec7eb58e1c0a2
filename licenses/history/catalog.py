"""The reports.

Amounts of time are seat-hours if the column's name says so, otherwise seconds.
"""

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

from django.conf import settings

from licenses.models import Team, Tool

from . import contracts, money, reports, whatif
from .declarations import (
    Choice,
    Column,
    Found,
    Limits,
    Report,
    Seats,
    TeamParameter,
    TooLarge,
    ToolParameter,
    Value,
    key,
)
from .money import ToolCost
from .reports import Period, Span
from .timeline import HOUR
from .whatif import Outcome

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MAX_CAPACITIES = 10

TOOL = ToolParameter(name="tool")
ONE_TOOL = ToolParameter(name="tool", required=True)
TEAM = TeamParameter(name="team", help="Only this team.")


def _moment(value: datetime | date) -> str:
    """Write a date, or a moment in UTC as the API does."""
    return value.isoformat().replace("+00:00", "Z")


def _seconds(value: timedelta) -> float:
    return round(value.total_seconds(), 3)


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def _money(value: Decimal | None) -> str | None:
    # Money is text.
    return None if value is None else f"{value:.2f}"


def _refused(outcome: Outcome) -> int:
    return outcome.refused


def _p95_wait(outcome: Outcome) -> float:
    return _seconds(outcome.p95_wait)


CURRENCY = Column(
    "currency",
    str,
    "Of all amounts (LICENSE_CURRENCY); null if it is not set.",
    lambda _: settings.LICENSE_CURRENCY or None,
    nullable=True,
    money=True,
)


# --- Utilization ------------------------------------------------------------


def _utilization(*, span: Span, limits: Limits, tool: Tool | None, team: Team | None, period: str) -> Found:
    tools = [tool] if tool else list(Tool.objects.order_by("name"))
    if limits.rows is not None and len(tools) * span.length(Period(period)) > limits.rows:
        raise TooLarge(f"More than {limits.rows} rows: ask for fewer days, longer periods, or one tool.")
    return Found(reports.utilization(tools=tools, span=span, period=Period(period), team=team))


UTILIZATION = Report(
    name="utilisation",
    title="Utilization",
    summary="Report high-water marks, means and time without a free seat by hour, day or month.",
    details="For all tools or one tool, for all users or one team.",
    find=_utilization,
    parameters=[TOOL, TEAM, Choice(name="period", among=[*Period], default=Period.DAY)],
    columns=[
        Column("tool", str),
        Column("team", str, "Only if the query names a team.", when=lambda asked: asked["team"] is not None),
        Column(
            "start",
            str,
            "The day, the first day of the month, or the start of the hour in UTC.",
            lambda row: _moment(row.start),
        ),
        Column("capacity", int, "The highest capacity in the period."),
        Column("peak", int, "The high-water mark: the most seats that were out at once."),
        Column("mean", float, "Mean of the borrowed seats over the period.", lambda row: round(row.mean, 4)),
        Column(
            "utilisation",
            float,
            "The mean as a share of the capacity.",
            lambda row: None if row.share is None else round(row.share, 4),
            nullable=True,
            share=True,
        ),
        Column(
            "full_seconds",
            float,
            "The time without a free seat; absent for teams.",
            lambda row: _seconds(row.full_for),
            when=lambda asked: asked["team"] is None,
        ),
    ],
)


def _hours_of_week(*, span: Span, limits: Limits, tool: Tool, team: Team | None) -> Found:
    return Found(reports.hours_of_week(tool=tool, span=span, team=team))


HOURS_OF_WEEK = Report(
    name="hours-of-week",
    title="Hours of the week",
    summary="Report the use of a tool in each of the 168 hours of the week.",
    find=_hours_of_week,
    parameters=[ONE_TOOL, TEAM],
    columns=[
        Column("weekday", str, value=lambda row: WEEKDAYS[row.weekday]),
        Column("hour", int),
        Column("hours", int, "The number of these hours."),
        Column("highest", int, "The highest of their high-water marks."),
        Column("p95", int, "The most seats in 95 % of these hours."),
        Column("mean", float, "The mean of their high-water marks.", lambda row: round(row.mean, 4)),
    ],
    row_name="HourOfWeekRow",
)


# --- Usage and denials ------------------------------------------------------


def _usage(*, span: Span, limits: Limits, by: Sequence[str], tool: Tool | None, team: Team | None) -> Found:
    return Found(reports.usage(by=by, span=span, tool=tool, team=team))


USAGE = Report(
    name="usage",
    title="Usage",
    summary="Report seat-hours and their cost by month, vendor, tool, team, project or user.",
    details="By user needs the permission to view leases.",
    find=_usage,
    parameters=[TOOL, TeamParameter(name="team")],
    keys=[
        key("month", date, "Its first day."),
        key("vendor", help="The tool's vendor; empty if unknown."),
        key("tool"),
        key("team", nullable=True),
        key("project"),
        key("user", personal=True),
    ],
    by=["tool", "user"],
    columns=[
        Column("borrows", int, "Leases that began in the period."),
        Column("seat_hours", float, value=lambda row: round(row.seat_hours, 4)),
        Column("overdraft_hours", float, "Seat-hours above the capacity.", lambda row: round(row.overdraft_hours, 4)),
        Column(
            "cost",
            str,
            "At today's prices; null if the tool has no price. Absent without the right to see prices.",
            lambda row: _money(row.cost),
            nullable=True,
            money=True,
        ),
    ],
    facts=[CURRENCY],
)


def _denials(*, span: Span, limits: Limits, by: Sequence[str], tool: Tool | None) -> Found:
    return Found(reports.denials(by=by, span=span, tool=tool))


DENIALS = Report(
    name="denials",
    title="Denials",
    summary="Count refusals: episodes, and those that ended without a seat.",
    details="An episode counts on the day of its end.",
    find=_denials,
    parameters=[TOOL],
    keys=[key("tool"), key("code"), key("day", date), key("month", date, "Its first day.")],
    by=["tool", "code"],
    columns=[
        Column("episodes", int, "Refusals of one kind close together count as one."),
        Column("true_denials", int, "Episodes that ended without a seat."),
        Column("attempts", int),
        Column(
            "people",
            int,
            "The number of different users with an episode; null if names were deleted.",
            nullable=True,
        ),
    ],
)


# --- Costs ------------------------------------------------------------------


def _tool_costs(*, span: Span, limits: Limits) -> Found:
    rows = money.by_tool(span=span, at_most=limits.borrows)
    replayed = any(row.outcomes for row in rows) or not rows
    text = f"More than {limits.borrows} borrows: ask for fewer days to see other numbers of seats."
    return Found(rows, notes=[] if replayed else [text])


def _outcome(seats: int, value: Callable[[Outcome], Value]) -> Callable[[ToolCost], Value]:
    """Return a function that reads a value of the outcome with this number of seats more, or fewer if negative."""
    return lambda row: value(row.outcomes[seats]) if seats in row.outcomes else None


TOOL_COSTS = Report(
    name="tool-costs",
    title="Tools by cost",
    summary="Report the cost of each tool, its use in working hours, and the effect of one seat fewer or more.",
    details="The most expensive first: by the cost of its contracts, or of its use if no contract has a price.",
    find=_tool_costs,
    columns=[
        Column("tool", str, value=lambda row: row.tool.name),
        Column("vendor", str, "Empty if unknown.", lambda row: row.tool.vendor),
        Column("capacity", int, "Today's.", lambda row: row.tool.capacity),
        Column("peak", int, "The high-water mark: the most seats that were out at once."),
        Column(
            "utilization",
            float,
            "Seat time as a share of the seats owned.",
            lambda row: _rounded(row.share),
            nullable=True,
            share=True,
        ),
        Column(
            "working_utilization",
            float,
            "The same in working hours (LICENSE_WORKING_HOURS).",
            lambda row: _rounded(row.working_share),
            nullable=True,
            share=True,
        ),
        Column("seat_hours", float, value=lambda row: round(row.usage.seat_hours, 4) if row.usage else 0.0),
        Column("working_seat_hours", float, value=lambda row: round(row.working_time / HOUR, 4)),
        Column(
            "cost",
            str,
            "Of its use, at today's prices; null without a price.",
            lambda row: _money(row.usage.cost if row.usage else None),
            True,
        ),
        Column(
            "contract_cost",
            str,
            "Of its contracts, for these days; null without a price.",
            lambda row: _money(row.contract_cost),
            True,
        ),
        Column(
            "idle_cost",
            str,
            "The part of it for seats that nobody borrowed.",
            lambda row: _money(row.idle_cost),
            True,
        ),
        *(
            Column(f"{name}_{suffix}", kind, help, _outcome(seats, value), True)
            for name, seats, of in (
                ("fewer", money.FEWER, "with one seat fewer"),
                ("today", money.TODAY, "with today's seats"),
                ("more", money.MORE, "with one seat more"),
            )
            for suffix, kind, help, value in (
                ("refused", int, f"Borrows that are refused {of}, without a queue.", _refused),
                ("p95_wait_seconds", float, f"95 % of those that wait {of} wait at most this time.", _p95_wait),
            )
        ),
    ],
    facts=[CURRENCY],
    about_money=True,
)


def _month_costs(*, span: Span, limits: Limits) -> Found:
    return Found(money.by_month(span=span))


MONTH_COSTS = Report(
    name="month-costs",
    title="Costs by month",
    summary="Report the cost of use and of contracts in each month with any.",
    details="Costs are up to now. The first and the last month have only the days that the query names.",
    find=_month_costs,
    columns=[
        Column("month", str, "Its first day.", lambda row: row.month.isoformat()),
        Column("borrows", int, "Leases that began in the month.", lambda row: row.usage.borrows if row.usage else 0),
        Column("seat_hours", float, value=lambda row: round(row.usage.seat_hours, 4) if row.usage else 0.0),
        Column(
            "cost",
            str,
            "Of the use, at today's prices; null without a price.",
            lambda row: _money(row.usage.cost if row.usage else None),
            True,
        ),
        Column("contract_cost", str, "Of all contracts with a price.", lambda row: _money(row.contract_cost)),
        Column(
            "idle_cost",
            str,
            "The part of it for seats that nobody borrowed.",
            lambda row: _money(row.idle_cost),
        ),
    ],
    facts=[CURRENCY],
    about_money=True,
)


# --- Contracts --------------------------------------------------------------


def _contracts(*, span: Span, limits: Limits, tool: Tool | None) -> Found:
    found = contracts.costs(span=span, tool=tool)
    if limits.rows is not None and len(found) > limits.rows:
        raise TooLarge(f"More than {limits.rows} rows: ask for fewer days, or one tool.")
    return Found(found)


CONTRACTS = Report(
    name="contracts",
    title="Contracts",
    summary="Report the cost of each contract, and the part of it for seats that nobody borrowed.",
    details="The price of a contract is spread evenly over its days. Costs are up to now.",
    find=_contracts,
    parameters=[TOOL],
    columns=[
        Column("tool", str, value=lambda row: row.contract.tool.name),
        Column("reference", str, "The vendor's reference.", lambda row: row.contract.reference),
        Column("seats", int, value=lambda row: row.contract.seats),
        Column(
            "first_day",
            str,
            "In UTC; null: valid already.",
            lambda row: row.contract.first_day and str(row.contract.first_day),
            nullable=True,
        ),
        Column(
            "last_day",
            str,
            "In UTC; null: no end.",
            lambda row: row.contract.last_day and str(row.contract.last_day),
            nullable=True,
        ),
        Column("price", str, "Of the whole contract.", lambda row: _money(row.contract.price), nullable=True),
        Column(
            "cost",
            str,
            "In the period; null without a price, a first or a last day.",
            lambda row: _money(row.cost),
            nullable=True,
        ),
        Column(
            "idle_cost",
            str,
            "The part of it for seats that nobody borrowed, computed by day.",
            lambda row: _money(row.idle_cost),
            nullable=True,
        ),
    ],
    facts=[CURRENCY],
    about_money=True,
)


# --- What if ----------------------------------------------------------------


def _what_if(*, span: Span, limits: Limits, tool: Tool, capacity: Sequence[int] | None) -> Found:
    try:
        recorded, outcomes = whatif.replay(
            tool=tool, capacities=capacity or [tool.capacity], span=span, at_most=limits.borrows
        )
    except whatif.TooMuch:
        raise TooLarge(f"More than {limits.borrows} borrows: ask for fewer days.") from None
    notes = []
    if recorded.unmet:
        notes.append(
            f"{recorded.unmet} of {recorded.decided} borrows got no seat. The replay lets each hold one for "
            f"{recorded.assumed.total_seconds() / 60:.0f} min."
        )
    if recorded.since and recorded.since > span.first:
        notes.append(f"Leases that ended before {recorded.since} were deleted.")
    return Found(outcomes, recorded, notes)


WHAT_IF = Report(
    name="what-if",
    title="What if",
    summary="Replay the recorded borrows with other capacities.",
    details="Shows the borrows that would be refused or wait, and their waits.",
    find=_what_if,
    parameters=[
        ONE_TOOL,
        Seats(
            name="capacity",
            help="Numbers of seats to try, separated by commas. Default: today's capacity.",
            at_most=MAX_CAPACITIES,
        ),
    ],
    columns=[
        Column("capacity", int),
        Column("demands", int, value=lambda row: row.decided),
        Column("refused", int, "Borrows that are refused without a queue."),
        Column("too_big", int, "Borrows of more seats than this capacity."),
        Column("waited", int, "Borrows that wait with a queue."),
        Column("unserved", int, "Those that still wait at the end."),
        Column("median_wait_seconds", float, "Of the borrows that wait.", lambda row: _seconds(row.median_wait)),
        Column("p95_wait_seconds", float, value=lambda row: _seconds(row.p95_wait)),
        Column("longest_wait_seconds", float, value=lambda row: _seconds(row.longest_wait)),
        Column("longest_queue", int),
    ],
    facts=[
        Column(
            "recorded_since",
            date,
            "Leases that ended before this day were deleted, so the replay is incomplete before it.",
            lambda recorded: recorded.since,
            nullable=True,
        ),
        Column("demands", int, "Borrows in the period, granted or refused.", lambda recorded: recorded.decided),
        Column("unmet", int, "Those that got no seat."),
        Column(
            "assumed_hold_seconds",
            float,
            "The time that the replay lets them hold a seat.",
            lambda recorded: _seconds(recorded.assumed),
        ),
    ],
)


# The API, the command and the admin have these.
REPORTS = (UTILIZATION, HOURS_OF_WEEK, USAGE, DENIALS, TOOL_COSTS, MONTH_COSTS, CONTRACTS, WHAT_IF)
