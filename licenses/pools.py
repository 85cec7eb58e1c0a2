"""What the policy needs to know of tools, read from the database.

A tool without rules costs no statement beside the one that read its row, and
one more while somebody waits for it; a tool with quotas, reservations, limits or
lists costs a handful, however many leases it has.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, Sum
from django.db.models.functions import Now
from django.utils import timezone

from .models import AccessRule, Allotment, Effect, Lease, TeamMember, Ticket, TicketClaim, Tool, UserLimit
from .policy import Claim, Pool, Rules, Share, Subject, levels

Claims = dict[int, tuple[Claim, ...]]


def counted(
    tools: Collection[Tool], subjects: Iterable[Subject], now: datetime, *, ahead_of: Ticket | None = None
) -> dict[str, Pool]:
    """Locked tools, by name, as their rows count: what is overdue is still out.

    The claims are those ahead of a ticket; ahead of a newcomer are all.
    """
    queued = [tool for tool in tools if tool.waiting]
    claims = _claims(queued, now, ahead_of) if queued else {}
    rules = _rules(tools, subjects, claims, now, overdue_is_out=True)
    return {
        tool.name: _pool(tool, tool.in_use, tool.kept_back, rules.get(tool.pk), claims.get(tool.pk, ()))
        for tool in tools
    }


def seen(tools: Collection[Tool], subjects: Iterable[Subject], now: datetime) -> dict[str, Pool]:
    """Tools from ``with_levels``, by name, as they are at ``now``, without a lock:
    what is overdue is back."""
    claims: Claims = {tool.pk: (Claim(tool.wanted),) for tool in tools if tool.wanted}
    if queued := [tool for tool in tools if tool.wanted and tool.is_rationed]:
        claims |= _claims(queued, now, None)
    rules = _rules(tools, subjects, claims, now, overdue_is_out=False)
    return {
        tool.name: _pool(tool, tool.borrowed, tool.reserved_idle, rules.get(tool.pk), claims.get(tool.pk, ()))
        for tool in tools
    }


def with_levels(tools: Iterable[Tool]) -> list[Tool]:
    """Return tools from ``Tool.objects.with_levels`` with their ``levels`` and
    ``state`` as of when they were read.
    Costs statements only where somebody waits for a tool with rules."""
    tools = list(tools)
    crowded = [tool for tool in tools if tool.wanted and tool.is_rationed]
    pools = seen(crowded, (), timezone.now()) if crowded else {}
    for tool in tools:
        plain = Claim(tool.wanted)
        pool = pools.get(tool.name) or _pool(
            tool, tool.borrowed, tool.reserved_idle, None, (plain,) if tool.wanted else ()
        )
        tool.levels, tool.state = levels(pool, tool.read_at), pool.state(tool.read_at)
    return tools


@dataclass(frozen=True, slots=True)
class TeamSeats:
    """What a team has of a tool; and may have, where that is said."""

    tool: str
    team: str
    borrowed: int
    quota: int | None = None
    reservation: int | None = None


def teams() -> list[TeamSeats]:
    """Every team that has, or has an allotment of, seats of a tool, as of now."""
    out = Lease.objects.active(Now()).filter(team__isnull=False).order_by()
    borrowed = {
        (tool, team): seats for tool, team, seats in out.values_list("tool__name", "team__name").annotate(Sum("seats"))
    }
    allotted = {(found.tool.name, found.team.name): found for found in Allotment.objects.select_related("tool", "team")}
    return [
        TeamSeats(
            tool,
            team,
            borrowed.get((tool, team), 0),
            quota=allotted[tool, team].quota if (tool, team) in allotted else None,
            reservation=allotted[tool, team].reservation if (tool, team) in allotted else None,
        )
        for tool, team in sorted(borrowed.keys() | allotted.keys())
    ]


def _pool(tool: Tool, in_use: int, kept_back: int, rules: Rules | None, claims: tuple[Claim, ...]) -> Pool:
    return Pool(
        tool=tool.name,
        capacity=tool.capacity,
        in_use=in_use,
        overdraft=tool.overdraft,
        reserved=tool.reserved,
        kept_back=kept_back,
        user_limit=tool.user_limit,
        max_ttl=tool.max_ttl,
        enabled=tool.enabled,
        valid_from=tool.valid_from,
        valid_until=tool.valid_until,
        rules=rules or Rules(),
        claims=claims,
    )


def _claims(tools: Iterable[Tool], now: datetime, ahead_of: Ticket | None) -> Claims:
    """By tool, what the live tickets want, the first first. Where nothing but
    the number of seats decides, all of them are one claim."""
    live = TicketClaim.objects.live(now)
    if ahead_of is not None:
        live = live.filter(ticket__lt=ahead_of.number)
    plain = [tool for tool in tools if not tool.is_rationed]
    rationed = [tool for tool in tools if tool.is_rationed]
    claims: Claims = {}
    if plain:
        sums = live.filter(tool__in=plain).order_by().values_list("tool").annotate(Sum("seats"))
        claims |= {tool: (Claim(seats),) for tool, seats in sums}
    if rationed:
        in_order = defaultdict(list)
        # Without rows of the ORM: a queue may have a thousand tickets.
        rows = list(
            live.filter(tool__in=rationed)
            .order_by("ticket")
            .values_list("tool", "seats", "ticket__user", "ticket__team__name", "ticket__host", "ticket__project")
        )
        teams = _teams(user for _, _, user, *_ in rows)
        # One for all tickets of a subject.
        subjects: dict[tuple[str, str | None, str, str], Subject] = {}
        for tool, seats, user, team, host, project in rows:
            subject = subjects.get((user, team, host, project))
            if subject is None:
                subject = Subject(user=user, team=team or "", teams=frozenset(teams[user]), host=host, project=project)
                subjects[user, team, host, project] = subject
            in_order[tool].append(Claim(seats, subject))
        claims |= {tool: tuple(wanted) for tool, wanted in in_order.items()}
    return claims


def _teams(users: Iterable[str]) -> dict[str, set[str]]:
    """The names of the teams that each of these users is in."""
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
    tools: Iterable[Tool], subjects: Iterable[Subject], claims: Claims, now: datetime, *, overdue_is_out: bool
) -> dict[int, Rules]:
    """The rules of those tools that have any, as far as they concern these
    subjects and those of the claims."""
    rationed = [tool for tool in tools if tool.is_rationed]
    if not rationed:
        return {}
    concerned = {*subjects, *(claim.subject for tool in rationed for claim in claims.get(tool.pk, ()))}
    ruled = [tool for tool in rationed if tool.has_rules]
    shares = _shares(ruled, {subject.team for subject in concerned} - {""}, now, overdue_is_out)
    limits, held = _limits(rationed, {subject.user for subject in concerned}, now, overdue_is_out)
    lists: dict[tuple[int, str], set[tuple[str, str]]] = defaultdict(set)
    for line in AccessRule.objects.of_tools(ruled) if ruled else ():
        lists[line.tool_id, line.effect].add((line.kind, line.subject))
    rules = {
        tool.pk: Rules(
            include=frozenset(lists[tool.pk, Effect.INCLUDE]),
            exclude=frozenset(lists[tool.pk, Effect.EXCLUDE]),
            shares=shares[tool.pk],
            limits=limits[tool.pk],
            held=held[tool.pk],
        )
        for tool in rationed
    }
    return rules | {tool.pk: rules[tool.pk].in_any_case() for tool in rationed if tool.ignores_case}


def _shares(
    tools: Sequence[Tool], teams: Collection[str], now: datetime, overdue_is_out: bool
) -> dict[int, dict[str, Share]]:
    shares: dict[int, dict[str, Share]] = defaultdict(dict)
    if not (tools and teams):
        return shares
    allotments = Allotment.objects.filter(tool__in=tools, team__name__in=teams).select_related("team")
    if not overdue_is_out:
        allotments = allotments.with_borrowed(now)
    for allotment in allotments:
        if not overdue_is_out:
            allotment.in_use = allotment.borrowed
        shares[allotment.tool_id][allotment.team.name] = allotment.share
    return shares


def _limits(
    tools: Sequence[Tool], users: Collection[str], now: datetime, overdue_is_out: bool
) -> tuple[dict[int, dict[str, int]], dict[int, dict[str, int]]]:
    """By tool, the limits that users have of their own, and the seats of those
    who have any limit. Where a tool ignores case, of users in any spelling."""
    limits: dict[int, dict[str, int]] = defaultdict(dict)
    held: dict[int, dict[str, int]] = defaultdict(dict)
    if not users:
        return limits, held
    if ruled := [tool for tool in tools if tool.has_rules]:
        for limit in UserLimit.objects.filter(_of_users(ruled, users)):
            limits[limit.tool_id][limit.user] = limit.seats
    if limited := [tool for tool in tools if tool.user_limit is not None or limits[tool.pk]]:
        leases = Lease.objects.open() if overdue_is_out else Lease.objects.active(now)
        mine = leases.filter(_of_users(limited, users)).order_by()
        for tool, user, seats in mine.values_list("tool", "user").annotate(Sum("seats")):
            held[tool][user] = seats
    return limits, held


def _of_users(tools: Sequence[Tool], users: Collection[str]) -> Q:
    """What these users have of tools; all of a tool that ignores case, since their
    names may be spelled in any way."""
    exact = [tool for tool in tools if not tool.ignores_case]
    return Q(tool__in=exact, user__in=users) | Q(tool__in=[tool for tool in tools if tool.ignores_case])
