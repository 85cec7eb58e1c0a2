"""Tickets: wait for seats, and leave the queue."""

import uuid

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from licenses.access.callers import Scope
from licenses.errors import AlreadyGranted, QueueDropped, QueueLeft, QueueTimeout, UnknownTicket
from licenses.leases import services
from licenses.models import Ticket
from licenseserver import logs

from .borrowing import GrantedSerializer, WaitingSerializer, borrow_answer
from .common.calls import CallViewSet
from .common.fields import find_uuid
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

    # To ask about a ticket is to borrow, once there are seats.
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
