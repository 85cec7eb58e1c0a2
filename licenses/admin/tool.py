"""Edit tools in the admin."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import Now
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils.html import format_html

from licenses.access.rules import SEE_PRICES
from licenses.leases import snapshot
from licenses.models import AccessRule, Allotment, Contract, TicketClaim, Tool, UserLimit
from licenses.policy import Levels
from licenses.tools import notes
from licenses.tools import services as tools

from .audited import AuditedAdmin, actor_of
from .filters import EndsFilter, NamedValues
from .lines import link_to
from .lookups import NarrowedList

PRICES = ("seat_hour_price", "overdraft_hour_price")
LABELS = {
    "seat_hour_price": "Price per seat-hour",
    "overdraft_hour_price": "Price above the capacity",
    "default_ttl": "Default TTL",
    "max_ttl": "Longest TTL",
}


def _levels(tool: Tool) -> Levels:
    if "levels" not in vars(tool):
        snapshot.with_levels([tool])
    return tool.levels


class LicenseEndFilter(EndsFilter):
    title = "end of the license"
    field = "valid_until"


class SeatsFilter(admin.SimpleListFilter):
    title = "seats"
    parameter_name = "seats"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("full", "None free"), ("queue", "With a queue")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Tool]) -> QuerySet[Tool]:
        match self.value():
            case "full":
                return queryset.filter(pk__in=Tool.objects.full().order_by().values("pk"))
            case "queue":
                return queryset.filter(pk__in=TicketClaim.objects.live(Now()).order_by().values("tool"))
        return queryset


class CapacityForm(ModelForm[Tool]):
    """A row of the list, with its capacity as a field."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if "capacity" in self.fields:
            field = self.fields["capacity"]
            # Contracts set the capacity of a tool that has any.
            field.disabled = getattr(self.instance, "has_contracts", False)
            field.help_text = ""
            field.widget.attrs["aria-label"] = f"Capacity of {self.instance}"


class ToolList(NarrowedList):
    """The list of tools. It reads the levels of a page in one query."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        snapshot.with_levels(self.result_list)


@admin.register(Tool)
class ToolAdmin(AuditedAdmin[Tool]):
    list_display = [
        "name",
        "display_name",
        "vendor",
        "capacity",
        "borrowed_now",
        "available",
        "utilization",
        "queued",
        "state",
        "valid_until",
    ]
    list_editable = ["capacity"]
    list_filter = [SeatsFilter, LicenseEndFilter, "enabled", ("vendor", NamedValues)]
    search_fields = ["name", "display_name", "vendor"]
    readonly_fields = [
        "state",
        "borrowed_now",
        "overdrawn",
        "reserved_idle_now",
        "set_aside",
        "available",
        "utilization",
        "queued",
        "quotas_and_reservations",
        "user_limits",
        "access_rules",
        "contracts",
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tool]:
        has_contracts = Exists(Contract.objects.filter(tool=OuterRef("pk")))
        return Tool.objects.with_current_counts().annotate(has_contracts=has_contracts).order_by("name")

    def get_readonly_fields(self, request: HttpRequest, obj: Tool | None = None) -> list[str]:
        # Clients and tickets use the name, so it does not change. A new tool has no borrowed seats.
        if obj is None:
            return []
        # Contracts set the capacity of a tool that has any.
        return [*self.readonly_fields, "name", *(["capacity"] if obj.contracts.exists() else [])]

    def get_fields(self, request: HttpRequest, obj: Tool | None = None) -> list[Any]:
        # Django would put these last where they are read-only.
        first = ["name", "capacity"]
        hidden = () if any(map(request.user.has_perm, SEE_PRICES)) else PRICES
        left = [field for field in super().get_fields(request, obj) if field not in (*first, *hidden)]
        return [*first, *left]

    def get_form(self, request: HttpRequest, obj: Tool | None = None, change: bool = False, **options: Any) -> Any:
        return super().get_form(request, obj, change, labels=LABELS, **options)

    def get_changelist_form(self, request: HttpRequest, **options: Any) -> Any:
        return super().get_changelist_form(request, form=CapacityForm, **options)

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        return ToolList

    @admin.display
    def state(self, tool: Tool) -> str:
        _levels(tool)
        return tool.state.replace("_", " ")

    @admin.display
    def quotas_and_reservations(self, tool: Tool) -> str:
        return link_to(Allotment, "tool", tool, none="no limits for teams")

    @admin.display
    def user_limits(self, tool: Tool) -> str:
        return link_to(UserLimit, "tool", tool, none="the tool's user limit applies to every user")

    @admin.display
    def access_rules(self, tool: Tool) -> str:
        return link_to(AccessRule, "tool", tool, none="everybody may use it")

    @admin.display
    def contracts(self, tool: Tool) -> str:
        return link_to(Contract, "tool", tool, none="the capacity is fixed")

    @admin.display(ordering="borrowed", description="borrowed")
    def borrowed_now(self, tool: Tool) -> int:
        return tool.borrowed_now

    @admin.display(description="above the capacity")
    def overdrawn(self, tool: Tool) -> int:
        return tool.overdrawn

    @admin.display(ordering="reserved_idle", description="reserved idle")
    def reserved_idle_now(self, tool: Tool) -> int:
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

    @admin.display(description="utilization")
    def utilization(self, tool: Tool) -> str:
        return format_html(
            '<progress max="{}" value="{}" aria-label="{} of {} seats out"></progress> {}%',
            max(tool.capacity, 1),
            min(tool.borrowed_now, tool.capacity),
            tool.borrowed_now,
            tool.capacity,
            round(100 * tool.borrowed_now / tool.capacity) if tool.capacity else 0,
        )

    def save_model(self, request: HttpRequest, obj: Tool, form: ModelForm[Tool], change: bool) -> None:
        # From the instance: it has the defaults of fields that the page left out.
        values = {name: getattr(obj, name) for name in (form.changed_data if change else form.cleaned_data)}
        if change:
            done = tools.change(name=obj.name, values=values, by=actor_of(request))
        else:
            done = tools.create(name=values.pop("name"), values=values, by=actor_of(request))
        obj.pk, obj.reserved = done.tool.pk, done.tool.reserved
        if obj.reserved > obj.capacity:
            self.message_user(
                request,
                f"{obj.reserved} seats of {obj} are reserved, more than its capacity of {obj.capacity}. "
                "Only these teams can borrow.",
                messages.WARNING,
            )
        resized = [done.tool] if done.is_resized else []
        for note in notes.of_capacities(resized, for_people=True):
            self.message_user(request, note, messages.WARNING)

    def delete_model(self, request: HttpRequest, obj: Tool) -> None:
        tools.delete(name=obj.name, by=actor_of(request))

    def has_delete_permission(self, request: HttpRequest, obj: Tool | None = None) -> bool:
        # Keep a tool with history. Disable it instead.
        return super().has_delete_permission(request, obj) and (obj is None or not obj.leases.exists())

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions
