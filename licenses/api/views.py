"""HTTP in, service, HTTP out."""

import re
from datetime import UTC, datetime
from typing import Any

import django_filters
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.dateparse import parse_datetime
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from licenses import leasing, metrics
from licenses.errors import UnknownTool
from licenses.models import Lease, Tool
from licenses.models.tool import TOOL_NAME_PATTERN

from .serializers import (
    BorrowRequest,
    CleanTextField,
    LeaseSerializer,
    Problem,
    ReturnAnswer,
    ReturnRequest,
    StrictSerializer,
    ToolSerializer,
    ToolStatus,
    clean_text,
)


def problem_response(description: str) -> OpenApiResponse:
    return OpenApiResponse(Problem, description=description)


def find_tool(name: str) -> Tool:
    """The tool of this name; raises UnknownTool, also for what can't be one."""
    tool = Tool.objects.filter(name=name).first() if re.fullmatch(TOOL_NAME_PATTERN, name) else None
    if tool is None:
        raise UnknownTool
    return tool


class LicensesViewSet(viewsets.ViewSet):
    """Borrow and return: the calls that clients are written against."""

    renderer_classes = [JSONRenderer]

    @extend_schema(responses={200: ToolStatus(many=True)})
    def status(self, request: Request) -> Response:
        """The seats of every tool, by name."""
        return Response(ToolStatus(Tool.objects.order_by("name"), many=True).data)

    @extend_schema(responses={200: ToolStatus, 404: problem_response("`unknown_tool`")})
    def tool_status(self, request: Request, tool: str) -> Response:
        """The seats of one tool."""
        return Response(ToolStatus(find_tool(tool)).data)

    @extend_schema(
        request=BorrowRequest,
        responses={
            200: LeaseSerializer,
            400: problem_response("`invalid`, `parse_error`"),
            404: problem_response("`unknown_tool`"),
            409: problem_response("`exhausted`, `disabled`, `not_started`, `expired`"),
            503: problem_response("`busy`"),
        },
    )
    def borrow(self, request: Request) -> Response:
        """Take seats of a tool."""
        asked = BorrowRequest(data=request.data)
        asked.is_valid(raise_exception=True)
        return Response(LeaseSerializer(leasing.borrow(**asked.validated_data)).data)

    @extend_schema(
        request=ReturnRequest,
        responses={
            200: ReturnAnswer,
            400: problem_response("`invalid`, `parse_error`"),
            404: problem_response("`unknown_lease`"),
            503: problem_response("`busy`"),
        },
    )
    def give_back(self, request: Request) -> Response:
        """Return a lease's seats. Harmless if it is returned already."""
        asked = ReturnRequest(data=request.data)
        asked.is_valid(raise_exception=True)
        lease = leasing.give_back(lease_id=asked.validated_data["id"])
        return Response({"status": "ok", "tool": lease.tool.name})


class BorrowsQuery(StrictSerializer):
    user = CleanTextField(required=False, max_length=64)


class BorrowsViewSet(viewsets.ViewSet):
    """Who holds what."""

    renderer_classes = [JSONRenderer]

    @extend_schema(
        parameters=[OpenApiParameter("user", str, description="Only this user's leases.")],
        responses={200: LeaseSerializer(many=True), 400: problem_response("`invalid`")},
    )
    def list(self, request: Request) -> Response:
        """The active leases, newest first."""
        query = BorrowsQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        leases = Lease.objects.active().newest_first().select_related("tool")
        if user := query.validated_data.get("user"):
            leases = leases.held_by(user)
        return Response(LeaseSerializer(leases, many=True).data)


class ToolViewSet(viewsets.ReadOnlyModelViewSet[Tool]):
    """Tools and their seats."""

    queryset = Tool.objects.order_by("name")
    serializer_class = ToolSerializer
    lookup_field = "name"
    lookup_value_regex = TOOL_NAME_PATTERN

    @extend_schema(responses={200: ToolStatus, 404: problem_response("`unknown_tool`")})
    @action(detail=True)
    def status(self, request: Request, name: str) -> Response:
        """The seats of one tool, as /licenses/{tool}/status gives them."""
        return Response(ToolStatus(find_tool(name)).data)


def within_calendar(moment: datetime) -> None:
    """Raise ValidationError for a time that is outside the years 1 to 9999 in
    UTC, though it is inside them where it was written."""
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise ValidationError("This time is out of range.") from None


class LeaseFilter(django_filters.FilterSet):
    """Filters of the list of leases; times are ISO 8601."""

    tool = django_filters.CharFilter(field_name="tool__name", max_length=64, validators=[clean_text])
    user = django_filters.CharFilter(max_length=64, validators=[clean_text])
    state = django_filters.ChoiceFilter(choices=[("active", "active"), ("ended", "ended")], method="filter_state")
    borrowed_after = django_filters.IsoDateTimeFilter(
        field_name="borrowed_at", lookup_expr="gte", validators=[within_calendar]
    )
    borrowed_before = django_filters.IsoDateTimeFilter(
        field_name="borrowed_at", lookup_expr="lt", validators=[within_calendar]
    )

    class Meta:
        model = Lease
        fields: list[str] = []

    def filter_state(self, leases: Any, name: str, value: str) -> Any:
        return leases.filter(ended_at__isnull=value == "active")


def _is_time(value: Any) -> bool:
    try:
        return parse_datetime(str(value)) is not None
    except ValueError:
        return False


class LeasePagination(CursorPagination):
    """Pages that stay put while leases come and go."""

    ordering = ("-borrowed_at", "-id")
    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200

    def decode_cursor(self, request: Request) -> Any:
        cursor = super().decode_cursor(request)
        if cursor is not None and cursor.position is not None and not _is_time(cursor.position):
            raise NotFound(self.invalid_cursor_message)
        return cursor


class LeaseViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Lease]):
    """Every lease there ever was, newest first."""

    queryset = Lease.objects.select_related("tool").newest_first()
    serializer_class = LeaseSerializer
    filterset_class = LeaseFilter
    pagination_class = LeasePagination
    lookup_value_converter = "uuid"


# Plain views: probes must answer without anything that could be in the way.


@require_safe
@never_cache
def livez(request: HttpRequest) -> HttpResponse:
    """The process is up and answers."""
    return JsonResponse({"status": "ok"})


@require_safe
@never_cache
def readyz(request: HttpRequest) -> HttpResponse:
    """The database answers and has every migration; else 503 and why."""
    try:
        executor = MigrationExecutor(connection)
        pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError:
        return JsonResponse({"status": "unready", "detail": "The database does not answer."}, status=503)
    if pending:
        return JsonResponse({"status": "unready", "detail": "Migrations are pending."}, status=503)
    return JsonResponse({"status": "ok"})


@require_safe
def version(request: HttpRequest) -> HttpResponse:
    """What is running."""
    return JsonResponse({"version": settings.VERSION})


@require_safe
@never_cache
def prometheus(request: HttpRequest) -> HttpResponse:
    """Metrics in Prometheus' text format."""
    return HttpResponse(metrics.exposition(settings.VERSION), content_type="text/plain; version=0.0.4; charset=utf-8")
