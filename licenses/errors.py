"""Define the refusals of the domain, each with a stable code for clients.

The rules of a borrow are refusals too; ``licenses.policy.rules`` declares those. Codes
are part of the API and of the label ``reason`` of metrics: add codes, do not rename
them. Texts are for all readers, also of the board and of commands: ``api/hints.py`` adds
which call to send. The docstring of a class is its row in docs/reference/errors.md.
"""

import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self, TypeVar

# What stands before the name of a tool or a team in a text.
BEFORE = {"tool": ("called", "disabled", "for", "from", "of"), "team": ("called", "team", "Team")}


def counted(number: int, noun: str) -> str:
    """Write a number of things, such as ``1 ticket``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Refusal(Exception):
    """A valid request that is refused.

    ``facts`` are the numbers of the refusal in JSON, for programs. ``tool`` is the
    tool that caused it, if one did. ``retry_after`` is in seconds, if a retry can
    help. ``status`` is that of HTTP.
    """

    code: str
    title: str
    status: int
    # Whether it denies a seat, and is not about a wrong request.
    denial: ClassVar[bool] = False
    # Whether waiting helps, because other users return seats.
    is_temporary: bool = False
    retry_after: int | None = None

    def __init__(self, detail: str, **facts: Any) -> None:
        self.detail = detail
        self.facts = facts

    def __str__(self) -> str:
        return self.detail

    @property
    def tool(self) -> str | None:
        tool: str | None = self.facts.get("tool")
        return tool

    def with_names(self, names: Mapping[str, str]) -> str:
        """Return the text for a page: with the ``names`` for people of its ``tool`` and ``team``."""
        text = self.detail
        for kind, name in names.items():
            place = rf"\b({'|'.join(BEFORE[kind])}) {re.escape(self.facts[kind])}(?![\w-]|\.\w)"
            text = re.sub(place, lambda found, name=name: f"{found[1]} {name}", text)  # type: ignore[misc]
        return text

    @classmethod
    def codes(cls) -> tuple[str, ...]:
        """Return the codes that an instance can have."""
        return (cls.code,)

    @classmethod
    def meaning(cls) -> str:
        """Return the docstring on one line, for the schema and the docs."""
        return " ".join((cls.__doc__ or "").split())

    @classmethod
    def again(cls, detail: str, facts: dict[str, Any]) -> Self:
        """Return a repeated refusal from its stored detail and facts."""
        refusal = cls.__new__(cls)
        Refusal.__init__(refusal, detail, **facts)
        return refusal


class BorrowRefusal(Refusal):
    """A refusal that a borrow can be decided with. The server keeps it under the key of the
    borrow and counts it by its code."""


class DatabaseRefusal(Refusal):
    """A refusal because the database can't be used. Nothing was decided."""


R = TypeVar("R", bound=Refusal)


def kinds(base: type[R]) -> list[type[R]]:
    """Return every kind of refusal below ``base``, each once; not the bases, which have no title."""
    below = [kind for child in base.__subclasses__() for kind in (child, *kinds(child))]
    return [kind for kind in dict.fromkeys(below) if hasattr(kind, "title")]


class UnknownTool(BorrowRefusal):
    """There is no such tool."""

    code = "unknown_tool"
    title = "No such tool"
    status = 404

    def __init__(self, *, tool: str = "") -> None:
        name = f"called {tool}" if tool else "of this name"
        super().__init__(f"There is no tool {name}.", **({"tool": tool} if tool else {}))


class UnknownTeam(Refusal):
    """There is no such team."""

    code = "unknown_team"
    title = "No such team"
    status = 404

    def __init__(self, *, team: str) -> None:
        super().__init__(f"There is no team called {team}.", team=team)


class UnknownRow(Refusal):
    """There is no such quota, member, limit, access rule, contract, token or account."""

    code = "unknown_row"
    title = "No such row"
    status = 404

    def __init__(self, *, kind: str, name: str) -> None:
        super().__init__(f"There is no {kind} {name}.")


class UnknownLease(Refusal):
    """There is no such lease, or it is of another user."""

    code = "unknown_lease"
    title = "No such lease"
    status = 404

    def __init__(self) -> None:
        super().__init__("There is no lease with this id.")


class UnknownTicket(Refusal):
    """There is no such ticket, or it is of another user."""

    code = "unknown_ticket"
    title = "No such ticket"
    status = 404

    def __init__(self) -> None:
        super().__init__("There is no ticket with this id.")


class KeyReused(Refusal):
    """The `Idempotency-Key` came with another request before."""

    code = "key_reused"
    title = "Idempotency key used for another request"
    status = 422

    def __init__(self) -> None:
        super().__init__(
            "This idempotency key was used for another request. To retry, send the same request again; "
            "for a new request, use a new key."
        )


class TooManyKeys(Refusal):
    """The caller sent too many new idempotency keys in a day (`LICENSE_KEYS_PER_DAY`)."""

    code = "too_many_keys"
    title = "Too many idempotency keys"
    status = 429

    def __init__(self, *, user: str, limit: int, wait: int) -> None:
        self.retry_after = wait
        super().__init__(
            f"{user} used more than {limit} new idempotency keys within a day. Use one key for all retries of a "
            f"borrow, or send none. The server accepts a new key in {wait} s.",
            user=user,
            limit=limit,
        )


class LeaseEnded(Refusal):
    """The lease to renew has ended."""

    title = "Lease has ended"
    status = 410
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

    @classmethod
    def codes(cls) -> tuple[str, ...]:
        return tuple(cls.WHY)


class LeaseLimitReached(BorrowRefusal):
    """The user has reached the limit of leases of all tools (`LICENSE_LEASES_PER_USER`)."""

    code = "lease_limit"
    title = "User limit of leases reached"
    status = 409
    denial = True

    def __init__(self, *, tool: str, user: str, limit: int, borrowed: int, waiting: int) -> None:
        super().__init__(
            f"{user} can have at most {counted(limit, 'lease')} of all tools together, has {borrowed}, and waits "
            f"for {waiting}. Return one first.",
            tool=tool,
            user=user,
            limit=limit,
            borrowed=borrowed,
            waiting=waiting,
        )


class NotAMember(BorrowRefusal):
    """The user is not in the team that the borrow names, or there is no such team."""

    code = "not_a_member"
    title = "Not a member of this team"
    status = 403

    def __init__(self, *, user: str, team: str) -> None:
        super().__init__(
            f"{user} is not a member of team {team}. Name another team, or ask the administrators to add the user.",
            user=user,
            team=team,
        )


class QueueEnded(Refusal):
    """The wait ended without a seat."""

    why: ClassVar[str]

    def __init__(self, *, tool: str, **values: str) -> None:
        super().__init__(self.why.format(tool=tool, **values), tool=tool)


class QueueTimeout(QueueEnded, BorrowRefusal):
    """No seat came free within the longest wait (`wait_seconds`)."""

    code = "queue_timeout"
    title = "Wait timed out"
    status = 410
    denial = True
    why = "No seat of {tool} came free within {wait}. Wait longer, or try again later."

    def __init__(self, *, tool: str, wait: timedelta) -> None:
        super().__init__(tool=tool, wait=_written(wait))


def _written(wait: timedelta) -> str:
    """Write a time in its largest unit that leaves no rest, such as ``90 s`` and ``30 min``."""
    seconds = wait.total_seconds()
    unit, length = next((unit for unit in (("h", 3600), ("min", 60)) if seconds % unit[1] == 0), ("s", 1))
    return f"{seconds / length:,.0f} {unit}"


class QueueDropped(QueueEnded):
    """The client did not poll the ticket in time, or nobody took the offered seats, so it lost its place."""

    code = "queue_dropped"
    title = "Dropped from the queue"
    status = 410
    why = "The client did not poll this ticket in time, so it lost its place. Join the queue again."

    def __init__(self, *, tool: str, offered: bool = False) -> None:
        super().__init__(tool=tool)
        if offered:
            self.detail = f"A seat of {tool} was offered, and nobody took it in time, so this ticket lost its place."


class QueueLeft(QueueEnded):
    """The ticket left the queue."""

    code = "queue_left"
    title = "Left the queue"
    status = 410
    why = "This ticket left the queue."


class QueueFull(BorrowRefusal):
    """The queue of the tool has reached its limit (`LICENSE_QUEUE_PER_TOOL`)."""

    code = "queue_full"
    title = "Queue is full"
    status = 409
    denial = True
    retry_after = 60

    def __init__(self, *, tool: str, limit: int) -> None:
        super().__init__(
            f"No seat of {tool} is free, and its queue is full: {counted(limit, 'ticket')}. Try again later.",
            tool=tool,
            limit=limit,
        )


class TooManyTickets(BorrowRefusal):
    """The user has reached the limit of tickets in the queue (`LICENSE_QUEUE_PER_USER`)."""

    code = "too_many_tickets"
    title = "Too many tickets of one user"
    status = 409
    denial = True
    retry_after = 60

    def __init__(self, *, tool: str, user: str, limit: int) -> None:
        super().__init__(
            f"{user} has {counted(limit, 'ticket')} in the queue for {tool}, the most that one user can have. Wait "
            f"until one gets its seats, or leave the queue with one.",
            tool=tool,
            user=user,
            limit=limit,
        )


class NotForOthers(Refusal):
    """This credential acts only for its owner: you, or the members of its team."""

    code = "not_for_others"
    title = "Not allowed"
    status = 403

    def __init__(self) -> None:
        super().__init__(
            "This credential acts only for its owner: you, or the members of its team. "
            "For another user, use a credential of that user or of a team that the user is in."
        )


class AlreadyGranted(Refusal):
    """The ticket to leave is a lease now, whose id is in `lease`."""

    code = "granted"
    title = "Ticket is a lease now"
    status = 409

    def __init__(self, *, lease: str) -> None:
        super().__init__("This ticket is a lease now. Return the lease if you do not need it.", lease=lease)


class OverReserved(Refusal):
    """More seats would be reserved than the capacity."""

    code = "over_reserved"
    title = "More seats reserved than the capacity"
    status = 409

    def __init__(self, *, tool: str, capacity: int, reserved: int) -> None:
        super().__init__(
            f"The reservations of {tool} would add up to {reserved} seats, but its capacity is {capacity}. "
            f"Lower one of them first.",
            tool=tool,
            capacity=capacity,
            reserved=reserved,
        )


class InUse(Refusal):
    """Other rows need the tool or the team, so it can't be deleted."""

    code = "in_use"
    title = "Still in use"
    status = 409


class OutOfDate(Refusal):
    """The row is not the one that `If-Match` or `If-None-Match` asks for. Nothing was changed."""

    code = "out_of_date"
    title = "Row was changed meanwhile"
    status = 412


class MoreRights(Refusal):
    """The token or the account has rights that the caller lacks."""

    code = "more_rights"
    title = "Needs more rights"
    status = 403


class TooManyTokens(Refusal):
    """The person has reached the limit of valid API tokens (`LICENSE_OWN_TOKENS_PER_USER`)."""

    code = "too_many_tokens"
    title = "Too many tokens of one person"
    status = 409

    def __init__(self, *, limit: int) -> None:
        super().__init__(
            f"You have {counted(limit, 'valid token')}, the most that one person can have. Revoke one first.",
            limit=limit,
        )


class InvalidSite(Refusal):
    """The document of a site has mistakes. `errors` has the line, the place and the text of each. Nothing was
    changed."""

    code = "invalid_site"
    title = "Site's document has mistakes"
    status = 400


class Busy(DatabaseRefusal):
    """The database did not answer in time. Nothing was changed, unless the connection broke in the commit."""

    code = "busy"
    title = "Server is busy"
    status = 503
    retry_after = 1

    def __init__(self) -> None:
        super().__init__("The database did not answer in time. Try again in a moment.")


class Overloaded(Refusal):
    """The request waited too long for its turn (`LICENSE_LONGEST_WAIT`).

    Heartbeats, returns and probes are still answered.
    """

    code = "overloaded"
    title = "Server is overloaded"
    status = 503
    retry_after = 2

    def __init__(self) -> None:
        super().__init__(f"The server has more requests than it can answer. Try again in {self.retry_after} s.")


class StorageFull(DatabaseRefusal):
    """The disk of the database is full. Nothing was changed."""

    code = "storage_full"
    title = "Server's disk is full"
    status = 503
    retry_after = 30

    def __init__(self) -> None:
        super().__init__("The disk of the database is full. Nothing was changed. Ask the administrators of the server.")


class NotMigrated(DatabaseRefusal):
    """The database lacks the migrations of this version."""

    code = "not_migrated"
    title = "Server's database is not migrated"
    status = 503
    retry_after = 30

    def __init__(self) -> None:
        super().__init__("The database lacks the migrations of this version. Ask the administrators of the server.")


class ReadOnly(DatabaseRefusal):
    """This server reads from a standby. Use the main server to borrow and return."""

    code = "read_only"
    title = "Server is read-only"
    status = 503
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("This server reads from a standby of the database. It answers queries and changes nothing.")


class ProviderAway(Refusal):
    """The server cannot reach the sign-in provider, and the provider's keys are too old."""

    code = "provider_away"
    title = "Sign-in provider can't be reached"
    status = 503
    retry_after = 10

    def __init__(self) -> None:
        super().__init__(
            "The sign-in provider does not answer, so this credential can't be checked. Try again in a moment."
        )


class TooManyFailures(Refusal):
    """Too many wrong credentials came from one address, or for one account."""

    code = "too_many_failures"
    title = "Too many failed credentials"
    status = 429

    def __init__(self, *, wait: timedelta) -> None:
        self.retry_after = max(int(wait.total_seconds()) + 1, 1)
        super().__init__(f"Too many sign-ins failed. Try again in {math.ceil(self.retry_after / 60)} min.")


class RateLimited(Refusal):
    """One caller sends too many calls."""

    code = "rate_limited"
    title = "Too many calls"
    status = 429

    def __init__(self, *, wait: int) -> None:
        self.retry_after = max(wait, 1)
        super().__init__(f"You send too many calls, or calls that take too long. Try again in {self.retry_after} s.")
