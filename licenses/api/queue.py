"""Tickets: wait for seats, and leave the queue."""

import uuid
from typing import Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from licenses.access.callers import Scope
from licenses.access.rules import require_may_act_for
from licenses.clock import database_now
from licenses.errors import AlreadyGranted, NotForOthers, QueueDropped, QueueLeft, QueueTimeout, UnknownTicket
from licenses.leases import services
from licenses.leases.waits import Wait, waits_of
from licenses.models import Ticket
from licenses.names import NAME_LENGTH
from licenseserver import logs

from .authentication import caller_of
from .borrowing import GrantedSerializer, ItemRequest, WaitingSerializer, borrow_answer
from .common.calls import CallViewSet
from .common.fields import CleanTextField, StrictSerializer, find_uuid
from .common.openapi import refused_by
from .permissions import Acting, acting_on


def find_own_ticket(request: Request, value: str) -> tuple[uuid.UUID, Acting]:
    """Return the ticket's id in a path, and who acts on it. Raises UnknownTicket, or lets the
    service raise it, for another user's."""
    ticket_id = find_uuid(value, UnknownTicket)
    logs.note(ticket=ticket_id)
    return ticket_id, acting_on(request, Ticket, ticket_id, UnknownTicket)


class QueueViewSet(CallViewSet):
    """Waiting for a seat."""

    # A poll borrows the seats once they are there.
    scopes = {"retrieve": Scope.BORROW}
    ticket = OpenApiParameter("ticket", OpenApiTypes.UUID, OpenApiParameter.PATH)

    @extend_schema(
        parameters=[ticket],
        responses={200: GrantedSerializer, 202: WaitingSerializer}
        | refused_by(UnknownTicket, QueueTimeout, QueueDropped, QueueLeft),
    )
    def retrieve(self, request: Request, ticket: str) -> HttpResponse:
        """Ask for the seats that a ticket waits for: the lease, or the place in the queue."""
        ticket_id, acting = find_own_ticket(request, ticket)
        return borrow_answer(request, services.poll(ticket_id=ticket_id, **acting))

    @extend_schema(
        parameters=[ticket],
        responses={204: None} | refused_by(UnknownTicket, AlreadyGranted),
    )
    def destroy(self, request: Request, ticket: str) -> Response:
        """Leave the queue."""
        ticket_id, acting = find_own_ticket(request, ticket)
        services.leave(ticket_id=ticket_id, **acting)
        return Response(status=204)


class WaitsQuery(StrictSerializer):
    user = CleanTextField(required=False, max_length=NAME_LENGTH, help_text="The user. Default: the caller.")


class PlaceSerializer(serializers.Serializer[Wait]):
    """A ticket, and its place in the queue."""

    ticket = serializers.UUIDField()
    user = serializers.CharField()
    team = serializers.CharField(allow_null=True)
    project = serializers.CharField()
    host = serializers.CharField()
    alternatives = serializers.ListField(
        child=serializers.ListField(child=ItemRequest()), help_text="The sets of items that the ticket waits for."
    )
    position = serializers.IntegerField(help_text="1 is the next.")
    eta_seconds = serializers.IntegerField(
        allow_null=True, help_text="When seats are expected, an estimate; null if nothing is known."
    )
    offered_until = serializers.DateTimeField(
        allow_null=True, help_text="The seats are kept for this ticket until then; null if they are not there yet."
    )
    waiting_since = serializers.DateTimeField()
    waited_seconds = serializers.FloatField()
    deadline = serializers.DateTimeField(help_text="The end of the wait.")

    def to_representation(self, wait: Wait) -> dict[str, Any]:
        ticket = wait.ticket
        return {
            "ticket": str(ticket.id),
            "user": ticket.user,
            "team": ticket.team.name if ticket.team is not None else None,
            "project": ticket.project,
            "host": ticket.host,
            "alternatives": [entry["items"] for entry in ticket.alternatives],
            "position": wait.position,
            "eta_seconds": round(wait.expected.total_seconds()) if wait.expected is not None else None,
            "offered_until": ticket.alive_until if ticket.offered_at is not None else None,
            "waiting_since": ticket.created_at,
            "waited_seconds": round((self.context["now"] - ticket.created_at).total_seconds(), 3),
            "deadline": ticket.deadline,
        }


class WaitsViewSet(CallViewSet):
    """The places of a user in the queue."""

    known_by_serializer = frozenset({"list"})

    @extend_schema(parameters=[WaitsQuery], responses={200: PlaceSerializer(many=True)} | refused_by(NotForOthers))
    def list(self, request: Request) -> Response:
        """List the tickets of a user, the oldest first. This does not keep their places: poll each."""
        caller = caller_of(request)
        user = WaitsQuery.validated(request.query_params.dict()).get("user", caller.name)
        if not user:
            raise serializers.ValidationError({"user": ["This field is required."]})
        require_may_act_for(caller, user)
        now = database_now()
        place = PlaceSerializer(context={"now": now})
        return Response([place.to_representation(wait) for wait in waits_of(user, now, team=caller.of_team)])
