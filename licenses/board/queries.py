"""Read the data of the board from the database.

The number of queries does not grow with tools, leases or users, and each list
reads only the rows that are shown. ``now`` is the database's time.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import Count, Exists, F, Max, OrderBy, OuterRef, Q, QuerySet, Subquery, Sum, Window
from django.db.models.functions import Coalesce, Now, RowNumber

from licenses.access.callers import Caller
from licenses.access.visibility import Names
from licenses.leases import snapshot, sql
from licenses.models import AccessRule, Allotment, Denial, Effect, Lease, Star, Team, Ticket, TicketClaim, Tool
from licenses.names import distinguished

R = TypeVar("R")

RECENT = timedelta(hours=24)
SOON = timedelta(days=30)
# Names in the list of teams at most.
TEAMS_TO_CHOOSE = 200


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
    # Of the reader: whether the tool is starred, the seats that the reader has, the seats that
    # the reader waits for, and whether a seat is kept for the reader.
    starred: bool = False
    held: int = 0
    waits: int = 0
    offered: bool = False
    is_shown: bool = False

    @property
    def name(self) -> str:
        """Return the name for people."""
        return str(self.tool)

    @property
    def is_mine(self) -> bool:
        """Return whether the reader uses the tool, waits for it or has starred it."""
        return bool(self.starred or self.held or self.waits)

    @property
    def free(self) -> int:
        """Return the seats that a user without rules can have now, also those above the capacity."""
        return self.tool.levels.available + self.tool.levels.overdraft_left

    @property
    def is_full(self) -> bool:
        """Return whether no seat is free."""
        return Condition.FULL in self.conditions

    @property
    def expected(self) -> timedelta | None:
        """Return when one more user can expect a seat, from the usual holding time; None if unknown.

        As ``leases.queue.expected_in`` estimates it for a ticket: ``short_by`` of the seats that are out must
        come back.
        """
        tool = self.tool
        unused = tool.capacity + tool.overdraft - tool.borrowed_now - tool.reserved_idle_now
        short_by = tool.wanted + 1 - unused
        if short_by <= 0:
            return timedelta(0)
        if tool.holding_time is None or not tool.borrowed_now:
            return None
        return tool.holding_time * short_by / tool.borrowed_now

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
    found = snapshot.tool_with_levels(name)
    return _entry(found, now) if found is not None else None


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
    """Return these tools; those with details with at most ``leases`` of their newest leases and
    ``waiting`` of their first tickets each."""
    tools = [entry.tool for entry in entries if entry.is_shown]
    if not tools:
        return list(entries)
    held = _first_of_each(_leases(tools, now), leases, F("borrowed_at").desc(), F("pk").desc())
    wanted = _first_of_each(_queue(tools, now), waiting, F("ticket").asc())
    nothing: Listed[Any] = Listed()
    return [
        replace(entry, leases=held.get(entry.tool.pk, nothing), waiting=wanted.get(entry.tool.pk, nothing))
        for entry in entries
    ]


def for_reader(entries: Iterable[Entry], user: str, account: int | None, shown: Collection[str]) -> list[Entry]:
    """Return these tools with what the reader has of them; with details of those that are ``shown``."""
    starred = set(Star.objects.filter(user=account).values_list("tool", flat=True)) if account is not None else set()
    held: dict[int, int] = {}
    waits: dict[int, tuple[int, int]] = {}
    if user:
        mine = Lease.objects.active(Now()).held_by(user).order_by()
        held = dict(mine.values_list("tool").annotate(Sum("seats")))
        claims = TicketClaim.objects.live(Now()).filter(ticket__user=user).order_by()
        waiting = claims.values_list("tool").annotate(Sum("seats"), Count("ticket__offered_at"))
        waits = {tool: (seats, offers) for tool, seats, offers in waiting}
    return [
        replace(
            entry,
            starred=entry.tool.pk in starred,
            held=held.get(entry.tool.pk, 0),
            waits=waits.get(entry.tool.pk, (0, 0))[0],
            offered=waits.get(entry.tool.pk, (0, 0))[1] > 0,
            is_shown=entry.tool.name in shown,
        )
        for entry in entries
    ]


def teams_of(caller: Caller) -> list[tuple[str, str]]:
    """Return the teams that the reader is in, for a choice."""
    known = Team.objects.of_user(caller.name) | Team.objects.filter(name__in=caller.teams)
    return _choices(dict.fromkeys(caller.teams, "") | dict(known.values_list("name", "display_name")))


def teams_to_choose() -> list[tuple[str, str]]:
    """Return the first teams, for a choice."""
    return _choices(dict(Team.objects.order_by("name").values_list("name", "display_name")[:TEAMS_TO_CHOOSE]))


def _choices(shown: dict[str, str]) -> list[tuple[str, str]]:
    """Return each name with its name for people, sorted by the latter."""
    return list(distinguished({name: text or name for name, text in shown.items()}).items())


def tools_of_team(team: str) -> set[int]:
    """Return the keys of the tools of which a team has seats, a quota, a reservation or access."""
    out = Lease.objects.active(Now()).filter(team__name=team).order_by().values_list("tool")
    allotted = Allotment.objects.filter(team__name=team).order_by().values_list("tool")
    included = AccessRule.objects.filter(team__name=team, effect=Effect.INCLUDE).order_by().values_list("tool")
    return {tool for (tool,) in out.union(allotted, included)}


def contacts(rows: Iterable[Lease | Ticket], names: Names) -> dict[str, str]:
    """Return the mail addresses of the users of these rows whose names are visible, where the site
    allows it (LICENSE_SHOW_CONTACTS)."""
    if not settings.LICENSE_SHOW_CONTACTS:
        return {}
    users = {row.user for row in rows if names.shown_on(row)}
    known = User.objects.filter(username__in=users, is_active=True).exclude(email="") if users else User.objects.none()
    return dict(known.values_list("username", "email"))


def version(caller: Caller, minute: datetime) -> str:
    """Return a text that is another one when the board has changed for this reader.

    Each lease and ticket changes a counter of its tool. What time changes, such as the
    distance of a moment, and heartbeats, which touch no tool, are in it as the minute.
    """
    tools = list(Tool.objects.order_by("pk").values_list())
    refused = Denial.objects.aggregate(Max("last_at"))
    mine: list[Any] = []
    if caller.name:
        tickets = Ticket.objects.waiting().filter(user=caller.name).order_by("pk")
        mine += tickets.values_list("pk", "alive_until", "offered_at")
    if caller.user is not None:
        mine += Star.objects.filter(user=caller.user).order_by("tool").values_list("tool")
    seen = repr((settings.VERSION, caller.name, minute, tools, refused, mine))
    return hashlib.sha256(seen.encode()).hexdigest()[:32]


def leases(tool: Tool, now: datetime) -> QuerySet[Lease]:
    """Return the active leases of a tool, the newest first."""
    return _leases([tool], now)


def queue(tool: Tool, now: datetime) -> QuerySet[TicketClaim]:
    """Return the queue of a tool, the next first."""
    return _queue([tool], now)


def _leases(tools: Iterable[Tool], now: datetime) -> QuerySet[Lease]:
    active = Lease.objects.active(now).filter(tool__in=list(tools))
    return active.select_related("team", "tool").order_by("-borrowed_at", "-pk")


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


def own_ticket(user: str, ticket_id: UUID) -> Ticket | None:
    """Return the ticket of this id, closed or not, if it is this user's."""
    return Ticket.objects.filter(id=ticket_id, user=user).first()


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
