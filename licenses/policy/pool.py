"""What a decision looks at: the numbers and rules of a tool, and who wants its seats."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta


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
class TeamAllotment:
    """The quota and the reservation of a team for a tool, and its borrowed seats.

    A reserved seat that the team does not use is *reserved idle*: other teams can't borrow it.
    """

    quota: int | None = None
    reservation: int = 0
    borrowed: int = 0

    @property
    def reserved_idle(self) -> int:
        return max(self.reservation - self.borrowed, 0)


NO_ALLOTMENT = TeamAllotment()


@dataclass(frozen=True, slots=True)
class Rules:
    """The quotas, reservations, user limits and access rules of a tool.

    ``allotments`` are by team. ``limits`` are the limits of users with their own; ``held``
    are the seats of users. They contain only the subjects of the decision. With
    ``ignores_case`` the names of users and hosts are in lower case and match in any
    case (``in_any_case``).
    """

    include: frozenset[tuple[str, str]] = frozenset()
    exclude: frozenset[tuple[str, str]] = frozenset()
    allotments: dict[str, TeamAllotment] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    ignores_case: bool = False

    def in_any_case(self) -> "Rules":
        """Return these rules for names in any case: all spellings are one user, with the sum of the seats
        and the lowest limit."""
        limits: dict[str, int] = {}
        for user, seats in self.limits.items():
            limits[user.lower()] = min(seats, limits.get(user.lower(), seats))
        held: dict[str, int] = {}
        for user, seats in self.held.items():
            held[user.lower()] = held.get(user.lower(), 0) + seats
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


# Not frozen: each decision makes one, and a frozen one takes four times as long to make.
@dataclass(slots=True)
class Pool:
    """The numbers and rules of a tool for a decision, read under its lock.

    ``reserved`` are the seats reserved for teams, ``reserved_idle`` those of them that
    their teams do not use. ``claims`` are the tickets ahead, in the order of the queue.
    """

    tool: str
    capacity: int
    borrowed: int
    overdraft: int = 0
    reserved: int = 0
    reserved_idle: int = 0
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

    def allotment(self, team: str) -> TeamAllotment:
        """Return the allotment of a team; '' is no team."""
        return self.rules.allotments.get(team, NO_ALLOTMENT)

    def limit_of(self, user: str) -> int | None:
        """Return the most seats that a user can have; None is no limit."""
        return self.rules.limits.get(user, self.user_limit)
