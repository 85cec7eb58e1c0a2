"""Show tools and teams in lists: their names for people, and in small print the names that programs use."""

from typing import Any

from django.contrib import admin
from django.db.models import Value
from django.db.models.functions import Coalesce, Lower, NullIf
from django.utils.html import format_html

from licenses.models import Team, Tool


def named(row: Tool | Team) -> str:
    """Return both names of a tool or a team; the one for people first, if it has one."""
    return both(row.display_name, row.name)


def both(display_name: str | None, name: str) -> str:
    """Return both names; the one for people first, if there is one."""
    return format_html('{} <small class="quiet">{}</small>', display_name, name) if display_name else name


def shown(relation: str) -> Lower:
    """Return what ``named`` shows first of a related tool or team, to sort a list by it."""
    return Lower(Coalesce(NullIf(f"{relation}__display_name", Value("")), f"{relation}__name"))


@admin.display(ordering=shown("tool"))
def tool(row: Any) -> str:
    """Return the names of the row's tool."""
    return named(row.tool)


@admin.display(ordering=shown("team"))
def team(row: Any) -> str:
    """Return the names of the row's team; - if it has none."""
    return named(row.team) if row.team else "-"
