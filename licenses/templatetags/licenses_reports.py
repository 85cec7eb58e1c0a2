"""Write amounts in reports."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from django import template

from licenses.history import tables
from licenses.history.reports import Usage
from licenses.history.tables import duration, percent, since
from licenses.models import Tool

register = template.Library()


register.filter("percent", percent)
register.filter("span", duration)
register.filter("since", since)


@register.filter
def amount(value: Decimal | str | None, currency: str = "") -> str:
    """Write money with two decimals; a dash for an unknown amount, or for a row that the template does not find."""
    return tables.amount(None if isinstance(value, str) else value, currency)


@register.filter
def among(tool: Tool, names: Mapping[str, str]) -> str:
    """Return the name of a tool for people, which no other of them has."""
    return names[tool.name]


@register.filter
def ago(moment: datetime, now: datetime) -> str:
    """Write the time since a moment in its two largest units."""
    return duration(max(now - moment, timedelta(0)))


@register.filter
def named(row: Usage, key: str) -> str:
    """Return what a row of a table by ``key`` is of."""
    return tables.subject(row.key[key], key)
