"""Show the queue in the admin."""

from django.contrib import admin

from licenses.models import Ticket

from .filters import TypedFilter
from .read_only import ReadOnlyAdmin


class ToolFilter(TypedFilter):
    """Filter open tickets by one of their tools."""

    title = parameter_name = "tool"
    lookup = "claims__tool__name"


@admin.register(Ticket)
class TicketAdmin(ReadOnlyAdmin):
    list_display = ["number", "user", "wants", "host", "state", "created_at", "deadline", "lease"]
    readonly_fields = ["number"]
    list_filter = ["state", ToolFilter, "created_at"]
    list_select_related = ["lease__tool"]
    search_fields = ["user", "host"]

    @admin.display
    def wants(self, ticket: Ticket) -> str:
        """Return the preferred alternative, and the number of others."""
        first, *others = ticket.alternatives
        seats = ", ".join(f"{item['seats']} of {item['tool']}" for item in first["items"])
        return f"{seats}, or {len(others)} other(s)" if others else seats
