"""Show denials in the admin."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from licenses.models import Denial

from .read_only import ReadOnlyAdmin


class ResolvedFilter(admin.SimpleListFilter):
    title = "outcome"
    parameter_name = "resolved"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Got a seat later"), ("no", "Got no seat")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Denial]) -> QuerySet[Denial]:
        if self.value() in {"yes", "no"}:
            return queryset.filter(resolved_at__isnull=self.value() == "no")
        return queryset


@admin.register(Denial)
class DenialAdmin(ReadOnlyAdmin):
    list_display = ["tool", "user", "team", "host", "code", "seats", "attempts", "first_at", "last_at", "resolved_at"]
    list_filter = ["tool", "code", ResolvedFilter, "last_at"]
    list_select_related = ["tool", "team"]
    search_fields = ["user", "host", "tool__name"]
