"""Show leases in the admin, and force-return them."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.contrib.admin.models import CHANGE, LogEntry
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse

from licenses.errors import Refusal
from licenses.leases import services
from licenses.models import EndReason, Lease
from licenses.models.lease import NOTE_LENGTH
from licenses.names import is_clean

from .audited import actor_of
from .filters import TypedFilter
from .lookups import ListedLookups


class ForceReturnForm(ActionForm):
    reason = forms.CharField(required=False, max_length=NOTE_LENGTH, label="Reason (for force return)")


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("active", "Active"), ("ended", "Ended")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Lease]) -> QuerySet[Lease]:
        if self.value() in {"active", "ended"}:
            leases = Lease.objects.active(Now()) if self.value() == "active" else Lease.objects.ended(Now())
            return queryset & leases
        return queryset


class UserFilter(TypedFilter):
    title = parameter_name = "user"


@admin.register(Lease)
class LeaseAdmin(ListedLookups):
    list_display = [
        "short_id",
        "tool",
        "user",
        "team",
        "project",
        "host",
        "seats",
        "overdraft_seats",
        "borrowed_at",
        "expires_at",
        "ended_at",
        "end_reason",
        "end_note",
        "borrowed_by",
        "ended_by",
    ]
    list_filter = ["tool", "team", UserFilter, StateFilter, "end_reason", "borrowed_at"]
    list_select_related = ["tool", "team"]
    search_fields = ["user", "host", "project", "tool__name"]
    actions = ["force_return"]
    action_form = ForceReturnForm
    show_full_result_count = False

    @admin.display(description="id")
    def short_id(self, lease: Lease) -> str:
        # The whole id would need too much width.
        return str(lease.pk)[:8]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Lease | None = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Lease | None = None) -> list[str]:
        return [field.name for field in Lease._meta.fields]

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        # Nothing on the page can be changed.
        without_buttons = {"show_save": False, "show_save_and_continue": False}
        return super().changeform_view(request, object_id, form_url, (extra_context or {}) | without_buttons)

    def save_model(self, request: HttpRequest, obj: Lease, form: Any, change: bool) -> None:
        """Save nothing: the lease may have ended since the form was read."""

    @admin.action(description="Force return", permissions=["change"])
    def force_return(self, request: HttpRequest, leases: QuerySet[Lease]) -> None:
        note = request.POST.get("reason", "").strip()
        if not (0 < len(note) <= NOTE_LENGTH and is_clean(note)):
            self.message_user(
                request,
                f"Give a reason: one line, at most {NOTE_LENGTH} characters. Nothing was returned.",
                messages.ERROR,
            )
            return
        ended = 0
        for public_id in {lease.public_id: None for lease in leases.filter(ended_at__isnull=True)}:
            try:
                together = services.force_return(lease_id=public_id, note=note, by=actor_of(request))
            except Refusal as refusal:
                self.message_user(request, f"{public_id}: {refusal.detail}", messages.ERROR)
                continue
            forced = [lease for lease in together if lease.end_reason == EndReason.FORCED and lease.end_note == note]
            ended += len(forced)
            for lease in forced:
                LogEntry.objects.log_actions(
                    user_id=request.user.pk or 0,
                    queryset=[lease],
                    action_flag=CHANGE,
                    change_message=f"Force return: {note}",
                    single_object=True,
                )
        self.message_user(request, f"{ended} lease(s) force-returned.", messages.SUCCESS)
