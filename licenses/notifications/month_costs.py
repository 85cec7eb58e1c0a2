"""Mail the costs of a finished month to those who want them: of the site, or of each team that a person leads.

The figures are those of the pages, from the same functions, at the time of the mail. The outbox has no figures. A
person who may not see the page any more gets no mail.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from itertools import zip_longest
from types import MappingProxyType
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth.models import User
from django.template.defaultfilters import floatformat
from django.template.loader import render_to_string

from licenses.access.callers import Kind
from licenses.access.credentials import caller_of_account
from licenses.access.rules import may_see_reports, teams_led_by
from licenses.history import money
from licenses.history.catalog import CONTRACTS, TOOL_COSTS, USAGE
from licenses.history.days import DAY
from licenses.history.declarations import Limits, Report
from licenses.history.reports import Span, Usage
from licenses.history.tables import amount, percent, subject
from licenses.models import Event, Notification, NotificationPreference, Team, Tool

from . import messages
from .outbox import Occasion

# Rows of a table. The attached files have all.
MOST = 20
# Characters of a name in a table of plain text. The attached files have all.
LONGEST_NAME = 40
# The most borrows that are replayed, as on the page.
MAX_DEMANDS = 50_000


class Withdrawn(Exception):
    """The person may not see the costs or does not want them any more. The text is for the log of deliveries."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of a mail: its first rows as text, and the number of all."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    number: int

    @property
    def rest(self) -> str:
        """Return a sentence about the rows that are left out, or ''."""
        return f"{len(self.rows)} of {self.number}. The attached file has all." if self.number > len(self.rows) else ""

    def text(self) -> str:
        """Return the table with aligned columns: names to the left, numbers to the right."""
        lines = [[shorten(cell), *others] for cell, *others in (self.columns, *self.rows)]
        widths = [max(map(len, column)) for column in zip_longest(*lines, fillvalue="")]
        texts = [
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, *(texts if self.rows else ["None."]), *filter(None, [self.rest])])


@dataclass(frozen=True, slots=True)
class Costs:
    """The mail: its text with the sums, its tables, and the attached files by name, as CSV."""

    message: messages.Message
    sheets: Sequence[Sheet]
    files: Mapping[str, str]

    def text(self) -> str:
        """Return the tables as text."""
        return "\n\n".join(sheet.text() for sheet in self.sheets)

    def html(self, preferences: str) -> str:
        """Return the mail as HTML, with a link to the page where its reader chooses."""
        context = {"message": self.message, "sheets": self.sheets, "preferences": preferences}
        return render_to_string("licenses/mail/month_costs.html", context)


def shorten(name: str) -> str:
    """Return a name that is short enough for a table of plain text."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def views_of(account: User) -> list[Team | None]:
    """Return whose costs an active account may see: None is the site; otherwise the teams that it leads."""
    caller = caller_of_account(account, Kind.SESSION)
    return [None] if may_see_reports(caller) else [*teams_led_by(caller).order_by("name")]


def occasions(now: datetime, last_look: datetime | None) -> Iterator[Occasion]:
    """Yield the month that has ended since the last look, for each person who wants its costs and may see them.

    If the last look is months ago, only the last month.
    """
    zone = ZoneInfo(settings.LICENSE_TIME_ZONE)
    first_of_this = now.astimezone(zone).date().replace(day=1)
    if last_look is None or last_look >= _midnight(first_of_this, zone):
        return
    last = first_of_this - DAY
    first, following = last.replace(day=1), (first_of_this + 31 * DAY).replace(day=1)
    wanted = NotificationPreference.objects.filter(event=Event.MONTH_COSTS, webhook=None, wanted=True)
    for row in wanted.filter(account__is_active=True).select_related("account").order_by("account"):
        for team in views_of(row.account):
            facts = {"first": first, "last": last, "team": team.name if team else ""}
            key = f"{row.account_id} {first} {team.pk if team else 'site'}"
            yield Occasion(Event.MONTH_COSTS, key, _midnight(following, zone), row.account.username, "", facts)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone)


def report(notification: Notification, address: str) -> Costs:
    """Return the mail to this address. Raises Withdrawn."""
    facts = notification.facts
    team = _may_get(notification, address)
    zone = ZoneInfo(settings.LICENSE_TIME_ZONE)
    span = Span(date.fromisoformat(facts["first"]), date.fromisoformat(facts["last"]), zone)
    message = messages.write(notification)
    return _of_team(message, team, span) if team else _of_site(message, span)


def _may_get(notification: Notification, address: str) -> Team | None:
    """Return the team whose costs these are, None for the site. Raises Withdrawn."""
    account = User.objects.filter(username=notification.user, is_active=True).first()
    if account is None or account.email != address:
        raise Withdrawn("The account has ended, or has another address now")
    wanted = NotificationPreference.objects.filter(account=account, event=Event.MONTH_COSTS, webhook=None, wanted=True)
    if not wanted.exists():
        raise Withdrawn("The person does not want it any more")
    for team in views_of(account):
        if (team.name if team else "") == notification.facts["team"]:
            return team
    raise Withdrawn("The person may not see these costs any more")


def _of_site(message: messages.Message, span: Span) -> Costs:
    # The other numbers of seats are only in the file.
    costs = money.of_site(span=span, at_most=0)
    currency = settings.LICENSE_CURRENCY
    figures = [
        ("Cost of use", amount(costs.total.cost, currency)),
        ("Cost of contracts", amount(costs.contract_cost, currency)),
        ("Idle cost", amount(costs.idle_cost, currency)),
        ("Seat-hours", _hours(costs.total.seat_hours)),
        ("Borrows", f"{costs.total.borrows:,}"),
    ]
    # The costs come first: a phone shows few columns.
    tools = [
        [
            str(row.tool),
            amount(row.usage.cost if row.usage else None),
            amount(row.contract_cost),
            amount(row.idle_cost),
            percent(row.share),
            percent(row.working_share),
            f"{row.peak:,}",
            f"{row.tool.capacity:,}",
        ]
        for row in costs.tools
    ]
    contracts = [
        [
            str(row.contract.tool),
            amount(row.cost),
            amount(row.idle_cost),
            f"{row.contract.seats:,}",
            str(row.contract.last_day or "—"),
            row.contract.reference or "—",
        ]
        for row in costs.contracts
    ]
    sheets = [
        *(_of_use(f"By {key}", key, costs.by[key]) for key in costs.by),
        _sheet(
            "Tools by cost",
            ["Tool", "Cost of use", "Contracts", "Idle", "Use at all hours", "In working hours", "Peak", "Seats"],
            tools,
        ),
        _sheet("Contracts by idle cost", ["Tool", "Cost", "Idle", "Seats", "Last day", "Reference"], contracts),
    ]
    files = {
        "usage": (USAGE, {"by": ["team", "project", "vendor", "tool"]}),
        "tools": (TOOL_COSTS, {}),
        "contracts": (CONTRACTS, {}),
    }
    text = (
        "The cost of use is at today's prices per seat-hour. The cost of contracts is the part of their prices for "
        "these days."
    )
    return Costs(_with_figures(message, text, figures, costs.without_price, span), sheets, _files(files, span))


def _of_team(message: messages.Message, team: Team, span: Span) -> Costs:
    costs = money.of_team(team=team, span=span)
    figures = [
        ("Cost of use", amount(costs.total.cost, settings.LICENSE_CURRENCY)),
        ("Seat-hours", _hours(costs.total.seat_hours)),
        ("In working hours", _hours(sum(costs.working_hours.values()))),
        ("Borrows", f"{costs.total.borrows:,}"),
    ]
    names = {"tool": Tool.objects.all().display_names(), "project": {}}
    sheets = [_of_use(f"By {key}", key, costs.by[key], names[key]) for key in ("tool", "project")]
    files = {f"usage-{team.name}": (USAGE, {"by": ["team", "tool", "project"], "team": team.name})}
    text = "The cost of use is at today's prices per seat-hour."
    return Costs(_with_figures(message, text, figures, costs.without_price, span), sheets, _files(files, span))


def _with_figures(
    message: messages.Message, text: str, figures: Sequence[tuple[str, str]], without_price: float, span: Span
) -> messages.Message:
    if without_price:
        text += f" {_hours(without_price)} seat-hours of tools without a price are not in the cost of use."
    return replace(message, text=f"{text} Days are those of {span.zone.key}.", facts=figures)


def _of_use(title: str, key: str, rows: Sequence[Usage], names: Mapping[str, str] = MappingProxyType({})) -> Sheet:
    cells = [
        [
            subject(row.key[key], key, names),
            f"{row.borrows:,}",
            _hours(row.seat_hours),
            amount(row.cost),
        ]
        for row in rows
    ]
    return _sheet(title, [key.capitalize(), "Borrows", "Seat-hours", "Cost of use"], cells)


def _sheet(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Sheet:
    return Sheet(title, columns, rows[:MOST], len(rows))


def _hours(value: float) -> str:
    """Write seat-hours as the pages do."""
    return str(floatformat(value, "1g"))


def _files(wanted: Mapping[str, tuple[Report, Mapping[str, object]]], span: Span) -> dict[str, str]:
    """Return reports as CSV, by the names of their files."""
    files = {}
    for name, (report, values) in wanted.items():
        answer = report.answer(span, report.question(values), Limits(borrows=MAX_DEMANDS))
        stream = io.StringIO()
        answer.table.write_csv(stream)
        # Excel needs the byte order mark to read UTF-8.
        files[f"{name}-{span.first:%Y-%m}.csv"] = "\ufeff" + stream.getvalue()
    return files
