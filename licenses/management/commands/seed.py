"""Create tools, and change them with ``--force``.

A date is a whole day in UTC, as in a FlexNet file: ``valid_until`` is the last valid
day. A time without a zone is UTC.
"""

import argparse
import tomllib
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils.dateparse import parse_date, parse_datetime

from licenses.auditing import Actor
from licenses.models import ContractSource
from licenses.tools import services as tools
from licenses.tools.locking import lock_known

DEFAULT_TOOLS = {"cad_tool": {"capacity": 5}, "simulation": {"capacity": 3}, "analysis": {"capacity": 2}}
TIMES = {"valid_from", "valid_until"}
FILE_FIELDS = {"capacity", "contracts", "display_name", "vendor", "enabled", *TIMES}
CONTRACT_FIELDS = {"seats", "first_day", "last_day", "price", "reference", "note"}


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
    """Return the tools of a TOML file. Raises CommandError if it is invalid."""
    try:
        found: dict[str, dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CommandError(f"{path}: {error}") from None
    for name, values in found.items():
        if not isinstance(values, dict) or ("capacity" in values) == ("contracts" in values):
            raise CommandError(f"{path}: {name} must be a table with a capacity or with contracts")
        if unknown := set(values) - FILE_FIELDS:
            raise CommandError(f"{path}: {name}: no such field: {', '.join(sorted(unknown))}")
        if "contracts" in values:
            values["contracts"] = [
                read_contract(f"{path}: {name}", contract) for contract in as_list(values["contracts"])
            ]
        elif not is_whole(values["capacity"]):
            raise CommandError(f"{path}: {name}: capacity must be a whole number")
        for field in TIMES & values.keys():
            try:
                values[field] = moment(values[field], is_end=field == "valid_until")
            except (ValueError, OverflowError):
                raise CommandError(
                    f"{path}: {name}: {field} must be a date or a time such as 2026-12-31, not {values[field]!r}"
                ) from None
    return found


def is_whole(value: Any) -> bool:
    """Return whether a value of a file is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def as_list(value: Any) -> list[Any]:
    """Return a list of a file. A value that is none is read as one contract, which is invalid."""
    return value if isinstance(value, list) else [value]


def read_contract(where: str, values: Any) -> dict[str, Any]:
    """Return the fields of a contract in a file. Raises CommandError if one is invalid."""
    if not isinstance(values, dict) or not is_whole(values.get("seats")):
        raise CommandError(f"{where}: a contract must be a table with seats, a whole number")
    if unknown := set(values) - CONTRACT_FIELDS:
        raise CommandError(f"{where}: contracts: no such field: {', '.join(sorted(unknown))}")
    for field in {"first_day", "last_day"} & values.keys():
        day = parse_day(values[field])
        if day is None and values[field] != "":
            raise CommandError(f"{where}: {field} must be a date such as 2026-12-31, not {values[field]!r}")
        values[field] = day
    if "price" in values:
        values["price"] = parse_price(where, values["price"])
    return values | {"source": ContractSource.MANUAL}


def parse_day(value: Any) -> date | None:
    """Return a date of a file, or None."""
    try:
        value = parse_date(value) if isinstance(value, str) else value
    except ValueError:
        return None
    return value if isinstance(value, date) and not isinstance(value, datetime) else None


def parse_price(where: str, value: Any) -> Decimal | None:
    """Return a price of a file, or None for "". Raises CommandError."""
    if value == "":
        return None
    with suppress(ArithmeticError):
        if not isinstance(value, bool) and isinstance(value, int | float | str):
            return Decimal(str(value))
    raise CommandError(f"{where}: price must be a number such as 1200.50, not {value!r}")


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


@transaction.atomic
def put(wanted: dict[str, dict[str, Any]], *, force: bool) -> list[str]:
    """Create tools and, with ``force``, change those that exist; all or none. Return a line for each."""
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
    return [lines[name] for name in wanted]


def line_of(change: tools.ToolChange) -> str:
    """Return a line that describes a change."""
    if change.is_new:
        return f"{change.tool.name}: created with capacity {change.tool.capacity}"
    changes = [f"{field} {change.before[field]} -> {value}" for field, value in change.after.items()]
    changes += [f"contract {text}" for text in map(str, change.contracts)]
    return f"{change.tool.name}: {', '.join(changes) or 'unchanged'}"
