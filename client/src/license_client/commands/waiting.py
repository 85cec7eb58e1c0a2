"""Show the user's places in the queue, and leave it."""

from __future__ import annotations

import argparse
import re

from license_client.api import Client, Item, Place, Refused
from license_client.calling import in_time
from license_client.output import Unwritable, show, show_json, show_table
from license_client.parsing import PATIENCE_TO_SHOW, Commands, completed
from license_client.units import clock_time, spoken

TICKET = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def register(commands: Commands) -> None:
    """Add the command."""
    queue = commands.add(
        "queue",
        _queue,
        "Show your places in the queue, or leave it.",
        patience=PATIENCE_TO_SHOW,
        examples=["license queue", "license queue --leave cad_tool"],
    )
    leave = queue.add_argument("--leave", metavar="TICKET|TOOL", help="leave the queue of this ticket or tool")
    completed(leave, by="ticket")


def _queue(client: Client, options: argparse.Namespace) -> int:
    if options.leave is not None and TICKET.fullmatch(options.leave):
        return _leave(client, options, [options.leave])
    places = in_time(client, lambda: client.places(user=options.user))
    if options.leave is not None:
        return _leave(client, options, [place.ticket for place in places if options.leave in place.tools])
    if options.json:
        show_json([place.raw for place in places])
    elif places:
        show_table(
            options,
            ["TICKET", "SEATS", "POSITION", "EXPECTED", "WAITING", "UNTIL"],
            [
                [
                    place.ticket,
                    " or ".join(_seats(items) for items in place.alternatives),
                    str(place.position),
                    _expected(place),
                    spoken(place.waited_seconds),
                    clock_time(place.deadline),
                ]
                for place in places
            ],
        )
    else:
        show(f"{options.user} waits for nothing.")
    return 0


def _expected(place: Place) -> str:
    if place.offered_until is not None:
        return f"now, kept until {clock_time(place.offered_until)}"
    if place.eta_seconds is None:
        return "unknown"
    return f"in about {spoken(place.eta_seconds)}" if place.eta_seconds else "soon"


def _seats(items: tuple[Item, ...]) -> str:
    return ", ".join(f"{item.tool}:{item.seats}" for item in items)


def _leave(client: Client, options: argparse.Namespace, tickets: list[str]) -> int:
    """Leave the queue with all these tickets. Raises Refused if there is none."""
    if not tickets:
        # Raises Refused for a tool that does not exist.
        client.tool_status(options.leave)
        detail = f"{options.user} does not wait for {options.leave}."
        raise Refused(404, "unknown_ticket", detail, {"tool": options.leave})
    unwritable: Unwritable | None = None
    for ticket in tickets:
        client.leave(ticket)
        try:
            if options.json:
                show_json({"status": "ok", "ticket": ticket})
            else:
                show(f"Left the queue: ticket {ticket}.")
        except Unwritable as error:
            # Leave with the other tickets too.
            unwritable = error
    if unwritable is not None:
        raise unwritable
    return 0
