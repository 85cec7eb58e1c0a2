"""Tools in the admin."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils.html import format_html

from licenses import leasing
from licenses.models import Tool


@admin.register(Tool)
class ToolAdmin(admin.ModelAdmin[Tool]):
    list_display = [
        "name",
        "capacity",
        "borrowed",
        "available",
        "utilisation",
        "queued",
        "enabled",
        "valid_from",
        "valid_until",
        "display_name",
        "vendor",
    ]
    list_editable = ["capacity"]
    list_filter = ["enabled", "vendor", "valid_until"]
    search_fields = ["name", "display_name", "vendor"]
    readonly_fields = ["borrowed", "available", "utilisation", "queued"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tool]:
        return Tool.objects.with_levels().order_by("name")

    def get_readonly_fields(self, request: HttpRequest, obj: Tool | None = None) -> list[str]:
        # Clients ask for a tool by its name, and waiting tickets remember it.
        return [*self.readonly_fields, *(["name"] if obj else [])]

    def get_fields(self, request: HttpRequest, obj: Tool | None = None) -> list[Any]:
        # Django would put what is read-only last, and with it the name.
        return ["name", *(field for field in super().get_fields(request, obj) if field != "name")]

    def get_exclude(self, request: HttpRequest, obj: Tool | None = None) -> list[str]:
        # A tool that isn't there yet has no seats out.
        return [] if obj else list(self.readonly_fields)

    @admin.display(ordering="in_use")
    def borrowed(self, tool: Tool) -> int:
        return tool.borrowed

    @admin.display(ordering="queued")
    def queued(self, tool: Tool) -> int:
        return tool.queued

    @admin.display(description="utilisation")
    def utilisation(self, tool: Tool) -> str:
        return format_html(
            '<progress max="{}" value="{}" aria-label="{} of {} seats out"></progress> {}%',
            max(tool.capacity, 1),
            min(tool.borrowed, tool.capacity),
            tool.borrowed,
            tool.capacity,
            round(100 * tool.borrowed / tool.capacity) if tool.capacity else 0,
        )

    def save_model(self, request: HttpRequest, obj: Tool, form: ModelForm[Tool], change: bool) -> None:
        if not change:
            super().save_model(request, obj, form, change)
        elif form.changed_data:
            # The form was read a while ago: writing the whole row would put
            # back the number of seats that were out then.
            obj.save(update_fields=form.changed_data)
            if "valid_until" in form.changed_data:
                leasing.follow_validity(tool=obj.name)

    def has_delete_permission(self, request: HttpRequest, obj: Tool | None = None) -> bool:
        # A tool with history stays; switch it off instead.
        return super().has_delete_permission(request, obj) and (obj is None or not obj.leases.exists())

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions
