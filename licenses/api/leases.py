"""Leases: the active ones, and all that there ever were."""

import uuid
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

import django_filters
from django.db.models.functions import Now
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import mixins, serializers, viewsets
from rest_framework.decorators import action
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from licenses.access.rules import may_see_prices, names_on_board, names_on_leases, rows_for
from licenses.access.visibility import LeaseNames
from licenses.auditing import Actor
from licenses.clock import database_now
from licenses.errors import LeaseEnded, UnknownLease
from licenses.leases import services
from licenses.leases.requests import Held
from licenses.models import EndReason, Lease
from licenses.models.lease import NOTE_LENGTH
from licenses.names import NAME_LENGTH
from licenseserver import logs

from .authentication import caller_of
from .common.calls import answer
from .common.fields import CleanTextField, StrictBody, StrictSerializer, find_uuid
from .common.filters import TextFilter, within_calendar
from .common.openapi import refused_by
from .common.pagination import StablePagination
from .common.queries import StrictQuery
from .permissions import Acting, MayChangeLeases, acting_on


def lease_item_data(lease: Lease) -> dict[str, Any]:
    """Return the seats of one tool in a borrow."""
    return {
        "tool": lease.tool.name,
        "seats": lease.seats,
        "overdraft_seats": lease.overdraft_seats,
        "fence": lease.fence,
    }


def lease_data(head: Lease, items: Iterable[Lease], *, now: datetime, shown: bool = True) -> dict[str, Any]:
    """Return a borrow, by its head and all its leases; without its people if it is not ``shown``."""
    head.end_when_over(now)
    return {
        "id": str(head.pk),
        "tool": head.tool.name,
        "user": head.user if shown else "",
        "team": head.team.name if head.team is not None else None,
        "project": head.project,
        "host": head.host if shown else "",
        "seats": head.seats,
        "overdraft_seats": head.overdraft_seats,
        "borrowed_at": head.borrowed_at,
        "expires_at": head.expires_at,
        # A third: two heartbeats may get lost before the lease ends.
        "heartbeat_seconds": round(head.ttl.total_seconds() / 3, 3) if head.ttl is not None else None,
        "server_time": now,
        "fence": head.fence,
        "items": [lease_item_data(item) for item in items],
        "ended_at": head.ended_at,
        "end_reason": head.end_reason,
        "end_note": head.end_note if shown else "",
        "borrowed_by": head.borrowed_by if shown else "",
        "ended_by": head.ended_by if shown else "",
    }


class LeaseItem(serializers.ModelSerializer[Lease]):
    """The seats of one tool in a lease."""

    tool = serializers.CharField()

    class Meta:
        model = Lease
        fields = ["tool", "seats", "overdraft_seats", "fence"]
        read_only_fields = fields

    def to_representation(self, item: Lease) -> dict[str, Any]:
        return lease_item_data(item)


class LeaseSerializer(serializers.ModelSerializer[Lease]):
    """A lease. ``tool``, ``seats`` and ``fence`` are those of the first item."""

    # The fields are only for the schema: ``lease_data`` writes the answer, from the first row of the
    # lease, at the database's time ``now`` of the context. ``leases`` of the context are its rows, if the
    # view has them. ``names`` of the context selects the leases that show names; without it the lease is
    # the caller's own.

    tool = serializers.CharField()
    user = serializers.CharField(help_text="Empty if LICENSE_SHOW_HOLDERS hides names.")
    team = serializers.CharField(allow_null=True, help_text="The team of the lease.")
    end_reason = serializers.ChoiceField(choices=["", *EndReason.values], help_text="Empty while the lease is active.")
    heartbeat_seconds = serializers.FloatField(
        allow_null=True, help_text="Renew the lease this often; null if it does not expire."
    )
    server_time = serializers.DateTimeField(
        help_text="The server's time, to compute the time left without a correct clock."
    )
    items = LeaseItem(many=True)

    class Meta:
        model = Lease
        fields = [
            "id",
            "tool",
            "user",
            "team",
            "project",
            "host",
            "seats",
            "overdraft_seats",
            "borrowed_at",
            "expires_at",
            "heartbeat_seconds",
            "server_time",
            "fence",
            "items",
            "ended_at",
            "end_reason",
            "end_note",
            "borrowed_by",
            "ended_by",
        ]
        read_only_fields = fields

    def to_representation(self, lease: Lease) -> dict[str, Any]:
        now: datetime = self.context["now"]
        names: LeaseNames | None = self.context.get("names")
        # End it first: the names on ended leases have their own rule.
        lease.end_when_over(now)
        shown = names is None or names.shown_on(lease, now)
        return lease_data(lease, self.leases(lease), now=now, shown=shown)

    def leases(self, head: Lease) -> list[Lease]:
        leases: list[Lease] | None = self.context.get("leases")
        return leases if leases is not None else head.items


class LeaseRecordSerializer(LeaseSerializer):
    """A lease in the history, with its seat-hours until now, and its cost for callers who see prices."""

    seat_hours = serializers.FloatField(help_text="The sum of its items.")
    cost = serializers.DecimalField(
        max_digits=None,
        decimal_places=2,
        required=False,
        allow_null=True,
        help_text="The sum of the items with a price, at today's prices; null if no tool has one. Absent without the "
        "right to see prices.",
    )

    class Meta(LeaseSerializer.Meta):
        fields = [*LeaseSerializer.Meta.fields, "seat_hours", "cost"]
        read_only_fields = fields

    def to_representation(self, lease: Lease) -> dict[str, Any]:
        now: datetime = self.context["now"]
        items = self.leases(lease)
        data = super().to_representation(lease)
        data["seat_hours"] = round(sum(item.seat_hours(now) for item in items), 3)
        if self.context["may_see_prices"]:
            costs = [cost for item in items if (cost := item.cost(now)) is not None]
            data["cost"] = str(sum(costs, Decimal(0)).quantize(Decimal("0.01"))) if costs else None
        return data


def note_leases(leases: list[Lease]) -> None:
    """Put a borrow on the request's line in the log."""
    head = leases[0]
    logs.note(lease=head.pk, user=head.user, tool=",".join(lease.tool.name for lease in leases))


def lease_answer(request: Request, held: Held) -> HttpResponse:
    note_leases(held.leases)
    return answer(request, lease_data(held.head, held.leases, now=held.now))


def acting_on_lease(request: Request, lease_id: uuid.UUID) -> Acting:
    """Return who acts on a lease. Raises UnknownLease, or lets the service raise it, for another user's."""
    logs.note(lease=lease_id)
    return acting_on(request, Lease, lease_id, UnknownLease)


class ActiveLeaseSerializer(LeaseSerializer):
    """An active lease."""

    last_heartbeat_at = serializers.DateTimeField(
        allow_null=True,
        help_text="The last sign of life of the client; null if the lease needs none, or ends with the tool's license.",
    )

    class Meta(LeaseSerializer.Meta):
        fields = [*LeaseSerializer.Meta.fields, "last_heartbeat_at"]
        read_only_fields = fields

    def to_representation(self, lease: Lease) -> dict[str, Any]:
        return super().to_representation(lease) | {"last_heartbeat_at": lease.last_heartbeat_at}


class BorrowsQuery(StrictSerializer):
    user = CleanTextField(required=False, max_length=NAME_LENGTH, help_text="Only this user's leases.")
    host = CleanTextField(required=False, max_length=NAME_LENGTH, help_text="Only leases borrowed from this host.")
    tool = CleanTextField(required=False, max_length=64, help_text="Only leases with seats of this tool.")


class BorrowsViewSet(StrictQuery, viewsets.ViewSet):
    """Who holds what."""

    known_by_serializer = frozenset({"list"})

    renderer_classes = [JSONRenderer]

    @extend_schema(
        parameters=[BorrowsQuery],
        responses={200: ActiveLeaseSerializer(many=True)},
    )
    def list(self, request: Request) -> Response:
        """List the active leases, newest first."""
        query = BorrowsQuery.validated(request.query_params.dict())
        now, caller = database_now(), caller_of(request)
        names = names_on_board(caller)
        active = Lease.objects.active(now).heads().newest_first().with_items()
        if tool := query.pop("tool", None):
            active = active.with_seats_of(tool)
        leases = rows_for(caller, active)
        if query:
            # A filter must not find a hidden name.
            leases = leases.filter(names.rows(), **query)
        return Response(
            ActiveLeaseSerializer(leases, many=True, context={"now": now, "names": LeaseNames(names, names)}).data
        )


class ForceReturnRequest(StrictBody):
    reason = CleanTextField(
        max_length=NOTE_LENGTH, help_text="The reason. The holder sees it, and the server keeps it."
    )


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
        # A filter must not find a hidden name.
        return leases.held_by(value).filter(names_on_leases(caller_of(self.request)).rows())

    def filter_state(self, leases: Any, name: str, value: str) -> Any:
        return leases.active(Now()) if value == "active" else leases.ended(Now())


class LeasePagination(StablePagination):
    ordering = ("-borrowed_at", "-id")


class LeaseViewSet(StrictQuery, mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Lease]):
    """Every lease there ever was, newest first."""

    queryset = Lease.objects.heads().with_items().newest_first()
    serializer_class = LeaseRecordSerializer
    filterset_class = LeaseFilter
    pagination_class = LeasePagination
    lookup_value_converter = "uuid"

    def get_serializer_context(self) -> dict[str, Any]:
        caller = caller_of(self.request)
        facts = {"names": names_on_leases(caller), "may_see_prices": may_see_prices(caller)}
        return {**super().get_serializer_context(), "now": database_now(), **facts}

    def filter_queryset(self, queryset: Any) -> Any:
        return super().filter_queryset(rows_for(caller_of(self.request), queryset))

    @extend_schema(
        request=None,
        responses={200: LeaseSerializer} | refused_by(UnknownLease, LeaseEnded),
    )
    @action(detail=True, methods=["post"])
    def renew(self, request: Request, pk: str) -> HttpResponse:
        """Extend a live lease by its time to live, as /licenses/renew does."""
        lease_id = find_uuid(pk, UnknownLease)
        return lease_answer(request, services.renew(lease_id=lease_id, **acting_on_lease(request, lease_id)))

    @extend_schema(
        request=ForceReturnRequest,
        examples=[OpenApiExample("A reason", value={"reason": "The host is switched off."}, request_only=True)],
        responses={200: LeaseSerializer} | refused_by(UnknownLease),
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
