"""What the domain refuses, each with a stable code that clients may rely on.

The codes are part of the API and of the metrics' ``reason`` label: add, never
rename.
"""

import math
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self


class Refusal(Exception):
    """A request that was understood and is not granted.

    ``facts`` are the numbers behind the refusal, for the client's program, and
    are JSON; ``tool`` is the tool that stood in the way, if one did;
    ``retry_after`` is in seconds, where trying again makes sense.
    """

    code: str
    title: str
    # Whether somebody was denied a seat, as opposed to asking for nonsense.
    denial: ClassVar[bool] = False
    # Whether other people's returns would help, so that waiting makes sense.
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
        """The same refusal once more, from what was kept of it."""
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
        super().__init__("There is no lease with this id. GET /borrows?user=NAME lists what somebody holds.")


class UnknownTicket(Refusal):
    code = "unknown_ticket"
    title = "No such ticket"

    def __init__(self) -> None:
        super().__init__("There is no ticket with this id. A borrow with wait_seconds gives one.")


class TtlTooLong(Refusal):
    code = "ttl_too_long"
    title = "Lease too long"

    def __init__(self, *, tool: str, asked: timedelta, maximum: timedelta) -> None:
        longest = maximum.total_seconds()
        super().__init__(
            f"A lease of {tool} lasts {longest:g} seconds at most without a heartbeat. "
            f"Ask for that or less, and renew it while you work.",
            tool=tool,
            ttl_seconds=asked.total_seconds(),
            max_ttl_seconds=longest,
        )


class KeyReused(Refusal):
    code = "key_reused"
    title = "Idempotency key used for something else"

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key came with another request before. A retry repeats the same request; "
            "a new request needs a new key."
        )


class TooManyKeys(Refusal):
    code = "too_many_keys"
    title = "Too many idempotency keys"

    def __init__(self, *, user: str, limit: int, wait: int) -> None:
        self.retry_after = wait
        super().__init__(
            f"More than {limit} new Idempotency-Keys within a day came for {user}. Use one key for all retries of a "
            f"borrow, or send none; a new one is taken in {wait} s.",
            user=user,
            limit=limit,
        )


class LeaseEnded(Refusal):
    """A lease that is over. Its code is the reason it ended with."""

    title = "Lease has ended"
    WHY: ClassVar[dict[str, str]] = {
        "returned": "It was returned.",
        "expired": "No heartbeat came in time, so its seat was free for others.",
        "forced": "An administrator took it back.",
        "revoked": "The tool's license ended.",
    }

    def __init__(self, *, reason: str, note: str, ended_at: datetime, ended_by: str = "") -> None:
        why = self.WHY[reason]
        if reason == "returned" and ended_by:
            why = f"It was returned by {ended_by}."
        why += f" Reason given: {note}" if note else ""
        super().__init__(
            f"This lease ended at {ended_at:%Y-%m-%d %H:%M:%S} UTC. {why} It can't be renewed; borrow anew.",
            end_reason=reason,
            note=note,
            ended_at=ended_at.isoformat(),
            ended_by=ended_by,
        )
        self.code = reason


class Shortage(Refusal):
    """Too few seats for now, or for ever.

    ``short_by`` seats have to come back out of the ``out`` that are, for this
    one to be had; with ``ever`` False that can't happen.
    """

    denial = True
    retry_after = 10

    def __init__(self, detail: str, *, short_by: int, out: int, ever: bool, **facts: Any) -> None:
        advice = "" if ever else " There will never be enough."
        super().__init__(detail + advice, **facts)
        self.passes = ever
        self.short_by = short_by
        self.out = out


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
        asked = "A seat was" if seats == 1 else f"{seats} seats were"
        above = f" and {overdraft} more" if overdraft else ""
        waiting = f" and {set_aside} are wanted by those who wait" if set_aside else ""
        advice = " Try again later, or wait in the queue with wait_seconds; GET /borrows shows who holds them."
        super().__init__(
            f"{asked} asked for, but {borrowed} of {total}{above} seats of {tool} are out{waiting}."
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
    title = "Seats are reserved for others"

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
        asked = "A seat was" if seats == 1 else f"{seats} seats were"
        super().__init__(
            f"{asked} asked for; {borrowed} of {total} seats of {tool} are out, and {reserved} of the others are "
            f"reserved for teams that this borrow isn't of. {available} can be had.",
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
    title = "Team's quota is reached"

    def __init__(self, *, tool: str, team: str, quota: int, borrowed: int, seats: int) -> None:
        super().__init__(
            f"Team {team} may have {quota} seats of {tool} together, and has or waits for {borrowed}. "
            f"A seat that comes back from the team can be had again.",
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
    title = "User's limit is reached"

    def __init__(self, *, tool: str, user: str, limit: int, borrowed: int, seats: int) -> None:
        super().__init__(
            f"{user} may have {limit} seats of {tool}, and has or waits for {borrowed}. "
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
    title = "User's limit of leases is reached"
    denial = True

    def __init__(self, *, tool: str, user: str, limit: int, borrowed: int, waiting: int) -> None:
        super().__init__(
            f"{user} may have {limit} leases of all tools together, and has {borrowed} and waits for {waiting}. "
            f"Return one: GET /borrows?user=NAME lists them.",
            tool=tool,
            user=user,
            limit=limit,
            borrowed=borrowed,
            waiting=waiting,
        )


class Excluded(Refusal):
    code = "excluded"
    title = "Excluded from this tool"
    denial = True

    def __init__(self, *, tool: str, kind: str, name: str) -> None:
        super().__init__(
            f"The {kind} {name} is excluded from {tool} by its administrators.", tool=tool, excluded={kind: name}
        )


class NotIncluded(Refusal):
    code = "not_included"
    title = "Not included in this tool's list"
    denial = True

    def __init__(self, *, tool: str) -> None:
        super().__init__(
            f"{tool} is for those on its list alone, and neither this user nor a team, host or project of this "
            f"borrow is on it. Ask its administrators.",
            tool=tool,
        )


class NotAMember(Refusal):
    """Also for a team that there isn't: which ones there are is not told."""

    code = "not_a_member"
    title = "Not a member of this team"

    def __init__(self, *, user: str, team: str) -> None:
        super().__init__(f"{user} isn't a member of a team {team}.", user=user, team=team)


class QueueEnded(Refusal):
    """A wait that is over without a seat."""

    def __init__(self, *, tool: str) -> None:
        super().__init__(self.why, tool=tool)

    why: ClassVar[str]


class QueueTimeout(QueueEnded):
    code = "queue_timeout"
    title = "Waited in vain"
    denial = True
    why = "The time that this request was ready to wait is over, and no seat came free."


class QueueDropped(QueueEnded):
    code = "queue_dropped"
    title = "Dropped from the queue"
    why = "This ticket wasn't asked about for too long, so its place went to the next. Poll every poll_after seconds."


class QueueLeft(QueueEnded):
    code = "queue_left"
    title = "Left the queue"
    why = "This ticket has left the queue."


class QueueFull(Refusal):
    code = "queue_full"
    title = "Queue is full"
    denial = True
    retry_after = 60

    def __init__(self, *, tool: str, limit: int) -> None:
        super().__init__(
            f"No seat of {tool} is free, and its queue has {limit} tickets, which is the most. Try again later.",
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
            f"{user} has {limit} tickets in the queue for {tool}, which is the most. Wait until one has got its "
            f"seats, or leave the queue with one: DELETE /licenses/queue/TICKET.",
            tool=tool,
            user=user,
            limit=limit,
        )


class AlreadyGranted(Refusal):
    code = "granted"
    title = "Ticket has become a lease"

    def __init__(self, *, lease: str) -> None:
        super().__init__("This ticket has become a lease meanwhile. Return that, if it isn't wanted.", lease=lease)


class Disabled(Refusal):
    code = "disabled"
    title = "Tool is disabled"
    denial = True

    def __init__(self, *, tool: str) -> None:
        super().__init__(f"{tool} is switched off by its administrators and grants no seats.", tool=tool)


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
            f"The license of {tool} ended at {valid_until:%Y-%m-%d %H:%M} UTC; ask its administrators to renew it.",
            tool=tool,
            valid_until=valid_until.isoformat(),
        )


class OverReserved(Refusal):
    """More seats would be reserved than there are."""

    code = "over_reserved"
    title = "More seats reserved than bought"

    def __init__(self, *, tool: str, capacity: int, reserved: int) -> None:
        super().__init__(
            f"{reserved} seats of {tool} would be reserved in all, but there are {capacity}.",
            tool=tool,
            capacity=capacity,
            reserved=reserved,
        )


class Busy(Refusal):
    """The database could not do it in time; nothing was changed, or, if the
    connection broke in the commit, it is not known."""

    code = "busy"
    title = "Server is busy"
    retry_after = 1

    def __init__(self) -> None:
        super().__init__("The database did not answer in time. Try again in a moment.")


class Overloaded(Refusal):
    """More is asked of the server than it can do; nothing was changed."""

    code = "overloaded"
    title = "Server is overloaded"
    retry_after = 2

    def __init__(self) -> None:
        super().__init__(f"The server has more requests than it can answer. Try again in {self.retry_after} s.")


class StorageFull(Refusal):
    """The database's disk is full; nothing was changed."""

    code = "storage_full"
    title = "Server's disk is full"
    retry_after = 30

    def __init__(self) -> None:
        super().__init__("The disk of the database is full, so nothing was changed. Ask the server's administrators.")


class NotMigrated(Refusal):
    """The database lacks what this version needs; nothing was changed."""

    code = "not_migrated"
    title = "Server's database is not migrated"
    retry_after = 30

    def __init__(self) -> None:
        super().__init__("The database lacks this version's migrations. Ask the server's administrators.")


class ReadOnly(Refusal):
    """The database is a standby, which takes no changes; nothing was changed."""

    code = "read_only"
    title = "Server is read-only"
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("This server reads from a standby of the database. It answers questions and changes nothing.")


class ProviderAway(Refusal):
    """The sign-in provider can't be asked, and what it said before is too old."""

    code = "provider_away"
    title = "Sign-in provider can't be reached"
    retry_after = 10

    def __init__(self) -> None:
        super().__init__("The credential can't be checked right now. Try again in a moment.")


class TooManyFailures(Refusal):
    """Too many credentials failed from one address, or for one account."""

    code = "too_many_failures"
    title = "Too many failed credentials"

    def __init__(self, *, wait: timedelta) -> None:
        self.retry_after = max(int(wait.total_seconds()) + 1, 1)
        super().__init__(f"Too many credentials failed. Try again in {math.ceil(self.retry_after / 60)} minute(s).")


class RateLimited(Refusal):
    """One caller asks for more than its share."""

    code = "rate_limited"
    title = "Too many calls"

    def __init__(self, *, wait: int) -> None:
        self.retry_after = max(wait, 1)
        super().__init__(
            f"These are too many calls, or too much work, for one caller. Try again in {self.retry_after} s."
        )


# What a borrow may be refused with, all of it kept under an idempotency key.
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
# The reasons a borrow can fail with, for metrics that start at 0.
BORROW_FAILURE_REASONS = (
    *(code for code in BORROW_REFUSALS if code != UnknownTool.code),
    Busy.code,
    StorageFull.code,
    "error",
)
