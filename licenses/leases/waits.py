"""Read the queue without a lock: the tickets, their places, and when seats are expected."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from licenses.models import Ticket, TicketClaim, Tool

from . import capacity


class Wait(NamedTuple):
    """A ticket that waits. ``position`` 1 is the next. ``expected`` is an estimate, or None if nothing is known."""

    ticket: Ticket
    position: int
    expected: timedelta | None


class _Claim(NamedTuple):
    ticket: int
    tool: int
    seats: int


def waits_of(user: str, now: datetime, *, team: str | None = None) -> list[Wait]:
    """Return the live tickets of a user, the oldest first; with ``team`` only those that count for it.

    A poll of the ticket gives a better estimate, because it knows the limits of users and teams.
    """
    found = Ticket.objects.waiting().filter(user=user, alive_until__gt=now).select_related("team")
    tickets = list(found.filter(team__name=team) if team is not None else found)
    if not tickets:
        return []
    own = TicketClaim.objects.filter(ticket__in=tickets)
    rows = TicketClaim.objects.live(now).filter(tool__in=own.values("tool"))
    claims = [_Claim(*row) for row in rows.order_by("ticket").values_list("ticket", "tool", "seats")]
    tools = Tool.objects.with_current_counts().in_bulk({claim.tool for claim in claims})
    capacity.show(tools.values(), now)
    return [_wait(ticket, claims, tools) for ticket in tickets]


def _wait(ticket: Ticket, claims: Sequence[_Claim], tools: dict[int, Tool]) -> Wait:
    mine = {claim.tool: claim.seats for claim in claims if claim.ticket == ticket.number}
    ahead = [claim for claim in claims if claim.ticket < ticket.number and claim.tool in mine]
    expected = [
        _expected(tools[tool], seats + sum(claim.seats for claim in ahead if claim.tool == tool))
        for tool, seats in mine.items()
    ]
    known = [wait for wait in expected if wait is not None]
    return Wait(
        ticket,
        position=len({claim.ticket for claim in ahead}) + 1,
        expected=max(known) if known and len(known) == len(expected) else None,
    )


def _expected(tool: Tool, wanted: int) -> timedelta | None:
    """Return when this number of seats is expected to be free: if leases last as long as recently, ``short``
    of the borrowed seats come back in short / borrowed of a holding time."""
    short = wanted - max(tool.capacity - tool.borrowed_now, 0)
    if short <= 0:
        return timedelta(0)
    if tool.holding_time is None or not tool.borrowed_now:
        return None
    return tool.holding_time * short / tool.borrowed_now
