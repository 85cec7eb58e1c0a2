"""Quotas, reservations, user limits and access rules of tools."""

import re
from typing import Any

from django.db.models import QuerySet
from django.db.models.functions import Now
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from licenses.errors import OverReserved, UnknownRow, UnknownTeam, UnknownTool
from licenses.models import AccessRule, Allotment, Effect, SubjectKind, Tool, UserLimit
from licenses.names import TOOL_NAME_PATTERN, is_name
from licenses.tools import quotas

from .common.fields import LimitField, StrictSerializer
from .common.writing import ETAG, IF_MATCH, IF_NONE_MATCH, RowsViewSet, UserPages, deleted_by, example, put_by

TOOL = OpenApiParameter("tool", OpenApiTypes.STR, OpenApiParameter.PATH)
USER = OpenApiParameter("user", OpenApiTypes.STR, OpenApiParameter.PATH)
EFFECT = OpenApiParameter("effect", OpenApiTypes.STR, OpenApiParameter.PATH, enum=Effect.values)
KIND = OpenApiParameter("kind", OpenApiTypes.STR, OpenApiParameter.PATH, enum=SubjectKind.values)
SUBJECT = OpenApiParameter("subject", OpenApiTypes.STR, OpenApiParameter.PATH)


class RowsOfTool(RowsViewSet):
    """Rows of one tool, which is in the path."""

    def rows(self) -> QuerySet[Any]:
        """Return the rows of the tool. Raises UnknownTool."""
        name = self.kwargs["tool"]
        tool = Tool.objects.filter(name=name).first() if re.fullmatch(TOOL_NAME_PATTERN, name) else None
        if tool is None:
            raise UnknownTool
        found: QuerySet[Any] = self.get_queryset().filter(tool=tool)
        return found

    def row(self, **names: Any) -> Any:
        """Return the row of these names. Raises UnknownTool or NotFound."""
        # No row has another name, and PostgreSQL takes no text with a NUL.
        valid = all(is_name(name) for name in names.values())
        row = self.rows().filter(**names).first() if valid else None
        if row is None:
            raise NotFound
        return row


# --- Quotas and reservations ----------------------------------------------------------


class QuotaSerializer(serializers.ModelSerializer[Allotment]):
    """The quota and the reservation of a team for a tool."""

    tool = serializers.CharField(source="tool.name", read_only=True)
    team = serializers.CharField(source="team.name", read_only=True)
    borrowed = serializers.IntegerField(
        source="borrowed_now", read_only=True, help_text="Seats of the team that are borrowed now."
    )

    class Meta:
        model = Allotment
        fields = ["tool", "team", "quota", "reservation", "borrowed"]
        read_only_fields = fields


class QuotaFields(StrictSerializer):
    """The quota and the reservation of a team. Fields that are left out stay."""

    quota = LimitField(required=False, allow_null=True, help_text="The most seats of the team; null: no limit.")
    reservation = LimitField(required=False, help_text="Seats that only this team can borrow.")


class QuotaViewSet(RowsOfTool):
    """Quotas and reservations of the teams for a tool."""

    model = Allotment
    queryset = Allotment.objects.select_related("tool", "team").order_by("pk")
    serializer_class = QuotaSerializer

    def get_queryset(self) -> QuerySet[Allotment]:
        rows: Any = super().get_queryset()
        counted: QuerySet[Allotment] = rows.with_current_counts(Now())
        return counted

    @extend_schema(parameters=[TOOL])
    def list(self, request: Request, tool: str) -> Response:
        """List the quotas and reservations of a tool."""
        return self.pages(self.rows())

    @extend_schema(parameters=[TOOL, ETAG])
    def retrieve(self, request: Request, tool: str, team: str) -> Response:
        """Show the quota and the reservation of a team."""
        return self.shown(self.row(team__name=team))

    @extend_schema(
        parameters=[TOOL, ETAG, IF_MATCH, IF_NONE_MATCH],
        request=QuotaFields,
        examples=example("At most 3 seats, one of them reserved", {"quota": 3, "reservation": 1}),
        responses=put_by(QuotaSerializer, UnknownTool, UnknownTeam, OverReserved),
    )
    def update(self, request: Request, tool: str, team: str) -> Response:
        """Set the quota and the reservation of a team."""
        values = self.body(QuotaFields, same={"tool": tool, "team": team})
        done = quotas.put_quota(tool=tool, team=team, values=values, by=self.actor, check=self.check())
        return self.shown(self.row(team__name=team), is_new=done.is_new)

    @extend_schema(parameters=[TOOL, IF_MATCH], responses=deleted_by(UnknownTool, UnknownTeam, UnknownRow))
    def destroy(self, request: Request, tool: str, team: str) -> Response:
        """Remove the quota and the reservation of a team."""
        quotas.delete_quota(tool=tool, team=team, by=self.actor, check=self.check())
        return Response(status=204)


# --- User limits ----------------------------------------------------------------------


class UserLimitSerializer(serializers.ModelSerializer[UserLimit]):
    """The most seats of a tool that a user can have."""

    tool = serializers.CharField(source="tool.name", read_only=True)

    class Meta:
        model = UserLimit
        fields = ["tool", "user", "seats"]
        read_only_fields = fields


class UserLimitFields(StrictSerializer):
    """The most seats of a tool that a user can have."""

    seats = LimitField()


class UserLimitViewSet(RowsOfTool):
    """User limits of a tool. They override the `user_limit` of the tool."""

    model = UserLimit
    queryset = UserLimit.objects.select_related("tool").order_by("user")
    serializer_class = UserLimitSerializer
    pagination_class = UserPages

    @extend_schema(parameters=[TOOL])
    def list(self, request: Request, tool: str) -> Response:
        """List the user limits of a tool."""
        return self.pages(self.rows())

    @extend_schema(parameters=[TOOL, USER, ETAG])
    def retrieve(self, request: Request, tool: str, user: str) -> Response:
        """Show the limit of a user."""
        return self.shown(self.row(user=user))

    @extend_schema(
        parameters=[TOOL, USER, ETAG, IF_MATCH, IF_NONE_MATCH],
        request=UserLimitFields,
        examples=example("At most 2 seats", {"seats": 2}),
        responses=put_by(UserLimitSerializer, UnknownTool),
    )
    def update(self, request: Request, tool: str, user: str) -> Response:
        """Set the limit of a user."""
        values = self.body(UserLimitFields, same={"tool": tool, "user": user})
        done = quotas.put_user_limit(tool=tool, user=user, by=self.actor, check=self.check(), **values)
        return self.shown(self.row(user=user), is_new=done.is_new)

    @extend_schema(parameters=[TOOL, USER, IF_MATCH], responses=deleted_by(UnknownTool, UnknownRow))
    def destroy(self, request: Request, tool: str, user: str) -> Response:
        """Remove the limit of a user."""
        quotas.delete_user_limit(tool=tool, user=user, by=self.actor, check=self.check())
        return Response(status=204)


# --- Access rules ---------------------------------------------------------------------


class AccessRuleSerializer(serializers.ModelSerializer[AccessRule]):
    """An access rule of a tool."""

    tool = serializers.CharField(source="tool.name", read_only=True)
    subject = serializers.CharField(read_only=True, help_text="The name of the user, team, host or project.")

    class Meta:
        model = AccessRule
        fields = ["tool", "effect", "kind", "subject"]
        read_only_fields = fields


class NoFields(StrictSerializer):
    """An empty body: the address says all."""


class AccessRuleViewSet(RowsOfTool):
    """Access rules of a tool. Without rules everybody may use it."""

    model = AccessRule
    queryset = AccessRule.objects.select_related("tool", "team").order_by("pk")
    serializer_class = AccessRuleSerializer

    def rule(self, effect: str, kind: str, subject: str) -> Any:
        """Return the rule of these words. Raises UnknownTool or NotFound."""
        of_team = kind == SubjectKind.TEAM
        return self.row(effect=effect, kind=kind, **{"team__name" if of_team else "name": subject})

    @extend_schema(parameters=[TOOL])
    def list(self, request: Request, tool: str) -> Response:
        """List the access rules of a tool."""
        return self.pages(self.rows())

    @extend_schema(parameters=[TOOL, EFFECT, KIND, SUBJECT, ETAG])
    def retrieve(self, request: Request, tool: str, effect: str, kind: str, subject: str) -> Response:
        """Show an access rule."""
        return self.shown(self.rule(effect, kind, subject))

    @extend_schema(
        parameters=[TOOL, EFFECT, KIND, SUBJECT, ETAG, IF_MATCH, IF_NONE_MATCH],
        request=None,
        responses=put_by(AccessRuleSerializer, UnknownTool, UnknownTeam),
    )
    def update(self, request: Request, tool: str, effect: str, kind: str, subject: str) -> Response:
        """Include or exclude a user, a team, a host or a project."""
        words = {"effect": effect, "kind": kind}
        self.body(NoFields, same={"tool": tool, "subject": subject, **words})
        done = quotas.put_access_rule(tool=tool, name=subject, by=self.actor, check=self.check(), **words)
        return self.shown(self.rule(effect, kind, subject), is_new=done.is_new)

    @extend_schema(
        parameters=[TOOL, EFFECT, KIND, SUBJECT, IF_MATCH], responses=deleted_by(UnknownTool, UnknownTeam, UnknownRow)
    )
    def destroy(self, request: Request, tool: str, effect: str, kind: str, subject: str) -> Response:
        """Delete an access rule."""
        quotas.delete_access_rule(tool=tool, effect=effect, kind=kind, name=subject, by=self.actor, check=self.check())
        return Response(status=204)
