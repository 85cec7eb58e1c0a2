"""Teams and their members."""

from typing import Any

from django.db.models import Count, QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from licenses.access import teams
from licenses.errors import InUse, UnknownRow, UnknownTeam
from licenses.models import Team, TeamMember
from licenses.names import TOOL_NAME_PATTERN, is_name
from licenses.tools.quotas import find_team

from .common.fields import CleanTextField, StrictBooleanField, StrictSerializer
from .common.writing import (
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    NamePages,
    RowsViewSet,
    UserPages,
    deleted_by,
    example,
    put_by,
)

TEAM = OpenApiParameter("team", OpenApiTypes.STR, OpenApiParameter.PATH)
USER = OpenApiParameter("user", OpenApiTypes.STR, OpenApiParameter.PATH)


class TeamSerializer(serializers.ModelSerializer[Team]):
    """Users who share seats and their cost."""

    members = serializers.IntegerField(source="member_count", read_only=True, help_text="The number of members.")

    class Meta:
        model = Team
        fields = ["name", "display_name", "ignores_case", "members"]
        read_only_fields = fields


class TeamFields(StrictSerializer):
    """The fields of a team. Those that are left out stay."""

    display_name = CleanTextField(required=False, allow_blank=True, max_length=128)
    ignores_case = StrictBooleanField(required=False, help_text="Ignore the case of the names of members.")


class TeamViewSet(RowsViewSet):
    """Teams."""

    model = Team
    queryset = Team.objects.annotate(member_count=Count("members")).order_by("name")
    serializer_class = TeamSerializer
    pagination_class = NamePages
    lookup_field = "name"
    lookup_value_regex = TOOL_NAME_PATTERN

    def list(self, request: Request) -> Response:
        """List the teams."""
        return self.pages(self.get_queryset())

    @extend_schema(parameters=[ETAG])
    def retrieve(self, request: Request, name: str) -> Response:
        """Show a team."""
        return self.shown(self.get_object())

    @extend_schema(
        parameters=[ETAG, IF_MATCH, IF_NONE_MATCH],
        request=TeamFields,
        examples=example("A name for people", {"display_name": "Crash simulation"}),
        responses=put_by(TeamSerializer),
    )
    def update(self, request: Request, name: str) -> Response:
        """Create or change a team."""
        values = self.body(TeamFields, same={"name": name})
        done = teams.put_team(name=name, values=values, by=self.actor, check=self.check())
        return self.shown(self.get_object(), is_new=done.team.is_new)

    @extend_schema(parameters=[IF_MATCH], responses=deleted_by(UnknownTeam, InUse))
    def destroy(self, request: Request, name: str) -> Response:
        """Delete a team that no lease, quota, access rule or token needs."""
        teams.delete_team(name=name, by=self.actor, check=self.check())
        return Response(status=204)


class MemberSerializer(serializers.ModelSerializer[TeamMember]):
    """A user in a team."""

    team = serializers.CharField(source="team.name", read_only=True)

    class Meta:
        model = TeamMember
        fields = ["team", "user", "source", "is_lead"]
        read_only_fields = fields


class MemberFields(StrictSerializer):
    """The fields of a member. Those that are left out stay."""

    is_lead = StrictBooleanField(required=False, help_text="The member sees the use and the cost of the team.")


class MemberViewSet(RowsViewSet):
    """Members of a team."""

    model = TeamMember
    queryset = TeamMember.objects.select_related("team").order_by("user")
    serializer_class = MemberSerializer
    pagination_class = UserPages

    def members(self) -> QuerySet[Any]:
        """Return the members of the team. Raises UnknownTeam."""
        found: QuerySet[Any] = self.get_queryset().filter(team=find_team(self.kwargs["team"]))
        return found

    def member(self, user: str) -> Any:
        """Return a member. Raises UnknownTeam or NotFound."""
        row = self.members().filter(user=user).first() if is_name(user) else None
        if row is None:
            raise NotFound
        return row

    @extend_schema(parameters=[TEAM])
    def list(self, request: Request, team: str) -> Response:
        """List the members of a team."""
        return self.pages(self.members())

    @extend_schema(parameters=[TEAM, USER, ETAG])
    def retrieve(self, request: Request, team: str, user: str) -> Response:
        """Show a member."""
        return self.shown(self.member(user))

    @extend_schema(
        parameters=[TEAM, USER, ETAG, IF_MATCH, IF_NONE_MATCH],
        request=MemberFields,
        examples=example("A team lead", {"is_lead": True}),
        responses=put_by(MemberSerializer, UnknownTeam),
    )
    def update(self, request: Request, team: str, user: str) -> Response:
        """Make a user a member by hand, who stays whatever the provider says."""
        values = self.body(MemberFields, same={"team": team, "user": user})
        done = teams.put_member(team=team, user=user, values=values, by=self.actor, check=self.check())
        return self.shown(self.member(user), is_new=done.is_new)

    @extend_schema(parameters=[TEAM, USER, IF_MATCH], responses=deleted_by(UnknownTeam, UnknownRow))
    def destroy(self, request: Request, team: str, user: str) -> Response:
        """Remove a member. The provider may add the user again at the next sign-in."""
        teams.delete_member(team=team, user=user, by=self.actor, check=self.check())
        return Response(status=204)
