"""Teams in the admin."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from licenses.models import MemberSource, Team, TeamMember


class MemberInline(admin.TabularInline[TeamMember, Team]):
    model = TeamMember
    extra = 1
    readonly_fields = ["source"]


@admin.register(Team)
class TeamAdmin(admin.ModelAdmin[Team]):
    list_display = ["name", "display_name"]
    search_fields = ["name", "display_name", "members__user"]
    inlines = [MemberInline]

    def get_readonly_fields(self, request: HttpRequest, obj: Team | None = None) -> list[str]:
        # The provider's groups and people's scripts know a team by its name.
        return ["name"] if obj else []

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        for member in formset.save(commit=False):
            # Who was put into a team by hand stays, whatever the provider says.
            member.source = MemberSource.MANUAL
            member.save()
        for member in formset.deleted_objects:
            member.delete()
