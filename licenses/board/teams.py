"""Show the use and the cost of a team to its leads, without what single people did."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import BadRequest
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from licenses.access.callers import Caller
from licenses.access.rules import may_see_reports, teams_reported_to
from licenses.history.catalog import USAGE
from licenses.history.money import of_team
from licenses.history.reports import Span, Usage
from licenses.history.tables import subject
from licenses.history.working_hours import WorkingHours
from licenses.models import Team, Tool
from licenses.models.team import TEAM_NAME_PATTERN
from licenses.notifications import outbox

from .views import page

KEYS = ("month", "tool", "project")


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
    costs = of_team(team=team, span=span)
    working = costs.working_hours
    shown = Tool.objects.filter(name__in=list(working)).display_names()
    context = {
        "title": f"Team {team}",
        "team": team,
        "span": span,
        "currency": settings.LICENSE_CURRENCY,
        # Managers get the mail of the site.
        "can_mail": outbox.can_mail() and not may_see_reports(caller),
        "working_hours": WorkingHours.of_site(),
        "tables": [
            Table(
                key,
                f"By {key}",
                [
                    (
                        subject(row.key[key], key, shown),
                        row,
                        working.get(row.key["tool"] or "", 0.0) if key == "tool" else None,
                    )
                    for row in rows
                ],
            )
            for key, rows in costs.by.items()
        ],
        "borrows": costs.total.borrows,
        "seat_hours": costs.total.seat_hours,
        "working": sum(working.values()),
        "cost": costs.total.cost,
        "without_price": costs.without_price,
    }
    return render(request, "licenses/board/team.html", context)


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
