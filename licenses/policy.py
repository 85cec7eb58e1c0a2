"""Decisions about seats, pure: numbers and rules in, refusals out.

The rules are asked in this order, and a borrow is told the first that stands in
its way: the tool is *disabled*, its license hasn't *begun* or has *ended*, the
*ttl* is too long; the subject is *excluded*, or isn't *included*; the *user's
limit* or the *team's quota* is reached; the seats are *exhausted*, or what is
left is *reserved*. The lists, quotas and reservations are those that FlexNet's
EXCLUDE, INCLUDE, MAX and RESERVE lines made known.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from .errors import (
    Disabled,
    Excluded,
    Exhausted,
    Expired,
    NotIncluded,
    NotStarted,
    QuotaReached,
    Refusal,
    Reserved,
    TtlTooLong,
    UserLimitReached,
)


@dataclass(frozen=True, slots=True)
class Item:
    """So many seats of one tool, as part of a borrow."""

    tool: str
    seats: int = 1


@dataclass(frozen=True, slots=True)
class Subject:
    """For whom seats are asked for. ``team`` is the one that the borrow counts
    for, if any; ``teams`` are all that the user is in."""

    user: str = ""
    team: str = ""
    teams: frozenset[str] = frozenset()
    host: str = ""
    project: str = ""

    def names(self) -> Iterator[tuple[str, str]]:
        """All that a list may know it by, each with its kind."""
        yield "user", self.user
        for team in sorted(self.teams | {self.team}):
            yield "team", team
        yield "host", self.host
        yield "project", self.project


NOBODY = Subject()


@dataclass(frozen=True, slots=True)
class Share:
    """What a team may have of a tool, and has. A reserved seat that the team
    doesn't use is *idle*: kept back from all others."""

    quota: int | None = None
    reservation: int = 0
    in_use: int = 0

    @property
    def idle(self) -> int:
        return max(self.reservation - self.in_use, 0)


NO_SHARE = Share()


@dataclass(frozen=True, slots=True)
class Rules:
    """Who may have how much of a tool, beside what the tool itself says.

    ``shares`` are by team, ``limits`` by user, where a user has one of their
    own; ``held`` are the seats that users have. Only those are there whom the
    decision is about. With ``ignores_case`` the names of users and hosts are in
    lower case, and match in any (``in_any_case``).
    """

    include: frozenset[tuple[str, str]] = frozenset()
    exclude: frozenset[tuple[str, str]] = frozenset()
    shares: dict[str, Share] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    ignores_case: bool = False

    def in_any_case(self) -> "Rules":
        """Return these rules for names of users and hosts in any case: one person has
        the seats of all spellings, and the lowest of their limits."""
        limits: dict[str, int] = {}
        for user, seats in self.limits.items():
            limits[user.lower()] = min(seats, limits.get(user.lower(), seats))
        held: Counter[str] = Counter()
        for user, seats in self.held.items():
            held[user.lower()] += seats
        return replace(
            self,
            include=frozenset((kind, _folded(kind, name)) for kind, name in self.include),
            exclude=frozenset((kind, _folded(kind, name)) for kind, name in self.exclude),
            limits=limits,
            held=held,
            ignores_case=True,
        )

    def known(self, subject: Subject) -> Subject:
        """Return a subject under the names that these rules know it by."""
        if not self.ignores_case:
            return subject
        return replace(subject, user=subject.user.lower(), host=subject.host.lower())


NO_RULES = Rules()


def _folded(kind: str, name: str) -> str:
    return name.lower() if kind in ("user", "host") else name


@dataclass(frozen=True, slots=True)
class Claim:
    """Seats that somebody ahead in the queue waits for."""

    seats: int
    subject: Subject = NOBODY


class State(StrEnum):
    """Whether a tool grants seats, or the first reason why it grants none."""

    OPEN = "open"
    DISABLED = "disabled"
    NOT_STARTED = "not_started"
    EXPIRED = "expired"


def state(*, enabled: bool, valid_from: datetime | None, valid_until: datetime | None, now: datetime) -> State:
    """Return the state of a tool at ``now``. Its license is valid from
    ``valid_from`` on and until just before ``valid_until``."""
    if not enabled:
        return State.DISABLED
    if valid_from is not None and now < valid_from:
        return State.NOT_STARTED
    if valid_until is not None and now >= valid_until:
        return State.EXPIRED
    return State.OPEN


@dataclass(frozen=True, slots=True)
class Pool:
    """What a decision needs to know of a tool, read under its lock.

    ``reserved`` are the seats reserved for teams, ``kept_back`` those of them
    that their teams don't use; ``claims`` are those ahead in the queue, the
    first first.
    """

    tool: str
    capacity: int
    in_use: int
    overdraft: int = 0
    reserved: int = 0
    kept_back: int = 0
    user_limit: int | None = None
    max_ttl: timedelta | None = None
    enabled: bool = True
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    rules: Rules = NO_RULES
    claims: tuple[Claim, ...] = ()

    @property
    def limit(self) -> int:
        """The most seats that may be out."""
        return self.capacity + self.overdraft

    def state(self, now: datetime) -> State:
        """Return the tool's state at ``now``."""
        return state(enabled=self.enabled, valid_from=self.valid_from, valid_until=self.valid_until, now=now)

    def share(self, team: str) -> Share:
        return self.rules.shares.get(team, NO_SHARE)

    def limit_of(self, user: str) -> int | None:
        return self.rules.limits.get(user, self.user_limit)


class Room:
    """The seats of a pool while claims are met: ``shared`` is what anybody can
    have (below 0 where claims want more than there is), ``idle`` what each team
    has reserved and doesn't use; ``of_team`` and ``of_user`` have or claim."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.shared = pool.limit - pool.in_use - pool.kept_back
        self.idle = Counter({team: share.idle for team, share in pool.rules.shares.items()})
        self.of_team = Counter({team: share.in_use for team, share in pool.rules.shares.items()})
        self.of_user = Counter(dict(pool.rules.held))
        self.claimed = 0
        # The fewest seats that were refused to a subject: what users and teams have
        # or claim only grows, so these and more are refused to its next claim too.
        self.refused: dict[Subject, int] = {}

    def meet(self, claim: Claim) -> None:
        """Set seats aside for a claim: the team's own reserved ones first. One
        that the rules would refuse, were all seats free, gets none: it mustn't
        keep from others what it can't have."""
        if claim.seats >= self.refused.get(claim.subject, claim.seats + 1):
            return
        if next(self.barred(claim.subject, claim.seats), None) is not None:
            self.refused[claim.subject] = claim.seats
            return
        subject = self.pool.rules.known(claim.subject)
        team = subject.team
        own = self.own(team, claim.seats)
        self.idle[team] -= own
        self.shared -= claim.seats - own
        self.of_team[team] += claim.seats
        self.of_user[subject.user] += claim.seats
        self.claimed += claim.seats

    def own(self, team: str, seats: int) -> int:
        """How many of so many seats can be the team's reserved ones."""
        return min(self.idle[team], seats)

    def free(self, team: str) -> int:
        """How many seats a borrow of this team can have; '' is no team."""
        return min(self.idle[team] + max(self.shared, 0), max(self.pool.limit - self.pool.in_use, 0))

    def barred(self, subject: Subject, seats: int) -> Iterator[Refusal]:
        """Why these seats can't be had, however many are free."""
        pool, rules = self.pool, self.pool.rules
        known = rules.known(subject)
        names = set(known.names())
        if excluded := min(names & rules.exclude, default=None):
            yield Excluded(tool=pool.tool, kind=excluded[0], name=excluded[1])
        elif rules.include and not names & rules.include:
            yield NotIncluded(tool=pool.tool)
        limit = pool.limit_of(known.user)
        if limit is not None and (borrowed := self.of_user[known.user]) + seats > limit:
            yield UserLimitReached(tool=pool.tool, user=subject.user, limit=limit, borrowed=borrowed, seats=seats)
        quota = pool.share(subject.team).quota
        if quota is not None and (borrowed := self.of_team[subject.team]) + seats > quota:
            yield QuotaReached(tool=pool.tool, team=subject.team, quota=quota, borrowed=borrowed, seats=seats)


def room(pool: Pool) -> Room:
    """What is left of a pool for somebody new, behind all that wait."""
    left = Room(pool)
    for claim in pool.claims:
        left.meet(claim)
    return left


def refusals(
    pool: Pool, *, seats: int, now: datetime, subject: Subject = NOBODY, ttl: timedelta | None = None
) -> Iterator[Refusal]:
    """All that stands in the way of ``seats`` seats for a subject at ``now``,
    in the documented order; nothing if they can be had.

    ``ttl`` is what was asked for, None if nothing was. The license is valid
    from ``valid_from`` on and until just before ``valid_until``.
    """
    if not pool.enabled:
        yield Disabled(tool=pool.tool)
    if pool.valid_from is not None and now < pool.valid_from:
        yield NotStarted(tool=pool.tool, valid_from=pool.valid_from)
    if pool.valid_until is not None and now >= pool.valid_until:
        yield Expired(tool=pool.tool, valid_until=pool.valid_until)
    if ttl is not None and pool.max_ttl is not None and ttl > pool.max_ttl:
        yield TtlTooLong(tool=pool.tool, asked=ttl, maximum=pool.max_ttl)
    left = room(pool)
    yield from left.barred(subject, seats)
    available = left.free(subject.team)
    if seats <= available:
        return
    ever = seats <= pool.limit - (pool.reserved - pool.share(subject.team).reservation)
    short_by = seats - left.idle[subject.team] - left.shared
    if pool.in_use + seats <= pool.limit and seats > Room(pool).free(subject.team):
        yield Reserved(
            tool=pool.tool,
            total=pool.capacity,
            borrowed=pool.in_use,
            reserved=pool.kept_back - pool.share(subject.team).idle,
            available=available,
            seats=seats,
            short_by=short_by,
            ever=ever,
        )
    else:
        yield Exhausted(
            tool=pool.tool,
            total=pool.capacity,
            overdraft=pool.overdraft,
            borrowed=pool.in_use,
            set_aside=left.claimed,
            available=available,
            seats=seats,
            short_by=short_by,
            ever=ever,
        )


def refusal(
    pool: Pool, *, seats: int, now: datetime, subject: Subject = NOBODY, ttl: timedelta | None = None
) -> Refusal | None:
    """The first thing that stands in the way; None if nothing does."""
    return next(refusals(pool, seats=seats, now=now, subject=subject, ttl=ttl), None)


def available(pool: Pool, subject: Subject, now: datetime) -> int:
    """The most seats that a subject could borrow at ``now`` in one call."""
    left = room(pool)
    most = [left.free(subject.team)]
    known = pool.rules.known(subject)
    if (limit := pool.limit_of(known.user)) is not None:
        most.append(limit - left.of_user[known.user])
    if (quota := pool.share(subject.team).quota) is not None:
        most.append(quota - left.of_team[subject.team])
    seats = max(min(most), 0)
    return seats if refusal(pool, seats=seats, now=now, subject=subject) is None else 0


@dataclass(frozen=True, slots=True)
class Levels:
    """The seats that were bought, told apart: they are out (``borrowed``),
    kept back for teams that don't use them, set aside for those who wait,
    available to anybody, or ``closed``: nobody can have them, since the tool is not
    open. More may be out than were bought; ``overdraft_left`` are the seats above
    the bought ones that anybody could still have."""

    borrowed: int
    reserved_idle: int
    set_aside: int
    available: int
    overdraft_left: int
    closed: int = 0


def levels(pool: Pool, now: datetime) -> Levels:
    """Return what the seats of a pool are doing at ``now``. Where the capacity was lowered below
    the seats reserved, only those that there still are count as kept back."""
    left = room(pool)
    free = max(pool.capacity - pool.in_use, 0)
    own = sum(share.idle for share in pool.rules.shares.values()) - left.idle.total()
    reserved_idle = max(min(pool.kept_back, free) - own, 0)
    available = max(left.shared - pool.overdraft, 0)
    overdraft_left = max(min(left.shared, pool.overdraft), 0)
    set_aside = free - reserved_idle - available
    if pool.state(now) is not State.OPEN:
        return Levels(pool.in_use, reserved_idle, set_aside, 0, 0, closed=available)
    return Levels(pool.in_use, reserved_idle, set_aside, available, overdraft_left)
