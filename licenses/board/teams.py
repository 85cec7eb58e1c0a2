"""Show the use and the cost of a team to its leads, without what single people did."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import BadRequest
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from licenses.access.callers import Caller
from licenses.access.rules import teams_reported_to
from licenses.history import reports
from licenses.history.catalog import USAGE
from licenses.history.reports import Recent, Span, Usage
from licenses.history.timeline import HOUR
from licenses.history.working_hours import WorkingHours
from licenses.models import Team, Tool
from licenses.models.team import TEAM_NAME_PATTERN

from .views import page

KEYS = {"month": "By month", "tool": "By tool", "project": "By project"}


@dataclass(frozen=True, slots=True)
class Table:
    """The use of a team by one key: of each row its name, its use, and its hours in working hours if they are known."""

    key: str
    title: str
    rows: Sequence[tuple[str, Usage, float | None]]


@page("GET")
def one_team(request: HttpRequest, caller: Caller, name: str) -> HttpResponse:
    """Show the use and the cost of a team, or one of its tables as CSV."""
    if caller.user is None:
        return redirect_to_login(request.get_full_path())
    known = re.fullmatch(TEAM_NAME_PATTERN, name)
    team = teams_reported_to(caller).filter(name=name).first() if known else None
    if team is None:
        raise Http404("You lead no team of this name.")
    span = _span(request)
    if "csv" in request.GET:
        return _csv(request.GET["csv"], team, span)
    recent, hours = Recent.read(), WorkingHours.of_site()
    found = {key: reports.usage(by=[key], span=span, team=team, recent=recent) for key in KEYS}
    tools = list(Tool.objects.filter(name__in=[row.key["tool"] for row in found["tool"]]))
    by_tool = reports.working_time(tools=tools, span=span, hours=hours, team=team, recent=recent)
    working = {tool.name: by_tool.get(tool.pk, timedelta(0)) / HOUR for tool in tools}
    shown = {tool.name: tool.display_name for tool in tools}
    rows = found["month"]
    context = {
        "title": f"Team {team.display_name or team.name}",
        "team": team,
        "span": span,
        "currency": settings.LICENSE_CURRENCY,
        "working_hours": hours,
        "tables": [
            Table(
                key,
                title,
                [
                    (_name(row, key, shown), row, working.get(row.key["tool"] or "", 0.0) if key == "tool" else None)
                    for row in found[key]
                ],
            )
            for key, title in KEYS.items()
        ],
        "borrows": sum(row.borrows for row in rows),
        "seat_hours": sum(row.seat_hours for row in rows),
        "working": sum(working.values()),
        "cost": sum((row.cost for row in rows if row.cost is not None), Decimal(0)),
        "without_price": sum(row.seat_hours for row in found["tool"] if row.cost is None),
    }
    return render(request, "licenses/board/team.html", context)


def _name(row: Usage, key: str, shown: dict[str, str]) -> str:
    """Return what a row is of: a month, the name of a tool for people, or a project; a dash for none."""
    name = str(row.key[key] or "")
    return name[:7] if key == "month" else shown.get(name) or name or "—"


def _span(request: HttpRequest) -> Span:
    """Return the days of the query; by default the last 30. Raises BadRequest."""
    try:
        first, last = (
            date.fromisoformat(text) if (text := request.GET.get(name)) else None for name in ("since", "until")
        )
        return Span.between(first, last, ZoneInfo(settings.LICENSE_TIME_ZONE))
    except ValueError as error:
        text = str(error)
        raise BadRequest(
            "Write days such as 2026-10-31." if "isoformat" in text or "day" not in text else text
        ) from None


def _csv(key: str, team: Team, span: Span) -> HttpResponse:
    if key not in KEYS:
        raise BadRequest(f"There are tables by {', '.join(KEYS)}.")
    answer = USAGE.answer(span, USAGE.question({"by": ["team", key], "team": team.name}))
    stream = io.StringIO()
    answer.table.write_csv(stream)
    name = f"{team.name}-{key}-{span.first}-{span.last}.csv"
    # Excel needs the byte order mark to read UTF-8.
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return HttpResponse("\ufeff" + stream.getvalue(), content_type="text/csv; charset=utf-8", headers=headers)
