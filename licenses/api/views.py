"""HTTP in, service, HTTP out."""

import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import django_filters
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from drf_spectacular.drainage import set_override
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.exceptions import ValidationError as SerializerValidationError
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from licenses import metrics, readiness
from licenses.auditing import Actor
from licenses.callers import Caller, Scope
from licenses.clock import database_now, is_in_calendar
from licenses.errors import Refusal, UnknownLease, UnknownTicket, UnknownTool
from licenses.leases import requests, services, snapshot, sql
from licenses.leases.requests import Granted, Held, Waiting
from licenses.models import Denial, Lease, Ticket, Tool
from licenses.names import NAME_LENGTH, TOOL_NAME_PATTERN
from licenses.visibility import LeaseNames
from licenseserver import logs

from . import answers, formats
from .authentication import caller_of
from .calls import CallViewSet, answer, body_of
from .permissions import (
    HasScope,
    MayChangeLeases,
    MayReadDenials,
    MayScrape,
    actor_for,
    names_on_board,
    names_on_denials,
    names_on_leases,
    require_may_act_for,
    require_may_ask_about,
    require_own,
    rows_for,
    team_for,
)
from .queries import Pages, StrictQuery
from .serializers import (
    BorrowRequest,
    CleanTextField,
    DenialSerializer,
    ExplanationSerializer,
    ForceReturnRequest,
    GrantedSerializer,
    IdempotencyKey,
    LeaseRecordSerializer,
    LeaseRequest,
    LeaseSerializer,
    Problem,
    ReturnAnswer,
    StatusQuery,
    StrictSerializer,
    ToolSerializer,
    ToolStatus,
    ToolStatusForYou,
    WaitingSerializer,
    asked_for,
    clean_text,
)

LEASES = Lease.objects.all()
TICKETS = Ticket.objects.all()


BORROWS = [
    OpenApiExample("A seat", value={"tool": "cad_tool", "user": "ana"}, request_only=True),
    OpenApiExample(
        "Seats of two tools at once, for a project, with a heartbeat every 100 s",
        value={
            "user": "ana",
            "project": "door-42",
            "host": "node1",
            "items": [{"tool": "cad_tool", "seats": 2}, {"tool": "simulation"}],
            "ttl_seconds": 300,
        },
        request_only=True,
    ),
    OpenApiExample(
        "The first set that is free; wait for ten minutes if need be",
        value={
            "user": "ana",
            "alternatives": [[{"tool": "simulation"}], [{"tool": "analysis", "seats": 2}]],
            "wait_seconds": 600,
        },
        request_only=True,
    ),
]
ONE_LEASE = [OpenApiExample("A lease", value={"id": "67c49b0a-27a3-4d8f-81be-5ce835b88447"}, request_only=True)]


def problem_response(description: str) -> OpenApiResponse:
    return OpenApiResponse(Problem, description=description)


def find_tool(name: str) -> Tool:
    """Return the tool of this name. Raises UnknownTool, also for text that can't be a name."""
    logs.note(tool=name)
    tools = sql.tools_with_levels(name) if re.fullmatch(TOOL_NAME_PATTERN, name) else []
    if not tools:
        raise UnknownTool
    return snapshot.with_levels(tools)[0]


def find_uuid(value: str, unknown: type[Refusal]) -> uuid.UUID:
    """Return the id in a path. Raises ``unknown`` for text that is no UUID."""
    try:
        return uuid.UUID(value)
    except ValueError:
        raise unknown from None


def require_own_lease(request: Request, lease_id: uuid.UUID) -> Actor | None:
    """Return who acts for the holder, if not the holder; raise UnknownLease for
    what is another's."""
    logs.note(lease=lease_id)
    return require_own(request, LEASES, UnknownLease, pk=lease_id)


def find_own_ticket(request: Request, value: str) -> tuple[uuid.UUID, Actor | None]:
    """Return the ticket's id in a path, and the actor if the caller acts for the user who
    waits. Raises UnknownTicket, also for a ticket of another user."""
    ticket_id = find_uuid(value, UnknownTicket)
    logs.note(ticket=ticket_id)
    return ticket_id, require_own(request, TICKETS, UnknownTicket, id=ticket_id)


def note_leases(leases: list[Lease]) -> None:
    """Put a borrow on the request's line in the log."""
    head = leases[0]
    logs.note(lease=head.pk, user=head.user, tool=",".join(lease.tool.name for lease in leases))


def lease_answer(request: Request, held: Held) -> HttpResponse:
    note_leases(held.leases)
    return answer(request, answers.lease(held.head, held.leases, now=held.now))


def borrow_answer(request: Request, outcome: Granted | Waiting) -> HttpResponse:
    """200 with the lease, or 202 with the place in the queue."""
    if isinstance(outcome, Granted):
        note_leases(outcome.leases)
        data = answers.lease(outcome.head, outcome.leases, now=outcome.now) | {"alternative": outcome.alternative}
        return answer(request, data, headers={"Idempotent-Replayed": "true"} if outcome.replayed else None)
    logs.note(ticket=outcome.ticket.id)
    data = answers.waiting(outcome)
    headers = {"Location": reverse("queue", args=[outcome.ticket.id]), "Retry-After": str(data["poll_after"])}
    return answer(request, data, status=202, headers=headers)


def status_answer(request: Request, name: str) -> HttpResponse:
    """Return the status of a tool, for one user or team if the query names one."""
    subject = StatusQuery.validated(request.query_params.dict()) if request.META.get("QUERY_STRING") else {}
    tool = find_tool(name)
    data = answers.tool_status(tool, now=timezone.now())
    if subject:
        user, caller = subject.get("user", ""), caller_of(request)
        if user:
            require_may_ask_about(caller, user)
        data["available_to_you"] = services.available_to(
            tool=tool, user=user, team=team_for(caller, subject.get("team"))
        )
    return answer(request, data)


def borrow_request(request: Request, require: Callable[[Caller, str], None]) -> requests.BorrowRequest:
    """Read the body of a borrow. ``require`` raises if the caller may not ask for the user."""
    caller = caller_of(request)
    asked = asked_for(body_of(request), caller=caller.name)
    logs.note(user=asked.user, tool=",".join(sorted(asked.tools())))
    require(caller, asked.user)
    return replace(asked, team=team_for(caller, asked.team), asserted_teams=caller.teams)


class LicensesViewSet(CallViewSet):
    """Borrow and return: the calls that clients are written against."""

    known_by_serializer = frozenset({"tool_status"})
    scopes = {"explain": Scope.READ}

    @extend_schema(responses={200: ToolStatus(many=True)})
    def status(self, request: Request) -> HttpResponse:
        """List the seats of every tool, by name."""
        tools, now = snapshot.with_levels(sql.tools_with_levels()), timezone.now()
        return answer(request, [answers.tool_status(tool, now=now) for tool in tools])

    @extend_schema(
        parameters=[StatusQuery],
        responses={
            200: ToolStatusForYou,
            400: problem_response("`invalid`"),
            403: problem_response("`not_a_member`, `not_for_others`"),
            404: problem_response("`unknown_tool`"),
        },
    )
    def tool_status(self, request: Request, tool: str) -> HttpResponse:
        """Show the seats of one tool."""
        return status_answer(request, tool)

    @extend_schema(
        request=BorrowRequest,
        examples=BORROWS,
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                formats.IDEMPOTENCY_KEY,
                OpenApiParameter.HEADER,
                description="The same for every retry of one borrow, another for every other borrow of this user: "
                "a retry gets the first call's answer and takes no second seat.",
            )
        ],
        responses={
            200: GrantedSerializer,
            202: WaitingSerializer,
            400: problem_response("`invalid`, `parse_error`, `ttl_too_long`"),
            404: problem_response("`unknown_tool`"),
            403: problem_response("`not_a_member`, `not_for_others`"),
            409: problem_response(
                "`exhausted`, `reserved`, `quota`, `user_limit`, `excluded`, `not_included`, `disabled`, "
                "`not_started`, `expired`; `reasons` and `expected_seconds` are as `explain` gives them"
            ),
            410: problem_response("`queue_timeout`, `queue_left`, `queue_dropped`: of a retried borrow that waited"),
            422: problem_response("`key_reused`"),
            503: problem_response("`busy`, `read_only`, `storage_full`, `not_migrated`"),
        },
    )
    def borrow(self, request: Request) -> HttpResponse:
        """Take seats of a tool, or of several at once; or wait for them."""
        asked = borrow_request(request, require_may_act_for)
        by = actor_for(request, asked.user)
        retry = None
        if (header := request.META.get("HTTP_IDEMPOTENCY_KEY")) is not None:
            retry = requests.IdempotencyKey(user=asked.user, by=by, key=IdempotencyKey.of(header))
        return borrow_answer(request, services.borrow(asked, key=retry, by=by))

    @extend_schema(
        request=BorrowRequest,
        examples=BORROWS,
        responses={
            200: ExplanationSerializer,
            400: problem_response("`invalid`, `parse_error`"),
            403: problem_response("`not_a_member`, `not_for_others`"),
            404: problem_response("`unknown_tool`"),
        },
    )
    def explain(self, request: Request) -> Response:
        """Explain whether a borrow would be granted now, and if not, why not. Takes no seat."""
        explanation = services.explain(borrow_request(request, require_may_ask_about))
        return Response(ExplanationSerializer(explanation).data)

    @extend_schema(
        request=LeaseRequest,
        examples=ONE_LEASE,
        responses={
            200: LeaseSerializer,
            400: problem_response("`invalid`, `parse_error`"),
            404: problem_response("`unknown_lease`"),
            410: problem_response("`expired`, `forced`, `returned`, `revoked`: why the lease has ended"),
            503: problem_response("`busy`, `read_only`, `storage_full`, `not_migrated`"),
        },
    )
    def renew(self, request: Request) -> HttpResponse:
        """Extend a live lease by its time to live: the heartbeat."""
        lease_id = LeaseRequest.validated(body_of(request))["id"]
        return lease_answer(request, services.renew(lease_id=lease_id, by=require_own_lease(request, lease_id)))

    @extend_schema(
        request=LeaseRequest,
        examples=ONE_LEASE,
        responses={
            200: ReturnAnswer,
            400: problem_response("`invalid`, `parse_error`"),
            404: problem_response("`unknown_lease`"),
            503: problem_response("`busy`, `read_only`, `storage_full`, `not_migrated`"),
        },
    )
    def give_back(self, request: Request) -> HttpResponse:
        """Return a lease's seats. Harmless if it is returned already."""
        lease_id = LeaseRequest.validated(body_of(request))["id"]
        leases = services.give_back(lease_id=lease_id, by=require_own_lease(request, lease_id))
        note_leases(leases)
        return answer(request, {"status": "ok", "tool": leases[0].tool.name})


class QueueViewSet(CallViewSet):
    """Waiting for a seat."""

    # To ask about a ticket is to borrow, once there are seats.
    scopes = {"retrieve": Scope.BORROW}
    ticket = OpenApiParameter("ticket", OpenApiTypes.UUID, OpenApiParameter.PATH)

    @extend_schema(
        parameters=[ticket],
        responses={
            200: GrantedSerializer,
            202: WaitingSerializer,
            404: problem_response("`unknown_ticket`"),
            410: problem_response("`queue_timeout`, `queue_left`, `queue_dropped`"),
            503: problem_response("`busy`, `read_only`, `storage_full`, `not_migrated`"),
        },
    )
    def retrieve(self, request: Request, ticket: str) -> HttpResponse:
        """Ask for the seats that a ticket waits for: the lease, or the place in the queue."""
        ticket_id, by = find_own_ticket(request, ticket)
        return borrow_answer(request, services.poll(ticket_id=ticket_id, by=by))

    @extend_schema(
        parameters=[ticket],
        responses={
            204: None,
            404: problem_response("`unknown_ticket`"),
            409: problem_response("`granted`: there is a lease now, whose id is in `lease`"),
            503: problem_response("`busy`, `read_only`, `storage_full`, `not_migrated`"),
        },
    )
    def destroy(self, request: Request, ticket: str) -> Response:
        """Leave the queue."""
        ticket_id, by = find_own_ticket(request, ticket)
        services.leave(ticket_id=ticket_id, by=by)
        return Response(status=204)


class BorrowsQuery(StrictSerializer):
    user = CleanTextField(required=False, max_length=NAME_LENGTH, help_text="Only this user's leases.")
    host = CleanTextField(required=False, max_length=NAME_LENGTH, help_text="Only leases borrowed from this host.")


class BorrowsViewSet(StrictQuery, viewsets.ViewSet):
    """Who holds what."""

    known_by_serializer = frozenset({"list"})

    renderer_classes = [JSONRenderer]

    @extend_schema(
        parameters=[BorrowsQuery],
        responses={200: LeaseSerializer(many=True), 400: problem_response("`invalid`")},
    )
    def list(self, request: Request) -> Response:
        """List the active leases, newest first."""
        query = BorrowsQuery.validated(request.query_params.dict())
        now, caller = database_now(), caller_of(request)
        names = names_on_board(caller)
        leases = rows_for(caller, Lease.objects.active(now).heads().newest_first().with_items())
        if query:
            # Nobody finds by a name what it is hidden on.
            leases = leases.filter(names.rows(), **query)
        return Response(
            LeaseSerializer(leases, many=True, context={"now": now, "names": LeaseNames(names, names)}).data
        )


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

    queryset = Tool.objects.with_levels().order_by("name")
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

    @extend_schema(responses={200: ToolStatusForYou, 404: problem_response("`unknown_tool`")})
    @action(detail=True)
    def status(self, request: Request, name: str) -> HttpResponse:
        """Show the seats of one tool, as /licenses/{tool}/status does."""
        return status_answer(request, name)


def within_calendar(moment: datetime) -> None:
    """Raise ValidationError for a time that is outside the years 1 to 9999 in
    UTC, though it is inside them where it was written."""
    if not is_in_calendar(moment):
        raise ValidationError("This time is out of range.")


class TextFilter(django_filters.CharFilter):
    """A filter by a text; '' filters nothing."""

    def __init__(self, *, max_length: int, **options: Any) -> None:
        super().__init__(max_length=max_length, validators=[clean_text], **options)
        set_override(self, "field", formats.TEXT | {"maxLength": max_length})


class LeaseFilter(django_filters.FilterSet):
    """Filters of the list of leases; times are ISO 8601."""

    tool = TextFilter(max_length=64, method="filter_tool")
    user = TextFilter(max_length=NAME_LENGTH, method="filter_user")
    team = TextFilter(field_name="team__name", max_length=64)
    project = TextFilter(max_length=NAME_LENGTH)
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

    def filter_tool(self, leases: Any, name: str, value: str) -> Any:
        return leases.of_tool(value)

    def filter_user(self, leases: Any, name: str, value: str) -> Any:
        # Nobody finds by a name what it is hidden on.
        return leases.held_by(value).filter(names_on_leases(caller_of(self.request)).rows())

    def filter_state(self, leases: Any, name: str, value: str) -> Any:
        return leases.active(Now()) if value == "active" else leases.ended(Now())


def _is_time(value: str) -> bool:
    """Return whether the value is a moment as our cursors have it, with an offset from UTC."""
    try:
        moment = parse_datetime(value)
    except ValueError:
        return False
    return moment is not None and moment.tzinfo is not None and is_in_calendar(moment)


INVALID_CURSOR = SerializerValidationError({"cursor": ["Use the address in next or previous as it is."]})


class StablePagination(Pages):
    """``ordering`` begins with a time."""

    def decode_cursor(self, request: Request) -> Any:
        """Return the cursor; raise ValidationError for one that this server did not make."""
        try:
            cursor = super().decode_cursor(request)
        except NotFound:
            raise INVALID_CURSOR from None
        if cursor is not None and cursor.position is not None and not _is_time(str(cursor.position)):
            raise INVALID_CURSOR
        return cursor


class LeasePagination(StablePagination):
    ordering = ("-borrowed_at", "-id")


class DenialPagination(StablePagination):
    ordering = ("-last_at", "-id")


class LeaseViewSet(StrictQuery, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Lease]):
    """Every lease there ever was, newest first."""

    queryset = Lease.objects.heads().with_items().newest_first()
    serializer_class = LeaseRecordSerializer
    filterset_class = LeaseFilter
    pagination_class = LeasePagination
    lookup_value_converter = "uuid"

    def get_serializer_context(self) -> dict[str, Any]:
        names = names_on_leases(caller_of(self.request))
        return {**super().get_serializer_context(), "now": database_now(), "names": names}

    def filter_queryset(self, queryset: Any) -> Any:
        return super().filter_queryset(rows_for(caller_of(self.request), queryset))

    @extend_schema(
        request=None,
        responses={
            200: LeaseSerializer,
            404: problem_response("`unknown_lease`"),
            410: problem_response("`expired`, `forced`, `returned`, `revoked`: why the lease has ended"),
            503: problem_response("`busy`, `read_only`, `storage_full`, `not_migrated`"),
        },
    )
    @action(detail=True, methods=["post"])
    def renew(self, request: Request, pk: str) -> HttpResponse:
        """Extend a live lease by its time to live, as /licenses/renew does."""
        lease_id = find_uuid(pk, UnknownLease)
        return lease_answer(request, services.renew(lease_id=lease_id, by=require_own_lease(request, lease_id)))

    @extend_schema(
        request=ForceReturnRequest,
        examples=[OpenApiExample("A reason", value={"reason": "The host is switched off."}, request_only=True)],
        responses={
            200: LeaseSerializer,
            400: problem_response("`invalid`, `parse_error`"),
            401: problem_response("`not_authenticated`, `authentication_failed`"),
            403: problem_response("`permission_denied`"),
            404: problem_response("`unknown_lease`"),
            503: problem_response("`busy`, `read_only`, `storage_full`, `not_migrated`"),
        },
    )
    @action(
        detail=True,
        methods=["post"],
        url_path="force-return",
        permission_classes=[MayChangeLeases],
    )
    def force_return(self, request: Request, pk: str) -> Response:
        """Take the seats back from their holder; for administrators. A lease
        that has ended stays as it is."""
        caller, reason = caller_of(request), ForceReturnRequest.validated(request.data)["reason"]
        by = Actor.of_call(caller, request.META)
        lease_id = find_uuid(pk, UnknownLease)
        logs.note(lease=lease_id)
        note_leases(services.force_return(lease_id=lease_id, note=reason, by=by))
        return Response(self.get_serializer(self.get_object()).data)


class DenialFilter(django_filters.FilterSet):
    """Filters of the list of denials; times are ISO 8601."""

    tool = TextFilter(field_name="tool__name", max_length=64)
    user = TextFilter(max_length=NAME_LENGTH)
    code = TextFilter(max_length=32)
    resolved = django_filters.ChoiceFilter(choices=[("true", "true"), ("false", "false")], method="filter_resolved")
    after = django_filters.IsoDateTimeFilter(field_name="last_at", lookup_expr="gte", validators=[within_calendar])
    before = django_filters.IsoDateTimeFilter(field_name="first_at", lookup_expr="lt", validators=[within_calendar])

    class Meta:
        model = Denial
        fields: list[str] = []

    def filter_resolved(self, denials: Any, name: str, value: str) -> Any:
        return denials.filter(resolved_at__isnull=value == "false")


class DenialViewSet(StrictQuery, viewsets.ReadOnlyModelViewSet[Denial]):
    """Who was refused a seat: one row an episode, the latest first. Others than
    administrators see their own."""

    queryset = Denial.objects.select_related("tool").order_by("-last_at", "-id")
    serializer_class = DenialSerializer
    filterset_class = DenialFilter
    pagination_class = DenialPagination
    permission_classes = [HasScope, MayReadDenials]
    lookup_value_converter = "int"

    def filter_queryset(self, queryset: Any) -> Any:
        return super().filter_queryset(queryset.filter(names_on_denials(caller_of(self.request)).rows()))


# Plain views: probes must answer without anything that could be in the way.


@require_safe
@never_cache
def livez(request: HttpRequest) -> HttpResponse:
    """Answer that the process is up."""
    return JsonResponse({"status": "ok"})


@require_safe
@never_cache
def readyz(request: HttpRequest) -> HttpResponse:
    """Answer whether the database answers, has every migration and room to grow; else 503
    and why. The log says more, because anyone can read this page."""
    trouble = readiness.check()
    if trouble is None:
        return JsonResponse({"status": "ok"})
    if trouble.serves:
        return JsonResponse({"status": "ok", "detail": trouble.detail})
    logs.note(reason=trouble.reason)
    return JsonResponse({"status": "unready", "detail": trouble.detail}, status=503)


class VersionView(StrictQuery, APIView):
    """What is running."""

    renderer_classes = [JSONRenderer]

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        return Response({"version": settings.VERSION})


class MetricsView(APIView):
    """Metrics in Prometheus' text format, whatever the client accepts."""

    permission_classes = [MayScrape]
    schema = None

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        return JSONRenderer(), JSONRenderer.media_type

    def get(self, request: Request) -> HttpResponse:
        page = metrics.exposition(settings.VERSION)
        return HttpResponse(page, content_type="text/plain; version=0.0.4; charset=utf-8")


prometheus = never_cache(MetricsView.as_view())
