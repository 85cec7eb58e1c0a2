"""Tools and their seats."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings

from licenses.access import rules
from licenses.access.rules import require_may_ask_about, team_for
from licenses.errors import InUse, MoreRights, NotAMember, NotForOthers, UnknownTool
from licenses.leases import services, snapshot, sql
from licenses.models import Tool
from licenses.models.tool import MAX_TTL, MIN_TTL
from licenses.names import NAME_LENGTH, TOOL_NAME_PATTERN
from licenses.policy import State
from licenses.tools import services as tools
from licenseserver import logs

from .authentication import caller_of
from .common.calls import CallViewSet, answer
from .common.fields import (
    CleanTextField,
    LimitField,
    MomentField,
    MoneyField,
    SeatsField,
    SecondsField,
    StrictBooleanField,
    StrictSerializer,
    TeamNameField,
)
from .common.openapi import refused_by
from .common.pagination import Pages
from .common.writing import ETAG, IF_MATCH, IF_NONE_MATCH, NamePages, RowsViewSet, deleted_by, example, put_by
from .contracts import ContractOfTool, ContractToPut
from .permissions import HasScope

# What needs the right to see prices.
PRICES = ("seat_hour_price", "overdraft_hour_price")


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
    tool = snapshot.tool_with_levels(name) if re.fullmatch(TOOL_NAME_PATTERN, name) else None
    if tool is None:
        raise UnknownTool
    return tool


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
    """A tool, its seats now, and its contracts that have not ended."""

    capacity_changes_at = serializers.DateTimeField(
        read_only=True, allow_null=True, help_text="The next moment at which a contract changes the capacity."
    )
    seat_hour_price = serializers.DecimalField(
        max_digits=12,
        decimal_places=4,
        required=False,
        allow_null=True,
        help_text="The cost of one seat for one hour. Absent without the right to see prices.",
    )
    overdraft_hour_price = serializers.DecimalField(
        max_digits=12,
        decimal_places=4,
        required=False,
        allow_null=True,
        help_text="The same above the capacity; null: the same price. Absent without the right to see prices.",
    )
    contracts = serializers.SerializerMethodField(help_text="The contracts that are valid now or later.")
    default_ttl_seconds = serializers.SerializerMethodField(help_text="Null: leases last until they are returned.")
    max_ttl_seconds = serializers.SerializerMethodField(help_text="Null: no limit.")

    class Meta:
        model = Tool
        fields = [
            "name",
            "display_name",
            "vendor",
            "capacity",
            "capacity_changes_at",
            "borrowed",
            "available",
            "reserved_idle",
            "set_aside",
            "overdraft",
            "overdrawn",
            "user_limit",
            "ignores_case",
            "seat_hour_price",
            "overdraft_hour_price",
            "default_ttl_seconds",
            "max_ttl_seconds",
            "enabled",
            "state",
            "valid_from",
            "valid_until",
            "contracts",
        ]
        read_only_fields = fields

    def to_representation(self, tool: Tool) -> dict[str, Any]:
        data = super().to_representation(tool)
        return data if self.context.get("may_see_prices") else {k: v for k, v in data.items() if k not in PRICES}

    @extend_schema_field(ContractOfTool(many=True))
    def get_contracts(self, tool: Tool) -> list[dict[str, Any]]:
        today = tool.read_at.astimezone(UTC).date()
        valid = [row for row in tool.contracts.all() if row.last_day is None or row.last_day >= today]
        return [*ContractOfTool(valid, many=True, context=self.context).data]

    def get_default_ttl_seconds(self, tool: Tool) -> float | None:
        return tool.default_ttl.total_seconds() if tool.default_ttl is not None else None

    def get_max_ttl_seconds(self, tool: Tool) -> float | None:
        return tool.max_ttl.total_seconds() if tool.max_ttl is not None else None


class ToolFields(StrictSerializer):
    """The fields of a tool. Those that are left out stay; a new tool needs a capacity or contracts."""

    display_name = CleanTextField(required=False, allow_blank=True, max_length=128)
    vendor = CleanTextField(required=False, allow_blank=True, max_length=128)
    capacity = SeatsField(least=0, required=False, help_text="Seats bought. Contracts set it, if there are any.")
    overdraft = SeatsField(least=0, required=False, help_text="Seats that can be borrowed above the capacity.")
    user_limit = LimitField(
        required=False, allow_null=True, help_text="The most seats that one user can have; null: no limit."
    )
    ignores_case = StrictBooleanField(
        required=False, help_text="Ignore the case of user and host names in access rules and limits."
    )
    seat_hour_price = MoneyField(max_digits=12, decimal_places=4, required=False, allow_null=True)
    overdraft_hour_price = MoneyField(max_digits=12, decimal_places=4, required=False, allow_null=True)
    default_ttl_seconds = SecondsField(
        required=False,
        allow_null=True,
        min_value=MIN_TTL.total_seconds(),
        max_value=MAX_TTL.total_seconds(),
        help_text="Null: leases last until they are returned.",
    )
    max_ttl_seconds = SecondsField(
        required=False,
        allow_null=True,
        min_value=MIN_TTL.total_seconds(),
        max_value=MAX_TTL.total_seconds(),
        help_text="Null: no limit.",
    )
    enabled = StrictBooleanField(required=False)
    valid_from = MomentField(required=False, allow_null=True)
    valid_until = MomentField(required=False, allow_null=True)
    contracts = ContractToPut(  # type: ignore[call-arg]
        many=True,
        required=False,
        max_length=1000,
        help_text="All contracts that are valid now or later. One that is left out ends yesterday if it has begun, "
        "and is deleted otherwise.",
    )


# The fields of the API that have another name in the table.
SECONDS = {"default_ttl_seconds": "default_ttl", "max_ttl_seconds": "max_ttl"}


class ToolPages(NamePages):
    def decode_cursor(self, request: Request) -> Any:
        cursor = Pages.decode_cursor(self, request)
        if (
            cursor is not None
            and cursor.position is not None
            and not re.fullmatch(TOOL_NAME_PATTERN, str(cursor.position))
        ):
            raise NotFound(self.invalid_cursor_message)
        return cursor


class ToolViewSet(RowsViewSet):
    """Tools and their seats."""

    model = Tool
    queryset = Tool.objects.with_current_counts().prefetch_related("contracts").order_by("name")
    serializer_class = ToolSerializer
    renderer_classes = [*api_settings.DEFAULT_RENDERER_CLASSES]
    lookup_field = "name"
    lookup_value_regex = TOOL_NAME_PATTERN
    pagination_class = ToolPages
    known_by_serializer = frozenset({"status"})

    def get_permissions(self) -> list[Any]:
        # Every reader sees the tools.
        return [HasScope()] if self.request.method in SAFE_METHODS else [*super().get_permissions()]

    def get_serializer_context(self) -> dict[str, Any]:
        may_see = rules.may_see_prices(caller_of(self.request))
        return {**super().get_serializer_context(), "may_see_prices": may_see}

    def list(self, request: Request) -> Response:
        """List every tool, by name."""
        page = self.paginate_queryset(self.get_queryset())
        return self.get_paginated_response(self.get_serializer(snapshot.with_levels(page or []), many=True).data)

    def get_object(self) -> Tool:
        return snapshot.with_levels([super().get_object()])[0]

    @extend_schema(parameters=[ETAG])
    def retrieve(self, request: Request, name: str) -> Response:
        """Show one tool. Its tag does not depend on the borrowed seats."""
        return self.shown(self.get_object())

    @extend_schema(
        parameters=[ETAG, IF_MATCH, IF_NONE_MATCH],
        request=ToolFields,
        examples=example("A capacity", {"capacity": 20, "vendor": "acme"}),
        responses=put_by(ToolSerializer, MoreRights),
    )
    def update(self, request: Request, name: str) -> Response:
        """Create or change a tool."""
        values = self.body(ToolFields, same={"name": name})
        if "contracts" in values:
            rules.require_may_replace_contracts(caller_of(request))
        if any(name in values for name in PRICES):
            rules.require_may_set_prices(caller_of(request))
        for field, column in SECONDS.items():
            if field in values:
                seconds = values.pop(field)
                values[column] = None if seconds is None else timedelta(seconds=seconds)
        done = tools.put_tool(name=name, values=values, by=self.actor, check=self.check())
        return self.shown(self.get_object(), is_new=done.is_new)

    @extend_schema(parameters=[IF_MATCH], responses=deleted_by(UnknownTool, InUse))
    def destroy(self, request: Request, name: str) -> Response:
        """Delete a tool that never had a lease. Disable another one."""
        tools.delete(name=name, by=self.actor, check=self.check())
        return Response(status=204)

    @extend_schema(responses={200: ToolStatusForYou} | refused_by(UnknownTool, NotAMember, NotForOthers))
    @action(detail=True)
    def status(self, request: Request, name: str) -> HttpResponse:
        """Show the seats of one tool, as /licenses/{tool}/status does."""
        return status_answer(request, name)
