"""Edit teams and their members in the admin."""

from collections.abc import Callable, Iterable
from typing import Any

from django.contrib import admin
from django.db.models import Count, OuterRef, Prefetch, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest

from licenses.access import teams
from licenses.models import Allotment, MemberSource, Team, TeamMember

from . import names
from .audited import AuditedAdmin, actor_of
from .filters import UsedRelations
from .lines import LinesAdmin, link_to


@admin.register(Team)
class TeamAdmin(AuditedAdmin[Team]):
    list_display = ["name", "display_name", "number_of_members", "leads"]
    search_fields = ["name", "display_name", "members__user"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Team]:
        members = TeamMember.objects.filter(team=OuterRef("pk")).order_by().values("team")
        number = Coalesce(Subquery(members.annotate(number=Count("pk")).values("number")), 0)
        leads = Prefetch("members", TeamMember.objects.filter(is_lead=True).order_by("user"), to_attr="leading")
        rows: QuerySet[Team] = super().get_queryset(request).annotate(number_of_members=number).prefetch_related(leads)
        return rows

    def get_readonly_fields(self, request: HttpRequest, obj: Team | None = None) -> list[str]:
        # Groups of the provider and scripts use the name, so it does not change.
        return ["name", "members", "quotas_and_reservations"] if obj else []

    def get_fields(self, request: HttpRequest, obj: Team | None = None) -> list[Any]:
        return ["name", "display_name", "ignores_case", *(["members", "quotas_and_reservations"] if obj else [])]

    def save_model(self, request: HttpRequest, obj: Team, form: Any, change: bool) -> None:
        values = {name: getattr(obj, name) for name in form.cleaned_data if name != "name"}
        obj.pk = teams.put_team(name=obj.name, values=values, by=actor_of(request)).team.row.pk

    def delete_model(self, request: HttpRequest, obj: Team) -> None:
        teams.delete_team(name=obj.name, by=actor_of(request))

    @admin.display(description="members", ordering="number_of_members")
    def number_of_members(self, team: Any) -> int:
        return int(team.number_of_members)

    @admin.display(description="team leads")
    def leads(self, team: Any) -> str:
        return ", ".join(member.user for member in team.leading)

    @admin.display
    def members(self, team: Team) -> str:
        return link_to(TeamMember, "team", team, none="no members")

    @admin.display
    def quotas_and_reservations(self, team: Team) -> str:
        return link_to(Allotment, "team", team, none="no quotas, no reservations")


@admin.register(TeamMember)
class TeamMemberAdmin(LinesAdmin):
    parent = "team"
    fields = ["team", "user", "is_lead", "source"]
    readonly_fields = ["source"]
    list_display = ["user", names.team, "is_lead", "source"]
    list_filter = ["is_lead", "source", ("team", UsedRelations)]
    list_select_related = ["team"]
    search_fields = ["user", "team__name", "team__display_name"]
    autocomplete_fields = ["team"]
    line_help = "Write the name of a user on each line."

    def save_model(self, request: HttpRequest, obj: TeamMember, form: Any, change: bool) -> None:
        teams.save_member(obj, by=actor_of(request))

    def delete_model(self, request: HttpRequest, obj: TeamMember) -> None:
        teams.delete_members([obj], by=actor_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[TeamMember]) -> None:
        teams.delete_members(queryset.select_related("team"), by=actor_of(request))

    def parser(self, parent: Team) -> Callable[[str], TeamMember]:
        return lambda line: TeamMember(team=parent, user=line, source=MemberSource.MANUAL)

    def add_rows(self, request: HttpRequest, parent: Team, rows: Iterable[TeamMember]) -> tuple[int, int]:
        users = [row.user for row in rows]
        joined = teams.add_members(team=parent, users=users, by=actor_of(request))
        return len(joined), len(users) - len(joined)
