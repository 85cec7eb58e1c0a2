"""Write amounts in reports."""

from datetime import datetime, timedelta
from decimal import Decimal

from django import template

from licenses.history.reports import Usage
from licenses.history.tables import duration, since

register = template.Library()


@register.filter
def percent(share: float | None) -> str:
    """Write a share as a percentage, or nothing for None."""
    return "" if share is None else f"{share:.1%}"


register.filter("span", duration)
register.filter("since", since)


@register.filter
def amount(value: Decimal | None, currency: str = "") -> str:
    """Write money with two decimals; a dash for an unknown amount."""
    if value is None or value == "":
        return "—"
    return f"{value:,.2f} {currency}".rstrip()


@register.filter
def ago(moment: datetime, now: datetime) -> str:
    """Write the time since a moment in its two largest units."""
    return duration(max(now - moment, timedelta(0)))


@register.filter
def named(row: Usage, key: str) -> str:
    """Return the subject of a row; a dash for no team, no project and a removed name."""
    return row.key[key] or "—"
