"""Tools in the admin."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.forms import BaseInlineFormSet, ModelForm
from django.http import HttpRequest
from django.utils.html import format_html

from licenses import auditing, leasing, pools, rationing
from licenses.errors import OverReserved
from licenses.models import AccessRule, Allotment, Team, Tool, UserLimit
from licenses.policy import Levels

from .audited import AuditedAdmin, actor_of
from .inlines import OptionalInlines


def _levels(tool: Tool) -> Levels:
    return pools.with_levels([tool])[0].levels


class AllotmentFormSet(BaseInlineFormSet[Allotment, Tool, ModelForm[Allotment]]):
    def clean(self) -> None:
        """No more is reserved than there is; but what was reserved before the
        capacity was lowered may stay."""
        super().clean()
        if any(self.errors):
            return
        kept = [form for form in self.forms if form not in self.deleted_forms and form.cleaned_data]
        # Others may change them too: not before this is saved.
        list(Tool.objects.locked([self.instance.name]))
        reserved = sum(form.cleaned_data["reservation"] for form in kept)
        grows = any(form.cleaned_data["reservation"] > (form.initial.get("reservation") or 0) for form in kept)
        if grows and reserved > self.instance.capacity:
            refusal = OverReserved(tool=self.instance.name, capacity=self.instance.capacity, reserved=reserved)
            raise ValidationError(refusal.detail)


class AllotmentInline(admin.TabularInline[Allotment, Tool]):
    model = Allotment
    formset = AllotmentFormSet
    fields = ["team", "quota", "reservation", "in_use"]
    readonly_fields = ["in_use"]
    extra = 0
    verbose_name = "quota and reservation"
    verbose_name_plural = "quotas and reservations of teams"


class UserLimitInline(admin.TabularInline[UserLimit, Tool]):
    model = UserLimit
    extra = 0


class AccessRuleInline(admin.TabularInline[AccessRule, Tool]):
    model = AccessRule
    fields = ["effect", "kind", "team", "name"]
    extra = 0
    verbose_name = "line"
    verbose_name_plural = "who may use it: everybody, unless there are lines"


@admin.register(Tool)
class ToolAdmin(AuditedAdmin[Tool], OptionalInlines):
    list_display = [
        "name",
        "capacity",
        "borrowed",
        "reserved_idle",
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
    readonly_fields = ["borrowed", "overdrawn", "reserved_idle", "set_aside", "available", "utilisation", "queued"]
    inlines = [AllotmentInline, UserLimitInline, AccessRuleInline]

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

    @admin.display(description="above the capacity")
    def overdrawn(self, tool: Tool) -> int:
        return tool.overdrawn

    @admin.display(ordering="kept_back", description="reserved, idle")
    def reserved_idle(self, tool: Tool) -> int:
        return _levels(tool).reserved_idle

    @admin.display(description="set aside for the queue")
    def set_aside(self, tool: Tool) -> int:
        return _levels(tool).set_aside

    @admin.display
    def available(self, tool: Tool) -> int:
        return _levels(tool).available

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
            with auditing.changing(obj, by=actor_of(request)):
                obj.save(update_fields=form.changed_data)
            if "valid_until" in form.changed_data:
                leasing.follow_validity(tool=obj.name)

    def get_inlines(self, request: HttpRequest, obj: Tool | None = None) -> list[Any]:
        # There is no tool yet that they could belong to.
        return list(self.inlines) if obj else []

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        tool = form.instance
        if formset.model is not Allotment:
            super().save_formset(request, form, formset, change)
            if formset.has_changed():
                rationing.settle(tool=tool.name)
            return
        formset.save(commit=False)
        allowances: dict[Any, rationing.Allowance | None] = {}
        for line in formset.deleted_objects:
            allowances[line.team] = None
        for line, changed in formset.changed_objects:
            if "team" in changed:
                allowances[Team.objects.get(allotments=line.pk)] = None
        for line in [line for line, _ in formset.changed_objects] + formset.new_objects:
            allowances[line.team] = rationing.Allowance(line.quota, line.reservation)
        if allowances:
            rationing.allot(tool=tool.name, allowances=allowances, by=actor_of(request))

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        tool = Tool.objects.get(pk=form.instance.pk)
        if tool.reserved > tool.capacity:
            self.message_user(
                request,
                f"{tool.reserved} seats of {tool} are reserved, more than the {tool.capacity} that there are: "
                "the teams that come first get theirs, and nobody else gets any.",
                messages.WARNING,
            )

    def has_delete_permission(self, request: HttpRequest, obj: Tool | None = None) -> bool:
        # A tool with history stays; switch it off instead.
        return super().has_delete_permission(request, obj) and (obj is None or not obj.leases.exists())

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions
