"""Borrow seats, run a command with them, renew and return them."""

from __future__ import annotations

import argparse
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from license_client import platforms
from license_client.api import Client, Item, Lease, Refused
from license_client.holding import acquire
from license_client.messages import Messages
from license_client.output import Unwritable, show, show_json
from license_client.parsing import EX_USAGE, Commands, borrow_options, completed, item
from license_client.running import EX_NOT_EXECUTABLE, Run
from license_client.units import clock_time

EX_NOT_FOUND = 127
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def register(commands: Commands) -> None:
    """Add the commands."""
    wanted = borrow_options()
    run = commands.add(
        "run",
        _run,
        "Borrow, run a command, return.",
        wanted,
        examples=[
            "license run --tool cad_tool -- ./export part.prt",
            "license run --tool simulation:2 --tool cad_tool --wait 30m -- ./simulate model.sim",
            "license run --tool premium --or --tool basic -- make test",
            "license run --tool simulation --ttl 5m --on-lost kill -- ./regression    # in CI",
        ],
    )
    tool = run.add_argument(
        "--tool",
        dest="wanted",
        type=item,
        action="append",
        metavar="TOOL[:SEATS]",
        help="the tool to borrow; repeat it to borrow several tools together",
    )
    completed(tool, by="tool")
    run.add_argument(
        "--or",
        dest="wanted",
        action="append_const",
        const=None,
        help="begin an alternative: the tools to borrow if those before it are not free",
    )
    run.add_argument(
        "--on-lost",
        choices=["continue", "kill"],
        default="continue",
        help="continue or kill the command if the lease is lost; default: continue",
    )
    argv = run.add_argument("argv", nargs="+", metavar="-- CMD", help="the command to run, with its arguments")
    argv.usage = "-- CMD [ARG ...]"  # type: ignore[attr-defined]
    completed(argv, by="file")
    borrow = commands.add(
        "borrow",
        _borrow,
        "Borrow and print the id of the lease. You renew and return it.",
        wanted,
        examples=["license borrow cad_tool", "lease=$(license borrow simulation:2 cad_tool --ttl 1h --wait 30m)"],
    )
    completed(borrow.add_argument("tools", nargs="+", type=item, metavar="TOOL[:SEATS]"), by="tool")
    renew = commands.add("renew", _renew, "Extend a lease.", examples=["license renew $lease"])
    completed(renew.add_argument("id", metavar="ID"), by="lease")
    giving_back = commands.add(
        "return",
        _return,
        "Return a lease, by its id or its tool.",
        examples=["license return $lease", "license return cad_tool", "license return cad_tool --here --all"],
    )
    lease = giving_back.add_argument("lease", metavar="ID|TOOL", help="the id of a lease, or the tool of your lease")
    completed(lease, by="lease")
    giving_back.add_argument("--all", action="store_true", help="return all your leases of the tool")
    giving_back.add_argument("--here", action="store_true", help="return only leases of this machine")


# --- Getting seats, and running a command with them ---------------------------


def _acquire(client: Client, alternatives: Sequence[Sequence[Item]], options: argparse.Namespace) -> Lease:
    messages: Messages = options.messages

    def granted() -> None:
        messages.waited()
        # From here on the caller returns the seats.
        options.signals.keep()

    wanted = ", or ".join(" + ".join(_spoken(one) for one in items) for items in alternatives)
    try:
        return acquire(
            client,
            alternatives,
            user=options.user,
            team=options.team,
            project=options.project,
            host=options.host,
            ttl=options.ttl,
            wait=options.wait,
            on_wait=lambda ticket: messages.waiting(ticket, wanted),
            on_granted=granted,
        )
    except BaseException:
        messages.waited()
        raise


def _spoken(one: Item) -> str:
    return one.tool if one.seats == 1 else f"{one.tool}:{one.seats}"


def _alternatives(wanted: list[Item | None]) -> list[list[Item]] | None:
    """Return the sets that --or separates; None if one is empty."""
    sets: list[list[Item]] = [[]]
    for one in wanted:
        if one is None:
            sets.append([])
        else:
            sets[-1].append(one)
    return sets if all(sets) else None


def _run(client: Client, options: argparse.Namespace) -> int:
    alternatives = _alternatives(options.wanted or [])
    if alternatives is None:
        options.messages.fail("usage", "give at least one --tool, and one before and after each --or")
        return EX_USAGE
    program = options.argv[0]
    file = platforms.CURRENT.find(program)
    if file is None:
        there = Path(program).exists()
        options.messages.fail("command", f"{program}: {'not executable' if there else 'command not found'}")
        return EX_NOT_EXECUTABLE if there else EX_NOT_FOUND
    try:
        command = platforms.CURRENT.command(options.argv, file)
    except platforms.Unsafe as unsafe:
        options.messages.fail("command", str(unsafe))
        return EX_NOT_EXECUTABLE
    lease = _acquire(client, alternatives, options)
    try:
        run = Run(
            command,
            client=client,
            lease=lease,
            signals=options.signals,
            messages=options.messages,
            kill_when_lost=options.on_lost == "kill",
        )
    except BaseException:
        client.give_back(lease.id)
        raise
    return run.result()


def _borrow(client: Client, options: argparse.Namespace) -> int:
    lease = _acquire(client, [options.tools], options)
    try:
        show_json(lease.raw) if options.json else show(lease.id)
    except Unwritable:
        # The caller did not get the id, so nobody would return this lease.
        client.give_back(lease.id)
        raise
    return 0


# --- Leases that exist ----------------------------------------------------------


def _renew(client: Client, options: argparse.Namespace) -> int:
    lease = client.renew(options.id)
    if options.json:
        show_json(lease.raw)
    else:
        show(clock_time(lease.expires_at) if lease.expires_at else "no end")
    return 0


def _return(client: Client, options: argparse.Namespace) -> int:
    if ID.fullmatch(options.lease):
        client.give_back(options.lease)
        if options.json:
            show_json({"status": "ok", "id": options.lease})
        return 0
    leases = _own_leases(client, options)
    if len(leases) > 1 and not options.all:
        raise _ambiguous(leases, options.lease)
    unwritable: Unwritable | None = None
    for lease in leases:
        client.give_back(lease.id)
        try:
            if options.json:
                show_json({"status": "ok", "id": lease.id})
            else:
                show(f"Returned {lease.tools}, borrowed {clock_time(lease.borrowed_at)}{_on(lease)}.")
        except Unwritable as error:
            # Return the other leases too.
            unwritable = error
    if unwritable is not None:
        raise unwritable
    return 0


def _own_leases(client: Client, options: argparse.Namespace) -> list[Lease]:
    """Return the user's leases with seats of the tool. Raises Refused if there is none."""
    tool, user = options.lease, options.user
    host = socket.gethostname() if options.here else None
    leases = client.borrows(user=user, host=host, tool=tool)
    if not leases:
        # Raises Refused for a tool that does not exist.
        client.tool_status(tool)
        where = " on this machine" if options.here else ""
        raise Refused(404, "unknown_lease", f"{user} holds no seat of {tool}{where}.", {"tool": tool})
    return leases


def _ambiguous(leases: Sequence[Lease], tool: str) -> Refused:
    detail = f"You hold {len(leases)} leases of {tool}. Return one of them, or all with --all:"
    for lease in leases:
        detail += f"\n  license return {lease.id}    # borrowed {clock_time(lease.borrowed_at)}{_on(lease)}"
    return Refused(400, "ambiguous", detail, {"leases": [lease.id for lease in leases]})


def _on(lease: Lease) -> str:
    return f" on {lease.host}" if lease.host else ""
