"""Run the command ``license``."""

from __future__ import annotations

import argparse
import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from . import former, platforms, units
from .api import Client, ConfigError, Item, Lease, LicenseError, Refused, ToolStatus, Unreachable
from .config import Config, load
from .holding import acquire
from .messages import Messages
from .running import EX_NOT_EXECUTABLE, Interrupted, Run, Signals

# After sysexits.h, and the shell's own 126 and 127.
EX_USAGE, EX_REFUSED, EX_UNREACHABLE, EX_IO, EX_NO_SEAT, EX_NOT_ALLOWED, EX_CONFIG = 64, 65, 69, 74, 75, 77, 78
EX_NOT_FOUND = 127

EPILOG = f"""\
exit codes: run exits with the code of the command, or 128 + n if signal n ended it.
Otherwise: {EX_NO_SEAT} no seat, {EX_UNREACHABLE} server unreachable, {EX_NOT_ALLOWED} not allowed,
{EX_REFUSED} refused for another reason, {EX_USAGE} usage, {EX_CONFIG} configuration,
{EX_NOT_EXECUTABLE} command not executable, {EX_NOT_FOUND} command not found.

environment: LICENSE_SERVER, LICENSE_TOKEN, LICENSE_USER, LICENSE_TEAM,
LICENSE_PROJECT, LICENSE_CONFIG, LICENSE_ALLOW_HTTP.
"""

# Seconds to retry a server that does not answer: for commands that only show, and for others.
PATIENCE_TO_SHOW, PATIENCE = 10.0, 60.0

# The command or option that helps after a refusal, by its code. The server's own hint names HTTP calls.
HINTS = {
    "unknown_tool": "`license status` lists the tools.",
    "unknown_lease": "`license list` lists your leases.",
    "ttl_too_long": "Use a smaller --ttl.",
    "user_limit": "`license list` lists your leases.",
    "lease_limit": "`license list` lists your leases.",
    "exhausted": "`license list --all` lists who holds the seats. With --wait a borrow waits in the queue.",
}

T = TypeVar("T")


class Unwritable(Exception):
    """Writing to standard output failed."""

    def __init__(self, why: OSError) -> None:
        super().__init__(why)
        self.why = why


class Parser(argparse.ArgumentParser):
    def __init__(self, **settings: Any) -> None:
        # An abbreviation in a script would break when a new option begins with the same letters.
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None, *, renamed: Sequence[tuple[str, str]] = ()) -> int:
    """Run the command and return its exit code. The process must exit after it.

    ``renamed`` has the former names by which it was called, each with its new name.
    """
    try:
        options = _parser().parse_args(arguments)
    except SystemExit:
        _say_renamed(Messages(as_json=False), renamed)
        raise
    options.messages = Messages(as_json=options.json)
    options.renamed = list(renamed)
    options.signals = Signals()
    try:
        return _carry_out(options)
    except Interrupted as interrupted:
        return 128 + interrupted.number
    finally:
        options.signals.ignore()


def _carry_out(options: argparse.Namespace) -> int:
    messages: Messages = options.messages
    config: Config | None = None
    try:
        config = _load(options)
        options.user, options.team, options.project = config.user, config.team, config.project
        client = config.client(patience=options.patience, on_retry=messages.retrying)
        command: Callable[[Client, argparse.Namespace], int] = options.command
        return command(client, options)
    except ConfigError as error:
        messages.fail("config", str(error))
        return EX_CONFIG
    except Refused as refused:
        detail = _explained(refused, config) if config is not None else refused.detail
        messages.fail(refused.code, detail, {"status": refused.status, **refused.facts})
        return _exit_code(refused)
    except Unreachable as error:
        messages.fail(error.code, str(error))
        return EX_UNREACHABLE
    except LicenseError as error:
        messages.fail("usage", str(error))
        return EX_USAGE
    except Unwritable as error:
        # The reader of a pipe may leave: print no error.
        if platforms.CURRENT.reader_is_gone(error.why):
            return 128 + 13
        messages.fail("output", f"standard output: {error.why.strerror}")
        return EX_IO


def _load(options: argparse.Namespace) -> Config:
    """Return the configuration and report the former names in it."""
    try:
        return load(
            server=options.server,
            token=options.token,
            user=options.user,
            # Only commands that borrow have these.
            team=getattr(options, "team", None),
            project=getattr(options, "project", None),
            allow_http=options.allow_http,
            file=options.config,
            on_former_name=lambda old, new: options.renamed.append((old, new)),
        )
    finally:
        _say_renamed(options.messages, options.renamed)


def _say_renamed(messages: Messages, renamed: Sequence[tuple[str, str]]) -> None:
    if renamed:
        messages.say("renamed", former.sentence(renamed), {"names": dict(renamed)})


def _explained(refused: Refused, config: Config) -> str:
    """Return the server's reason, and what to set or run."""
    if refused.code == "not_authenticated" and not config.token:
        return "The server needs a token: set LICENSE_TOKEN."
    if refused.code == "not_for_others" and config.user_is_login:
        return f"{refused.detail} The request was for {config.user}, your login name on this machine. Set LICENSE_USER."
    hint = HINTS.get(refused.code) if refused.facts.get("waiting_helps", True) else None
    return f"{refused.detail} {hint}" if hint else refused.detail


def _exit_code(refused: Refused) -> int:
    if refused.status in {401, 403}:
        return EX_NOT_ALLOWED
    return EX_NO_SEAT if refused.status in {409, 410} else EX_REFUSED


def _parser() -> argparse.ArgumentParser:
    common = Parser(add_help=False)
    common.add_argument("--server", metavar="URL", help="the license server")
    common.add_argument("--token", help="the API token (safer in LICENSE_TOKEN or in the configuration file)")
    common.add_argument("--user", help="the user of the lease; default: your login name")
    common.add_argument("--config", metavar="FILE", help="the configuration file (TOML)")
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument(
        "--allow-http", action="store_true", help="allow the token to go to another machine without encryption"
    )
    wanted = Parser(add_help=False)
    wanted.add_argument("--team", help="the team that the lease counts for; default: the server chooses")
    wanted.add_argument("--project", help="the project of the lease")
    wanted.add_argument(
        "--host", default=socket.gethostname(), help="the host of the lease; default: the name of this machine"
    )
    wanted.add_argument(
        "--ttl", type=_duration, metavar="TIME", help="free the seats this time after the last heartbeat"
    )
    wanted.add_argument(
        "--wait",
        type=_duration,
        default=0,
        metavar="TIME",
        help="if no seat is free, wait in the queue for at most this time",
    )

    parser = Parser(
        prog="license",
        description="Borrow a floating license, run a command, return it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, command: Callable[..., int], text: str, *parents: Parser, patience: float = PATIENCE) -> Parser:
        added = commands.add_parser(name, help=text, description=text, parents=[common, *parents])
        added.add_argument(
            "--patience",
            type=_duration,
            default=patience,
            metavar="TIME",
            help=f"retry for this time if the server does not answer; default: {patience:.0f}s",
        )
        added.set_defaults(command=command)
        return added

    status = add("status", _status, "Show the seats of each tool.", patience=PATIENCE_TO_SHOW)
    status.add_argument("tool", nargs="?", metavar="TOOL")
    run = add("run", _run, "Borrow, run a command, return.", wanted)
    run.add_argument(
        "--tool",
        dest="wanted",
        type=_item,
        action="append",
        metavar="TOOL[:SEATS]",
        help="the tool to borrow; repeat it to borrow several tools together",
    )
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
    run.add_argument("argv", nargs="+", metavar="-- CMD", help="the command to run, with its arguments")
    borrow = add("borrow", _borrow, "Borrow and print the id of the lease. You renew and return it.", wanted)
    borrow.add_argument("tools", nargs="+", type=_item, metavar="TOOL[:SEATS]")
    for name, command, text in (
        ("renew", _renew, "Extend a lease."),
        ("return", _return, "Return a lease."),
    ):
        add(name, command, text).add_argument("id", metavar="ID")
    listing = add("list", _list, "List your leases.", patience=PATIENCE_TO_SHOW)
    listing.add_argument("--all", action="store_true", help="list the leases of all users")
    listing.add_argument("--here", action="store_true", help="list only the leases of this machine")
    return parser


def _duration(text: str) -> float:
    try:
        return units.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _item(text: str) -> Item:
    try:
        return units.item(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# --- Commands that ask and answer -------------------------------------------


def _in_time(client: Client, ask: Callable[[], T]) -> T:
    """Return the result of a read-only call; raise Unreachable after the client's patience.

    This also limits what no timeout limits: name resolution, many addresses.
    """
    outcomes: queue.SimpleQueue[T | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcomes.put(ask())
        except BaseException as error:  # noqa: BLE001 - raised below
            outcomes.put(error)

    worker = threading.Thread(target=work, name="license-call", daemon=True)
    worker.start()
    end = time.monotonic() + max(client.patience, 1)
    # Join in short slices, because a join blocks signals on Windows.
    while worker.is_alive() and time.monotonic() < end:
        worker.join(0.1)
    try:
        outcome = outcomes.get_nowait()
    except queue.Empty:
        raise Unreachable(f"{client} can't be reached: no answer within {units.spoken(client.patience)}") from None
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _status(client: Client, options: argparse.Namespace) -> int:
    def ask() -> list[ToolStatus]:
        return [client.tool_status(options.tool)] if options.tool is not None else client.status()

    tools = _in_time(client, ask)
    if options.json:
        _print(json.dumps(tools[0].raw if options.tool is not None else [tool.raw for tool in tools]))
        return 0
    _table(
        ["TOOL", "TOTAL", "BORROWED", "AVAILABLE", "QUEUED", "STATE"],
        [
            [tool.tool, str(tool.total), str(tool.borrowed), str(tool.available), str(tool.queued), tool.state]
            for tool in tools
        ],
    )
    return 0


def _list(client: Client, options: argparse.Namespace) -> int:
    user = None if options.all else options.user
    host = socket.gethostname() if options.here else None
    leases = _in_time(client, lambda: client.borrows(user=user, host=host))
    if options.json:
        _print(json.dumps([lease.raw for lease in leases]))
        return 0
    _table(
        ["ID", "USER", "HOST", "SEATS", "SINCE", "UNTIL"],
        [
            [
                lease.id,
                # The server may hide the user.
                lease.user or "-",
                lease.host,
                ", ".join(f"{item.tool}:{item.seats}" for item in lease.items),
                lease.borrowed_at[:19],
                (lease.expires_at or "")[:19],
            ]
            for lease in leases
        ],
    )
    return 0


def _borrow(client: Client, options: argparse.Namespace) -> int:
    lease = _acquire(client, [options.tools], options)
    try:
        _print(json.dumps(lease.raw) if options.json else lease.id)
    except Unwritable:
        # The caller did not get the id, so nobody would return this lease.
        client.give_back(lease.id)
        raise
    return 0


def _renew(client: Client, options: argparse.Namespace) -> int:
    lease = client.renew(options.id)
    _print(json.dumps(lease.raw) if options.json else lease.expires_at or "no end")
    return 0


def _return(client: Client, options: argparse.Namespace) -> int:
    client.give_back(options.id)
    if options.json:
        _print(json.dumps({"status": "ok", "id": options.id}))
    return 0


def _print(text: str) -> None:
    """Print and flush, so that a failure shows here and not at the exit."""
    try:
        print(text.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding), flush=True)
    except OSError as error:
        # Discard the buffer, or it would fail again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Unwritable(error) from None


def _table(heads: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(heads, *rows)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths)] for row in [heads, *rows]]
    _print("\n".join("  ".join(line).rstrip() for line in lines))


# --- Getting seats, and running a command with them ---------------------------


def _acquire(client: Client, alternatives: Sequence[Sequence[Item]], options: argparse.Namespace) -> Lease:
    messages: Messages = options.messages

    def granted() -> None:
        messages.waited()
        # From here on the caller returns the seats.
        options.signals.keep()

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
            on_wait=messages.waiting,
            on_granted=granted,
        )
    except BaseException:
        messages.waited()
        raise


def _alternatives(wanted: list[Item | None]) -> list[list[Item]] | None:
    """Return the sets that --or separates; None if one is empty."""
    sets: list[list[Item]] = [[]]
    for item in wanted:
        if item is None:
            sets.append([])
        else:
            sets[-1].append(item)
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
