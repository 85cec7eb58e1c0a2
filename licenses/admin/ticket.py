"""Show the queue in the admin."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest

from licenses.models import Ticket, TicketState, Tool

from .filters import DefaultedFilter, TypedFilter
from .lookups import NarrowedList
from .read_only import ReadOnlyAdmin


class StateFilter(DefaultedFilter):
    """Filter by the state. Those that wait are the default, because the others are history."""

    title = "state"
    parameter_name = "state__exact"
    default = TicketState.WAITING

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [*((state.value, state.label) for state in TicketState), ("all", "All")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Ticket]) -> QuerySet[Ticket]:
        return queryset.filter(state=self.value()) if self.value() in TicketState.values else queryset


class ToolFilter(TypedFilter):
    """Filter open tickets by one of their tools."""

    title = parameter_name = "tool"
    lookup = "claims__tool__name"


class TicketList(NarrowedList):
    """The list of tickets. It reads the names of the tools of a page in one query."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        tickets: list[Any] = list(self.result_list)
        names = tool_names(tickets)
        for ticket in tickets:
            ticket.names = names
        self.result_list = tickets


def tool_names(tickets: Iterable[Ticket]) -> Mapping[str, str]:
    """Return the names for people that the tools of these tickets have."""
    wanted = {item["tool"] for ticket in tickets for choice in ticket.alternatives for item in choice["items"]}
    return Tool.objects.filter(name__in=wanted).display_names()


def wishes(ticket: Ticket, names: Mapping[str, str]) -> list[str]:
    """Return what a ticket wants, with these names of tools, the preferred alternative first."""
    return [
        ", ".join(f"{item['seats']} of {names.get(item['tool'], item['tool'])}" for item in choice["items"])
        for choice in ticket.alternatives
    ]


@admin.register(Ticket)
class TicketAdmin(ReadOnlyAdmin):
    list_display = ["number", "user", "wants", "host", "state", "created_at", "deadline", "lease"]
    list_filter = [StateFilter, ToolFilter, "created_at"]
    list_select_related = ["lease__tool"]
    search_fields = ["user", "host"]
    fields = [
        *("number", "user", "team", "project", "host", "wants_one_of", "state"),
        *("created_at", "alive_until", "deadline", "closed_at", "lease"),
    ]

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        return TicketList

    @admin.display
    def wants(self, ticket: Ticket) -> str:
        """Return the preferred alternative, and the number of others."""
        first, *others = wishes(ticket, getattr(ticket, "names", {}))
        return f"{first}, or {len(others)} more" if others else first

    @admin.display(description="wants")
    def wants_one_of(self, ticket: Ticket) -> str:
        """Return all alternatives, the preferred one first."""
        return "; or ".join(wishes(ticket, tool_names([ticket])))
