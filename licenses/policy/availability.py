"""Count the free seats of a pool, without the queue or behind it."""

from dataclasses import dataclass
from datetime import datetime

from .pool import Claim, Pool, Subject
from .rules import SUBJECT_CHECKS, Attempt, State, state


class Availability:
    """The free seats of a pool at ``now`` while seats are set aside for claims.

    ``shared`` seats are for everybody (below 0 if claims want more than there are);
    ``claimed`` are set aside; ``reserved_claimed`` are those of them that are reserved for the team of their claim.
    """

    __slots__ = (
        "_of_teams",
        "_of_users",
        "_refused",
        "_reserved",
        "claimed",
        "now",
        "pool",
        "reserved_claimed",
        "shared",
    )

    def __init__(self, pool: Pool, now: datetime) -> None:
        self.pool, self.now = pool, now
        self.shared = pool.capacity + pool.overdraft - pool.borrowed - pool.reserved_idle
        self.claimed = self.reserved_claimed = 0
        # Claimed seats, by team and by user, and those of them that are reserved for the team.
        self._of_teams: dict[str, int] = {}
        self._of_users: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        # The fewest seats that were refused to a subject. Seats and claims only grow, so
        # its next claim for these or more is refused too.
        self._refused: dict[Subject, int] = {}

    def set_aside(self, claim: Claim) -> None:
        """Set seats aside for a claim, the team's reserved ones first.

        Set none aside if the rules would refuse the claim with all seats free, because
        it must not block seats that it can't get.
        """
        seats, subject = claim.seats, claim.subject
        if seats >= self._refused.get(subject, seats + 1):
            return
        attempt = Attempt(self, seats, subject)
        for check in SUBJECT_CHECKS:
            if check(attempt) is not None:
                self._refused[subject] = seats
                return
        team, user = subject.team, attempt.known.user
        own = min(self.reserved_idle(team), seats)
        if own:
            self._reserved[team] = self._reserved.get(team, 0) + own
            self.reserved_claimed += own
        self.shared -= seats - own
        self.claimed += seats
        self._of_teams[team] = self._of_teams.get(team, 0) + seats
        self._of_users[user] = self._of_users.get(user, 0) + seats

    def reserved_idle(self, team: str) -> int:
        """Return the reserved seats that the team does not use or claim."""
        allotment = self.pool.rules.allotments.get(team)
        return allotment.reserved_idle - self._reserved.get(team, 0) if allotment is not None else 0

    def free(self, team: str) -> int:
        """Return the seats that a borrow of this team can have; '' is no team."""
        pool = self.pool
        # There may be fewer seats than are reserved.
        there = pool.capacity + pool.overdraft - pool.borrowed - self.reserved_claimed
        return min(self.reserved_idle(team) + max(self.shared, 0), max(there, 0))

    def of_team(self, team: str) -> int:
        """Return the seats that a team has or claims, if it has a quota or reservation."""
        return self.pool.allotment(team).borrowed + self._of_teams.get(team, 0)

    def of_user(self, user: str) -> int:
        """Return the seats that a user has or claims, if there is a limit."""
        return self.pool.rules.held.get(user, 0) + self._of_users.get(user, 0)


def behind_the_queue(pool: Pool, now: datetime) -> Availability:
    """Return the free seats for a new borrow, after all claims of the queue."""
    left = Availability(pool, now)
    for claim in pool.claims:
        left.set_aside(claim)
    return left


@dataclass(frozen=True, slots=True)
class Levels:
    """The capacity of a tool by use.

    Seats are ``borrowed``, reserved for teams that do not use them, set aside for
    the queue, available to everybody, or ``closed`` if the tool is not open. More
    seats than the capacity can be borrowed. ``overdraft_left`` are the seats above the
    capacity that everybody can still borrow. ``state`` is the tool's.
    """

    borrowed: int
    reserved_idle: int
    set_aside: int
    available: int
    overdraft_left: int
    closed: int = 0
    state: State = State.OPEN


def levels(pool: Pool, now: datetime) -> Levels:
    """Return the levels of a pool at ``now``.

    If the capacity is lower than the reservations, only seats that exist count as
    reserved.
    """
    left = behind_the_queue(pool, now)
    free = max(pool.capacity - pool.borrowed, 0)
    reserved_idle = max(min(pool.reserved_idle, free) - left.reserved_claimed, 0)
    available = max(left.shared - pool.overdraft, 0)
    overdraft_left = max(min(left.shared, pool.overdraft), 0)
    set_aside = free - reserved_idle - available
    if (condition := state(left)) is not State.OPEN:
        return Levels(pool.borrowed, reserved_idle, set_aside, 0, 0, closed=available, state=condition)
    return Levels(pool.borrowed, reserved_idle, set_aside, available, overdraft_left)
