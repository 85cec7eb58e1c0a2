"""Write amounts in reports."""

from datetime import datetime, timedelta

from django import template

from licenses.history.reports import Usage

register = template.Library()


@register.filter
def percent(share: float | None) -> str:
    """Write a share as a percentage, or nothing for None."""
    return "" if share is None else f"{share:.1%}"


@register.filter
def span(value: timedelta) -> str:
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


@register.filter
def ago(moment: datetime, now: datetime) -> str:
    """Write the time since a moment in its two largest units."""
    return span(max(now - moment, timedelta(0)))


@register.filter
def named(row: Usage, key: str) -> str:
    """Return the subject of a row; a dash for no team, no project and a removed name."""
    return row.key[key] or "—"
