"""Show leases in the admin, and force-return them."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html

from licenses.clock import database_now
from licenses.errors import Refusal
from licenses.history.tables import duration, since
from licenses.leases import services
from licenses.models import EndReason, Lease
from licenses.models.lease import NOTE_LENGTH
from licenses.names import is_clean
from licenses.tools import texts

from . import names
from .audited import actor_of
from .filters import DefaultedFilter, TypedFilter
from .lookups import ListedLookups
from .person import person_link
from .row_action import RowAction, WithRowAction

# The page that asks for confirmation sends a field for each lease.
MAX_FORCED = 500


class ForceReturnForm(forms.Form):
    """Ask for the reason."""

    reason = forms.CharField(
        max_length=NOTE_LENGTH,
        help_text="For the holder, who gets it with the answer to the next heartbeat. It stays on the lease.",
        widget=forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
    )

    def clean_reason(self) -> str:
        reason: str = self.cleaned_data["reason"]
        if not is_clean(reason):
            raise ValidationError("One line, without control characters.")
        return reason


@dataclass(frozen=True, slots=True)
class Forced:
    """A borrow that would be force-returned: its head, and all of its leases."""

    head: Lease
    items: Sequence[Lease]


class StateFilter(DefaultedFilter):
    """Filter by the state. Active leases are the default, because the others are history; with a reason of the end,
    those that have ended."""

    title = "state"
    parameter_name = "state"
    default = "active"

    def __init__(self, request: HttpRequest, params: dict[str, Any], *args: Any) -> None:
        if any(name.startswith("end_reason") for name in params):
            self.default = "ended"
        super().__init__(request, params, *args)

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("active", "Active"), ("overdue", "Expired, not closed"), ("ended", "Ended"), ("all", "All")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Lease]) -> QuerySet[Lease]:
        match self.value():
            case "active":
                return queryset & Lease.objects.active(Now())
            case "overdue":
                return queryset & Lease.objects.overdue(Now())
            case "ended":
                return queryset & Lease.objects.ended(Now())
        return queryset


class UserFilter(TypedFilter):
    title = parameter_name = "user"


class LeaseForm(forms.ModelForm[Lease]):
    class Meta:
        model = Lease
        fields: list[str] = []
        help_texts = {"project": ""}


@admin.register(Lease)
class LeaseAdmin(WithRowAction, ListedLookups):
    form = LeaseForm
    list_display = ["person", names.tool, "seats", names.team, "project", "host", "held", "heartbeat", "end"]
    list_display_links = [names.tool]
    fields = [
        "person",
        "tool",
        "seats",
        "overdraft_seats",
        "team",
        "project",
        "host",
        "borrowed_at",
        "held",
        "heartbeat",
        "lifetime",
        "expires_at",
        "ended_at",
        "end_reason",
        "end_note",
        "borrowed_by",
        "ended_by",
        "part_of",
        "fence",
        "id",
    ]
    list_filter = [StateFilter, UserFilter, "end_reason", "borrowed_at", "team", "tool"]
    list_select_related = ["tool", "team"]
    search_fields = ["user", "host", "project", "tool__name", "tool__display_name"]
    actions = ["force_return"]
    show_full_result_count = False

    @admin.display(ordering="user")
    def person(self, lease: Lease) -> str:
        return person_link(lease.user)

    @admin.display(description="last heartbeat")
    def heartbeat(self, lease: Lease) -> str | None:
        """Return the time since the last heartbeat of an open lease."""
        if lease.ended_at is not None or lease.last_heartbeat_at is None:
            return None
        return since(lease.last_heartbeat_at, timezone.now())

    @admin.display(ordering="borrowed_at", description="held for")
    def held(self, lease: Lease) -> str:
        """Return the time for which the seats were held, with the time of the borrow as its title."""
        held = duration(max(lease.duration(timezone.now()), timedelta(0)))
        return format_html('<span title="since {} UTC">{}</span>', f"{lease.borrowed_at:%Y-%m-%d %H:%M:%S}", held)

    @admin.display(ordering="ended_at")
    def end(self, lease: Lease) -> str:
        """Return when and how it ended, or when it expires."""
        moment = lease.ended_at or lease.expires_at
        if moment is None:
            return "does not expire"
        now = timezone.now()
        if lease.ended_at is None and moment > now:
            left = duration(moment - now)
            return format_html('<span class="moment" title="{} UTC">in {}</span>', f"{moment:%Y-%m-%d %H:%M:%S}", left)
        how = lease.get_end_reason_display().lower() or "expired"
        return format_html('{} <span class="moment">{}</span>', how, f"{moment:%Y-%m-%d %H:%M}")

    @admin.display(description="lifetime")
    def lifetime(self, lease: Lease) -> str:
        """Return the time by which a heartbeat extends the lease."""
        return "-" if lease.ttl is None else f"{duration(lease.ttl)} from each heartbeat"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Lease]:
        # The last heartbeat depends on all tools of a borrow.
        return super().get_queryset(request).prefetch_related("parts__tool")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Lease | None = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Lease | None = None) -> Any:
        return self.fields

    def row_action(self, request: HttpRequest, obj: Lease) -> RowAction | None:
        if obj.ended_at is not None or not self.has_change_permission(request):
            return None
        # The list would leave out a lease that has expired and is not closed.
        return RowAction("force_return", "Force return", query="state=all")

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        # Nothing on the page can be changed.
        shown = {"title": "Lease", "show_save": False, "show_save_and_continue": False}
        return super().changeform_view(request, object_id, form_url, (extra_context or {}) | shown)

    def save_model(self, request: HttpRequest, obj: Lease, form: Any, change: bool) -> None:
        """Save nothing: the lease may have ended since the form was read."""

    @admin.action(description="Force return", permissions=["change"])
    def force_return(self, request: HttpRequest, leases: QuerySet[Lease]) -> HttpResponse | None:
        """Show what a force return would do, and do it if the page was confirmed with a reason."""
        heads = _heads(leases)
        if not heads or len(heads) > MAX_FORCED:
            text = f"{len(heads):,} leases are selected. Select at most {MAX_FORCED}." if heads else "They have ended."
            self.message_user(request, f"{text} Nothing was returned.", messages.ERROR)
            return None
        chosen = _borrows(heads)
        form = ForceReturnForm(request.POST if "confirmed" in request.POST else None)
        if form.is_valid():
            self._force(request, chosen, form.cleaned_data["reason"])
            return None
        context = self.admin_site.each_context(request) | {
            "title": "Force return",
            "opts": self.opts,
            "form": form,
            "checkbox": ACTION_CHECKBOX_NAME,
            "chosen": chosen,
            "seats": sum(lease.seats for borrow in chosen for lease in borrow.items),
            "people": len({borrow.head.user for borrow in chosen}),
            "now": database_now(),
        }
        return TemplateResponse(request, "licenses/admin_force_return.html", context)

    def _force(self, request: HttpRequest, chosen: Sequence[Forced], note: str) -> None:
        seats = 0
        for borrow in chosen:
            try:
                together = services.force_return(lease_id=borrow.head.pk, note=note, by=actor_of(request))
            except Refusal as refusal:
                text = f"The lease of {borrow.head.user} goes on. {texts.of_refusal(refusal)}"
                self.message_user(request, text, messages.ERROR)
                continue
            forced = [lease for lease in together if lease.end_reason == EndReason.FORCED and lease.end_note == note]
            if not forced:
                self.message_user(request, f"The lease of {borrow.head.user} had ended already.", messages.WARNING)
            seats += sum(lease.seats for lease in forced)
            for lease in forced:
                LogEntry.objects.log_actions(
                    user_id=request.user.pk or 0,
                    queryset=[lease],
                    action_flag=CHANGE,
                    change_message=f"Force return: {note}",
                    single_object=True,
                )
        self.message_user(request, f"{seats} seat(s) force-returned.", messages.SUCCESS)


def _heads(leases: QuerySet[Lease]) -> list[uuid.UUID]:
    """Return the ids of the open borrows of these leases."""
    keys = leases.filter(ended_at__isnull=True).order_by().values_list("pk", "part_of")
    return list({part_of or pk: None for pk, part_of in keys})


def _borrows(heads: Sequence[uuid.UUID]) -> list[Forced]:
    """Return open borrows, each with all of its leases: they end together."""
    found = Lease.objects.open().filter(pk__in=heads).with_items().order_by("user", "-borrowed_at", "pk")
    return [Forced(head, head.items) for head in found]
