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
    list_display = [
        "number",
        "user",
        "host",
        "alternatives",
        "state",
        "created_at",
        "alive_until",
        "deadline",
        "lease",
        "borrowed_by",
    ]
    list_filter = ["state", ToolFilter, "created_at"]
    list_select_related = ["lease__tool"]
    search_fields = ["user", "host"]
