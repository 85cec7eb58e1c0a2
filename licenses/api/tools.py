"""Tools and their seats."""

import re
from datetime import datetime
from typing import Any

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from licenses.access.rules import require_may_ask_about, team_for
from licenses.errors import NotAMember, NotForOthers, UnknownTool
from licenses.leases import services, snapshot, sql
from licenses.models import Tool
from licenses.names import NAME_LENGTH, TOOL_NAME_PATTERN
from licenses.policy import State
from licenseserver import logs

from .authentication import caller_of
from .common.calls import CallViewSet, answer
from .common.fields import (
    CleanTextField,
    StrictSerializer,
    TeamNameField,
)
from .common.openapi import refused_by
from .common.pagination import Pages
from .common.queries import StrictQuery


def tool_status_data(tool: Tool, *, now: datetime) -> dict[str, Any]:
    """Return a tool and its seats."""
    levels = tool.levels
    return {
        "tool": tool.name,
        "display_name": tool.display_name,
        "total": tool.capacity,
        "borrowed": levels.borrowed,
        "available": levels.available,
        "reserved_idle": levels.reserved_idle,
        "set_aside": levels.set_aside,
        "overdraft": tool.overdraft,
        "overdrawn": tool.overdrawn,
        "state": tool.state,
        "queued": tool.queued,
        "oldest_wait_seconds": round(tool.oldest_wait_seconds(now), 1),
        "enabled": tool.enabled,
        "valid_from": tool.valid_from,
        "valid_until": tool.valid_until,
    }


class SeatsSerializer(serializers.Serializer[Any]):
    """The seats of a tool now.

    ``borrowed``, ``reserved_idle``, ``set_aside`` and ``available`` add up to the
    capacity, unless the tool is overdrawn or not open. Then ``available`` is 0.
    """

    borrowed = serializers.IntegerField(source="levels.borrowed", help_text="Borrowed seats.")
    available = serializers.IntegerField(
        source="levels.available", help_text="Seats that every user can borrow; 0 unless `state` is open."
    )
    reserved_idle = serializers.IntegerField(
        source="levels.reserved_idle", help_text="Free seats that are reserved for teams."
    )
    set_aside = serializers.IntegerField(
        source="levels.set_aside", help_text="Free seats that are set aside for the queue."
    )
    overdraft = serializers.IntegerField(help_text="Seats that can be borrowed above the capacity.")
    overdrawn = serializers.IntegerField(help_text="Seats that are borrowed above the capacity.")
    state = serializers.ChoiceField(choices=[*State], help_text="`open`, or the first reason why no seats are granted.")


class ToolStatus(SeatsSerializer):
    """The seats of a tool now."""

    tool = serializers.CharField(source="name", help_text="The tool's name.")
    display_name = serializers.CharField()
    total = serializers.IntegerField(source="capacity", help_text="The capacity: seats bought.")
    queued = serializers.IntegerField(help_text="Requests in the queue.")
    oldest_wait_seconds = serializers.SerializerMethodField(help_text="The wait of the oldest of them.")
    enabled = serializers.BooleanField()
    valid_from = serializers.DateTimeField(allow_null=True, help_text="The start of the license; null = none.")
    valid_until = serializers.DateTimeField(allow_null=True, help_text="The end of the license; null = none.")

    def get_fields(self) -> dict[str, Any]:
        # Put the tool first.
        fields = super().get_fields()
        return {name: fields[name] for name in ("tool", "display_name", "total")} | fields

    def get_oldest_wait_seconds(self, tool: Tool) -> float:
        """Give the schema a type; ``tool_status_data`` writes the answer."""
        raise NotImplementedError

    def to_representation(self, tool: Tool) -> dict[str, Any]:
        return tool_status_data(tool, now=timezone.now())


class StatusQuery(StrictSerializer):
    user = CleanTextField(required=False, max_length=NAME_LENGTH, help_text="Also count the seats for this user.")
    team = TeamNameField(required=False, max_length=64, help_text="Also count the seats for this team.")


class ToolStatusForYou(ToolStatus):
    """The seats of a tool now, also for one user or team."""

    available_to_you = serializers.IntegerField(
        required=False,
        help_text="Seats that this user and team can borrow in one call; absent if the query names neither.",
    )


def find_tool(name: str) -> Tool:
    """Return the tool of this name. Raises UnknownTool, also for text that can't be a name."""
    logs.note(tool=name)
    tools = sql.tools_with_current_counts(name) if re.fullmatch(TOOL_NAME_PATTERN, name) else []
    if not tools:
        raise UnknownTool
    return snapshot.with_levels(tools)[0]


def status_answer(request: Request, name: str) -> HttpResponse:
    """Return the status of a tool, for one user or team if the query names one."""
    subject = StatusQuery.validated(request.query_params.dict()) if request.META.get("QUERY_STRING") else {}
    tool = find_tool(name)
    data = tool_status_data(tool, now=timezone.now())
    if subject:
        user, caller = subject.get("user", ""), caller_of(request)
        if user:
            require_may_ask_about(caller, user)
        data["available_to_you"] = services.available_to(
            tool=tool, user=user, team=team_for(caller, subject.get("team"))
        )
    return answer(request, data)


class StatusViewSet(CallViewSet):
    """The seats of the tools, as clients ask for them."""

    known_by_serializer = frozenset({"tool_status"})

    @extend_schema(responses={200: ToolStatus(many=True)})
    def status(self, request: Request) -> HttpResponse:
        """List the seats of every tool, by name."""
        tools, now = snapshot.with_levels(sql.tools_with_current_counts()), timezone.now()
        return answer(request, [tool_status_data(tool, now=now) for tool in tools])

    @extend_schema(
        parameters=[StatusQuery],
        responses={200: ToolStatusForYou} | refused_by(UnknownTool, NotAMember, NotForOthers),
    )
    def tool_status(self, request: Request, tool: str) -> HttpResponse:
        """Show the seats of one tool."""
        return status_answer(request, tool)


class ToolSerializer(SeatsSerializer, serializers.ModelSerializer[Tool]):
    default_ttl_seconds = serializers.SerializerMethodField(help_text="Null: leases last until they are returned.")
    max_ttl_seconds = serializers.SerializerMethodField(help_text="Null: no limit.")

    class Meta:
        model = Tool
        fields = [
            "name",
            "display_name",
            "vendor",
            "capacity",
            "borrowed",
            "available",
            "reserved_idle",
            "set_aside",
            "overdraft",
            "overdrawn",
            "user_limit",
            "seat_hour_price",
            "overdraft_hour_price",
            "default_ttl_seconds",
            "max_ttl_seconds",
            "enabled",
            "state",
            "valid_from",
            "valid_until",
        ]
        read_only_fields = fields

    def get_default_ttl_seconds(self, tool: Tool) -> float | None:
        return tool.default_ttl.total_seconds() if tool.default_ttl is not None else None

    def get_max_ttl_seconds(self, tool: Tool) -> float | None:
        return tool.max_ttl.total_seconds() if tool.max_ttl is not None else None


class ToolPages(Pages):
    ordering = ("name",)

    def decode_cursor(self, request: Request) -> Any:
        cursor = super().decode_cursor(request)
        if (
            cursor is not None
            and cursor.position is not None
            and not re.fullmatch(TOOL_NAME_PATTERN, str(cursor.position))
        ):
            raise NotFound(self.invalid_cursor_message)
        return cursor


class ToolViewSet(StrictQuery, viewsets.ReadOnlyModelViewSet[Tool]):
    """Tools and their seats."""

    queryset = Tool.objects.with_current_counts().order_by("name")
    serializer_class = ToolSerializer
    lookup_field = "name"
    lookup_value_regex = TOOL_NAME_PATTERN
    pagination_class = ToolPages
    known_by_serializer = frozenset({"status"})

    def list(self, request: Request) -> Response:
        """List every tool, by name."""
        page = self.paginate_queryset(self.get_queryset())
        return self.get_paginated_response(self.get_serializer(snapshot.with_levels(page or []), many=True).data)

    def get_object(self) -> Tool:
        return snapshot.with_levels([super().get_object()])[0]

    @extend_schema(responses={200: ToolStatusForYou} | refused_by(UnknownTool, NotAMember, NotForOthers))
    @action(detail=True)
    def status(self, request: Request, name: str) -> HttpResponse:
        """Show the seats of one tool, as /licenses/{tool}/status does."""
        return status_answer(request, name)
