"""The command ``licence``."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from . import units
from .api import Client, Item, Lease, LicenceError, Refused, Ticket, Unreachable
from .config import ConfigError, load
from .holding import Holding, acquire

# After sysexits.h, and the shell's own 126 and 127.
EX_USAGE, EX_REFUSED, EX_UNREACHABLE, EX_NO_SEAT, EX_NOT_ALLOWED, EX_CONFIG = 64, 65, 69, 75, 77, 78
EX_NOT_EXECUTABLE, EX_NOT_FOUND = 126, 127

# Signals that end a program. The rest is the command's own business.
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
# Those that a terminal sends to the command as well as to us.
FROM_TERMINAL = {getattr(signal, name) for name in ("SIGINT", "SIGQUIT") if hasattr(signal, name)}
KILL_AFTER = 30.0

EPILOG = f"""\
exit codes: run exits with the command's own code, 128 + n if signal n ended it;
otherwise {EX_NO_SEAT} no seat, {EX_UNREACHABLE} server unreachable, {EX_NOT_ALLOWED} not allowed,
{EX_REFUSED} refused for another reason, {EX_USAGE} usage, {EX_CONFIG} configuration,
{EX_NOT_EXECUTABLE} command not executable, {EX_NOT_FOUND} command not found.

environment: LICENCE_SERVER, LICENCE_TOKEN, LICENCE_USER, LICENCE_CONFIG.
"""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


class Interrupted(BaseException):
    """A signal has come that ends programs."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    _handle_signals(_interrupt)
    try:
        config = load(server=options.server, token=options.token, user=options.user, file=options.config)
        options.user = config.user
        client = Client(config.server, token=config.token, patience=options.patience)
        command: Callable[[Client, argparse.Namespace], int] = options.command
        return command(client, options)
    except ConfigError as error:
        return _fail(options, EX_CONFIG, {"code": "config", "detail": str(error)})
    except Refused as refused:
        problem = {"status": refused.status, "code": refused.code, "detail": refused.detail, **refused.facts}
        return _fail(options, _exit_code(refused), problem)
    except Unreachable as error:
        return _fail(options, EX_UNREACHABLE, {"code": "unreachable", "detail": str(error)})
    except LicenceError as error:
        return _fail(options, EX_USAGE, {"code": "usage", "detail": str(error)})
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except BrokenPipeError:
        # Whoever read our output has gone; that is no news.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13


def _handle_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in ENDING:
        # What we were started to ignore (nohup), the command ignores too.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _exit_code(refused: Refused) -> int:
    if refused.status in {401, 403}:
        return EX_NOT_ALLOWED
    return EX_NO_SEAT if refused.status in {409, 410} else EX_REFUSED


def _fail(options: argparse.Namespace, code: int, problem: dict[str, Any]) -> int:
    print(json.dumps(problem) if options.json else f"licence: {problem['detail']}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    common = Parser(add_help=False)
    common.add_argument("--server", metavar="URL", help="the licence server")
    common.add_argument("--token", help="what to show there (better in the environment or the file)")
    common.add_argument("--user", help="who borrows; by default who is logged in")
    common.add_argument("--config", metavar="FILE", help="the configuration file (TOML)")
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument(
        "--patience", type=_duration, default=60, metavar="TIME", help="how long to try a silent server; 60s"
    )
    wanted = Parser(add_help=False)
    wanted.add_argument("--host", default=socket.gethostname(), help="from where; by default this machine's name")
    wanted.add_argument("--ttl", type=_duration, metavar="TIME", help="the lease ends so long after a heartbeat")
    wanted.add_argument("--wait", type=_duration, default=0, metavar="TIME", help="stand in the queue for so long")

    parser = Parser(
        prog="licence",
        description="Borrow a floating licence, run a command, return it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, command: Callable[..., int], text: str, *parents: Parser) -> Parser:
        added = commands.add_parser(name, help=text, description=text, parents=[common, *parents])
        added.set_defaults(command=command)
        return added

    status = add("status", _status, "Show how many seats there are.")
    status.add_argument("tool", nargs="?", metavar="TOOL")
    run = add("run", _run, "Borrow, run a command, return.", wanted)
    run.add_argument(
        "--tool", dest="wanted", type=_item, action="append", metavar="TOOL[:SEATS]", help="several are one set"
    )
    run.add_argument(
        "--or", dest="wanted", action="append_const", const=None, help="the tools after it are an alternative"
    )
    run.add_argument(
        "--on-lost",
        choices=["continue", "kill"],
        default="continue",
        help="what to do with the command when the lease is lost",
    )
    run.add_argument("argv", nargs="+", metavar="-- CMD", help="the command with its arguments")
    borrow = add("borrow", _borrow, "Borrow and print the lease's id; nobody renews it but you.", wanted)
    borrow.add_argument("tools", nargs="+", type=_item, metavar="TOOL[:SEATS]")
    for name, command, text in (
        ("renew", _renew, "Extend a lease."),
        ("return", _return, "Return a lease."),
    ):
        add(name, command, text).add_argument("id", metavar="ID")
    listing = add("list", _list, "Show who holds what: you, by default.")
    listing.add_argument("--all", action="store_true", help="everybody")
    listing.add_argument("--here", action="store_true", help="only what was borrowed from this machine")
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


def _status(client: Client, options: argparse.Namespace) -> int:
    tools = client.status(options.tool)
    if options.json:
        print(json.dumps(tools[0] if options.tool is not None else tools))
        return 0
    _table(
        ["TOOL", "TOTAL", "BORROWED", "AVAILABLE", "QUEUED"],
        [
            [tool["tool"], *(str(tool.get(name, "")) for name in ("total", "borrowed", "available", "queued"))]
            for tool in tools
        ],
    )
    return 0


def _list(client: Client, options: argparse.Namespace) -> int:
    leases = client.borrows(
        user=None if options.all else options.user, host=socket.gethostname() if options.here else None
    )
    if options.json:
        print(json.dumps(leases))
        return 0
    _table(
        ["ID", "USER", "HOST", "SEATS", "SINCE", "UNTIL"],
        [
            [
                lease["id"],
                lease["user"],
                lease["host"],
                ", ".join(f"{item['tool']}:{item['seats']}" for item in lease["items"]),
                lease["borrowed_at"][:19],
                (lease["expires_at"] or "")[:19],
            ]
            for lease in leases
        ],
    )
    return 0


def _borrow(client: Client, options: argparse.Namespace) -> int:
    lease = _acquire(client, [options.tools], options)
    print(json.dumps(lease.raw) if options.json else lease.id)
    return 0


def _renew(client: Client, options: argparse.Namespace) -> int:
    lease = client.renew(options.id)
    print(json.dumps(lease.raw) if options.json else lease.expires_at or "for ever")
    return 0


def _return(client: Client, options: argparse.Namespace) -> int:
    client.give_back(options.id)
    if options.json:
        print(json.dumps({"status": "ok", "id": options.id}))
    return 0


def _table(heads: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]
    for row in [heads, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


# --- Getting a seat, with the wait to be seen ---------------------------------


def _acquire(client: Client, alternatives: Sequence[Sequence[Item]], options: argparse.Namespace) -> Lease:
    progress = Progress(options)
    try:
        lease = acquire(
            client,
            alternatives,
            user=options.user,
            host=options.host,
            ttl=options.ttl,
            wait=options.wait,
            on_wait=progress.show,
        )
    except BaseException:
        progress.end()
        raise
    progress.end()
    return lease


class Progress:
    """One line about the wait: rewritten on a terminal, else written anew when
    the place changes, and once a minute, so that a log shows signs of life."""

    EVERY = 60.0

    def __init__(self, options: argparse.Namespace) -> None:
        self._json = options.json
        self._rewrite = sys.stderr.isatty() and not options.json
        self._start = time.monotonic()
        self._shown: tuple[int, float] | None = None
        self._open = False

    def show(self, ticket: Ticket) -> None:
        now = time.monotonic()
        if not self._rewrite:
            if self._shown and self._shown[0] == ticket.position and now - self._shown[1] < self.EVERY:
                return
            self._shown = (ticket.position, now)
        if self._json:
            text = json.dumps({"event": "waiting", **ticket.raw})
        else:
            expected = f", about {units.spoken(ticket.eta_seconds)} to go" if ticket.eta_seconds is not None else ""
            text = f"licence: waiting, place {ticket.position}{expected}, {units.spoken(now - self._start)} so far"
        if self._rewrite:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self._open = True
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._open:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._open = False


# --- Running a command ----------------------------------------------------------


def _run(client: Client, options: argparse.Namespace) -> int:
    alternatives = _alternatives(options.wanted or [])
    if alternatives is None:
        return _fail(
            options, EX_USAGE, {"code": "usage", "detail": "name a --tool, and one before and after each --or"}
        )
    if shutil.which(options.argv[0]) is None:
        there = Path(options.argv[0]).exists()
        detail = f"{options.argv[0]}: {'not executable' if there else 'command not found'}"
        return _fail(options, EX_NOT_EXECUTABLE if there else EX_NOT_FOUND, {"code": "command", "detail": detail})
    lease: Lease | None = None
    try:
        lease = _acquire(client, alternatives, options)
        run = Run(client, lease, options)
    except Interrupted:
        if lease is not None:
            client.give_back(lease.id)
        raise
    return run.result()


def _alternatives(wanted: list[Item | None]) -> list[list[Item]] | None:
    """The sets between the --or's; None if one is empty."""
    sets: list[list[Item]] = [[]]
    for item in wanted:
        if item is None:
            sets.append([])
        else:
            sets[-1].append(item)
    return sets if all(sets) else None


class Run:
    """A command while its seats are held."""

    def __init__(self, client: Client, lease: Lease, options: argparse.Namespace) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._signalled: int | None = None
        # From here on signals are the command's, and never skip the return.
        _handle_signals(self._pass_on)
        self._holding = Holding(client, lease, on_lost=self._lost)

    def result(self) -> int:
        """Run the command; its exit code."""
        try:
            if self._signalled is not None:
                return 128 + self._signalled
            return self._run()
        finally:
            self._give_back()

    def _run(self) -> int:
        lease = self._holding.lease
        environment = os.environ | {
            "LICENCE_LEASE_ID": lease.id,
            "LICENCE_TOOL": lease.items[0].tool,
            "LICENCE_FENCE": str(lease.fence if lease.fence is not None else ""),
            "LICENCE_EXPIRES_AT": lease.expires_at or "",
        }
        try:
            self._process = subprocess.Popen(self._options.argv, env=environment)  # noqa: S603 - what the user asked for
        except OSError as error:
            return _fail(self._options, EX_NOT_EXECUTABLE, {"code": "command", "detail": str(error)})
        # What came before there was a process to tell.
        if self._signalled is not None:
            self._process.send_signal(self._signalled)
        if self._holding.lost.is_set():
            self._stop()
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._signalled = number
        if self._process is not None and not (number in FROM_TERMINAL and _in_foreground()):
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _lost(self, reason: str) -> None:
        self._say("lost", f"THE LEASE IS LOST. {reason}")
        self._stop()

    def _stop(self) -> None:
        """End the command, if that is what is wanted when the lease is lost."""
        if self._options.on_lost == "kill" and self._process is not None:
            self._process.terminate()
            killer = threading.Timer(KILL_AFTER, self._process.kill)
            killer.daemon = True
            killer.start()

    def _give_back(self) -> None:
        try:
            self._holding.give_back()
        except LicenceError as error:
            end = self._holding.lease.expires_at
            self._say("not_returned", f"The seat could not be returned ({error}). It comes back at {end or 'no time'}.")

    def _say(self, event: str, text: str) -> None:
        line = json.dumps({"event": event, "lease": self._holding.lease.id, "detail": text})
        print(line if self._options.json else f"licence: {text}", file=sys.stderr, flush=True)


def _in_foreground() -> bool:
    """Whether the terminal sends its signals to this process group, and so to
    the command as well."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
