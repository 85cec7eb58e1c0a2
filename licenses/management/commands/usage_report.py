"""Print reports in the terminal, as CSV or as JSON."""

import json
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from datetime import date
from typing import Any, TypeVar

from django.core.management.base import CommandError, CommandParser

from licenses.history.catalog import REPORTS
from licenses.history.declarations import Choice, Missing, Parameter, Seats, TeamParameter, ToolParameter, Words
from licenses.history.reports import UTC_ZONE, Span, time_zone
from licenses.management.base import ServerCommand
from licenses.models.tool import MAX_CAPACITY

T = TypeVar("T")


def argument(read: Callable[[str], T]) -> Callable[[str], T]:
    """Return a reader of an argument; the text of its ValueError is shown."""

    def argument(value: str) -> T:
        try:
            return read(value)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from None

    return argument


def day(value: str) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ArgumentTypeError(f"{value!r} is not a date such as 2026-10-31") from None


def seats(value: str) -> int:
    if not (value.isascii() and value.isdecimal() and int(value) <= MAX_CAPACITY):
        raise ArgumentTypeError(f"{value!r} is not a number of seats from 0 to {MAX_CAPACITY}")
    return int(value)


def add_option(parser: ArgumentParser, asked: Parameter) -> None:
    """Add the option for a parameter of a report."""
    options: dict[str, Any] = {"required": asked.required}
    match asked:
        case ToolParameter():
            options |= {"metavar": "TOOL", "help": "only this tool"}
        case TeamParameter():
            options |= {"metavar": "TEAM", "help": "only this team"}
        case Choice():
            options |= {"choices": asked.among, "help": f"default: {asked.default}"}
        case Words():
            options |= {"type": argument(asked.read), "metavar": ",".join(asked.among)}
            options |= {"help": f"default: {','.join(asked.default)}"}
        case Seats():
            options |= {"type": seats, "action": "append", "metavar": "SEATS"}
            options |= {"help": "a capacity to try; repeatable; default: today's"}
    parser.add_argument(f"--{asked.name}", **options)


class Command(ServerCommand):
    help = "Report use, costs, refusals and the effect of other capacities."

    def add_arguments(self, parser: CommandParser) -> None:
        kinds = parser.add_subparsers(dest="kind", required=True)
        for report in REPORTS:
            kind = kinds.add_parser(report.name, help=report.summary, description=report.summary)
            for asked in report.asks:
                add_option(kind, asked)
            kind.add_argument(
                "--since", type=day, metavar="DATE", help="the first day; default: 29 days before the last"
            )
            kind.add_argument("--until", type=day, metavar="DATE", help="the last day; default: today")
            kind.add_argument(
                "--tz",
                type=argument(time_zone),
                default=UTC_ZONE,
                metavar="ZONE",
                help="the time zone of the days; default: UTC",
            )
            form = kind.add_mutually_exclusive_group()
            form.add_argument("--csv", dest="form", action="store_const", const="csv")
            form.add_argument("--json", dest="form", action="store_const", const="json")

    def handle(self, *args: Any, kind: str, form: str | None, **options: Any) -> None:
        try:
            span = Span.between(options["since"], options["until"], options["tz"])
        except ValueError as error:
            raise CommandError(str(error)) from None
        report = next(report for report in REPORTS if report.name == kind)
        try:
            answer = report.answer(span, report.question(options))
        except Missing as missing:
            raise CommandError(str(missing)) from None
        for note in answer.notes:
            self.stderr.write(note)
        if form == "json":
            self.stdout.write(json.dumps(answer.table.rows, indent=2))
        elif form == "csv":
            answer.table.write_csv(self.stdout)
        else:
            answer.table.write_text(self.stdout)
