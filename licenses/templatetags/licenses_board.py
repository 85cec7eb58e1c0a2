"""How the board draws seats and writes times."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django import template
from django.db import DatabaseError, InterfaceError
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from licenses.errors import BORROW_REFUSALS
from licenses.models import Denial, Lease, Ticket, Tool
from licenses.models.denial import EPISODE_WINDOW
from licenses.visibility import Names

register = template.Library()

# Up to so many seats are drawn one by one.
SINGLE_SEATS = 32
# Patterns that stand in the page.
FILLS = {"set-aside": "url(#set-aside)", "reserved": "url(#reserved)"}


@register.simple_tag(takes_context=True)
def signed_in(context: Any) -> Any:
    """Return the account of whoever looks at the page; None if nobody is signed in, or
    if it can't be known: a page about an error must not fail too."""
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
    """A tool's seats as a bar: those that are out, above the capacity, set aside,
    reserved, and free. The figures stand beside it, so that nobody needs to see it.

    Drawn by attributes: the policy for contents allows no style in the page.
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
    """Each kind of seats that there is, where it begins and how many it has."""
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
    """A time: the hour, with the day unless it is today, and how far away it is."""
    now: datetime = context["now"]
    return format_html("{} <span>{}</span>", clock(context, value), distance(value, now))


@register.simple_tag(takes_context=True)
def clock(context: Any, value: datetime) -> SafeString:
    """A time in UTC; the script makes the reader's own of it."""
    form = "%H:%M" if value.date() == context["now"].date() else "%Y-%m-%d %H:%M"
    return format_html('<time datetime="{}">{}</time>', value.isoformat(timespec="seconds"), value.strftime(form))


@register.filter("from_now")
def distance(value: datetime, now: datetime) -> str:
    """How long ago a time was, or how far ahead it is."""
    if abs(value - now) < timedelta(minutes=1):
        return "just now" if value <= now else "within a minute"
    return f"{_span(now - value)} ago" if value < now else f"in {_span(value - now)}"


def _span(value: timedelta) -> str:
    """A time of a minute or more in its two largest units; of weeks in days."""
    minutes = round(value / timedelta(minutes=1))
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days >= 7:
        return f"{days} days"
    units = [(days, "d"), (hours, "h"), (0 if days else minutes, "min")]
    return " ".join(f"{number} {unit}" for number, unit in units if number)


@register.filter
def grouped(number: int) -> str:
    """A number that one can read: 16,384."""
    return f"{number:,}"


@register.filter
def named_among(row: Lease | Ticket | Denial, names: Names) -> bool:
    """Whether the reader sees whose row it is."""
    return names.shown_on(row)


@register.filter
def in_words(code: str) -> str:
    """Why somebody was refused; a code that isn't known any more as it is."""
    return BORROW_REFUSALS[code].title if code in BORROW_REFUSALS else code


@register.simple_tag(takes_context=True)
def outcome(context: Any, denial: Denial) -> str:
    """Whether somebody who was refused got a seat after all."""
    if denial.resolved_at is not None:
        after = denial.resolved_at - denial.first_at
        return "Yes, within a minute" if after < timedelta(minutes=1) else f"Yes, after {_span(after)}"
    return "Not yet" if denial.last_at > context["now"] - EPISODE_WINDOW else "No"
