"""Decide about seats with pure functions: numbers and rules in, refusals out.

The rules apply in this order, and the first that blocks a borrow is its refusal:
the tool is *disabled*; its license has *not begun* or has *ended*; the *ttl* is too
long; the subject is *excluded* or *not included*; the *user limit* or the *team
quota* is reached; the seats are *exhausted*, or the rest is *reserved*. Lists, quotas
and reservations correspond to FlexNet's EXCLUDE, INCLUDE, MAX and RESERVE lines.
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
    """A number of seats of one tool, as part of a borrow."""

    tool: str
    seats: int = 1


@dataclass(frozen=True, slots=True)
class Subject:
    """The user, host and project of a borrow. ``team`` is the borrow's team; ``teams`` are all of the user's."""

    user: str = ""
    team: str = ""
    teams: frozenset[str] = frozenset()
    host: str = ""
    project: str = ""

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield each name by which an access rule can match it, with its kind."""
        yield "user", self.user
        for team in sorted(self.teams | {self.team}):
            yield "team", team
        yield "host", self.host
        yield "project", self.project


NOBODY = Subject()


@dataclass(frozen=True, slots=True)
class Share:
    """What a team may have of a tool, and has. A reserved seat that the team does not use is *idle*:
    other teams can't borrow it."""

    quota: int | None = None
    reservation: int = 0
    in_use: int = 0

    @property
    def idle(self) -> int:
        return max(self.reservation - self.in_use, 0)


NO_SHARE = Share()


@dataclass(frozen=True, slots=True)
class Rules:
    """The quotas, reservations, user limits and access rules of a tool.

    ``shares`` are by team. ``limits`` are the limits of users with their own; ``held``
    are the seats of users. They contain only the subjects of the decision. With
    ``ignores_case`` the names of users and hosts are in lower case and match in any
    case (``in_any_case``).
    """

    include: frozenset[tuple[str, str]] = frozenset()
    exclude: frozenset[tuple[str, str]] = frozenset()
    shares: dict[str, Share] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    ignores_case: bool = False

    def in_any_case(self) -> "Rules":
        """Return these rules for names in any case: all spellings are one user, with the sum of the seats
        and the lowest limit."""
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
        """Return the subject with its names as these rules spell them."""
        if not self.ignores_case:
            return subject
        return replace(subject, user=subject.user.lower(), host=subject.host.lower())


NO_RULES = Rules()


def _folded(kind: str, name: str) -> str:
    return name.lower() if kind in ("user", "host") else name


@dataclass(frozen=True, slots=True)
class Claim:
    """Seats that a ticket ahead in the queue waits for."""

    seats: int
    subject: Subject = NOBODY


class State(StrEnum):
    """Whether a tool grants seats, or the first reason why not."""

    OPEN = "open"
    DISABLED = "disabled"
    NOT_STARTED = "not_started"
    EXPIRED = "expired"


def state(*, enabled: bool, valid_from: datetime | None, valid_until: datetime | None, now: datetime) -> State:
    """Return the state of a tool at ``now``. Its license is valid from ``valid_from``, included, to
    ``valid_until``, excluded."""
    if not enabled:
        return State.DISABLED
    if valid_from is not None and now < valid_from:
        return State.NOT_STARTED
    if valid_until is not None and now >= valid_until:
        return State.EXPIRED
    return State.OPEN


@dataclass(frozen=True, slots=True)
class Pool:
    """The numbers and rules of a tool for a decision, read under its lock.

    ``reserved`` are the seats reserved for teams, ``kept_back`` those of them that
    their teams do not use. ``claims`` are the tickets ahead, in the order of the queue.
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
        """Return the most seats that can be borrowed."""
        return self.capacity + self.overdraft

    def state(self, now: datetime) -> State:
        """Return the tool's state at ``now``."""
        return state(enabled=self.enabled, valid_from=self.valid_from, valid_until=self.valid_until, now=now)

    def share(self, team: str) -> Share:
        return self.rules.shares.get(team, NO_SHARE)

    def limit_of(self, user: str) -> int | None:
        return self.rules.limits.get(user, self.user_limit)


class Room:
    """The free seats of a pool while seats are set aside for claims.

    ``shared`` seats are for everybody (below 0 if claims want more than there are).
    ``idle`` are the reserved seats that each team does not use. ``of_team`` and
    ``of_user`` are the seats that they have or claim.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.shared = pool.limit - pool.in_use - pool.kept_back
        self.idle = Counter({team: share.idle for team, share in pool.rules.shares.items()})
        self.of_team = Counter({team: share.in_use for team, share in pool.rules.shares.items()})
        self.of_user = Counter(dict(pool.rules.held))
        self.claimed = 0
        # The fewest seats that were refused to a subject. Seats and claims only grow, so
        # its next claim for these or more is refused too.
        self.refused: dict[Subject, int] = {}

    def meet(self, claim: Claim) -> None:
        """Set seats aside for a claim, the team's reserved ones first.

        Set none aside if the rules would refuse the claim with all seats free, because
        it must not block seats that it can't get.
        """
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
        """Return how many of these seats the team's reservation covers."""
        return min(self.idle[team], seats)

    def free(self, team: str) -> int:
        """Return the seats that a borrow of this team can have; '' is no team."""
        return min(self.idle[team] + max(self.shared, 0), max(self.pool.limit - self.pool.in_use, 0))

    def barred(self, subject: Subject, seats: int) -> Iterator[Refusal]:
        """Yield the refusals that do not depend on free seats."""
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
    """Return the free seats for a new borrow, behind the whole queue."""
    left = Room(pool)
    for claim in pool.claims:
        left.meet(claim)
    return left


def refusals(
    pool: Pool, *, seats: int, now: datetime, subject: Subject = NOBODY, ttl: timedelta | None = None
) -> Iterator[Refusal]:
    """Yield every refusal of ``seats`` seats for a subject at ``now``, in the documented order.

    ``ttl`` is the requested one, or None. The license is valid from ``valid_from``,
    included, to ``valid_until``, excluded.
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
    """Return the first refusal, or None if the seats can be granted."""
    return next(refusals(pool, seats=seats, now=now, subject=subject, ttl=ttl), None)


def available(pool: Pool, subject: Subject, now: datetime) -> int:
    """Return the most seats that a subject can borrow at ``now`` in one call."""
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
    """The capacity of a tool by use.

    Seats are ``borrowed``, reserved for teams that do not use them, set aside for
    the queue, available to everybody, or ``closed`` if the tool is not open. More
    seats than the capacity can be borrowed. ``overdraft_left`` are the seats above the
    capacity that everybody can still borrow.
    """

    borrowed: int
    reserved_idle: int
    set_aside: int
    available: int
    overdraft_left: int
    closed: int = 0


def levels(pool: Pool, now: datetime) -> Levels:
    """Return the levels of a pool at ``now``.

    If the capacity is lower than the reservations, only seats that exist count as
    reserved.
    """
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
