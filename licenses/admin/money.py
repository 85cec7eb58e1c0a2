"""Show the cost of everything on one page, for the screen and for paper."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse

from licenses.history import reports
from licenses.history.days import DAY
from licenses.history.money import FEWER, MORE, TODAY, ToolCost, Total, of_site
from licenses.history.reports import Period, Recent, Span, Usage, Utilization
from licenses.history.working_hours import WorkingHours
from licenses.models import Tool
from licenses.names import distinguished
from licenses.notifications import outbox

from . import plots
from .reports import MAX_BARS, MAX_DEMANDS, SpanForm, page, query_of, require_reader

# Rows of a table by team, project or vendor. The CSV has all, and the total too.
MOST = 50
# Tools with a row.
MOST_TOOLS = 500


@dataclass(frozen=True, slots=True)
class Table:
    """The cost of use by one key: the first rows, the number of all, and their sum."""

    key: str
    title: str
    rows: Sequence[Usage]
    number: int
    total: Total


@dataclass(frozen=True, slots=True)
class ToolRow:
    """A tool with its plot, and its outcomes with one seat fewer, today's, and one more."""

    cost: ToolCost
    plot: plots.Spark
    outcomes: Sequence[Any]


def money(request: HttpRequest) -> HttpResponse:
    """Show the cost of use and of contracts, of idle seats, and all tools by cost."""
    require_reader(request)
    form = SpanForm(request.GET)
    span = form.span()
    recent = Recent.read()
    costs = of_site(span=span, at_most=MAX_DEMANDS, recent=recent)
    context = {
        "title": "Money",
        "is_inner": True,
        "can_mail": outbox.can_mail(),
        "working_hours": WorkingHours.of_site(),
        "spans": list(_spans(span, recent.now)),
        "months": costs.months,
        "total": costs.total,
        "contract_cost": costs.contract_cost,
        "idle_cost": costs.idle_cost,
        "without_price": costs.without_price,
        "tables": [Table(key, f"By {key}", rows[:MOST], len(rows), Total.of(rows)) for key, rows in costs.by.items()],
        "tools": _with_plots(costs.tools[:MOST_TOOLS], span, recent),
        "number_of_tools": len(costs.tools),
        "names": distinguished({cost.tool.name: str(cost.tool) for cost in costs.tools}),
        "replayed": any(row.outcomes for row in costs.tools) or not costs.tools,
        "max_demands": MAX_DEMANDS,
        "contracts": costs.contracts,
    }
    return page(request, "admin/licenses/money.html", form, span, context)


def _with_plots(costs: Sequence[ToolCost], span: Span, recent: Recent) -> list[ToolRow]:
    tools: list[Tool] = [cost.tool for cost in costs]
    period = Period.DAY if span.length(Period.DAY) <= MAX_BARS else Period.MONTH
    found: dict[str, list[Utilization]] = {}
    for row in reports.utilization(tools=tools, span=span, period=period, recent=recent):
        found.setdefault(row.tool, []).append(row)
    return [
        ToolRow(
            cost,
            plots.spark(found.get(cost.tool.name, [])),
            [cost.outcomes.get(seats) for seats in (FEWER, TODAY, MORE)],
        )
        for cost in costs
    ]


def _spans(span: Span, now: datetime) -> Iterable[tuple[str, str]]:
    """Yield the names of usual spans with their queries."""
    today = now.astimezone(span.zone).date()
    month, year = today.replace(day=1), today.replace(month=1, day=1)
    last = (month - DAY).replace(day=1)
    for name, first, until in (
        ("This month", month, today),
        ("Last month", last, month - DAY),
        ("This year", year, today),
        ("Last year", year.replace(year=year.year - 1), year - DAY),
    ):
        yield name, query_of(Span(first, until, span.zone), tz=span.zone.key)
