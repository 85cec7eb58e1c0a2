"""Show the tools, and who holds their seats."""

from __future__ import annotations

import argparse
import socket

from license_client.api import Client, Lease, ToolStatus
from license_client.calling import in_time
from license_client.output import Cell, show, show_json, show_table
from license_client.parsing import PATIENCE_TO_SHOW, Commands, completed
from license_client.units import clock_time


def register(commands: Commands) -> None:
    """Add the commands."""
    status = commands.add(
        "status",
        _status,
        "Show the seats of each tool.",
        patience=PATIENCE_TO_SHOW,
        examples=[
            "license status",
            "license status cad_tool",
            "license status --json",
        ],
    )
    completed(status.add_argument("tool", nargs="?", metavar="TOOL"), by="tool")
    who = commands.add(
        "who",
        _who,
        "Show who holds the seats of a tool, and since when.",
        patience=PATIENCE_TO_SHOW,
        examples=["license who cad_tool", "license who cad_tool --json"],
    )
    completed(who.add_argument("tool", metavar="TOOL"), by="tool")
    listing = commands.add(
        "list",
        _list,
        "List your leases.",
        patience=PATIENCE_TO_SHOW,
        examples=["license list", "license list --here", "license list --all --json"],
    )
    listing.add_argument("--all", action="store_true", help="list the leases of all users")
    listing.add_argument("--here", action="store_true", help="list only the leases of this machine")


def _status(client: Client, options: argparse.Namespace) -> int:
    def ask() -> list[ToolStatus]:
        return [client.tool_status(options.tool)] if options.tool is not None else client.status()

    tools = in_time(client, ask)
    if options.json:
        show_json(tools[0].raw if options.tool is not None else [tool.raw for tool in tools])
        return 0
    show_table(
        options,
        ["TOOL", "TOTAL", "BORROWED", "AVAILABLE", "QUEUED", "STATE"],
        [
            [
                tool.tool,
                str(tool.total),
                str(tool.borrowed),
                Cell(str(tool.available), "good" if tool.available else "bad"),
                Cell(str(tool.queued), "caution" if tool.queued else ""),
                Cell(tool.state, "" if tool.state == "open" else "bad"),
            ]
            for tool in tools
        ],
    )
    return 0


def _who(client: Client, options: argparse.Namespace) -> int:
    def ask() -> tuple[ToolStatus, list[Lease]]:
        return client.tool_status(options.tool), client.borrows(tool=options.tool)

    tool, leases = in_time(client, ask)
    if options.json:
        show_json([lease.raw for lease in leases])
        return 0
    if not leases:
        # The token of a team sees only leases of its team.
        nobody = "Nobody holds" if not tool.borrowed else "Nobody whose leases you may see holds"
        show(f"{nobody} a seat of {tool.tool}. {tool.available} of {tool.total} are available.")
        return 0
    show_table(
        options,
        ["USER", "HOST", "SEATS", "TEAM", "SINCE", "UNTIL", "LAST HEARTBEAT"],
        [
            [
                # The server may hide who it is.
                lease.user or Cell("hidden", "quiet"),
                lease.host or "-",
                str(sum(item.seats for item in lease.items if item.tool == tool.tool)),
                lease.raw.get("team") or "-",
                clock_time(lease.borrowed_at),
                clock_time(lease.expires_at) if lease.expires_at else "no end",
                clock_time(lease.last_heartbeat_at) if lease.last_heartbeat_at else "-",
            ]
            for lease in leases
        ],
    )
    return 0


def _list(client: Client, options: argparse.Namespace) -> int:
    user = None if options.all else options.user
    host = socket.gethostname() if options.here else None
    leases = in_time(client, lambda: client.borrows(user=user, host=host))
    if options.json:
        show_json([lease.raw for lease in leases])
        return 0
    show_table(
        options,
        ["ID", "USER", "HOST", "SEATS", "SINCE", "UNTIL"],
        [
            [
                lease.id,
                # The server may hide the user.
                lease.user or "-",
                lease.host,
                ", ".join(f"{item.tool}:{item.seats}" for item in lease.items),
                clock_time(lease.borrowed_at),
                clock_time(lease.expires_at) if lease.expires_at else "no end",
            ]
            for lease in leases
        ],
    )
    return 0
