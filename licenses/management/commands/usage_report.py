"""Print reports in the terminal, as CSV or as JSON."""

import json
from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management.base import BaseCommand, CommandError, CommandParser

from licenses.history import reports, tables, whatif
from licenses.history.reports import DENIAL_KEYS, USAGE_KEYS, UTC_ZONE, Period, Span, time_zone
from licenses.history.tables import Table
from licenses.models import Team, Tool


def day(value: str) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ArgumentTypeError(f"{value!r} is not a date such as 2026-10-31") from None


def zone(value: str) -> ZoneInfo:
    try:
        return time_zone(value)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def listed(among: tuple[str, ...]) -> Callable[[str], list[str]]:
    def words(value: str) -> list[str]:
        found = value.split(",")
        if unknown := [word for word in found if word not in among]:
            raise ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(among)}")
        return found

    return words


class Command(BaseCommand):
    help = "Report use, costs, refusals and the effect of other capacities."

    def add_arguments(self, parser: CommandParser) -> None:
        kinds = parser.add_subparsers(dest="kind", required=True)
        utilisation = kinds.add_parser(
            "utilisation", help="show high-water marks, means and the time without a free seat"
        )
        utilisation.add_argument("--period", choices=[*Period], default=Period.DAY)
        hours = kinds.add_parser("hours-of-week", help="show the use of a tool in each hour of the week")
        usage = kinds.add_parser("usage", help="show seat-hours and their cost")
        usage.add_argument("--by", type=listed(USAGE_KEYS), default=["tool", "user"], metavar=",".join(USAGE_KEYS))
        denials = kinds.add_parser("denials", help="count refused users, by reason")
        denials.add_argument("--by", type=listed(DENIAL_KEYS), default=["tool", "code"], metavar=",".join(DENIAL_KEYS))
        what_if = kinds.add_parser("what-if", help="replay the borrows with other capacities")
        what_if.add_argument(
            "--capacity",
            type=int,
            action="append",
            metavar="SEATS",
            help="a capacity to try; repeatable; default: today's",
        )
        for kind in (utilisation, hours, usage, denials, what_if):
            kind.add_argument("--tool", required=kind in (hours, what_if))
            kind.add_argument(
                "--since", type=day, metavar="DATE", help="the first day; default: 29 days before the last"
            )
            kind.add_argument("--until", type=day, metavar="DATE", help="the last day; default: today")
            kind.add_argument(
                "--tz", type=zone, default=UTC_ZONE, metavar="ZONE", help="the time zone of the days; default: UTC"
            )
            form = kind.add_mutually_exclusive_group()
            form.add_argument("--csv", dest="form", action="store_const", const="csv")
            form.add_argument("--json", dest="form", action="store_const", const="json")
        for kind in (utilisation, hours, usage):
            kind.add_argument("--team")

    def handle(self, *args: Any, kind: str, form: str | None, **options: Any) -> None:
        try:
            span = Span.between(options["since"], options["until"], options["tz"])
        except ValueError as error:
            raise CommandError(str(error)) from None
        found = {
            "tool": find(Tool, options["tool"]) if options["tool"] else None,
            "team": find(Team, options["team"]) if options.get("team") else None,
        }
        kinds: dict[str, Callable[..., Table]] = {
            "utilisation": self.utilisation,
            "hours-of-week": self.hours_of_week,
            "usage": self.usage,
            "denials": self.denials,
            "what-if": self.what_if,
        }
        table = kinds[kind](span, **options | found)
        if form == "json":
            self.stdout.write(json.dumps(table.rows, indent=2))
        elif form == "csv":
            table.write_csv(self.stdout)
        else:
            table.write_text(self.stdout)

    def utilisation(self, span: Span, *, tool: Tool | None, team: Team | None, period: str, **_: Any) -> Table:
        tools = [tool] if tool else list(Tool.objects.order_by("name"))
        found = reports.utilisation(tools=tools, span=span, period=Period(period), team=team)
        return tables.utilisation(found, team=team is not None)

    def hours_of_week(self, span: Span, *, tool: Tool, team: Team | None, **_: Any) -> Table:
        return tables.hours_of_week(reports.hours_of_week(tool=tool, span=span, team=team))

    def usage(self, span: Span, *, tool: Tool | None, team: Team | None, by: list[str], **_: Any) -> Table:
        return tables.usage(reports.usage(by=by, span=span, tool=tool, team=team), by)

    def denials(self, span: Span, *, tool: Tool | None, by: list[str], **_: Any) -> Table:
        return tables.denials(reports.denials(by=by, span=span, tool=tool), by)

    def what_if(self, span: Span, *, tool: Tool, capacity: list[int] | None, **_: Any) -> Table:
        capacities = [tool.capacity] if capacity is None else capacity
        if min(capacities) < 0:
            raise CommandError("--capacity must be 0 or more.")
        recorded, outcomes = whatif.replay(tool=tool, capacities=capacities, span=span)
        if recorded.unmet:
            self.stderr.write(
                f"{recorded.unmet} of {recorded.decided} borrows got no seat. The replay lets each hold one for "
                f"{recorded.assumed.total_seconds() / 60:.0f} min."
            )
        if recorded.since and recorded.since > span.first:
            self.stderr.write(f"Leases that ended before {recorded.since} were deleted.")
        return tables.what_if(outcomes)


def find(model: Any, name: str) -> Any:
    """Return the tool or team of a name. Raises CommandError."""
    row = model.objects.filter(name=name).first()
    if row is None:
        raise CommandError(f"There is no {model._meta.verbose_name} {name!r}.")
    return row
