"""Compute the front page of the admin: what needs attention, each with a link to the list that shows it.

Each card needs the permission to view its rows, and costs one query, however many rows there are.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Count, Min, Q, QuerySet, Window
from django.db.models.functions import Coalesce, Now
from django.http import HttpRequest
from django.urls import get_script_prefix, reverse
from django.utils.http import urlencode

from licenses import readiness
from licenses.access.rules import VIEW_DENIALS, VIEW_LEASES
from licenses.clock import database_now
from licenses.history import rollups
from licenses.history.reports import Span
from licenses.history.tables import counted, duration
from licenses.models import ApiToken, Contract, Denial, Lease, Sweep, TicketClaim, Tool

# Lines of a card. Its link shows all.
MOST = 6
# Licenses, contracts and tokens that end within these days are shown.
SOON = 60
# The sweeper runs every 15 seconds, unless a site says otherwise.
SWEEPER_IS_LATE = timedelta(minutes=5)
# A day is rolled up soon after its end.
ROLLUPS_ARE_LATE = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Line:
    """One row: its name, its facts, and its link."""

    name: str
    facts: str
    link: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """A subject: its first lines, the number of all, and the list that has them."""

    title: str
    total: int
    lines: Sequence[Line]
    link: str
    none: str = ""
    # Whether somebody should act, in addition to know.
    is_urgent: bool = False


def cards(request: HttpRequest) -> list[Card]:
    """Return the cards that this user may see."""
    may = getattr(request.user, "has_perm", lambda permission: False)
    now = database_now()
    asked: list[tuple[Iterable[str], Callable[[datetime], Card]]] = [
        (["licenses.view_tool"], _full),
        (["licenses.view_ticket", "licenses.view_tool"], _queues),
        ([VIEW_DENIALS], _refusals),
        ([VIEW_LEASES], _holders),
        (["licenses.view_tool"], _licenses),
        (["licenses.view_contract"], _contracts),
        (["licenses.view_apitoken"], _tokens),
        (["licenses.view_tool"], _health),
    ]
    return [card(now) for permissions, card in asked if all(map(may, permissions))]


def _list(model: str, **query: Any) -> str:
    address = reverse(f"admin:licenses_{model}_changelist")
    return f"{address}?{urlencode(query)}" if query else address


def _row(model: str, key: Any) -> str:
    return reverse(f"admin:licenses_{model}_change", args=[key])


def _first(rows: QuerySet[Any]) -> tuple[list[Any], int]:
    """Return the first rows, and the number of all, in one query."""
    found = list(rows.annotate(total_rows=Window(Count("pk")))[:MOST])
    return found, found[0].total_rows if found else 0


def _full(now: datetime) -> Card:
    tools, total = _first(Tool.objects.full().order_by("-waiting", "name"))
    lines = [
        Line(
            str(tool),
            f"{tool.borrowed:,} of {counted(tool.capacity, 'seat')}"
            + (f", {tool.waiting} waiting" if tool.waiting else ""),
            _row("tool", tool.pk),
        )
        for tool in tools
    ]
    return Card("Tools without a free seat", total, lines, _list("tool", seats="full"), "A seat of every tool is free.")


def _queues(now: datetime) -> Card:
    claims = TicketClaim.objects.live(Now()).order_by().values("tool__name", "tool__display_name")
    queues = list(claims.annotate(tickets=Count("pk"), oldest=Min("ticket__created_at")).order_by("oldest"))
    lines = [
        Line(
            queue["tool__display_name"] or queue["tool__name"],
            f"{queue['tickets']} waiting, the first for {duration(max(now - queue['oldest'], timedelta(0)))}",
            _list("ticket", state__exact="waiting", tool=queue["tool__name"]),
        )
        for queue in queues[:MOST]
    ]
    link = _list("tool", seats="queue")
    return Card("Queues", len(queues), lines, link, "Nobody waits.", is_urgent=bool(queues))


def _refusals(now: datetime) -> Card:
    since = Span.of_last_days(1).start
    rows = Denial.objects.filter(last_at__gte=since).order_by().values("tool", "tool__name", "tool__display_name")
    tools = list(
        rows.annotate(
            episodes=Count("pk"),
            people=Count("user", distinct=True),
            without=Count("pk", filter=Q(resolved_at__isnull=True)),
        ).order_by("-without", "-episodes", "tool__name")
    )
    today = since.isoformat(sep=" ")
    lines = [
        Line(
            tool["tool__display_name"] or tool["tool__name"],
            _refused(tool["episodes"], tool["people"], tool["without"]),
            _list("denial", last_at__gte=today, tool__id__exact=tool["tool"]),
        )
        for tool in tools[:MOST]
    ]
    total = sum(tool["episodes"] for tool in tools)
    return Card("Refusals today", total, lines, _list("denial", last_at__gte=today), "None today, in UTC.")


def _refused(episodes: int, people: int, without: int) -> str:
    often = f" {episodes:,} times" if episodes > people else ""
    return f"{counted(people, 'person', 'people')} refused{often}, {without:,} got no seat"


def _holders(now: datetime) -> Card:
    # Order by an expression. By the column, a database may walk its index through all old leases.
    active = Lease.objects.active(Now()).order_by(Coalesce("borrowed_at", Now()))
    leases, total = _first(active.select_related("tool"))
    lines = [
        Line(
            lease.user,
            f"{lease.seats} of {lease.tool} for {duration(now - lease.borrowed_at)}",
            _row("lease", lease.pk),
        )
        for lease in leases
    ]
    return Card("Longest holders", total, lines, _list("lease", state="active", o="7"), "Nobody has a seat.")


def _licenses(now: datetime) -> Card:
    ends = Tool.objects.filter(valid_until__gt=now, valid_until__lte=now + timedelta(days=SOON))
    tools, total = _first(ends.order_by("valid_until", "name"))
    lines = [Line(str(tool), f"until {tool.valid_until:%Y-%m-%d %H:%M} UTC", _row("tool", tool.pk)) for tool in tools]
    return Card(f"Licenses that end within {SOON} days", total, lines, _list("tool", ends=SOON), "None.")


def _contracts(now: datetime) -> Card:
    today = Span.of_last_days(1).first
    ends = Contract.objects.filter(last_day__gte=today, last_day__lte=today + timedelta(days=SOON))
    contracts, total = _first(ends.select_related("tool").order_by("last_day", "tool__name", "pk"))
    lines = [
        Line(
            str(row.tool),
            f"{counted(row.seats, 'seat')} until {row.last_day}",
            _row("contract", row.pk),
        )
        for row in contracts
    ]
    return Card(f"Contracts that end within {SOON} days", total, lines, _list("contract", ends=SOON), "None.")


def _tokens(now: datetime) -> Card:
    ends = ApiToken.objects.filter(
        revoked_at__isnull=True, expires_at__gt=now, expires_at__lte=now + timedelta(days=SOON)
    )
    tokens, total = _first(ends.select_related("team").order_by("expires_at", "pk"))
    lines = [
        Line(token.name, f"{_owner(token)}, until {token.expires_at:%Y-%m-%d}", _row("apitoken", token.pk))
        for token in tokens
    ]
    link = _list("apitoken", ends=SOON, revoked_at__isempty="1", o="4")
    return Card(f"API tokens that end within {SOON} days", total, lines, link, "None.")


def _owner(token: ApiToken) -> str:
    return f"team {token.team}" if token.team else token.user or "no owner"


def _health(now: datetime) -> Card:
    """Return the state of the sweeper, the history and the database, which concern every tool."""
    swept = Sweep.objects.first()
    late = swept is None or now - swept.finished_at > SWEEPER_IS_LATE
    advice = ": start manage.py expire_leases --loop" if late else ""
    seen = f"ran {duration(max(now - swept.finished_at, timedelta(0)))} ago" if swept else "never ran"
    mark = rollups.mark()
    behind = Span.of_last_days(1).first - mark.rolled_up_until > ROLLUPS_ARE_LATE
    trouble = readiness.check()
    probe = f"{get_script_prefix()}readyz"
    vendor = "PostgreSQL" if connection.vendor == "postgresql" else "SQLite"
    lines = [
        Line(
            "Sweeper",
            seen + advice,
            _list("lease", state="overdue"),
        ),
        Line("History", f"rolled up until {mark.rolled_up_until}" + (", reports are slow" if behind else "")),
        Line("Database", f"{vendor}, {trouble.detail if trouble else 'ready'}", probe),
    ]
    wrong = [late, behind, trouble is not None].count(True)
    return Card("Health: problems", wrong, lines, probe, is_urgent=wrong > 0)
