"""Write the tables of reports to files and to the terminal."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Protocol

# The start of a formula in a spreadsheet: at the start of a cell, or inside a cell if the
# spreadsheet uses another separator than the comma.
# https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = re.compile(r"""(^|[,;|\t\r\n])([\s"]*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])""")


class Writable(Protocol):
    def write(self, text: str, /) -> object: ...


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of plain values, each with all columns."""

    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]

    def write_csv(self, stream: Writable) -> None:
        """Write CSV with a header and every cell in quotes.

        A cell that a spreadsheet would calculate gets an apostrophe first, because names
        come from clients.
        """
        writer = csv.writer(stream, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
        writer.writerow(self.columns)
        writer.writerows([_cell(row[column]) for column in self.columns] for row in self.rows)

    def write_text(self, stream: Writable) -> None:
        """Write aligned columns for people."""
        cells = [list(self.columns), *([_text(row[column]) for column in self.columns] for row in self.rows)]
        widths = [max(len(line[number]) for line in cells) for number in range(len(self.columns))]
        for line in cells:
            text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            stream.write(text.rstrip() + "\n")


def _cell(value: Any) -> str:
    return FORMULA.sub(r"\1\2'", value) if isinstance(value, str) else _text(value)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


# What the rest of the use is of, by the key of a table.
WITHOUT = {"vendor": "No vendor", "team": "No team", "project": "No project", "user": "Names that were removed"}


def subject(name: str | None, key: str, names: Mapping[str, str] = MappingProxyType({})) -> str:
    """Write what a row of a table by ``key`` is of, with the names of tools for people from ``names``."""
    if not name:
        return WITHOUT.get(key, "—")
    return name[:7] if key == "month" else names.get(name, name)


def amount(value: Decimal | None, currency: str = "") -> str:
    """Write money with two decimals; a dash for an unknown amount."""
    return "—" if value is None else f"{value:,.2f} {currency}".rstrip()


def counted(number: int, noun: str, plural: str = "") -> str:
    """Write a number of things, such as ``1 seat`` and ``2,000 seats``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def percent(share: float | None) -> str:
    """Write a share as a percentage, or nothing for None."""
    return "" if share is None else f"{share:.1%}"


def since(moment: datetime, now: datetime) -> str:
    """Write the time since a moment, such as ``3 min ago``."""
    return f"{duration(now - moment)} ago" if now - moment >= timedelta(seconds=1) else "just now"


def duration(value: timedelta) -> str:
    """Write a duration in its two largest units."""
    if not value:
        return "0"
    if value < timedelta(minutes=1):
        return f"{value.total_seconds():.0f} s"
    minutes = round(value.total_seconds() / 60)
    days, minutes = divmod(minutes, 24 * 60)
    hours, minutes = divmod(minutes, 60)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
