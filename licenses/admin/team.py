"""Teams in the admin."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from licenses.models import Allotment, MemberSource, Team, TeamMember

from .audited import AuditedAdmin
from .inlines import OptionalInlines


class MemberInline(admin.TabularInline[TeamMember, Team]):
    model = TeamMember
    extra = 1
    readonly_fields = ["source"]


class AllotmentInline(admin.TabularInline[Allotment, Team]):
    """What the team may have; set on the tools' pages."""

    model = Allotment
    fields = ["tool", "quota", "reservation", "in_use"]
    readonly_fields = ["tool", "quota", "reservation", "in_use"]
    extra = 0
    can_delete = False
    verbose_name_plural = "quotas and reservations"

    def has_add_permission(self, request: HttpRequest, obj: Team | None = None) -> bool:
        return False


@admin.register(Team)
class TeamAdmin(AuditedAdmin[Team], OptionalInlines):
    list_display = ["name", "display_name", "ignores_case"]
    search_fields = ["name", "display_name", "members__user"]
    inlines = [MemberInline, AllotmentInline]

    def get_readonly_fields(self, request: HttpRequest, obj: Team | None = None) -> list[str]:
        # The provider's groups and people's scripts know a team by its name.
        return ["name"] if obj else []

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        for member in formset.save(commit=False):
            # Who was put into a team by hand stays, whatever the provider says.
            member.source = MemberSource.MANUAL
        super().save_formset(request, form, formset, change)
