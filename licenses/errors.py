"""Define the refusals of the domain, each with a stable code for clients.

The codes are part of the API and of the label ``reason`` of metrics: add codes,
do not rename them.
"""

import math
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self


class Refusal(Exception):
    """A valid request that is refused.

    ``facts`` are the numbers of the refusal in JSON, for programs. ``tool`` is the
    tool that caused it, if one did. ``retry_after`` is in seconds, if a retry can
    help.
    """

    code: str
    title: str
    # Whether it denies a seat, and is not about a wrong request.
    denial: ClassVar[bool] = False
    # Whether waiting helps, because other users return seats.
    passes: bool = False
    retry_after: int | None = None

    def __init__(self, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts

    @property
    def tool(self) -> str | None:
        tool: str | None = self.facts.get("tool")
        return tool

    @classmethod
    def again(cls, detail: str, facts: dict[str, Any]) -> Self:
        """Return a repeated refusal from its stored detail and facts."""
        refusal = cls.__new__(cls)
        Refusal.__init__(refusal, detail, **facts)
        return refusal


class UnknownTool(Refusal):
    code = "unknown_tool"
    title = "No such tool"

    def __init__(self, *, tool: str = "") -> None:
        name = f"called {tool}" if tool else "of this name"
        super().__init__(
            f"There is no tool {name}. GET /licenses/status lists the tools.", **({"tool": tool} if tool else {})
        )


class UnknownLease(Refusal):
    code = "unknown_lease"
    title = "No such lease"

    def __init__(self) -> None:
        super().__init__("There is no lease with this id. GET /borrows?user=NAME lists the leases of a user.")


class UnknownTicket(Refusal):
    code = "unknown_ticket"
    title = "No such ticket"

    def __init__(self) -> None:
        super().__init__("There is no ticket with this id. A borrow with wait_seconds returns one.")


class TtlTooLong(Refusal):
    code = "ttl_too_long"
    title = "Lease too long"

    def __init__(self, *, tool: str, asked: timedelta, maximum: timedelta) -> None:
        longest = maximum.total_seconds()
        super().__init__(
            f"A lease of {tool} can last at most {longest:g} seconds without a heartbeat. "
            f"Send a smaller ttl_seconds, and renew the lease while you work.",
            tool=tool,
            ttl_seconds=asked.total_seconds(),
            max_ttl_seconds=longest,
        )


class KeyReused(Refusal):
    code = "key_reused"
    title = "Idempotency key used for another request"

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used for another request. To retry, send the same request again; "
            "for a new request, use a new key."
        )


class TooManyKeys(Refusal):
    code = "too_many_keys"
    title = "Too many idempotency keys"

    def __init__(self, *, user: str, limit: int, wait: int) -> None:
        self.retry_after = wait
        super().__init__(
            f"{user} used more than {limit} new Idempotency-Keys within a day. Use one key for all retries of a "
            f"borrow, or send none. The server accepts a new key in {wait} s.",
            user=user,
            limit=limit,
        )


class LeaseEnded(Refusal):
    """The lease has ended. Its code is the reason."""

    title = "Lease has ended"
    WHY: ClassVar[dict[str, str]] = {
        "returned": "It was returned.",
        "expired": "No heartbeat came in time, so the seat was freed.",
        "forced": "An administrator ended it.",
        "revoked": "The tool's license ended.",
    }

    def __init__(self, *, reason: str, note: str, ended_at: datetime, ended_by: str = "") -> None:
        why = self.WHY[reason]
        if reason == "returned" and ended_by:
            why = f"It was returned by {ended_by}."
        # The administrator's own words, with or without a period.
        why += f" Reason given: {note.rstrip('. ')}." if note else ""
        super().__init__(
            f"This lease ended at {ended_at:%Y-%m-%d %H:%M:%S} UTC. {why} It can't be renewed. Borrow again.",
            end_reason=reason,
            note=note,
            ended_at=ended_at.isoformat(),
            ended_by=ended_by,
        )
        self.code = reason


class Shortage(Refusal):
    """Too few seats, for now or for good.

    ``short_by`` of the ``out`` borrowed seats must come back before this borrow is
    possible. ``ever`` is False if even all of them are not enough.
    """

    denial = True
    retry_after = 10

    def __init__(self, detail: str, *, short_by: int, out: int, ever: bool, **facts: Any) -> None:
        advice = "" if ever else " Waiting does not help."
        super().__init__(detail + advice, **facts)
        self.passes = ever
        self.short_by = short_by
        self.out = out


def _too_few(seats: int, tool: str, available: int) -> str:
    if available <= 0:
        return f"No seat of {tool} is free"
    return f"You asked for {seats} seats of {tool}, and {available} {'is' if available == 1 else 'are'} free"


class Exhausted(Shortage):
    code = "exhausted"
    title = "No seat left"

    def __init__(
        self,
        *,
        tool: str,
        total: int,
        overdraft: int,
        borrowed: int,
        set_aside: int,
        available: int,
        seats: int,
        short_by: int,
        ever: bool,
    ) -> None:
        above = f" (overdraft: up to {overdraft} more)" if overdraft else ""
        waiting = f", and {set_aside} are set aside for the queue" if set_aside else ""
        advice = " Try again later, or send wait_seconds to wait in the queue. GET /borrows shows who holds the seats."
        super().__init__(
            f"{_too_few(seats, tool, available)}: {borrowed} of {total}{above} are borrowed{waiting}."
            + (advice if ever else ""),
            short_by=short_by,
            out=borrowed,
            ever=ever,
            tool=tool,
            total=total,
            borrowed=borrowed,
            available=available,
            seats=seats,
        )


class Reserved(Shortage):
    code = "reserved"
    title = "Seats are reserved for other teams"

    def __init__(
        self,
        *,
        tool: str,
        total: int,
        borrowed: int,
        reserved: int,
        available: int,
        seats: int,
        short_by: int,
        ever: bool,
    ) -> None:
        super().__init__(
            f"{_too_few(seats, tool, available)}: {borrowed} of {total} are borrowed, and {reserved} are reserved "
            f"for other teams.",
            short_by=short_by,
            out=borrowed,
            ever=ever,
            tool=tool,
            total=total,
            borrowed=borrowed,
            reserved=reserved,
            available=available,
            seats=seats,
        )


class QuotaReached(Shortage):
    code = "quota"
    title = "Team quota reached"

    def __init__(self, *, tool: str, team: str, quota: int, borrowed: int, seats: int) -> None:
        super().__init__(
            f"Team {team} can have at most {quota} seats of {tool}, and it has or waits for {borrowed}. "
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


class UserLimitReached(Shortage):
    code = "user_limit"
    title = "User limit reached"

    def __init__(self, *, tool: str, user: str, limit: int, borrowed: int, seats: int) -> None:
        super().__init__(
            f"{user} can have at most {limit} seats of {tool}, and has or waits for {borrowed}. "
            f"Return one: GET /borrows?user=NAME lists them.",
            short_by=borrowed + seats - limit,
            out=borrowed,
            ever=seats <= limit,
            tool=tool,
            user=user,
            limit=limit,
            borrowed=borrowed,
            seats=seats,
        )


class LeaseLimitReached(Refusal):
    code = "lease_limit"
    title = "User limit of leases reached"
    denial = True

    def __init__(self, *, tool: str, user: str, limit: int, borrowed: int, waiting: int) -> None:
        super().__init__(
            f"{user} can have at most {limit} leases of all tools together, has {borrowed}, and waits for {waiting}. "
            f"Return one: GET /borrows?user=NAME lists them.",
            tool=tool,
            user=user,
            limit=limit,
            borrowed=borrowed,
            waiting=waiting,
        )


class Excluded(Refusal):
    code = "excluded"
    title = "Excluded by an access rule"
    denial = True

    def __init__(self, *, tool: str, kind: str, name: str) -> None:
        super().__init__(f"An access rule excludes the {kind} {name} from {tool}.", tool=tool, excluded={kind: name})


class NotIncluded(Refusal):
    code = "not_included"
    title = "Not included by an access rule"
    denial = True

    def __init__(self, *, tool: str) -> None:
        super().__init__(
            f"The access rules of {tool} list who can use it. They include neither this user nor a team, host or "
            f"project of this borrow. Ask the administrators.",
            tool=tool,
        )


class NotAMember(Refusal):
    """The user is not in the team. Also for unknown teams, so that callers can't find out which exist."""

    code = "not_a_member"
    title = "Not a member of this team"

    def __init__(self, *, user: str, team: str) -> None:
        super().__init__(f"{user} is not a member of team {team}.", user=user, team=team)


class QueueEnded(Refusal):
    """The wait ended without a seat."""

    def __init__(self, *, tool: str) -> None:
        super().__init__(self.why.format(tool=tool), tool=tool)

    why: ClassVar[str]


class QueueTimeout(QueueEnded):
    code = "queue_timeout"
    title = "Wait timed out"
    denial = True
    why = "No seat of {tool} came free within the wait_seconds of this request."


class QueueDropped(QueueEnded):
    code = "queue_dropped"
    title = "Dropped from the queue"
    why = "The client did not poll this ticket in time, so it lost its place. Poll after poll_after seconds."


class QueueLeft(QueueEnded):
    code = "queue_left"
    title = "Left the queue"
    why = "This ticket left the queue."


class QueueFull(Refusal):
    code = "queue_full"
    title = "Queue is full"
    denial = True
    retry_after = 60

    def __init__(self, *, tool: str, limit: int) -> None:
        super().__init__(
            f"No seat of {tool} is free, and its queue is full: {limit} tickets. Try again later.",
            tool=tool,
            limit=limit,
        )


class TooManyTickets(Refusal):
    code = "too_many_tickets"
    title = "Too many tickets of one user"
    denial = True
    retry_after = 60

    def __init__(self, *, tool: str, user: str, limit: int) -> None:
        super().__init__(
            f"{user} has {limit} tickets in the queue for {tool}, the most that one user can have. Wait until one "
            f"gets its seats, or leave the queue with one: DELETE /licenses/queue/TICKET.",
            tool=tool,
            user=user,
            limit=limit,
        )


class AlreadyGranted(Refusal):
    code = "granted"
    title = "Ticket is a lease now"

    def __init__(self, *, lease: str) -> None:
        super().__init__("This ticket is a lease now. Return the lease if you do not need it.", lease=lease)


class Disabled(Refusal):
    code = "disabled"
    title = "Tool is disabled"
    denial = True

    def __init__(self, *, tool: str) -> None:
        super().__init__(f"An administrator disabled {tool}. It grants no seats.", tool=tool)


class NotStarted(Refusal):
    code = "not_started"
    title = "License not yet valid"
    denial = True

    def __init__(self, *, tool: str, valid_from: datetime) -> None:
        super().__init__(
            f"The license of {tool} is valid from {valid_from:%Y-%m-%d %H:%M} UTC.",
            tool=tool,
            valid_from=valid_from.isoformat(),
        )


class Expired(Refusal):
    code = "expired"
    title = "License has expired"
    denial = True

    def __init__(self, *, tool: str, valid_until: datetime) -> None:
        super().__init__(
            f"The license of {tool} ended at {valid_until:%Y-%m-%d %H:%M} UTC. Ask the administrators to renew it.",
            tool=tool,
            valid_until=valid_until.isoformat(),
        )


class OverReserved(Refusal):
    """More seats would be reserved than the capacity."""

    code = "over_reserved"
    title = "More seats reserved than the capacity"

    def __init__(self, *, tool: str, capacity: int, reserved: int) -> None:
        super().__init__(
            f"The reservations of {tool} would add up to {reserved} seats, but its capacity is {capacity}.",
            tool=tool,
            capacity=capacity,
            reserved=reserved,
        )


class Busy(Refusal):
    """The database was too slow. Nothing was changed, unless the connection broke in the commit."""

    code = "busy"
    title = "Server is busy"
    retry_after = 1

    def __init__(self) -> None:
        super().__init__("The database did not answer in time. Try again in a moment.")


class Overloaded(Refusal):
    """The server has too many requests. Nothing was changed."""

    code = "overloaded"
    title = "Server is overloaded"
    retry_after = 2

    def __init__(self) -> None:
        super().__init__(f"The server has more requests than it can answer. Try again in {self.retry_after} s.")


class StorageFull(Refusal):
    """The disk of the database is full. Nothing was changed."""

    code = "storage_full"
    title = "Server's disk is full"
    retry_after = 30

    def __init__(self) -> None:
        super().__init__("The disk of the database is full. Nothing was changed. Ask the administrators of the server.")


class NotMigrated(Refusal):
    """The database lacks migrations of this version. Nothing was changed."""

    code = "not_migrated"
    title = "Server's database is not migrated"
    retry_after = 30

    def __init__(self) -> None:
        super().__init__("The database lacks the migrations of this version. Ask the administrators of the server.")


class ReadOnly(Refusal):
    """The database is a read-only standby. Nothing was changed."""

    code = "read_only"
    title = "Server is read-only"
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("This server reads from a standby of the database. It answers queries and changes nothing.")


class ProviderAway(Refusal):
    """The sign-in provider does not answer, and its cached keys are too old."""

    code = "provider_away"
    title = "Sign-in provider can't be reached"
    retry_after = 10

    def __init__(self) -> None:
        super().__init__(
            "The sign-in provider does not answer, so this credential can't be checked. Try again in a moment."
        )


class TooManyFailures(Refusal):
    """Too many credentials failed from one address, or for one account."""

    code = "too_many_failures"
    title = "Too many failed credentials"

    def __init__(self, *, wait: timedelta) -> None:
        self.retry_after = max(int(wait.total_seconds()) + 1, 1)
        super().__init__(f"Too many sign-ins failed. Try again in {math.ceil(self.retry_after / 60)} min.")


class RateLimited(Refusal):
    """One caller sends more calls than its limit."""

    code = "rate_limited"
    title = "Too many calls"

    def __init__(self, *, wait: int) -> None:
        self.retry_after = max(wait, 1)
        super().__init__(f"You send too many calls, or calls that take too long. Try again in {self.retry_after} s.")


# The refusals of a borrow, which are stored under its idempotency key.
BORROW_REFUSALS: dict[str, type[Refusal]] = {
    refusal.code: refusal
    for refusal in (
        UnknownTool,
        NotAMember,
        Disabled,
        NotStarted,
        Expired,
        Excluded,
        NotIncluded,
        TtlTooLong,
        LeaseLimitReached,
        UserLimitReached,
        QuotaReached,
        Exhausted,
        Reserved,
        QueueTimeout,
        QueueFull,
        TooManyTickets,
    )
}
# The reasons why a borrow can fail, for metrics that start at 0.
BORROW_FAILURE_REASONS = (
    *(code for code in BORROW_REFUSALS if code != UnknownTool.code),
    Busy.code,
    StorageFull.code,
    "error",
)
