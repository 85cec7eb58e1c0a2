"""Compare the policy with a simple model of its promises."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licenses import policy
from licenses.policy import Claim, Pool, Rules, Subject, TeamAllotment

pytestmark = pytest.mark.any_database

NOW = datetime(2026, 1, 1, tzinfo=UTC)
USERS = ["ana", "ben", "eve"]
TEAMS = ["", "crash", "body"]


@dataclass
class Site:
    """A tool as its administrators describe it, with a plain list of who has
    how many seats, and of who waits for how many. Every number is counted anew."""

    capacity: int
    overdraft: int
    quotas: dict[str, int]
    reservations: dict[str, int]
    limits: dict[str, int]
    user_limit: int | None
    exclude: set[tuple[str, str]]
    include: set[tuple[str, str]]
    out: list[tuple[str, str, int]] = field(default_factory=list)
    waiting: list[tuple[str, str, int]] = field(default_factory=list)

    def seats_out(self) -> int:
        return sum(seats for _, _, seats in self.out)

    def seats_of_team(self, team: str) -> int:
        return sum(seats for _, whose, seats in self.out if whose == team)

    def seats_of_user(self, user: str) -> int:
        return sum(seats for who, _, seats in self.out if who == user)

    def reserved_idle(self, team: str) -> int:
        return max(self.reservations.get(team, 0) - self.seats_of_team(team), 0)

    def pool(self) -> Pool:
        """Return the same site as rows of the server."""
        return Pool(
            tool="cad",
            capacity=self.capacity,
            borrowed=self.seats_out(),
            overdraft=self.overdraft,
            reserved=sum(self.reservations.values()),
            reserved_idle=sum(self.reserved_idle(team) for team in self.reservations),
            user_limit=self.user_limit,
            rules=Rules(
                include=frozenset(self.include),
                exclude=frozenset(self.exclude),
                allotments={
                    team: TeamAllotment(self.quotas.get(team), self.reservations.get(team, 0), self.seats_of_team(team))
                    for team in {*self.quotas, *self.reservations}
                },
                limits=self.limits,
                held={user: self.seats_of_user(user) for user in USERS},
            ),
            claims=tuple(Claim(seats, Subject(user, team)) for user, team, seats in self.waiting),
        )

    # The model: each promise about another borrow without a queue.

    def may(self, user: str, team: str, seats: int) -> bool:
        return (
            self.is_listed(user, team)
            and self.seats_of_user(user) + seats <= self.limits.get(user, self.user_limit or 10**9)
            and self.seats_of_team(team) + seats <= (self.quotas.get(team, 10**9) if team else 10**9)
            and self.is_room(team, seats)
        )

    def may_behind_the_queue(self, user: str, team: str, seats: int) -> bool:
        """Return one chair a free seat, with the name of the team it is reserved for, if
        any. Those who wait take theirs one after the other, their team's first,
        unless a rule keeps them from it; a newcomer takes what is left."""
        chairs = [owner for owner in self.reservations for _ in range(self.reserved_idle(owner))]
        chairs += [""] * (self.capacity + self.overdraft - self.seats_out() - len(chairs))
        then = replace(self, capacity=10**6, reservations={}, out=[*self.out], waiting=[])
        for who, whose, wanted in self.waiting:
            if then.may(who, whose, wanted):
                then.out.append((who, whose, wanted))
                for owner in [whose] * wanted + [""] * wanted:
                    if wanted and owner in chairs:
                        chairs.remove(owner)
                        wanted -= 1
        return then.may(user, team, seats) and sum(owner in ("", team) for owner in chairs) >= seats

    def is_listed(self, user: str, team: str) -> bool:
        names = {("user", user), ("team", team)}
        return not names & self.exclude and (not self.include or bool(names & self.include))

    def is_room(self, team: str, seats: int) -> bool:
        """Seat by seat: each is one that nobody has, and either one of the team's
        own reserved ones or one that no team has reserved."""
        own = self.reserved_idle(team)
        limit = self.capacity + self.overdraft
        for taken in range(seats):
            if self.seats_out() + taken >= limit:
                return False
            others = sum(self.reserved_idle(other) for other in self.reservations if other != team)
            mine = max(own - taken, 0)
            if not mine and limit - self.seats_out() - taken - others <= 0:
                return False
        return True


@st.composite
def sites(draw: st.DrawFn, *, waiting: bool = False) -> Site:
    capacity = draw(st.integers(0, 8))
    reservations: dict[str, int] = {}
    for team in TEAMS[1:]:
        reservations[team] = draw(st.integers(0, capacity - sum(reservations.values())))
    names = st.sampled_from([("user", user) for user in USERS] + [("team", team) for team in TEAMS[1:]])
    site = Site(
        capacity=capacity,
        overdraft=draw(st.integers(0, 2)),
        reservations=reservations,
        quotas={team: reservations[team] + draw(st.integers(0, 4)) for team in TEAMS[1:] if draw(st.booleans())},
        limits=draw(st.dictionaries(st.sampled_from(USERS), st.integers(0, 4), max_size=1)),
        user_limit=draw(st.none() | st.integers(1, 4)),
        exclude=draw(st.sets(names, max_size=1)),
        include=draw(st.sets(names, max_size=2)),
    )
    requests = st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from(TEAMS), st.integers(1, 3)), max_size=8)
    # The borrowed seats were granted before.
    for request in draw(requests):
        if site.may(*request):
            site.out.append(request)
    if waiting:
        site.waiting = draw(requests)
    return site


asks = st.tuples(st.sampled_from(USERS), st.sampled_from(TEAMS), st.integers(1, 4))


def grants(site: Site, user: str, team: str, seats: int) -> bool:
    return policy.refusal(site.pool(), seats=seats, now=NOW, subject=Subject(user, team)) is None


@given(site=sites(), ask=asks)
def test_a_seat_is_granted_exactly_when_every_promise_allows_it(site: Site, ask: tuple[str, str, int]) -> None:
    assert grants(site, *ask) == site.may(*ask)


@given(site=sites(waiting=True), ask=asks)
def test_the_available_seats_can_be_borrowed(site: Site, ask: tuple[str, str, int]) -> None:
    user, team, _ = ask
    seats = policy.available(site.pool(), Subject(user, team), NOW)
    assert seats == 0 or grants(site, user, team, seats)
    assert not grants(site, user, team, seats + 1)


@settings(max_examples=1000)
@given(site=sites(waiting=True), ask=asks)
def test_a_newcomer_gets_what_those_who_wait_leave(site: Site, ask: tuple[str, str, int]) -> None:
    assert grants(site, *ask) == site.may_behind_the_queue(*ask)


@settings(max_examples=1000)
@given(site=sites(waiting=True), ask=asks)
def test_nobody_overtakes_a_ticket_that_could_get_seats(site: Site, ask: tuple[str, str, int]) -> None:
    assert_nobody_is_overtaken(site, ask)


@settings(max_examples=1000)
@given(site=sites(waiting=True), capacity=st.integers(0, 8), ask=asks)
def test_nobody_overtakes_a_ticket_where_more_is_reserved_than_there_is(
    site: Site, capacity: int, ask: tuple[str, str, int]
) -> None:
    """The end of a contract may leave fewer seats than are reserved."""
    assert_nobody_is_overtaken(replace(site, capacity=capacity), ask)


def assert_nobody_is_overtaken(site: Site, ask: tuple[str, str, int]) -> None:
    """Whoever in the queue could have seats now still can when a newcomer has theirs."""
    if not grants(site, *ask):
        return
    for place, request in enumerate(site.waiting):
        ahead = replace(site, waiting=site.waiting[:place])
        if grants(ahead, *request):
            assert grants(replace(ahead, out=[*site.out, ask]), *request)


@given(site=sites(waiting=True))
def test_the_levels_add_up_to_the_capacity(site: Site) -> None:
    levels = policy.levels(site.pool(), NOW)
    assert min(levels.available, levels.reserved_idle, levels.set_aside) >= 0
    free = max(site.capacity - levels.borrowed, 0)
    assert levels.available + levels.reserved_idle + levels.set_aside == free


@given(site=sites(waiting=True))
def test_free_seats_and_overdraft_are_available_to_a_user_without_a_team(site: Site) -> None:
    site = replace(site, limits={}, user_limit=None, include=set(), exclude=set())
    levels = policy.levels(site.pool(), NOW)
    assert levels.available + levels.overdraft_left == policy.available(site.pool(), Subject("stranger"), NOW)


@given(site=sites(waiting=True), capacity=st.integers(0, 8), ask=asks)
def test_a_capacity_below_what_is_reserved_is_never_exceeded(
    site: Site, capacity: int, ask: tuple[str, str, int]
) -> None:
    lowered = replace(site, capacity=capacity)
    if grants(lowered, *ask):
        assert lowered.seats_out() + ask[2] <= capacity + site.overdraft
    levels = policy.levels(lowered.pool(), NOW)
    assert levels.available + levels.reserved_idle + levels.set_aside == max(capacity - levels.borrowed, 0)


@given(reservation=st.integers(1, 5))
def test_the_remaining_reserved_seats_go_to_the_first_borrow(reservation: int) -> None:
    site = Site(1, 0, {}, {"crash": reservation, "body": reservation}, {}, None, set(), set())
    assert grants(site, "ana", "crash", 1)
    assert grants(site, "ben", "body", 1)
    assert not grants(site, "eve", "", 1)


@given(site=sites(waiting=True), ask=asks)
def test_each_reason_would_refuse_by_itself(site: Site, ask: tuple[str, str, int]) -> None:
    user, team, seats = ask
    reasons = list(policy.refusals(site.pool(), seats=seats, now=NOW, subject=Subject(user, team)))
    codes = [reason.code for reason in reasons]
    order = ["excluded", "not_included", "user_limit", "quota", "exhausted", "reserved"]
    assert codes == sorted(codes, key=order.index)
    assert len(set(codes)) == len(codes)
