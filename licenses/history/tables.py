"""Make tables of reports, the same for the API, files and the terminal.

Amounts of time are seat-hours if the column's name says so, otherwise seconds.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from .reports import Denials, HourOfWeek, Usage, Utilisation
from .whatif import Outcome

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

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


def utilisation(found: Iterable[Utilisation], *, team: bool = False) -> Table:
    columns = ["tool", "start", "capacity", "peak", "mean", "utilisation", "full_seconds"]
    rows = [
        {
            "tool": row.tool,
            "team": row.team,
            "start": _moment(row.start),
            "capacity": row.capacity,
            "peak": row.peak,
            "mean": round(row.mean, 4),
            "utilisation": None if row.share is None else round(row.share, 4),
            "full_seconds": None if row.full_for is None else round(row.full_for.total_seconds(), 3),
        }
        for row in found
    ]
    if team:
        columns = ["tool", "team", *(name for name in columns[1:] if name != "full_seconds")]
    return Table(columns, _only(columns, rows))


def hours_of_week(found: Iterable[HourOfWeek]) -> Table:
    columns = ["weekday", "hour", "hours", "highest", "p95", "mean"]
    rows = [
        {
            "weekday": WEEKDAYS[row.weekday],
            "hour": row.hour,
            "hours": row.hours,
            "highest": row.highest,
            "p95": row.p95,
            "mean": round(row.mean, 4),
        }
        for row in found
    ]
    return Table(columns, rows)


def usage(found: Iterable[Usage], by: Sequence[str]) -> Table:
    columns = [*by, "borrows", "seat_hours", "overdraft_hours", "cost"]
    rows = [
        {
            **row.key,
            "borrows": row.borrows,
            "seat_hours": round(row.seat_hours, 4),
            "overdraft_hours": round(row.overdraft_hours, 4),
            # The API writes money as text.
            "cost": None if row.cost is None else f"{row.cost:.2f}",
        }
        for row in found
    ]
    return Table(columns, rows)


def denials(found: Iterable[Denials], by: Sequence[str]) -> Table:
    columns = [*by, "episodes", "true_denials", "attempts", "people"]
    rows = [
        {
            **row.key,
            "episodes": row.episodes,
            "true_denials": row.true_denials,
            "attempts": row.attempts,
            "people": row.people,
        }
        for row in found
    ]
    return Table(columns, rows)


def what_if(found: Iterable[Outcome]) -> Table:
    columns = [
        "capacity",
        "demands",
        "refused",
        "too_big",
        "waited",
        "unserved",
        "median_wait_seconds",
        "p95_wait_seconds",
        "longest_wait_seconds",
        "longest_queue",
    ]
    rows = [
        {
            "capacity": row.capacity,
            "demands": row.decided,
            "refused": row.refused,
            "too_big": row.too_big,
            "waited": row.waited,
            "unserved": row.unserved,
            "median_wait_seconds": round(row.median_wait.total_seconds(), 3),
            "p95_wait_seconds": round(row.p95_wait.total_seconds(), 3),
            "longest_wait_seconds": round(row.longest_wait.total_seconds(), 3),
            "longest_queue": row.longest_queue,
        }
        for row in found
    ]
    return Table(columns, rows)


def _only(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{column: row[column] for column in columns} for row in rows]


def _moment(value: Any) -> str:
    """Write a date, or a moment in UTC as the API does."""
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)
