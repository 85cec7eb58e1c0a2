"""The reports.

Amounts of time are seat-hours if the column's name says so, otherwise seconds.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

from licenses.models import Team, Tool

from . import contracts, reports, whatif
from .declarations import Choice, Column, Found, Limits, Report, Seats, TeamParameter, TooLarge, ToolParameter, key
from .reports import Period, Span

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
        # Money is text.
        Column(
            "cost",
            str,
            "At today's prices; null if the tool has no price.",
            lambda row: None if row.cost is None else f"{row.cost:.2f}",
            nullable=True,
        ),
    ],
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


# --- Contracts --------------------------------------------------------------


def _contracts(*, span: Span, limits: Limits, tool: Tool | None) -> Found:
    found = contracts.costs(span=span, tool=tool)
    if limits.rows is not None and len(found) > limits.rows:
        raise TooLarge(f"More than {limits.rows} rows: ask for fewer days, or one tool.")
    return Found(found)


def _money(value: Decimal | None) -> str | None:
    return None if value is None else f"{value:.2f}"


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
        # Money is text.
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
REPORTS = (UTILIZATION, HOURS_OF_WEEK, USAGE, DENIALS, CONTRACTS, WHAT_IF)
