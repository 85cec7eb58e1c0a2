"""Describe the commands: their options, help texts and examples.

A module of commands has a function ``register(commands)`` that calls ``commands.add``
for each of its commands. ``cli.MODULES`` lists these modules.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from . import units
from .api import Client, Item

# The exit code for wrong usage, after sysexits.h.
EX_USAGE = 64
# Seconds to retry a server that does not answer: for commands that only show, and for others.
PATIENCE_TO_SHOW, PATIENCE = 10.0, 60.0


class Parser(argparse.ArgumentParser):
    def __init__(self, **settings: Any) -> None:
        # An abbreviation in a script would break when a new option begins with the same letters.
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


class Help(argparse.RawDescriptionHelpFormatter):
    """The help of a command, with the examples as they are written."""

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        # Older versions of argparse take no tuple of metavars for a positional argument.
        usage: str | None = getattr(action, "usage", None)
        return usage or super()._format_args(action, default_metavar)


class Commands:
    """The commands of a parser. Each is a function that returns the exit code."""

    def __init__(self, parser: Parser, common: Parser) -> None:
        self._common = common
        self._parsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def add(
        self,
        name: str,
        run: Callable[[Client, argparse.Namespace], int],
        text: str,
        *parents: Parser,
        examples: Sequence[str],
        patience: float = PATIENCE,
    ) -> Parser:
        """Add a command that calls the server, and return its parser.

        ``examples`` are lines for its help. Calls without an answer are retried for
        ``patience`` seconds.
        """
        parser = self._add(name, text, [self._common, *parents], examples)
        parser.add_argument(
            "--patience",
            type=duration,
            default=patience,
            metavar="TIME",
            help=f"retry for this time if the server does not answer; default: {patience:.0f}s",
        )
        parser.set_defaults(command=run)
        return parser

    def add_local(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int],
        text: str,
        *parents: Parser,
        examples: Sequence[str],
    ) -> Parser:
        """Add a command that gets no client, because it needs none or makes its own; return its parser."""
        parser = self._add(name, text, [self._common, *parents], examples)
        parser.set_defaults(local_command=run)
        return parser

    def group(self, name: str, text: str) -> Commands:
        """Add a word that begins several commands, such as ``admin`` in ``license admin apply``."""
        return Commands(self._add(name, text, [], []), self._common)

    def _add(self, name: str, text: str, parents: Sequence[Parser], examples: Sequence[str]) -> Parser:
        added: Parser = self._parsers.add_parser(
            name,
            help=text,
            description=text,
            parents=parents,
            epilog="\n  ".join(["examples:", *examples]) if examples else None,
            formatter_class=Help,
        )
        return added


def common_options() -> Parser:
    """Return the options that every command has."""
    common = Parser(add_help=False)
    common.add_argument("--server", metavar="URL", help="the license server")
    common.add_argument("--token", help="the API token (safer in LICENSE_TOKEN or in the configuration file)")
    common.add_argument("--user", help="the user of the lease; default: your login name")
    completed(common.add_argument("--config", metavar="FILE", help="the configuration file (TOML)"), by="file")
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument(
        "--allow-http", action="store_true", help="allow the token to go to another machine without encryption"
    )
    common.add_argument(
        "--color",
        choices=["auto", "always", "never"],
        default="auto",
        help="use colors; default: on a terminal, unless NO_COLOR is set",
    )
    return common


def borrow_options() -> Parser:
    """Return the options of the commands that borrow."""
    wanted = Parser(add_help=False)
    wanted.add_argument("--team", help="the team that the lease counts for; default: the server chooses")
    wanted.add_argument("--project", help="the project of the lease")
    wanted.add_argument(
        "--host", default=socket.gethostname(), help="the host of the lease; default: the name of this machine"
    )
    wanted.add_argument(
        "--ttl", type=duration, metavar="TIME", help="free the seats this long after the last heartbeat"
    )
    wanted.add_argument(
        "--wait",
        type=duration,
        default=0,
        metavar="TIME",
        help="if no seat is free, wait in the queue for at most this time",
    )
    return wanted


def completed(action: argparse.Action, by: str) -> None:
    """Say what completes a value on the command line: ``tool``, ``lease``, ``ticket`` or ``file``."""
    action.completes = by  # type: ignore[attr-defined]


def duration(text: str) -> float:
    """Read a duration; the type of an option."""
    try:
        return units.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def item(text: str) -> Item:
    """Read ``TOOL[:SEATS]``; the type of an option."""
    try:
        return units.item(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
