"""Declare the rules of a borrow, each once, in the order in which they apply.

A rule is a class, and an instance of it is a refusal by it. The class says all about it:
its code, title and HTTP status, whether waiting helps, when it applies, its facts and
its text. Its docstring is its row in docs/reference/errors.md. The first rule of
``RULES`` that applies is the refusal of a borrow.
"""

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from licenses.errors import BorrowRefusal, counted, kinds

from .pool import NOBODY, Subject

if TYPE_CHECKING:
    from .availability import Availability


class Attempt:
    """Seats that a subject wants of the seats that are ``left``: what the rules look at.

    ``ttl`` is the requested one, or None. ``known`` is the subject as the tool's rules
    spell its names.
    """

    __slots__ = ("_names", "known", "left", "pool", "seats", "subject", "ttl")

    def __init__(
        self, left: "Availability", seats: int, subject: Subject = NOBODY, ttl: timedelta | None = None
    ) -> None:
        self.left, self.pool, self.seats, self.subject, self.ttl = left, left.pool, seats, subject, ttl
        self.known = left.pool.rules.known(subject)
        self._names: frozenset[tuple[str, str]] | None = None

    @property
    def names(self) -> frozenset[tuple[str, str]]:
        """Return the names by which access rules can match the subject, with their kinds."""
        if self._names is None:
            self._names = frozenset(self.known.names())
        return self._names


class Rule(BorrowRefusal):
    """A rule of the policy; an instance is a refusal by it."""

    denial = True

    @classmethod
    def check(cls, attempt: Attempt) -> Self | None:
        """Return the refusal of the attempt, or None if the rule does not apply."""
        raise NotImplementedError


# --- Rules that close a tool ---------------------------------------------------------


class State(StrEnum):
    """Whether a tool grants seats, or the code of the first rule that closes it."""

    OPEN = "open"
    DISABLED = "disabled"
    NOT_STARTED = "not_started"
    EXPIRED = "expired"


class ClosedTool(Rule):
    """A rule that closes a tool for everybody. Its code is a ``State``."""


class Disabled(ClosedTool):
    """An administrator disabled the tool."""

    code = "disabled"
    title = "Tool is disabled"
    status = 409

    @classmethod
    def check(cls, attempt: Attempt) -> Self | None:
        if attempt.pool.enabled:
            return None
        tool = attempt.pool.tool
        return cls(f"An administrator disabled {tool}. It grants no seats.", tool=tool)


class NotStarted(ClosedTool):
    """The license of the tool is not valid yet."""

    code = "not_started"
    title = "License not yet valid"
    status = 409

    @classmethod
    def check(cls, attempt: Attempt) -> Self | None:
        begins = attempt.pool.valid_from
        if begins is None or attempt.left.now >= begins:
            return None
        tool = attempt.pool.tool
        text = f"The license of {tool} is valid from {begins:%Y-%m-%d %H:%M} UTC."
        return cls(text, tool=tool, valid_from=begins.isoformat())


class Expired(ClosedTool):
    """The license of the tool has ended."""

    code = "expired"
    title = "License has expired"
    status = 409

    @classmethod
    def check(cls, attempt: Attempt) -> Self | None:
        ends = attempt.pool.valid_until
        if ends is None or attempt.left.now < ends:
            return None
        tool = attempt.pool.tool
        text = f"The license of {tool} ended at {ends:%Y-%m-%d %H:%M} UTC. Ask the administrators to renew it."
        return cls(text, tool=tool, valid_until=ends.isoformat())


# --- Rules about the request ---------------------------------------------------------


class TtlTooLong(Rule):
    """`ttl_seconds` is longer than the tool allows."""

    code = "ttl_too_long"
    title = "Lease too long"
    status = 400
    denial = False

    @classmethod
    def check(cls, attempt: Attempt) -> Self | None:
        tool, ttl, longest = attempt.pool.tool, attempt.ttl, attempt.pool.max_ttl
        if ttl is None or longest is None or ttl <= longest:
            return None
        seconds = longest.total_seconds()
        return cls(
            f"A lease of {tool} can last at most {seconds:g} seconds without a heartbeat.",
            tool=tool,
            ttl_seconds=ttl.total_seconds(),
            max_ttl_seconds=seconds,
        )


# --- Rules about the subject ---------------------------------------------------------


class SubjectRule(Rule):
    """A rule that holds even with all seats free. A ticket that it refuses keeps no seat
    from others."""


class Excluded(SubjectRule):
    """An access rule excludes this user, team, host or project."""

    code = "excluded"
    title = "Excluded by an access rule"
    status = 409

    @classmethod
    def check(cls, attempt: Attempt) -> Self | None:
        excluded = attempt.pool.rules.exclude
        if not excluded or excluded.isdisjoint(attempt.names):
            return None
        tool = attempt.pool.tool
        kind, name = min(excluded & attempt.names)
        text = f"An access rule excludes the {kind} {name} from {tool}. Ask the administrators."
        return cls(text, tool=tool, excluded={kind: name})


class NotIncluded(SubjectRule):
    """There are include rules, and none is for this user, team, host or project."""

    code = "not_included"
    title = "Not included by an access rule"
    status = 409

    @classmethod
    def check(cls, attempt: Attempt) -> Self | None:
        included = attempt.pool.rules.include
        if not included or not included.isdisjoint(attempt.names):
            return None
        if not attempt.pool.rules.exclude.isdisjoint(attempt.names):
            # Excluded says so already.
            return None
        tool = attempt.pool.tool
        return cls(
            f"The access rules of {tool} list who can use it. They include neither this user nor a team, host or "
            f"project of this borrow. Ask the administrators.",
            tool=tool,
        )


# --- Rules about a number of seats ---------------------------------------------------


class Shortage(Rule):
    """A rule that leaves too few seats, for now or for good.

    ``short_by`` of the ``out`` borrowed seats must come back before this borrow is
    possible; a borrow of ``short_by`` seats fewer is possible now. Waiting helps
    (``is_temporary``) unless even all of them are not enough.
    """

    is_temporary = True
    retry_after = 10

    def __init__(self, detail: str, *, short_by: int, out: int, ever: bool, **facts: Any) -> None:
        super().__init__(detail if ever else f"{detail} Waiting does not help.", **facts, waiting_helps=ever)
        self.is_temporary = ever
        self.short_by = short_by
        self.out = out


class UserLimitReached(Shortage, SubjectRule):
    """The user has reached the limit of seats of this tool."""

    code = "user_limit"
    title = "User limit reached"
    status = 409

    @classmethod
    def check(cls, attempt: Attempt) -> Self | None:
        limit = attempt.pool.limit_of(attempt.known.user)
        if limit is None:
            return None
        seats, borrowed = attempt.seats, attempt.left.of_user(attempt.known.user)
        if borrowed + seats <= limit:
            return None
        tool, user = attempt.pool.tool, attempt.subject.user
        return cls(
            f"{user} can have at most {counted(limit, 'seat')} of {tool}, and has or waits for {borrowed}. "
            f"Return one first.",
            short_by=borrowed + seats - limit,
            out=borrowed,
            ever=seats <= limit,
            tool=tool,
            user=user,
            limit=limit,
            borrowed=borrowed,
            seats=seats,
        )


class QuotaReached(Shortage, SubjectRule):
    """The team has reached its quota."""

    code = "quota"
    title = "Team quota reached"
    status = 409

    @classmethod
    def check(cls, attempt: Attempt) -> Self | None:
        team = attempt.subject.team
        quota = attempt.pool.allotment(team).quota
        if quota is None:
            return None
        seats, borrowed = attempt.seats, attempt.left.of_team(team)
        if borrowed + seats <= quota:
            return None
        tool = attempt.pool.tool
        return cls(
            f"Team {team} can have at most {counted(quota, 'seat')} of {tool}, and it has or waits for {borrowed}. "
            f"Return a seat of the team first.",
            short_by=borrowed + seats - quota,
            out=borrowed,
            ever=seats <= quota,
            tool=tool,
            team=team,
            quota=quota,
            borrowed=borrowed,
            seats=seats,
        )


def _are_reserved(attempt: Attempt) -> bool:
    """Return whether the seats are there without the queue, but reserved for other teams."""
    pool = attempt.pool
    unused = pool.limit - pool.borrowed
    own = pool.allotment(attempt.subject.team).reserved_idle
    return own + max(unused - pool.reserved_idle, 0) < attempt.seats <= unused


def _too_few(attempt: Attempt, available: int) -> str:
    seats, tool = attempt.seats, attempt.pool.tool
    if available <= 0:
        return f"No seat of {tool} is free"
    return f"You asked for {counted(seats, 'seat')} of {tool}, and {available} {'is' if available == 1 else 'are'} free"


def _of_shortage(attempt: Attempt, available: int) -> dict[str, Any]:
    """Return the facts that both rules about free seats have."""
    pool, left, seats, team = attempt.pool, attempt.left, attempt.seats, attempt.subject.team
    return {
        "short_by": seats - left.reserved_idle(team) - left.shared,
        "out": pool.borrowed,
        "ever": seats <= pool.limit - (pool.reserved - pool.allotment(team).reservation),
        "tool": pool.tool,
        "total": pool.capacity,
        "borrowed": pool.borrowed,
        "available": available,
        "seats": seats,
    }


class Exhausted(Shortage):
    """No seat is free, or fewer than the borrow wants."""

    code = "exhausted"
    title = "No seat left"
    status = 409

    @classmethod
    def check(cls, attempt: Attempt) -> Self | None:
        available = attempt.left.free(attempt.subject.team)
        if attempt.seats <= available or _are_reserved(attempt):
            return None
        pool = attempt.pool
        # A queue can want more seats than there are.
        set_aside = min(attempt.left.claimed, pool.limit - pool.borrowed)
        facts = _of_shortage(attempt, available)
        above = f" (overdraft: up to {pool.overdraft} more)" if pool.overdraft else ""
        are = "is" if set_aside == 1 else "are"
        waiting = f", and {set_aside} {are} set aside for the queue" if set_aside > 0 else ""
        advice = " Try again later, or wait in the queue." if facts["ever"] else ""
        text = f"{_too_few(attempt, available)}: {pool.borrowed} of {pool.capacity}{above} are borrowed{waiting}."
        return cls(text + advice, **facts)


class Reserved(Shortage):
    """The free seats are reserved for other teams."""

    code = "reserved"
    title = "Seats are reserved for other teams"
    status = 409

    @classmethod
    def check(cls, attempt: Attempt) -> Self | None:
        available = attempt.left.free(attempt.subject.team)
        if attempt.seats <= available or not _are_reserved(attempt):
            return None
        pool = attempt.pool
        reserved = pool.reserved_idle - pool.allotment(attempt.subject.team).reserved_idle
        text = f"{_too_few(attempt, available)}: {pool.borrowed} of {pool.capacity} are borrowed, and {reserved} are "
        facts = _of_shortage(attempt, available)
        advice = " Try again later, or wait in the queue." if facts["ever"] else ""
        return cls(f"{text}reserved for other teams.{advice}", **facts, reserved=reserved)


# The rules in their order.
RULES: tuple[type[Rule], ...] = (
    Disabled,
    NotStarted,
    Expired,
    TtlTooLong,
    Excluded,
    NotIncluded,
    UserLimitReached,
    QuotaReached,
    Exhausted,
    Reserved,
)
# Bound once: each decision calls all of them.
CHECKS = tuple(rule.check for rule in RULES)
SUBJECT_CHECKS = tuple(rule.check for rule in RULES if issubclass(rule, SubjectRule))
CLOSED_TOOL_CHECKS = tuple(rule.check for rule in RULES if issubclass(rule, ClosedTool))

# Every refusal that a borrow can be decided with, by its code.
BORROW_REFUSALS: dict[str, type[BorrowRefusal]] = {kind.code: kind for kind in kinds(BorrowRefusal)}


def state(left: "Availability") -> State:
    """Return the state of a tool at the time of ``left``."""
    attempt = Attempt(left, 0)
    for check in CLOSED_TOOL_CHECKS:
        if (refusal := check(attempt)) is not None:
            return State(refusal.code)
    return State.OPEN
