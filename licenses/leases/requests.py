"""The requests for seats, as values, and their answers."""

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from licenses.auditing import Actor
from licenses.errors import Refusal
from licenses.models import Lease, Ticket
from licenses.policy import Item


@dataclass(frozen=True, slots=True)
class BorrowRequest:
    """What a borrow asks for.

    ``alternatives`` are sets of items, the preferred one first. One set is granted
    as a whole or not at all; within a set each tool stands once. ``team`` None lets
    the server choose which of the user's teams the lease counts for.
    ``asserted_teams`` are teams that the caller's credential says the user is in.
    ``ttl`` None takes the time of the tools; ``wait`` is the longest time in the queue.
    ``kept``: a place in the queue holds without polls, as a person wants it.
    """

    user: str
    alternatives: tuple[tuple[Item, ...], ...]
    team: str | None = None
    project: str = ""
    host: str = ""
    ttl: timedelta | None = None
    wait: timedelta = timedelta(0)
    asserted_teams: frozenset[str] = frozenset()
    kept: bool = False

    def tools(self) -> set[str]:
        """Return the names of all tools in it."""
        return {item.tool for items in self.alternatives for item in items}

    def fingerprint(self) -> str:
        """Return a text that is the same for equal requests, however they were written."""
        # Without the caller's teams, which may change from one retry to the next, and without how the caller waits.
        asked = {
            "user": self.user,
            "alternatives": [
                [{"tool": item.tool, "seats": item.seats} for item in items] for items in self.alternatives
            ],
            "team": self.team,
            "project": self.project,
            "host": self.host,
            "ttl": self.ttl,
            "wait": self.wait,
        }
        return hashlib.sha256(json.dumps(asked, default=str, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The key by which a caller marks its retries. A user has the same keys with each
    of their credentials; an actor who acts for the user has keys apart from theirs."""

    user: str
    key: str
    by: Actor | None = None

    @property
    def caller(self) -> str:
        """Return the owner of the key as rows store it. No user's name ends with a line feed."""
        if self.by is None:
            return self.user
        return hashlib.sha256(f"{self.by.label}\n{self.user}".encode()).hexdigest() + "\n"


# --- What a batch decides ---
#
# ``by`` is the actor who acts for the holder, None for the holder. With ``holder``, a lease or
# ticket of another user is answered as if there were none; None if the caller may change it.


@dataclass(frozen=True, slots=True)
class Borrow:
    """Seats for a user, or a place in the queue."""

    request: BorrowRequest
    key: IdempotencyKey | None = None
    by: Actor | None = None


@dataclass(frozen=True, slots=True)
class Poll:
    """The seats that a ticket waits for."""

    ticket_id: uuid.UUID
    by: Actor | None = None
    holder: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """The offer of the seats that a kept ticket waits for, if they are there; or its end, if they are gone."""

    ticket_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class Leave:
    """The end of a wait."""

    ticket_id: uuid.UUID
    by: Actor | None = None
    holder: str | None = None


@dataclass(frozen=True, slots=True)
class Renew:
    """A heartbeat."""

    lease_id: uuid.UUID
    by: Actor | None = None
    holder: str | None = None


@dataclass(frozen=True, slots=True)
class Return:
    """The end of a lease by its holder."""

    lease_id: uuid.UUID
    by: Actor | None = None
    holder: str | None = None


@dataclass(frozen=True, slots=True)
class ForceReturn:
    """The end of a lease by an administrator."""

    lease_id: uuid.UUID
    note: str
    by: Actor


@dataclass(frozen=True, slots=True)
class CloseOverdue:
    """The end of some expired leases of a tool."""

    tool: str


@dataclass(frozen=True, slots=True)
class CloseDead:
    """The end of an expired ticket."""

    ticket_id: uuid.UUID


Request = Borrow | Poll | Offer | Leave | Renew | Return | ForceReturn | CloseOverdue | CloseDead


# --- What they are answered. --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """A borrow as it is at ``now``: one lease for each tool, the head first."""

    leases: list[Lease]
    now: datetime

    @property
    def head(self) -> Lease:
        """Return the lease whose id the borrower knows."""
        return self.leases[0]


@dataclass(frozen=True, slots=True)
class Granted(Held):
    """A granted borrow: set number ``alternative`` of those asked for, from 0.
    ``replayed`` if an earlier call with the same key was granted it."""

    alternative: int
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """A borrow that waits. ``position`` 1 is the next; ``eta`` is when seats are
    expected, None if unknown."""

    ticket: Ticket
    position: int
    eta: timedelta | None
    poll_after: timedelta


Outcome = Granted | Waiting | Refusal
