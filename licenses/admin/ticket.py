"""Show the queue in the admin."""

from django.contrib import admin

from licenses.models import Ticket

from .read_only import ReadOnlyAdmin


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
    list_filter = ["state", "created_at"]
    list_select_related = ["lease__tool"]
    search_fields = ["user", "host"]
