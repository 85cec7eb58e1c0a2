"""Draw seats and write times on the board."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from django import template
from django.db import DatabaseError, InterfaceError
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from licenses.access.visibility import Names
from licenses.models import Denial, Lease, Team, Ticket, TicketClaim, Tool
from licenses.models.denial import EPISODE_WINDOW
from licenses.policy import BORROW_REFUSALS

register = template.Library()

# Up to this number, seats are drawn one by one.
SINGLE_SEATS = 32
# Patterns that the page defines.
SOFT_BREAK = mark_safe("<wbr>")
FILLS = {"set-aside": "url(#set-aside)", "reserved": "url(#reserved)"}


@register.simple_tag(takes_context=True)
def signed_in(context: Any) -> Any:
    """Return the reader's account; None if nobody is signed in or the database does not answer.

    A page about an error must not fail too.
    """
    request = context.get("request")
    if request is None:
        return None
    user = getattr(request, "_cached_user" if context.get("asks_no_database") else "user", None)
    try:
        return user if user is not None and user.is_authenticated else None
    except (DatabaseError, InterfaceError):
        return None


@register.simple_tag
def seats(tool: Tool) -> SafeString:
    """Draw a tool's seats as a bar: borrowed, above the capacity, set aside, reserved, free.

    The page has the same numbers as text. The bar uses attributes, because the
    Content-Security-Policy allows no inline style.
    """
    total = max(tool.capacity, tool.levels.borrowed)
    marks = list(_seat_by_seat(tool) if total <= SINGLE_SEATS else _parts(tool))
    bar = format_html_join(
        "",
        '<rect class="{}" fill="{}" x="{}%" width="{}%" height="100%"></rect>',
        ((kind, FILLS.get(kind, ""), _percent(start, total), _percent(width, total)) for kind, start, width in marks),
    )
    return format_html('<svg class="seats" aria-hidden="true">{}</svg>', bar)


def _parts(tool: Tool) -> Iterator[tuple[str, int, int]]:
    """Yield each kind of seats with its first position and its number."""
    levels, start = tool.levels, 0
    for kind, width in (
        ("borrowed", levels.borrowed - tool.overdrawn),
        ("overdrawn", tool.overdrawn),
        ("set-aside", levels.set_aside),
        ("reserved", levels.reserved_idle),
        ("free", levels.available + levels.closed),
    ):
        if width:
            yield kind, start, width
            start += width


def _seat_by_seat(tool: Tool) -> Iterator[tuple[str, int, int]]:
    for kind, start, width in _parts(tool):
        for seat in range(start, start + width):
            yield kind, seat, 1


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.3f}".rstrip("0").rstrip(".")


@register.simple_tag(takes_context=True)
def moment(context: Any, value: datetime) -> SafeString:
    """Write a time: the hour, the day unless it is today, and the distance from now."""
    now: datetime = context["now"]
    return format_html("{} <span>{}</span>", clock(context, value), distance(value, now))


@register.simple_tag(takes_context=True)
def clock(context: Any, value: datetime) -> SafeString:
    """Write a time in UTC. The script changes it to local time."""
    form = "%H:%M" if value.date() == context["now"].date() else "%Y-%m-%d %H:%M"
    return format_html('<time datetime="{}">{}</time>', value.isoformat(timespec="seconds"), value.strftime(form))


@register.filter("from_now")
def distance(value: datetime, now: datetime) -> str:
    """Return the time since or until a moment as a text."""
    if abs(value - now) < timedelta(minutes=1):
        return "just now" if value <= now else "within a minute"
    return f"{_span(now - value)} ago" if value < now else f"in {_span(value - now)}"


def _span(value: timedelta) -> str:
    """Return a duration of a minute or more in its two largest units; weeks as days."""
    minutes = round(value / timedelta(minutes=1))
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days >= 7:
        return f"{days} days"
    units = [(days, "d"), (hours, "h"), (0 if days else minutes, "min")]
    return " ".join(f"{number} {unit}" for number, unit in units if number)


@register.filter("span")
def span_in_words(value: timedelta) -> str:
    """Return a duration as a text."""
    return _span(value) if value >= timedelta(minutes=1) else "a minute"


@register.filter
def seconds_span(seconds: int) -> str:
    """Return a number of seconds as a text."""
    return span_in_words(timedelta(seconds=seconds))


@register.filter
def display(named: Tool | Team) -> str:
    """Return the name of a tool or a team for people."""
    return str(named)


@register.simple_tag(takes_context=True)
def filled(context: Any, rows: Iterable[Any]) -> set[str]:
    """Return the columns that have a value in one of these leases, claims or refusals; the page shows only those."""
    names: Names | None = context.get("names")
    columns = set()
    for row in (row.ticket if isinstance(row, TicketClaim) else row for row in rows):
        values = {name: getattr(row, name, None) for name in ("team", "project", "host")}
        values["heartbeat"] = getattr(row, "has_program", False)
        if names is not None and not names.shown_on(row):
            values["host"] = None
        columns |= {name for name, value in values.items() if value}
    return columns


@register.filter
def soft(name: str) -> SafeString:
    """Allow a line to end within a long name, but only after a separator."""
    parts = re.split(r"(?<=[._@/-])(?=.)", name)
    return format_html_join(SOFT_BREAK, "{}", ((part,) for part in parts))


@register.filter
def unbroken(command: str) -> SafeString:
    """Keep words such as ``--wait`` on one line. Browsers end a line after a hyphen."""
    *parts, end = re.split(r"(\S*-\S*)", command)
    words = format_html_join("", '{}<span class="word">{}</span>', zip(parts[::2], parts[1::2], strict=True))
    return format_html("{}{}", words, end)


@register.simple_tag(takes_context=True)
def toggled(context: Any, name: str, value: str) -> str:
    """Return the query of this page with a value added to a parameter, or without it if it is there."""
    query = context["request"].GET.copy()
    values = query.getlist(name)
    query.setlist(name, [other for other in values if other != value] if value in values else [*values, value])
    return f"?{query.urlencode()}"


@register.filter
def grouped(number: int) -> str:
    """Write a number with separators, such as 16,384."""
    return f"{number:,}"


@register.filter
def named_among(row: Lease | Ticket | Denial, names: Names) -> bool:
    """Return whether the reader sees the name on the row."""
    return names.shown_on(row)


@register.simple_tag(takes_context=True)
def contact(context: Any, row: Lease | Ticket) -> SafeString | str:
    """Write a link that mails another user, where the site allows it and has the address."""
    address = context.get("contacts", {}).get(row.user)
    if not address or row.user == context["reader"].name:
        return ""
    text = ' <a class="contact" href="mailto:{}" aria-label="Mail to {}">mail</a>'
    return format_html(text, quote(address, safe="@"), row.user)


@register.filter
def in_words(code: str) -> str:
    """Return the reason of a refusal as a text, or an unknown code unchanged."""
    return BORROW_REFUSALS[code].title if code in BORROW_REFUSALS else code


@register.simple_tag(takes_context=True)
def outcome(context: Any, denial: Denial) -> str:
    """Return whether the user got a seat after the refusal."""
    if denial.resolved_at is not None:
        after = denial.resolved_at - denial.first_at
        return "Yes, within a minute" if after < timedelta(minutes=1) else f"Yes, after {_span(after)}"
    return "Not yet" if denial.last_at > context["now"] - EPISODE_WINDOW else "No"
