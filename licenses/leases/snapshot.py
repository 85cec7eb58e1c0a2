"""Read from the database what decisions need to know of tools.

``read_locked`` locks the tools of a batch and reads what its decisions need. The ledger
keeps the snapshot up to date while the batch is decided. ``read_unlocked`` and
``with_levels`` read without a lock, for questions that change nothing.

For a tool without rules and without a queue, only its row is read. A tool with quotas,
reservations, limits or access rules costs a few statements for the whole batch.
"""

import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple

from django.conf import settings
from django.db.models import Count, Q, Sum, Value
from django.db.models.functions import Now
from django.utils import timezone

from licenses import policy
from licenses.clock import database_now
from licenses.lanes import Reading
from licenses.models import (
    Allotment,
    BorrowKey,
    Effect,
    Lease,
    Team,
    TeamMember,
    Ticket,
    TicketClaim,
    Tool,
)
from licenses.policy import NO_RULES, Claim, Item, Pool, Rules, Subject, TeamAllotment, levels

from . import capacity, sql
from .requests import (
    Borrow,
    BorrowRequest,
    CloseDead,
    CloseOverdue,
    ForceReturn,
    Leave,
    Offer,
    Poll,
    Renew,
    Request,
    Return,
)


class Stale(Exception):
    """Rows changed between the reading and the lock. Nothing was changed: read again."""


class Place(NamedTuple):
    """The seats of one tool that a live ticket waits for."""

    ticket: int
    claim: Claim


def alternatives_of(ticket: Ticket) -> dict[int, tuple[Item, ...]]:
    """Return the sets of items that a ticket waits for, by their numbers."""
    return {entry["number"]: tuple(Item(**item) for item in entry["items"]) for entry in ticket.alternatives}


def tools_of(ticket: Ticket) -> set[str]:
    """Return the names of all tools that a ticket waits for."""
    return {item.tool for items in alternatives_of(ticket).values() for item in items}


def subjects_of(request: BorrowRequest, teams: Collection[str]) -> list[Subject]:
    """Return the subjects that a borrow may count for: the team that it names, or each team of
    its user, or no team if the user has none. Empty if the user is not in the named team."""
    chosen = list(teams) or [""]
    if request.team is not None:
        chosen = [request.team] if request.team in teams else []
    return [
        Subject(user=request.user, team=team, teams=frozenset(teams), host=request.host, project=request.project)
        for team in chosen
    ]


def subject_of(ticket: Ticket, teams: Collection[str]) -> Subject:
    """Return the subject that a ticket counts for. ``teams`` are those of its user."""
    return Subject(
        user=ticket.user,
        team=ticket.team.name if ticket.team else "",
        teams=frozenset(teams),
        host=ticket.host,
        project=ticket.project,
    )


class Wanted:
    """The rows that the requests of a batch need."""

    def __init__(self, requests: Iterable[Request]) -> None:
        names: set[str] = set()
        users: set[str] = set()
        asserted: set[str] = set()
        lease_ids: set[uuid.UUID] = set()
        ticket_ids: set[uuid.UUID] = set()
        keys: set[tuple[str, str]] = set()
        for request in requests:
            match request:
                case Borrow(request=asked, key=key):
                    names |= asked.tools()
                    users.add(asked.user)
                    asserted |= asked.asserted_teams
                    if key is not None:
                        keys.add((key.caller, key.key))
                case Return() | ForceReturn() | Renew():
                    lease_ids.add(request.lease_id)
                case Poll() | Offer() | Leave() | CloseDead():
                    ticket_ids.add(request.ticket_id)
                case CloseOverdue():
                    names.add(request.tool)
        self.names, self.users, self.asserted = sorted(names), sorted(users), sorted(asserted)
        self.lease_ids, self.ticket_ids, self.keys = sorted(lease_ids), sorted(ticket_ids), sorted(keys)


class Snapshot:
    """The locked tools and the rows that belong to them. Seats of an expired lease are borrowed
    until it is closed."""

    def __init__(self, tools: Iterable[Tool], now: datetime) -> None:
        self.now = now
        self.tools = {tool.name: tool for tool in tools}
        self.by_id = {tool.pk: tool for tool in self.tools.values()}
        # All leases of a borrow, the head first.
        self.leases: dict[uuid.UUID, list[Lease]] = {}
        # Tools whose overdue leases are closed, and those that have more of them.
        self.tidied: set[int] = set()
        self.untidy: set[str] = set()
        self.tickets: dict[uuid.UUID, Ticket] = {}
        self.keys: dict[tuple[str, str], BorrowKey] = {}
        self.teams: dict[str, list[Team]] = {}
        self.asserted: dict[str, Team] = {}
        # Borrows that users have or wait for, where that is limited, and the time at which they were counted.
        self.borrows: dict[str, tuple[int, int]] = {}
        self.counted_at = now
        self.rules: dict[int, Rules] = {}
        self.places: dict[int, list[Place]] = {}
        # By ticket, what it was granted in this batch.
        self.granted: dict[int, list[Lease]] = {}

    def teams_of(self, request: BorrowRequest) -> dict[str, Team]:
        """Return the teams of a borrow's user, from the table and from the credential, sorted by name."""
        teams = {team.name: team for team in self.teams.get(request.user, ())}
        more = {name: self.asserted[name] for name in request.asserted_teams if name in self.asserted}
        return dict(sorted((more | teams).items())) if more else teams

    def pool(self, name: str, *, ahead_of: Ticket | None = None) -> Pool:
        """Return what the policy needs to know of a tool.

        All tickets are ahead of a new borrow. With ``ahead_of``, only the tickets before that
        ticket are.
        """
        tool = self.tools[name]
        places = self.places.get(tool.pk, ())
        ahead = [place.claim for place in places if ahead_of is None or place.ticket < ahead_of.number]
        if len(ahead) > 1 and not tool.is_restricted:
            # Where nothing but the number of seats decides, all of them are one claim.
            ahead = [Claim(sum(claim.seats for claim in ahead))]
        claims = tuple(ahead)
        return _pool(tool, tool.borrowed, tool.reserved_idle, self.rules.get(tool.pk), claims)

    def change_borrows(self, user: str, *, borrowed: int = 0, waiting: int = 0) -> None:
        """Change the numbers of borrows that a user has and waits for."""
        if user in self.borrows:
            before = self.borrows[user]
            self.borrows[user] = before[0] + borrowed, before[1] + waiting

    def has_counted(self, until: datetime | None) -> bool:
        """Return whether ``borrows`` contains a lease or ticket that lives ``until`` then; None is no end."""
        return until is None or until > self.counted_at

    def allotment(self, tool: Tool, team: str | None) -> TeamAllotment | None:
        """Return the allotment of a team for a tool; None if it has no quota or reservation."""
        rules = self.rules.get(tool.pk)
        return rules.allotments.get(team) if rules is not None and team is not None else None

    def all_leases(self) -> Iterator[Lease]:
        """Yield the leases that the requests of the batch name."""
        for together in self.leases.values():
            yield from together

    def overdue(self, tool: Tool) -> list[Lease]:
        """Lock and return open leases of a tool that have expired, so that the ledger can close them.

        Returns them at the first call of the batch, and nothing after that.
        """
        if tool.pk in self.tidied:
            return []
        self.tidied.add(tool.pk)
        leases = sql.overdue(tool, self.now)
        if len(leases) > sql.OVERDUE_AT_ONCE:
            self.untidy.add(tool.name)
            leases.pop()
        # One that a request is about has one instance, which may have ended in this batch.
        mine = {lease.pk: lease for lease in self.all_leases()}
        leases = [mine.get(lease.pk, lease) for lease in leases]
        for lease in leases:
            lease.tool = tool
        if (rules := self.rules.get(tool.pk)) is not None and tool.has_rules:
            teams = {lease.team.name for lease in leases if lease.team is not None} - rules.allotments.keys()
            sent = sql.send_allotments([tool.pk], sorted(teams))
            rules.allotments.update(_by_tool_and_team(sent.rows())[tool.pk])
        return [lease for lease in leases if lease.ended_at is None]

    def count(self, tool: Tool, *, user: str, team: str | None, seats: int) -> int:
        """Add ``seats`` to the seats of a user and a team; a negative number for a return. Return
        the change of the reserved idle seats of the tool."""
        rules = self.rules.get(tool.pk)
        if rules is None:
            return 0
        known = user.lower() if rules.ignores_case else user
        if known in rules.held:
            rules.held[known] += seats
        before = rules.allotments.get(team) if team is not None else None
        if before is None or team is None:
            return 0
        after = TeamAllotment(before.quota, before.reservation, before.borrowed + seats)
        rules.allotments[team] = after
        return after.reserved_idle - before.reserved_idle


def read_locked(requests: Sequence[Request], sending: AbstractContextManager[object] | None = None) -> Snapshot:
    """Lock the tools of these requests and read what the decisions need. Part of the caller's transaction.

    ``sending`` is its first round trip (``sql.one_round_trip``) if that has begun.
    """
    wanted = Wanted(requests)
    with sending or sql.one_round_trip():
        if settings.LICENSE_LEASES_PER_USER and wanted.users:
            # No two borrows of one user may count at once, of different tools either.
            sql.lock_users(wanted.users)
        tools = sql.send_lock(wanted.names, wanted.lease_ids, wanted.ticket_ids, wanted.users)
        leases = sql.send_leases(wanted.lease_ids) if wanted.lease_ids else None
        tickets = sql.send_tickets(wanted.ticket_ids) if wanted.ticket_ids else None
        keys = sql.send_keys(wanted.keys) if wanted.keys else None
    snapshot = Snapshot(tools.rows(), database_now() if not tools.more else tools.more[-1])
    if leases is not None:
        _take_leases(snapshot, leases)
    if keys is not None:
        snapshot.keys = {(key.caller, key.key): key for key in keys.rows()}
    if tools.more:
        snapshot.teams = sql.grouped(tools.more[0])
    elif wanted.users:
        snapshot.teams = sql.teams_of_users(wanted.users)
    if wanted.asserted:
        snapshot.asserted = {team.name: team for team in Team.objects.filter(name__in=wanted.asserted)}
    if tickets is not None:
        snapshot.tickets = {ticket.id: ticket for ticket in tickets.rows()}
        snapshot.teams |= sql.teams_of_users([ticket.user for ticket in snapshot.tickets.values()])
    if settings.LICENSE_LEASES_PER_USER:
        snapshot.borrows = {user: borrows_of(user, snapshot.now) for user in wanted.users}
        snapshot.counted_at = snapshot.now
    capacity.apply(snapshot.tools.values(), snapshot.now)
    _read_queues_and_rules(snapshot, requests)
    return snapshot


def read_held(requests: Sequence[Renew], sending: AbstractContextManager[object]) -> Snapshot:
    """Lock the leases that are renewed, but no tool, so that a heartbeat does not wait for a
    transaction that holds a tool. Part of the caller's transaction, as in ``read_locked``."""
    lease_ids = sorted({request.lease_id for request in requests})
    with sending:
        leases = sql.send_leases(lease_ids)
        # After the lock: who changes the end of a license has the locks of its leases (``follow_validity``).
        tools = sql.send_tools_of(lease_ids)
    snapshot = Snapshot(tools.rows(), timezone.now())
    _take_leases(snapshot, leases)
    return snapshot


def _take_leases(snapshot: Snapshot, sent: sql.Sent[Lease]) -> None:
    for lease in sent.rows():
        if lease.tool_id in snapshot.by_id:
            lease.tool = snapshot.by_id[lease.tool_id]
        snapshot.leases.setdefault(lease.public_id, []).append(lease)
    for together in snapshot.leases.values():
        together.sort(key=lambda lease: lease.place)
    if sent.more:
        # A heartbeat may have held the rows up after the tools were locked.
        snapshot.now = sent.more[0]


def borrows_of(user: str, now: datetime) -> tuple[int, int]:
    """Return the number of borrows that a user has, and the number that the user waits for."""
    leases = Lease.objects.active(now).heads().held_by(user)
    tickets = Ticket.objects.waiting().filter(user=user, alive_until__gt=now)
    # In one statement: a ticket that becomes a lease meanwhile is counted once.
    borrowed, waiting = (
        rows.order_by().values("user").annotate(number=Count("pk")).values_list(Value(kind), "number")
        for kind, rows in (("borrowed", leases), ("waiting", tickets))
    )
    numbers = dict(borrowed.union(waiting, all=True))
    return numbers.get("borrowed", 0), numbers.get("waiting", 0)


def _read_queues_and_rules(snapshot: Snapshot, requests: Iterable[Request]) -> None:
    queued = [tool for tool in snapshot.tools.values() if tool.waiting]
    if queued:
        snapshot.places = _places(queued, snapshot.now)
    restricted = [tool for tool in snapshot.tools.values() if tool.is_restricted]
    if restricted:
        teams = {lease.team.name for lease in snapshot.all_leases() if lease.team is not None}
        concerned = {*_subjects(snapshot, requests), *_waiting_for(restricted, snapshot.places)}
        snapshot.rules = _rules(restricted, concerned, teams, snapshot.now, overdue_is_out=True)


def _subjects(snapshot: Snapshot, requests: Iterable[Request]) -> Iterator[Subject]:
    for request in requests:
        if isinstance(request, Borrow):
            yield from subjects_of(request.request, snapshot.teams_of(request.request))
        elif isinstance(request, Poll | Offer) and (ticket := snapshot.tickets.get(request.ticket_id)):
            yield subject_of(ticket, [team.name for team in snapshot.teams.get(ticket.user, ())])


def _waiting_for(tools: Iterable[Tool], places: dict[int, list[Place]]) -> Iterator[Subject]:
    for tool in tools:
        for place in places.get(tool.pk, ()):
            yield place.claim.subject


# --- Without a lock ---------------------------------------------------------------------


def read_unlocked(tools: Collection[Tool], subjects: Iterable[Subject], now: datetime) -> dict[str, Pool]:
    """Return the pools of tools from ``Tool.objects.with_current_counts``, by name, at ``now``.
    Seats of an expired lease are free."""
    capacity.show(tools, now)
    queued = [tool for tool in tools if tool.wanted and tool.is_restricted]
    places = _places(queued, now) if queued else {}
    restricted = [tool for tool in tools if tool.is_restricted]
    concerned = {*subjects, *_waiting_for(restricted, places)}
    rules = _rules(restricted, concerned, set(), now, overdue_is_out=False) if restricted else {}

    def claims(tool: Tool) -> tuple[Claim, ...]:
        if tool.pk in places:
            return tuple(place.claim for place in places[tool.pk])
        return (Claim(tool.wanted),) if tool.wanted else ()

    return {
        tool.name: _pool(tool, tool.borrowed_now, tool.reserved_idle_now, rules.get(tool.pk), claims(tool))
        for tool in tools
    }


def in_reach(tools: Collection[Tool], now: datetime) -> set[int]:
    """Return the numbers of the live tickets that would be granted their seats of these tools
    from ``Tool.objects.with_current_counts`` at ``now``, in the order of the queue."""
    capacity.show(tools, now)
    places = _places(tools, now)
    restricted = [tool for tool in tools if tool.is_restricted]
    waiting = set(_waiting_for(restricted, places))
    rules = _rules(restricted, waiting, set(), now, overdue_is_out=False) if restricted else {}
    found: set[int] = set()
    for tool in tools:
        queued = places.get(tool.pk, [])
        claims = tuple(place.claim for place in queued)
        pool = _pool(tool, tool.borrowed_now, tool.reserved_idle_now, rules.get(tool.pk), claims)
        found |= {place.ticket for place, fits in zip(queued, policy.in_line(pool, now), strict=True) if fits}
    return found


def with_levels(tools: Iterable[Tool]) -> list[Tool]:
    """Return tools from ``Tool.objects.with_current_counts`` with their ``levels`` and ``state``
    at the time of the reading. Costs statements only for tools with rules and a queue."""
    tools = list(tools)
    if tools:
        capacity.show(tools, tools[0].read_at)
    crowded = [tool for tool in tools if tool.wanted and tool.is_restricted]
    pools = read_unlocked(crowded, (), timezone.now()) if crowded else {}
    for tool in tools:
        plain = (Claim(tool.wanted),) if tool.wanted else ()
        pool = pools.get(tool.name) or _pool(tool, tool.borrowed_now, tool.reserved_idle_now, None, plain)
        tool.levels = levels(pool, tool.read_at)
        tool.state = tool.levels.state
    return tools


LEVELS: Reading[str, Tool] = Reading(
    lambda names: {tool.name: tool for tool in with_levels(sql.tools_with_current_counts(names))}
)


def tool_with_levels(name: str) -> Tool | None:
    """Return the tool of a name (``with_levels``), or None. Threads share it: do not change it."""
    return LEVELS.of(name)


@dataclass(frozen=True, slots=True)
class AllotmentLevels:
    """The seats of a tool that a team has borrowed, and its quota and reservation if it has any."""

    tool: str
    team: str
    borrowed: int
    quota: int | None = None
    reservation: int | None = None


def allotment_levels() -> list[AllotmentLevels]:
    """Return every team that has seats of a tool, or a quota or reservation, as of now."""
    out = Lease.objects.active(Now()).filter(team__isnull=False).order_by()
    borrowed = {
        (tool, team): seats for tool, team, seats in out.values_list("tool__name", "team__name").annotate(Sum("seats"))
    }
    allotted = {(found.tool.name, found.team.name): found for found in Allotment.objects.select_related("tool", "team")}
    return [
        AllotmentLevels(
            tool,
            team,
            borrowed.get((tool, team), 0),
            quota=allotted[tool, team].quota if (tool, team) in allotted else None,
            reservation=allotted[tool, team].reservation if (tool, team) in allotted else None,
        )
        for tool, team in sorted(borrowed.keys() | allotted.keys())
    ]


# --- Parts of both ----------------------------------------------------------------------


# The fields of a pool that are fields of its tool. The others depend on when they are read.
_OF_THE_TOOL = tuple(
    {field.name for field in fields(Pool)}.intersection(field.name for field in Tool._meta.concrete_fields)
    - {"borrowed", "reserved_idle"}
)
_values_of = attrgetter(*_OF_THE_TOOL)


def _pool(tool: Tool, borrowed: int, reserved_idle: int, rules: Rules | None, claims: tuple[Claim, ...]) -> Pool:
    return Pool(
        tool=tool.name,
        borrowed=borrowed,
        reserved_idle=reserved_idle,
        rules=rules or NO_RULES,
        claims=claims,
        **dict(zip(_OF_THE_TOOL, _values_of(tool), strict=True)),
    )


def _places(tools: Collection[Tool], now: datetime) -> dict[int, list[Place]]:
    """Return the seats that live tickets want of these tools, in the order of the queue. Only
    claims for tools with rules have their subjects."""
    live = TicketClaim.objects.live(now)
    restricted = {tool.pk for tool in tools if tool.is_restricted}
    places: dict[int, list[Place]] = defaultdict(list)
    # Without rows of the ORM: a queue may have a thousand tickets.
    plain = [tool for tool in tools if tool.pk not in restricted]
    if plain:
        rows = live.filter(tool__in=plain).order_by("ticket").values_list("tool", "ticket", "seats")
        for tool, ticket, seats in rows:
            places[tool].append(Place(ticket, Claim(seats)))
    if restricted:
        named = list(
            live.filter(tool__in=restricted)
            .order_by("ticket")
            .values_list(
                "tool", "ticket", "seats", "ticket__user", "ticket__team__name", "ticket__host", "ticket__project"
            )
        )
        teams = _teams(user for _, _, _, user, *_ in named)
        # One for all tickets of a subject.
        subjects: dict[tuple[str, str | None, str, str], Subject] = {}
        for tool, ticket, seats, user, team, host, project in named:
            subject = subjects.get((user, team, host, project))
            if subject is None:
                subject = Subject(user=user, team=team or "", teams=frozenset(teams[user]), host=host, project=project)
                subjects[user, team, host, project] = subject
            places[tool].append(Place(ticket, Claim(seats, subject)))
    return places


def _teams(users: Iterable[str]) -> dict[str, set[str]]:
    """Return the names of the teams that each of these users is in."""
    given = set(users)
    known_as = defaultdict(set)
    for user in given:
        known_as[user.lower()].add(user)
    teams = defaultdict(set)
    members = TeamMember.objects.of_users(given).values_list("user", "team__name", "team__ignores_case")
    for member, team, ignores_case in members:
        for user in known_as[member.lower()] if ignores_case else {member}:
            teams[user].add(team)
    return teams


def _rules(
    tools: Collection[Tool],
    subjects: Collection[Subject],
    more_teams: Collection[str],
    now: datetime,
    *,
    overdue_is_out: bool,
) -> dict[int, Rules]:
    """Return the rules of these tools that concern these subjects, and the allotments of ``more_teams``."""
    ruled = [tool for tool in tools if tool.has_rules]
    teams = {subject.team for subject in subjects if subject.team} | set(more_teams)
    users = {subject.user for subject in subjects}
    limits: dict[int, dict[str, int]] = defaultdict(dict)
    lists: dict[tuple[int, str], set[tuple[str, str]]] = defaultdict(set)
    allotments: dict[int, dict[str, TeamAllotment]] = defaultdict(dict)
    if ruled:
        by_name, for_all = ([tool.pk for tool in ruled if tool.ignores_case is case] for case in (False, True))
        with sql.one_round_trip() if overdue_is_out else nullcontext():
            lines = sql.send_access_rules([tool.pk for tool in ruled])
            own = sql.send_user_limits(by_name, sorted(users), for_all if users else [])
            if overdue_is_out:
                sent = sql.send_allotments([tool.pk for tool in ruled], sorted(teams))
        for line in lines.rows():
            lists[line.tool_id, line.effect].add((line.kind, line.subject))
        for limit in own.rows():
            limits[limit.tool_id][limit.user] = limit.seats
        found = sent.rows() if overdue_is_out else _allotments_at(ruled, teams, now)
        allotments = _by_tool_and_team(found)
    held = _held(tools, limits, users, now, overdue_is_out)
    rules = {
        tool.pk: Rules(
            include=frozenset(lists[tool.pk, Effect.INCLUDE]),
            exclude=frozenset(lists[tool.pk, Effect.EXCLUDE]),
            allotments=allotments[tool.pk],
            limits=limits[tool.pk],
            held=held[tool.pk],
        )
        for tool in tools
    }
    return rules | {tool.pk: rules[tool.pk].in_any_case() for tool in tools if tool.ignores_case}


def _by_tool_and_team(rows: Iterable[Allotment]) -> dict[int, dict[str, TeamAllotment]]:
    """Return the allotments of these rows by tool and team."""
    found: dict[int, dict[str, TeamAllotment]] = defaultdict(dict)
    for row in rows:
        found[row.tool_id][row.team.name] = row.for_policy
    return found


def _allotments_at(tools: Sequence[Tool], teams: Collection[str], now: datetime) -> Iterator[Allotment]:
    """Yield the allotments of teams, with the seats borrowed at ``now``: those of an overdue lease are back."""
    if teams:
        allotments = Allotment.objects.filter(tool__in=tools, team__name__in=teams).select_related("team")
        for allotment in allotments.with_current_counts(now):
            allotment.borrowed = allotment.borrowed_now
            yield allotment


def _held(
    tools: Collection[Tool],
    limits: Mapping[int, Mapping[str, int]],
    users: Collection[str],
    now: datetime,
    overdue_is_out: bool,
) -> dict[int, Counter[str]]:
    """Return by tool the seats of users with a limit. If a tool ignores case, of users in any spelling."""
    held: dict[int, Counter[str]] = defaultdict(Counter)
    limited = [tool for tool in tools if tool.user_limit is not None or limits[tool.pk]] if users else []
    if limited:
        for tool in limited:
            # There for all, also for those without a seat, so that the ledger counts them.
            held[tool.pk].update(dict.fromkeys(users, 0))
        leases = Lease.objects.open() if overdue_is_out else Lease.objects.active(now)
        mine = leases.filter(_of_users(limited, users)).order_by()
        for key, user, seats in mine.values_list("tool", "user").annotate(Sum("seats")):
            held[key][user] = seats
    return held


def _of_users(tools: Sequence[Tool], users: Collection[str]) -> Q:
    """Return the filter for the seats of these users of tools. It takes all leases of a tool that
    ignores case, because their names can have any spelling."""
    exact = [tool for tool in tools if not tool.ignores_case]
    return Q(tool__in=exact, user__in=users) | Q(tool__in=[tool for tool in tools if tool.ignores_case])


def open_tickets(tools: Collection[Tool], now: datetime, *, user: str) -> dict[int, tuple[int, int]]:
    """Return by tool the number of live tickets that wait for it, and the number of them that belong to the user."""
    live = TicketClaim.objects.live(now).filter(tool__in=list(tools)).order_by()
    counts = live.values("tool").annotate(waiting=Count("pk"), own=Count("pk", filter=Q(ticket__user=user)))
    return {tool: (waiting, own) for tool, waiting, own in counts.values_list("tool", "waiting", "own")}
