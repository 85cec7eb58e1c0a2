"""Say which call or field of the API helps after a refusal.

The texts of the domain are also read on the board and in commands, so they name no call.
"""

from licenses.errors import (
    KeyReused,
    LeaseLimitReached,
    OutOfDate,
    QueueDropped,
    Refusal,
    TooManyKeys,
    TooManyTickets,
    UnknownLease,
    UnknownTicket,
    UnknownTool,
)
from licenses.policy.rules import Exhausted, TtlTooLong, UserLimitReached

LEASES_OF_A_USER = "GET /borrows?user=NAME lists the leases of a user."

HINTS: dict[type[Refusal], str] = {
    UnknownTool: "GET /licenses/status lists the tools.",
    UnknownLease: LEASES_OF_A_USER,
    UnknownTicket: "A borrow with wait_seconds returns a ticket if it has to wait.",
    TtlTooLong: "Send a smaller ttl_seconds, and renew the lease while you work.",
    OutOfDate: "GET it again, and send its ETag in If-Match.",
    KeyReused: "The header Idempotency-Key has the key.",
    TooManyKeys: "The header Idempotency-Key has the key.",
    Exhausted: "GET /borrows lists who holds the seats. A borrow with wait_seconds waits in the queue.",
    UserLimitReached: LEASES_OF_A_USER,
    LeaseLimitReached: LEASES_OF_A_USER,
    QueueDropped: "Poll a ticket again after poll_after seconds.",
    TooManyTickets: "DELETE /licenses/queue/TICKET leaves the queue.",
}


def hint_for(refusal: Refusal) -> str | None:
    """Return what helps after a refusal; None if nothing does, as if more seats are wanted than exist."""
    return HINTS.get(type(refusal)) if refusal.facts.get("waiting_helps", True) else None
