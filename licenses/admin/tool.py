"""Tools in the admin."""

from typing import Any

from django.contrib import admin
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils.html import format_html

from licenses.models import Tool


@admin.register(Tool)
class ToolAdmin(admin.ModelAdmin[Tool]):
    list_display = [
        "name",
        "display_name",
        "vendor",
        "capacity",
        "borrowed",
        "available",
        "utilisation",
        "enabled",
        "valid_from",
        "valid_until",
    ]
    list_editable = ["capacity"]
    list_filter = ["enabled", "vendor", "valid_until"]
    search_fields = ["name", "display_name", "vendor"]
    readonly_fields = ["borrowed", "available", "utilisation"]

    @admin.display(ordering="in_use")
    def borrowed(self, tool: Tool) -> int:
        return tool.in_use

    @admin.display(description="utilisation")
    def utilisation(self, tool: Tool) -> str:
        return format_html(
            '<progress max="{}" value="{}" aria-label="{} of {} seats out"></progress> {}%',
            max(tool.capacity, 1),
            min(tool.in_use, tool.capacity),
            tool.in_use,
            tool.capacity,
            round(100 * tool.in_use / tool.capacity) if tool.capacity else 0,
        )

    def save_model(self, request: HttpRequest, obj: Tool, form: ModelForm[Tool], change: bool) -> None:
        if not change:
            super().save_model(request, obj, form, change)
        elif form.changed_data:
            # The form was read a while ago: writing the whole row would put
            # back the number of seats that were out then.
            obj.save(update_fields=form.changed_data)

    def has_delete_permission(self, request: HttpRequest, obj: Tool | None = None) -> bool:
        # A tool with history stays; switch it off instead.
        return super().has_delete_permission(request, obj) and (obj is None or not obj.leases.exists())

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions
