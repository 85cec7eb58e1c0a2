"""``manage.py seed``: make sure that tools exist."""

import argparse
import tomllib
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from licenses import auditing
from licenses.auditing import Actor
from licenses.models import Tool

DEFAULT_TOOLS = {"cad_tool": {"capacity": 5}, "simulation": {"capacity": 3}, "analysis": {"capacity": 2}}
FILE_FIELDS = {"capacity", "display_name", "vendor", "enabled", "valid_from", "valid_until"}


def tool_argument(value: str) -> tuple[str, dict[str, Any]]:
    """``NAME=N`` as a name and its values."""
    name, separator, capacity = value.partition("=")
    if not separator or not capacity.isascii() or not capacity.isdigit():
        raise argparse.ArgumentTypeError(f"{value!r} is not NAME=N, as in cad_tool=5")
    return name, {"capacity": int(capacity)}


class Command(BaseCommand):
    help = (
        "Create tools that don't exist yet: the default ones, or those given. "
        "Tools that exist are left as they are, unless --force."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tool", action="append", type=tool_argument, metavar="NAME=N", help="repeatable")
        parser.add_argument(
            "--file", type=Path, metavar="tools.toml", help="one table a tool: [cad_tool] capacity = 5, vendor = ..."
        )
        parser.add_argument("--force", action="store_true", help="also set the values of tools that exist")

    def handle(self, *args: Any, **options: Any) -> None:
        wanted: dict[str, dict[str, Any]] = {}
        if options["file"]:
            wanted |= read_file(options["file"])
        wanted |= dict(options["tool"] or [])
        # All or nothing: a file with a mistake changes nothing.
        with transaction.atomic():
            lines = [
                ensure_tool(name, values, force=options["force"]) for name, values in (wanted or DEFAULT_TOOLS).items()
            ]
        for line in lines:
            self.stdout.write(line)


def read_file(path: Path) -> dict[str, dict[str, Any]]:
    """The tools of a TOML file; raises CommandError when it can't be used."""
    try:
        tools: dict[str, dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CommandError(f"{path}: {error}") from None
    for name, values in tools.items():
        if not isinstance(values, dict) or "capacity" not in values:
            raise CommandError(f"{path}: {name} must be a table with a capacity")
        if unknown := set(values) - FILE_FIELDS:
            raise CommandError(f"{path}: {name}: no such field: {', '.join(sorted(unknown))}")
    return tools


def ensure_tool(name: str, values: dict[str, Any], *, force: bool) -> str:
    """Create or, with ``force``, change one tool; returns what was done."""
    tool = Tool.objects.locked([name]).first()
    if tool is not None and not force:
        return f"{name}: exists with capacity {tool.capacity}, left as it is"
    created = tool is None
    tool = tool or Tool(name=name)
    before = {field: getattr(tool, field) for field in values}
    for field, value in values.items():
        setattr(tool, field, value)
    try:
        tool.full_clean()
    except ValidationError as error:
        raise CommandError(f"{name}: {'; '.join(error.messages)}") from None
    # Only these fields: seats in use are not ours to write.
    with auditing.changing(tool, by=Actor.of_command("seed")):
        tool.save(update_fields=None if created else list(values))
    if created:
        return f"{name}: created with capacity {tool.capacity}"
    changes = [
        f"{field} {before[field]} -> {getattr(tool, field)}"
        for field in values
        if before[field] != getattr(tool, field)
    ]
    return f"{name}: {', '.join(changes) or 'unchanged'}"
