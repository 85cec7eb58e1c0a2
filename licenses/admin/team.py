"""Edit teams and their members in the admin."""

from collections.abc import Callable, Iterable
from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest

from licenses import auditing
from licenses.models import Allotment, MemberSource, Team, TeamMember

from .audited import AuditedAdmin, actor_of
from .lines import LinesAdmin, link_to


@admin.register(Team)
class TeamAdmin(AuditedAdmin[Team]):
    list_display = ["name", "display_name", "ignores_case"]
    search_fields = ["name", "display_name", "members__user"]

    def get_readonly_fields(self, request: HttpRequest, obj: Team | None = None) -> list[str]:
        # Groups of the provider and scripts use the name, so it does not change.
        return ["name", "members", "quotas_and_reservations"] if obj else []

    def get_fields(self, request: HttpRequest, obj: Team | None = None) -> list[Any]:
        return ["name", "display_name", "ignores_case", *(["members", "quotas_and_reservations"] if obj else [])]

    @admin.display
    def members(self, team: Team) -> str:
        return link_to(TeamMember, "team", team, none="no members")

    @admin.display
    def quotas_and_reservations(self, team: Team) -> str:
        return link_to(Allotment, "team", team, none="no quotas, no reservations")


@admin.register(TeamMember)
class TeamMemberAdmin(LinesAdmin):
    parent = "team"
    fields = ["team", "user", "source"]
    readonly_fields = ["source"]
    list_display = ["user", "team", "source"]
    list_filter = ["source", ("team", admin.RelatedOnlyFieldListFilter)]
    list_select_related = ["team"]
    search_fields = ["user", "team__name"]
    autocomplete_fields = ["team"]
    line_help = "Write the name of a user on each line."

    def save_model(self, request: HttpRequest, obj: TeamMember, form: Any, change: bool) -> None:
        # A member who was added by hand stays, whatever the provider says.
        obj.source = MemberSource.MANUAL
        with transaction.atomic():
            Team.objects.filter(pk=obj.team_id).lock()
            super().save_model(request, obj, form, change)

    def delete_model(self, request: HttpRequest, obj: TeamMember) -> None:
        with transaction.atomic():
            Team.objects.filter(pk=obj.team_id).lock()
            super().delete_model(request, obj)

    @transaction.atomic
    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[TeamMember]) -> None:
        Team.objects.filter(pk__in=queryset.order_by().values("team")).lock()
        super().delete_queryset(request, queryset.select_related("team"))

    def parser(self, parent: Team) -> Callable[[str], TeamMember]:
        return lambda line: TeamMember(team=parent, user=line, source=MemberSource.MANUAL)

    def add_rows(self, request: HttpRequest, parent: Team, rows: Iterable[TeamMember]) -> tuple[int, int]:
        Team.objects.filter(pk=parent.pk).lock()
        known = set(parent.members.values_list("user", flat=True))
        all_rows = list(rows)
        new = {row.user: row for row in all_rows if row.user not in known}
        auditing.created(TeamMember.objects.bulk_create(new.values()), by=actor_of(request))
        return len(new), len(all_rows) - len(new)
