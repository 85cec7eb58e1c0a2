"""Show tools and teams in lists: their names for people, and in small print the names that programs use."""

from typing import Any

from django.contrib import admin
from django.utils.html import format_html

from licenses.errors import Refusal
from licenses.models import Team, Tool


def named(row: Tool | Team) -> str:
    """Return both names of a tool or a team; the one for people first, if it has one."""
    return format_html('{} <small class="quiet">{}</small>', row, row.name) if row.display_name else row.name


@admin.display(ordering="tool__name")
def tool(row: Any) -> str:
    """Return the names of the row's tool."""
    return named(row.tool)


@admin.display(ordering="team__name")
def team(row: Any) -> str:
    """Return the names of the row's team; - if it has none."""
    return named(row.team) if row.team else "-"


def of_refusal(refusal: Refusal) -> str:
    """Return the text of a refusal with the tool's name for people."""
    return refusal.with_names(Tool.objects.filter(name=refusal.tool).display_names())
