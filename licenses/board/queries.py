"""Read the data of the board from the database.

The number of queries does not grow with tools, leases or users, and each list
reads only the rows that are shown. ``now`` is the database's time.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.db.models import Count, Exists, F, OrderBy, OuterRef, Q, QuerySet, Subquery, Window
from django.db.models.functions import Coalesce, RowNumber

from licenses.leases import snapshot, sql
from licenses.models import Denial, Lease, TicketClaim, Tool

R = TypeVar("R")

RECENT = timedelta(hours=24)
SOON = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Listed(Generic[R]):
    """The first rows of a list, and the number of all its rows."""

    rows: Sequence[R] = ()
    total: int = 0

    @property
    def more(self) -> int:
        """Return the number of rows that are left out."""
        return self.total - len(self.rows)


class Condition(StrEnum):
    """A fact about a tool that a user should see first."""

    SWITCHED_OFF = "switched_off"
    NOT_STARTED = "not_started"
    ENDED = "ended"
    ENDS_SOON = "ends_soon"
    OVERDRAWN = "overdrawn"
    FULL = "full"


GRANTS_NOTHING = {Condition.SWITCHED_OFF, Condition.NOT_STARTED, Condition.ENDED}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tool with its levels, and with the leases and tickets that the page shows."""

    tool: Tool
    conditions: Sequence[Condition]
    leases: Listed[Lease] = Listed()
    waiting: Listed[TicketClaim] = Listed()

    @property
    def grants(self) -> bool:
        """Return whether the tool grants free seats."""
        return not GRANTS_NOTHING.intersection(self.conditions)


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums of all tools."""

    tools: int
    capacity: int
    borrowed: int
    available: int
    queued: int


def entries(now: datetime) -> list[Entry]:
    """Return all tools, sorted by name."""
    return [_entry(tool, now) for tool in snapshot.with_levels(sql.tools_with_current_counts())]


def entry(name: str, now: datetime) -> Entry | None:
    """Return the tool of this name, or None."""
    found = snapshot.with_levels(sql.tools_with_current_counts(name))
    return _entry(found[0], now) if found else None


def _entry(tool: Tool, now: datetime) -> Entry:
    found = []
    if not tool.enabled:
        found.append(Condition.SWITCHED_OFF)
    if tool.valid_from is not None and now < tool.valid_from:
        found.append(Condition.NOT_STARTED)
    if tool.valid_until is not None and now >= tool.valid_until:
        found.append(Condition.ENDED)
    elif tool.valid_until is not None and now >= tool.valid_until - SOON:
        found.append(Condition.ENDS_SOON)
    if tool.overdrawn:
        found.append(Condition.OVERDRAWN)
    if not (tool.levels.available or tool.levels.overdraft_left or tool.levels.closed):
        found.append(Condition.FULL)
    return Entry(tool, found)


def totals(entries: Sequence[Entry]) -> Totals:
    """Return the sums of these tools."""
    return Totals(
        tools=len(entries),
        capacity=sum(entry.tool.capacity for entry in entries),
        borrowed=sum(entry.tool.levels.borrowed for entry in entries),
        available=sum(entry.tool.levels.available for entry in entries),
        queued=sum(entry.tool.queued for entry in entries),
    )


def with_people(entries: Sequence[Entry], now: datetime, *, leases: int, waiting: int) -> list[Entry]:
    """Return these tools with at most ``leases`` of their newest leases and ``waiting`` of
    their first tickets each."""
    tools = [entry.tool for entry in entries]
    held = _first_of_each(_leases(tools, now), leases, F("borrowed_at").desc(), F("pk").desc())
    wanted = _first_of_each(_queue(tools, now), waiting, F("ticket").asc())
    nothing: Listed[Any] = Listed()
    return [
        replace(entry, leases=held.get(entry.tool.pk, nothing), waiting=wanted.get(entry.tool.pk, nothing))
        for entry in entries
    ]


def leases(tool: Tool, now: datetime) -> QuerySet[Lease]:
    """Return the active leases of a tool, the newest first."""
    return _leases([tool], now)


def queue(tool: Tool, now: datetime) -> QuerySet[TicketClaim]:
    """Return the queue of a tool, the next first."""
    return _queue([tool], now)


def _leases(tools: Iterable[Tool], now: datetime) -> QuerySet[Lease]:
    active = Lease.objects.active(now).filter(tool__in=list(tools))
    return active.select_related("team").order_by("-borrowed_at", "-pk")


def _queue(tools: Iterable[Tool], now: datetime) -> QuerySet[TicketClaim]:
    live = TicketClaim.objects.live(now).filter(tool__in=list(tools))
    return live.select_related("ticket__team").order_by("ticket")


def refusals(now: datetime, limit: int, tool: Tool | None = None) -> list[Denial]:
    """Return the latest episodes of refusals, of one tool or of all."""
    latest = Denial.objects.filter(last_at__gt=now - RECENT).order_by("-last_at", "-pk")
    if tool is not None:
        latest = latest.filter(tool=tool)
    return list(latest.select_related("tool", "team")[:limit])


def held_by(user: str, now: datetime, tool: Tool | None = None) -> QuerySet[Lease]:
    """Return the leases of a user, of one tool or of all, one row per borrow.

    The oldest comes first, so that rows keep their place when the user borrows more.
    """
    mine = Lease.objects.active(now).heads().held_by(user)
    if tool is not None:
        # Search by the borrow, because a tool has many leases.
        parts = Lease.objects.filter(part_of=OuterRef("pk"), tool=tool)
        mine = mine.filter(Q(tool=tool) | Exists(parts))
    return mine.with_items().order_by("borrowed_at", "pk")


def waits_of(user: str, now: datetime, limit: int, tool: Tool | None = None) -> Listed[TicketClaim]:
    """Return the user's tickets, of one tool or of all, each with its ``place`` in the queue of the
    tool: 1 is the next."""
    live = TicketClaim.objects.live(now)
    ahead = live.filter(tool=OuterRef("tool"), ticket__lt=OuterRef("ticket")).order_by().values("tool")
    mine = live.filter(ticket__user=user).select_related("tool", "ticket").order_by("ticket", "tool__name")
    if tool is not None:
        mine = mine.filter(tool=tool)
    placed = mine.annotate(
        place=Coalesce(Subquery(ahead.annotate(number=Count("pk")).values("number")), 0) + 1,
        total=Window(Count("pk")),
    )
    rows: list[Any] = list(placed[:limit])
    return Listed(rows, rows[0].total if rows else 0)


def own_lease(user: str, lease_id: UUID) -> Lease | None:
    """Return the lease of this id, ended or not, if it is this user's."""
    return Lease.objects.heads().held_by(user).with_items().filter(pk=lease_id).first()


def _first_of_each(rows: QuerySet[Any], limit: int, *order: OrderBy) -> dict[int, Listed[Any]]:
    """Return the first rows of each tool, and the number of its rows."""
    ranked = rows.annotate(
        rank=Window(RowNumber(), partition_by=F("tool"), order_by=order),
        total=Window(Count("pk"), partition_by=F("tool")),
    ).filter(rank__lte=limit)
    of_tool = defaultdict(list)
    for row in ranked:
        of_tool[row.tool_id].append(row)
    return {tool: Listed(found, found[0].total) for tool, found in of_tool.items()}
