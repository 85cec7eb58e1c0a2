"""Create tools, and change them with ``--force``."""

import argparse
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db import transaction

from licenses.auditing import Actor
from licenses.errors import InvalidSite
from licenses.management.base import ServerCommand
from licenses.models import ContractSource
from licenses.site import parser
from licenses.site.description import SiteTool
from licenses.tools import notes
from licenses.tools import services as tools
from licenses.tools.locking import lock_known

DEFAULT_TOOLS = {"cad_tool": {"capacity": 5}, "simulation": {"capacity": 3}, "analysis": {"capacity": 2}}


def tool_argument(value: str) -> tuple[str, dict[str, Any]]:
    """Read ``NAME=N``. Return the name and its values."""
    name, separator, capacity = value.partition("=")
    if not separator or not capacity.isascii() or not capacity.isdigit():
        raise argparse.ArgumentTypeError(f"{value!r} is not NAME=N, for example cad_tool=5")
    return name, {"capacity": int(capacity)}


class Command(ServerCommand):
    help = (
        "Create tools that don't exist yet: the default ones, or those given. "
        "Tools that exist do not change, unless you give --force."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--tool",
            action="append",
            type=tool_argument,
            metavar="NAME=N",
            help="the name and capacity of a tool; repeatable",
        )
        parser.add_argument(
            "--file",
            type=Path,
            metavar="tools.toml",
            help="a table per tool: [cad_tool] capacity = 5, vendor = ..., valid_until = 2026-12-31 (last day); or, "
            "in place of the capacity, [[cad_tool.contracts]] seats = 5, first_day, last_day, price, reference, note",
        )
        parser.add_argument("--force", action="store_true", help="also change tools that exist")

    def handle(self, *args: Any, **options: Any) -> None:
        wanted: dict[str, dict[str, Any]] = {}
        if options["file"]:
            wanted |= read_file(options["file"])
        wanted |= dict(options["tool"] or [])
        for line in put(wanted or DEFAULT_TOOLS, force=options["force"]):
            self.stdout.write(line)


def read_file(path: Path) -> dict[str, dict[str, Any]]:
    """Return the values of the tools of a file (``licenses.site.parser``). Raises CommandError if it is invalid."""
    try:
        found = parser.read(path.read_text(encoding="utf-8-sig")).site
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path}: {error}") from None
    except InvalidSite as refusal:
        raise CommandError(f"{path}: {refusal.detail}") from None
    if found.teams or any(tool.allowances or tool.user_limits or tool.access_rules for tool in found.tools.values()):
        raise CommandError(f"{path}: teams, quotas, limits and access rules need `manage.py apply`, not `seed`.")
    return {name: values_of(tool) for name, tool in found.tools.items()}


def values_of(tool: SiteTool) -> dict[str, Any]:
    """Return the values of a tool for the services."""
    if tool.contracts is None:
        return tool.values
    return tool.values | {
        tools.CONTRACTS: [{**values, "source": ContractSource.MANUAL} for values in tool.contracts],
    }


@transaction.atomic
def put(wanted: dict[str, dict[str, Any]], *, force: bool) -> list[str]:
    """Create tools and, with ``force``, change those that exist; all or none. Return a line for each,
    and notes."""
    known = {} if force else lock_known(wanted)
    try:
        done = tools.put(
            tools={name: values for name, values in wanted.items() if name not in known},
            by=Actor.of_command("seed"),
        )
    except ValidationError as error:
        raise CommandError("; ".join(error.messages)) from None
    lines = {name: f"{name}: exists with capacity {tool.capacity}, not changed" for name, tool in known.items()}
    lines |= {change.tool.name: line_of(change) for change in done}
    resized = [change.tool for change in done if change.is_resized]
    return [*(lines[name] for name in wanted), *(f"note: {note}" for note in notes.of_capacities(resized))]


def line_of(change: tools.ToolChange) -> str:
    """Return a line that describes a change."""
    if change.is_new:
        return f"{change.tool.name}: created with capacity {change.tool.capacity}"
    changes = [f"{field} {change.before[field]} -> {value}" for field, value in change.after.items()]
    changes += [f"contract {text}" for text in map(str, change.contracts)]
    return f"{change.tool.name}: {', '.join(changes) or 'unchanged'}"
