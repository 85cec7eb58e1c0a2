"""Create tools, and change them with ``--force``.

A date is a whole day in UTC, as in a FlexNet file: ``valid_until`` is the last valid
day. A time without a zone is UTC.
"""

import argparse
import tomllib
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils.dateparse import parse_date, parse_datetime

from licenses import auditing
from licenses.auditing import Actor
from licenses.leases import expiry
from licenses.models import Tool

DEFAULT_TOOLS = {"cad_tool": {"capacity": 5}, "simulation": {"capacity": 3}, "analysis": {"capacity": 2}}
TIMES = {"valid_from", "valid_until"}
FILE_FIELDS = {"capacity", "display_name", "vendor", "enabled", *TIMES}


def tool_argument(value: str) -> tuple[str, dict[str, Any]]:
    """Read ``NAME=N``. Return the name and its values."""
    name, separator, capacity = value.partition("=")
    if not separator or not capacity.isascii() or not capacity.isdigit():
        raise argparse.ArgumentTypeError(f"{value!r} is not NAME=N, for example cad_tool=5")
    return name, {"capacity": int(capacity)}


class Command(BaseCommand):
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
            help="a table per tool: [cad_tool] capacity = 5, vendor = ..., valid_until = 2026-12-31 (last day)",
        )
        parser.add_argument("--force", action="store_true", help="also change tools that exist")

    def handle(self, *args: Any, **options: Any) -> None:
        wanted: dict[str, dict[str, Any]] = {}
        if options["file"]:
            wanted |= read_file(options["file"])
        wanted |= dict(options["tool"] or [])
        # A file with a mistake must change nothing.
        with transaction.atomic():
            # Lock all tools first, in the order that borrows of several tools use.
            list(Tool.objects.locked(wanted or DEFAULT_TOOLS))
            lines = [
                ensure_tool(name, values, force=options["force"]) for name, values in (wanted or DEFAULT_TOOLS).items()
            ]
        for line in lines:
            self.stdout.write(line)


def read_file(path: Path) -> dict[str, dict[str, Any]]:
    """Return the tools of a TOML file. Raises CommandError if it is invalid."""
    try:
        tools: dict[str, dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CommandError(f"{path}: {error}") from None
    for name, values in tools.items():
        if not isinstance(values, dict) or "capacity" not in values:
            raise CommandError(f"{path}: {name} must be a table with a capacity")
        if unknown := set(values) - FILE_FIELDS:
            raise CommandError(f"{path}: {name}: no such field: {', '.join(sorted(unknown))}")
        if not isinstance(values["capacity"], int) or isinstance(values["capacity"], bool):
            raise CommandError(f"{path}: {name}: capacity must be a whole number")
        for field in TIMES & values.keys():
            try:
                values[field] = moment(values[field], is_end=field == "valid_until")
            except (ValueError, OverflowError):
                raise CommandError(
                    f"{path}: {name}: {field} must be a date or a time such as 2026-12-31, not {values[field]!r}"
                ) from None
    return tools


def moment(value: Any, *, is_end: bool) -> datetime | None:
    """Return the time in UTC of a value in a file, or None for "".

    A date is the start of its day or, with ``is_end``, its end. Raises ValueError or
    OverflowError if it is not a time in the years 1 to 9999.
    """
    if value == "":
        return None
    if isinstance(value, str):
        value = parse_date(value) or parse_datetime(value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)
    if isinstance(value, date):
        return datetime.combine(value + timedelta(days=is_end), time.min, UTC)
    raise ValueError(f"{value!r} is not a time")


def ensure_tool(name: str, values: dict[str, Any], *, force: bool) -> str:
    """Create one tool or, with ``force``, change it. Return a description of the change.

    If the end of the license is in the past, leases end. Part of the caller's
    transaction.
    """
    tool = Tool.objects.locked([name]).first()
    if tool is not None and not force:
        return f"{name}: exists with capacity {tool.capacity}, not changed"
    created = tool is None
    tool = tool or Tool(name=name)
    before = {field: getattr(tool, field) for field in values}
    for field, value in values.items():
        setattr(tool, field, value)
    try:
        # A tool may have a name from before it was reserved.
        tool.full_clean(exclude=["name"] if tool.pk else None)
    except ValidationError as error:
        raise CommandError(f"{name}: {'; '.join(error.messages)}") from None
    # Write only these fields: leases change the borrowed seats.
    with auditing.changing(tool, by=Actor.of_command("seed")):
        tool.save(update_fields=None if created else list(values))
    if "valid_until" in values and before["valid_until"] != tool.valid_until:
        expiry.follow_validity(tool=name, previous=before["valid_until"])
    if created:
        return f"{name}: created with capacity {tool.capacity}"
    changes = [
        f"{field} {before[field]} -> {getattr(tool, field)}"
        for field in values
        if before[field] != getattr(tool, field)
    ]
    return f"{name}: {', '.join(changes) or 'unchanged'}"
