"""Serve reports over the API: use, its cost, refusals."""

import io
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar
from zoneinfo import ZoneInfo

from drf_spectacular.drainage import set_override
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.renderers import BaseRenderer, BrowsableAPIRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from licenses.errors import UnknownTool
from licenses.history import reports, tables, whatif
from licenses.history.reports import DENIAL_KEYS, USAGE_KEYS, UTC_ZONE, Period, Span, time_zone
from licenses.history.tables import Table
from licenses.models import Team, Tool
from licenses.models.tool import MAX_CAPACITY

from .authentication import caller_of
from .common import formats
from .common.fields import StrictSerializer, TeamNameField, ToolNameField
from .common.openapi import problem_response
from .common.queries import FormatNegotiation, StrictQuery
from .permissions import CHANGE_LEASES, VIEW_LEASES, names_of_past

F = TypeVar("F", bound=Callable[..., Any])

MAX_ROWS = 20_000
MAX_CAPACITIES = 10
# The most borrows that one call replays. This takes some seconds.
MAX_DEMANDS = 100_000
FORMATS = ("json", "csv")


class CsvRenderer(BaseRenderer):
    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"

    def render(self, data: Any, media_type: str | None = None, context: Mapping[str, Any] | None = None) -> str:
        stream = io.StringIO()
        data["table"].write_csv(stream)
        # Excel needs the byte order mark to read UTF-8.
        return "\ufeff" + stream.getvalue()


# --- Queries ----------------------------------------------------------------


@extend_schema_field(formats.TIME_ZONE)
class ZoneField(serializers.Field[ZoneInfo, str, str, Any]):
    def to_internal_value(self, data: str) -> ZoneInfo:
        try:
            return time_zone(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None


class ListedField(serializers.CharField):
    """Words of a list, separated by commas."""

    def __init__(self, *, among: tuple[str, ...], **options: Any) -> None:
        super().__init__(
            max_length=200, help_text=f"One or more of {', '.join(among)}, separated by commas.", **options
        )
        self.among = among
        set_override(self, "field", formats.listed(*among) | {"maxLength": 200})

    def to_representation(self, value: Any) -> str:
        return ",".join(value)

    def to_internal_value(self, data: Any) -> Any:
        words = super().to_internal_value(data).split(",")
        if unknown := [word for word in words if word not in self.among]:
            raise serializers.ValidationError(f"{unknown[0]!r} is not one of {', '.join(self.among)}.")
        return list(dict.fromkeys(words))


@extend_schema_field(formats.listed("0?[0-9]{1,6}", str(MAX_CAPACITY), at_most=MAX_CAPACITIES))
class CapacitiesField(serializers.CharField):
    def to_internal_value(self, data: Any) -> Any:
        words = super().to_internal_value(data).split(",")
        numbers = [int(word) for word in words if word.isascii() and word.isdigit() and len(word) <= 7]
        if len(numbers) != len(words) or len(words) > MAX_CAPACITIES or max(numbers) > MAX_CAPACITY:
            raise serializers.ValidationError(
                f"Give at most {MAX_CAPACITIES} numbers of seats from 0 to {MAX_CAPACITY}, separated by commas."
            )
        return numbers


class SpanQuery(StrictSerializer):
    """The days of a report. Default: the last 30."""

    since = serializers.DateField(required=False, help_text="The first day.")
    until = serializers.DateField(required=False, help_text="The last day. Default: today.")
    tz = ZoneField(
        required=False, help_text="The time zone of days, months and hours, for example Europe/Berlin. Default: UTC."
    )
    format = serializers.ChoiceField(choices=FORMATS, required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        try:
            span = Span.between(attrs.get("since"), attrs.get("until"), attrs.get("tz", UTC_ZONE))
        except ValueError as error:
            raise serializers.ValidationError({"since": str(error)}) from None
        return attrs | {"span": span}


class TeamQuery(SpanQuery):
    tool = ToolNameField(required=False, max_length=64)
    team = TeamNameField(required=False, max_length=64, help_text="Only this team.")


class UtilisationQuery(TeamQuery):
    period = serializers.ChoiceField(choices=[*Period], default=Period.DAY)


class HoursOfWeekQuery(TeamQuery):
    tool = ToolNameField(max_length=64)


class UsageQuery(SpanQuery):
    by = ListedField(among=USAGE_KEYS, default=["tool", "user"])
    tool = ToolNameField(required=False, max_length=64)
    team = TeamNameField(required=False, max_length=64)


class DenialsQuery(SpanQuery):
    by = ListedField(among=DENIAL_KEYS, default=["tool", "code"])
    tool = ToolNameField(required=False, max_length=64)


class WhatIfQuery(SpanQuery):
    tool = ToolNameField(max_length=64)
    capacity = CapacitiesField(
        required=False,
        max_length=80,
        help_text="Numbers of seats to try, separated by commas. Default: today's capacity.",
    )


# --- Answers, for the schema ------------------------------------------------


class UtilisationRow(serializers.Serializer[Any]):
    tool = serializers.CharField()
    team = serializers.CharField(required=False, help_text="Only if the query names a team.")
    start = serializers.CharField(help_text="The day, the first day of the month, or the start of the hour in UTC.")
    capacity = serializers.IntegerField(help_text="The highest capacity in the period.")
    peak = serializers.IntegerField(help_text="The high-water mark: the most seats that were out at once.")
    mean = serializers.FloatField(help_text="Mean of the borrowed seats over the period.")
    utilisation = serializers.FloatField(allow_null=True, help_text="The mean as a share of the capacity.")
    full_seconds = serializers.FloatField(required=False, help_text="The time without a free seat; absent for teams.")


class HourOfWeekRow(serializers.Serializer[Any]):
    weekday = serializers.CharField()
    hour = serializers.IntegerField()
    hours = serializers.IntegerField(help_text="The number of these hours.")
    highest = serializers.IntegerField(help_text="The highest of their high-water marks.")
    p95 = serializers.IntegerField(help_text="The most seats in 95 % of these hours.")
    mean = serializers.FloatField(help_text="The mean of their high-water marks.")


class UsageRow(serializers.Serializer[Any]):
    month = serializers.DateField(required=False, help_text="Its first day.")
    vendor = serializers.CharField(required=False, help_text="The tool's vendor; empty if unknown.")
    tool = serializers.CharField(required=False)
    team = serializers.CharField(required=False, allow_null=True)
    project = serializers.CharField(required=False)
    user = serializers.CharField(required=False)
    borrows = serializers.IntegerField(help_text="Leases that began in the period.")
    seat_hours = serializers.FloatField()
    overdraft_hours = serializers.FloatField(help_text="Seat-hours above the capacity.")
    cost = serializers.CharField(allow_null=True, help_text="At today's prices; null if the tool has no price.")


class DenialsRow(serializers.Serializer[Any]):
    tool = serializers.CharField(required=False)
    code = serializers.CharField(required=False)
    day = serializers.DateField(required=False)
    month = serializers.DateField(required=False, help_text="Its first day.")
    episodes = serializers.IntegerField(help_text="Refusals of one kind close together count as one.")
    true_denials = serializers.IntegerField(help_text="Episodes that ended without a seat.")
    attempts = serializers.IntegerField()
    people = serializers.IntegerField(
        allow_null=True, help_text="The number of different users with an episode; null if names were deleted."
    )


class WhatIfRow(serializers.Serializer[Any]):
    capacity = serializers.IntegerField()
    demands = serializers.IntegerField()
    refused = serializers.IntegerField(help_text="Borrows that are refused without a queue.")
    too_big = serializers.IntegerField(help_text="Borrows of more seats than this capacity.")
    waited = serializers.IntegerField(help_text="Borrows that wait with a queue.")
    unserved = serializers.IntegerField(help_text="Those that still wait at the end.")
    median_wait_seconds = serializers.FloatField(help_text="Of the borrows that wait.")
    p95_wait_seconds = serializers.FloatField()
    longest_wait_seconds = serializers.FloatField()
    longest_queue = serializers.IntegerField()


class SpanAnswer(serializers.Serializer[Any]):
    since = serializers.DateField()
    until = serializers.DateField()


class UtilisationAnswer(SpanAnswer):
    rows = UtilisationRow(many=True)


class HoursOfWeekAnswer(SpanAnswer):
    rows = HourOfWeekRow(many=True)


class UsageAnswer(SpanAnswer):
    rows = UsageRow(many=True)


class DenialsAnswer(SpanAnswer):
    rows = DenialsRow(many=True)


class WhatIfAnswer(SpanAnswer):
    recorded_since = serializers.DateField(
        allow_null=True,
        help_text="Leases that ended before this day were deleted, so the replay is incomplete before it.",
    )
    demands = serializers.IntegerField(help_text="Borrows in the period, granted or refused.")
    unmet = serializers.IntegerField(help_text="Those that got no seat.")
    assumed_hold_seconds = serializers.FloatField(help_text="The time that the replay lets them hold a seat.")
    rows = WhatIfRow(many=True)


# --- Views ------------------------------------------------------------------


def find_tool(name: str) -> Tool:
    """Return the tool of this name. Raises UnknownTool."""
    tool = Tool.objects.filter(name=name).first()
    if tool is None:
        raise UnknownTool
    return tool


def find_team(name: str) -> Team:
    """Return the team of this name. Raises ValidationError."""
    team = Team.objects.filter(name=name).first()
    if team is None:
        raise serializers.ValidationError({"team": "There is no such team."})
    return team


class ReportView(StrictQuery, APIView):
    """Answer a query with a table, as JSON or CSV."""

    known_by_serializer = frozenset({None})

    renderer_classes = [JSONRenderer, CsvRenderer, BrowsableAPIRenderer]
    content_negotiation_class = FormatNegotiation
    query: ClassVar[type[SpanQuery]]

    def get(self, request: Request) -> Response:
        query = self.query.validated(request.query_params.dict())
        span: Span = query["span"]
        self.check_query(request, query)
        found = {name: find(query[name]) for name, find in (("tool", find_tool), ("team", find_team)) if name in query}
        table, more = self.report(query | found, span)
        if isinstance(getattr(request, "accepted_renderer", None), CsvRenderer):
            name = f"{type(self).__name__.lower()}-{span.first}-{span.last}.csv"
            return Response({"table": table}, headers={"Content-Disposition": f'attachment; filename="{name}"'})
        return Response({"since": span.first, "until": span.last, **more, "rows": table.rows})

    def check_query(self, request: Request, query: dict[str, Any]) -> None:
        """Raise PermissionDenied if the caller may not ask this."""

    def report(self, query: dict[str, Any], span: Span) -> tuple[Table, dict[str, Any]]:
        """Return the table and the other fields of the answer."""
        raise NotImplementedError


def describe(query: type[SpanQuery], answer: type[SpanAnswer]) -> Callable[[F], F]:
    """Describe a report in the schema."""
    responses = {
        (200, "application/json"): answer,
        (200, "text/csv"): OpenApiResponse(bytes, description="The rows, with a header."),
        400: problem_response("`invalid`"),
        404: problem_response("`unknown_tool`"),
    }
    described: Callable[[F], F] = extend_schema(parameters=[query], responses=responses)
    return described


class Utilisation(ReportView):
    query = UtilisationQuery

    @describe(UtilisationQuery, UtilisationAnswer)
    def get(self, request: Request) -> Response:
        """Report high-water marks, means and time without a free seat by hour, day or month.

        For all tools or one tool, for all users or one team.
        """
        return super().get(request)

    def report(self, query: dict[str, Any], span: Span) -> tuple[Table, dict[str, Any]]:
        tools = [query["tool"]] if "tool" in query else list(Tool.objects.order_by("name"))
        period = Period(query["period"])
        if len(tools) * span.length(period) > MAX_ROWS:
            raise serializers.ValidationError(
                {"since": f"More than {MAX_ROWS} rows: ask for fewer days, longer periods, or one tool."}
            )
        team = query.get("team")
        found = reports.utilisation(tools=tools, span=span, period=period, team=team)
        return tables.utilisation(found, team=team is not None), {}


class HoursOfWeek(ReportView):
    query = HoursOfWeekQuery

    @describe(HoursOfWeekQuery, HoursOfWeekAnswer)
    def get(self, request: Request) -> Response:
        """Report the use of a tool in each of the 168 hours of the week."""
        return super().get(request)

    def report(self, query: dict[str, Any], span: Span) -> tuple[Table, dict[str, Any]]:
        return tables.hours_of_week(reports.hours_of_week(tool=query["tool"], span=span, team=query.get("team"))), {}


class Usage(ReportView):
    query = UsageQuery

    @describe(UsageQuery, UsageAnswer)
    def get(self, request: Request) -> Response:
        """Report seat-hours and their cost by month, vendor, tool, team, project or user.

        By user needs the permission to view leases.
        """
        return super().get(request)

    def check_query(self, request: Request, query: dict[str, Any]) -> None:
        if "user" in query["by"] and not names_of_past(caller_of(request), VIEW_LEASES, CHANGE_LEASES).everybody:
            self.permission_denied(
                request, message="A report by user needs the permission to view leases. Ask by=tool,team,project."
            )

    def report(self, query: dict[str, Any], span: Span) -> tuple[Table, dict[str, Any]]:
        found = reports.usage(by=query["by"], span=span, tool=query.get("tool"), team=query.get("team"))
        return tables.usage(found, query["by"]), {}


class Denials(ReportView):
    query = DenialsQuery

    @describe(DenialsQuery, DenialsAnswer)
    def get(self, request: Request) -> Response:
        """Count refusals: episodes, and those that ended without a seat.

        An episode counts on the day of its end.
        """
        return super().get(request)

    def report(self, query: dict[str, Any], span: Span) -> tuple[Table, dict[str, Any]]:
        return tables.denials(reports.denials(by=query["by"], span=span, tool=query.get("tool")), query["by"]), {}


class WhatIf(ReportView):
    query = WhatIfQuery

    @describe(WhatIfQuery, WhatIfAnswer)
    def get(self, request: Request) -> Response:
        """Replay the recorded borrows with other capacities.

        Shows the borrows that would be refused or wait, and their waits.
        """
        return super().get(request)

    def report(self, query: dict[str, Any], span: Span) -> tuple[Table, dict[str, Any]]:
        tool: Tool = query["tool"]
        capacities = query.get("capacity", [tool.capacity])
        try:
            recorded, outcomes = whatif.replay(tool=tool, capacities=capacities, span=span, at_most=MAX_DEMANDS)
        except whatif.TooMuch:
            raise serializers.ValidationError(
                {"since": f"More than {MAX_DEMANDS} borrows: ask for fewer days, or use manage.py usage_report."}
            ) from None
        return tables.what_if(outcomes), {
            "recorded_since": recorded.since,
            "demands": recorded.decided,
            "unmet": recorded.unmet,
            "assumed_hold_seconds": round(recorded.assumed.total_seconds(), 3),
        }
