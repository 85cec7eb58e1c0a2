"""Borrow, renew and return seats: the calls that clients are written against."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar

from django.http import HttpResponse
from django.urls import reverse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from licenses.access.callers import Caller, Scope
from licenses.access.rules import require_may_act_for, require_may_ask_about, team_for
from licenses.errors import (
    KeyReused,
    LeaseEnded,
    NotAMember,
    NotForOthers,
    QueueDropped,
    QueueLeft,
    TooManyKeys,
    UnknownLease,
    UnknownTool,
)
from licenses.leases import requests, services
from licenses.leases.requests import Granted, Waiting
from licenses.models.tool import MAX_TTL, MIN_TTL
from licenses.names import NAME_LENGTH
from licenses.policy import BORROW_REFUSALS, Item
from licenseserver import logs

from .authentication import caller_of
from .common import formats
from .common.calls import CallViewSet, answer, body_of
from .common.fields import (
    CleanTextField,
    SeatsField,
    StrictBody,
    StrictIntegerField,
    StrictUUIDField,
    TeamNameField,
    ToolNameField,
)
from .common.openapi import refused_by
from .leases import LeaseSerializer, acting_on_lease, lease_answer, lease_data, note_leases
from .permissions import actor_for

MAX_ITEMS = 32
MAX_ALTERNATIVES = 16
MAX_WAIT_SECONDS = 7 * 24 * 3600


class ItemRequest(StrictBody):
    """Seats of one tool."""

    tool = ToolNameField(max_length=64)
    seats = SeatsField(default=1)


class ItemsField(serializers.ListField):
    """A set of tools, each once."""

    child = ItemRequest()

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = super().to_internal_value(data)
        names = [item["tool"] for item in items]
        if len(set(names)) < len(names):
            raise serializers.ValidationError("A set names a tool twice. Name it once, with more seats.")
        return items


@extend_schema_serializer(component_name="BorrowRequest")
class BorrowBody(StrictBody):
    """Name the seats with one of ``tool``, ``items`` and ``alternatives``."""

    user = CleanTextField(required=False, max_length=NAME_LENGTH, help_text="The user. Default: the caller.")
    team = TeamNameField(
        required=False,
        max_length=64,
        help_text="The user's team for this lease. Default: the server chooses.",
    )
    project = CleanTextField(default="", max_length=NAME_LENGTH, allow_blank=True, help_text="The project.")
    host = CleanTextField(default="", max_length=NAME_LENGTH, allow_blank=True)
    tool = ToolNameField(required=False, max_length=64)
    seats = SeatsField(required=False, help_text="Seats of `tool`. Default: 1.")
    items = ItemsField(
        required=False,
        allow_empty=False,
        max_length=MAX_ITEMS,
        help_text="Seats of several tools: the server grants all of them or none.",
    )
    alternatives = serializers.ListField(
        child=ItemsField(allow_empty=False, max_length=MAX_ITEMS),
        required=False,
        allow_empty=False,
        max_length=MAX_ALTERNATIVES,
        help_text="Sets of items, the preferred one first. The server grants the first one that it can.",
    )
    ttl_seconds = StrictIntegerField(
        required=False,
        min_value=int(MIN_TTL.total_seconds()),
        max_value=int(MAX_TTL.total_seconds()),
        help_text="Free the seats this time after the last heartbeat. Default: the tool's default.",
    )
    wait_seconds = StrictIntegerField(
        default=0,
        min_value=0,
        max_value=MAX_WAIT_SECONDS,
        help_text="If no seat is free, wait in the queue for at most this time.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        wanted = [name for name in ("tool", "items", "alternatives") if name in attrs]
        if not wanted:
            raise serializers.ValidationError({"tool": ["This field is required."]})
        if len(wanted) > 1:
            raise serializers.ValidationError({wanted[1]: [f"Send this field or {wanted[0]}, not both."]})
        if "seats" in attrs and "tool" not in attrs:
            raise serializers.ValidationError(
                {"seats": ["Use this field only with tool. Otherwise give seats in each item."]}
            )
        return attrs


def borrow_request_of(body: Any, *, caller: str) -> requests.BorrowRequest:
    """Read the body of a borrow. Raises ValidationError.

    ``caller`` is the caller's name, the default of the user; '' for none.
    """
    data = BorrowBody.validated(body)
    user = data.get("user", caller)
    if not user:
        raise serializers.ValidationError({"user": ["This field is required."]})
    if "tool" in data:
        alternatives: tuple[tuple[Item, ...], ...] = ((Item(tool=data["tool"], seats=data.get("seats", 1)),),)
    else:
        sets = data.get("alternatives") or [data["items"]]
        alternatives = tuple(tuple(Item(**item) for item in items) for items in sets)
    ttl = data.get("ttl_seconds")
    return requests.BorrowRequest(
        user=user,
        team=data.get("team"),
        project=data["project"],
        host=data["host"],
        alternatives=alternatives,
        ttl=timedelta(seconds=ttl) if ttl is not None else None,
        wait=timedelta(seconds=data["wait_seconds"]),
    )


class IdempotencyKeyHeader(serializers.Serializer[Any]):
    """The header Idempotency-Key."""

    PLAIN: ClassVar[re.Pattern[str]] = re.compile(r"[!-~]{1,255}")

    key = serializers.RegexField(
        r"^[!-~]{1,255}\Z", trim_whitespace=False, error_messages={"invalid": "1 to 255 visible ASCII characters."}
    )

    @classmethod
    def of(cls, header: str) -> str:
        """Return the key of a header; raises ValidationError."""
        if cls.PLAIN.fullmatch(header):
            return header
        made = cls(data={"key": header})
        if not made.is_valid():
            raise serializers.ValidationError({"Idempotency-Key": made.errors["key"]})
        key: str = made.validated_data["key"]
        return key


class LeaseRequest(StrictBody):
    id = StrictUUIDField()


class GrantedSerializer(LeaseSerializer):
    """A lease as the answer to a borrow."""

    alternative = serializers.IntegerField(help_text="The number of the alternative, from 0.")

    class Meta(LeaseSerializer.Meta):
        fields = [*LeaseSerializer.Meta.fields, "alternative"]
        read_only_fields = fields


def waiting_data(place: Waiting) -> dict[str, Any]:
    """Return a place in the queue."""
    return {
        "ticket": str(place.ticket.id),
        "position": place.position,
        "eta_seconds": round(place.eta.total_seconds()) if place.eta is not None else None,
        "poll_after": max(round(place.poll_after.total_seconds()), 1),
        "deadline": place.ticket.deadline,
    }


class WaitingSerializer(serializers.Serializer[Waiting]):
    """A ticket and its position in the queue."""

    ticket = serializers.UUIDField(source="ticket.id")
    position = serializers.IntegerField(help_text="1 is the next.")
    eta_seconds = serializers.SerializerMethodField(
        help_text="Expected wait, estimated from recent leases; null if unknown."
    )
    poll_after = serializers.SerializerMethodField(
        help_text="Poll again after this number of seconds. The server drops a ticket without a poll for twice "
        "that time, at least 20 seconds."
    )
    deadline = serializers.DateTimeField(source="ticket.deadline")

    def get_eta_seconds(self, waiting: Waiting) -> int | None:
        """Give the schema a type; ``waiting_data`` writes the answer."""
        raise NotImplementedError

    def get_poll_after(self, waiting: Waiting) -> int:
        """Give the schema a type; ``waiting_data`` writes the answer."""
        raise NotImplementedError

    def to_representation(self, waiting: Waiting) -> dict[str, Any]:
        return waiting_data(waiting)


class ExplanationSerializer(serializers.Serializer[Any]):
    """The answer that a borrow would get now."""

    granted = serializers.BooleanField(help_text="Whether the borrow would get its seats.")
    alternative = serializers.IntegerField(allow_null=True, help_text="The alternative that it would get, from 0.")
    team = serializers.CharField(allow_null=True, help_text="The team of the lease.")
    reasons = serializers.ListField(
        child=serializers.DictField(),
        help_text="Each rule that blocks an alternative before it: code, text, numbers.",
    )
    expected_seconds = serializers.IntegerField(
        allow_null=True, help_text="Expected time until seats are free, estimated from recent leases; null if unknown."
    )
    reasons_omitted = serializers.IntegerField(help_text="The number of reasons that are not listed.")


class ReturnAnswer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["ok"])
    tool = serializers.CharField()


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


def borrow_answer(request: Request, outcome: Granted | Waiting) -> HttpResponse:
    """200 with the lease, or 202 with the place in the queue."""
    if isinstance(outcome, Granted):
        note_leases(outcome.leases)
        data = lease_data(outcome.head, outcome.leases, now=outcome.now) | {"alternative": outcome.alternative}
        return answer(request, data, headers={"Idempotent-Replayed": "true"} if outcome.replayed else None)
    logs.note(ticket=outcome.ticket.id)
    data = waiting_data(outcome)
    headers = {"Location": reverse("queue", args=[outcome.ticket.id]), "Retry-After": str(data["poll_after"])}
    return answer(request, data, status=202, headers=headers)


def borrow_request(request: Request, caller: Caller, require: Callable[[Caller, str], None]) -> requests.BorrowRequest:
    """Read the body of a borrow. ``require`` raises if the caller may not ask for the user."""
    asked = borrow_request_of(body_of(request), caller=caller.name)
    logs.note(user=asked.user, tool=",".join(sorted(asked.tools())))
    require(caller, asked.user)
    return replace(asked, team=team_for(caller, asked.team), asserted_teams=caller.teams)


class LicensesViewSet(CallViewSet):
    """Borrow and return: the calls that clients are written against."""

    scopes = {"explain": Scope.READ}

    @extend_schema(
        request=BorrowBody,
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
        responses={200: GrantedSerializer, 202: WaitingSerializer}
        # A retry of a borrow that waited can end like its ticket.
        | refused_by(*BORROW_REFUSALS.values(), QueueDropped, QueueLeft, KeyReused, TooManyKeys, NotForOthers),
    )
    def borrow(self, request: Request) -> HttpResponse:
        """Take seats of a tool, or of several at once; or wait for them.

        A refusal with 409 has `reasons` and `expected_seconds`, as `explain` gives them.
        """
        caller = caller_of(request)
        asked = borrow_request(request, caller, require_may_act_for)
        by = actor_for(request, caller, asked.user)
        retry = None
        if (header := request.META.get("HTTP_IDEMPOTENCY_KEY")) is not None:
            retry = requests.IdempotencyKey(user=asked.user, by=by, key=IdempotencyKeyHeader.of(header))
        return borrow_answer(request, services.borrow(asked, key=retry, by=by))

    @extend_schema(
        request=BorrowBody,
        examples=BORROWS,
        responses={200: ExplanationSerializer} | refused_by(UnknownTool, NotAMember, NotForOthers),
    )
    def explain(self, request: Request) -> Response:
        """Explain whether a borrow would be granted now, and if not, why not. Takes no seat."""
        explanation = services.explain(borrow_request(request, caller_of(request), require_may_ask_about))
        return Response(ExplanationSerializer(explanation).data)

    @extend_schema(
        request=LeaseRequest,
        examples=ONE_LEASE,
        responses={200: LeaseSerializer} | refused_by(UnknownLease, LeaseEnded),
    )
    def renew(self, request: Request) -> HttpResponse:
        """Extend a live lease by its time to live: the heartbeat."""
        lease_id = LeaseRequest.validated(body_of(request))["id"]
        return lease_answer(request, services.renew(lease_id=lease_id, **acting_on_lease(request, lease_id)))

    @extend_schema(
        request=LeaseRequest,
        examples=ONE_LEASE,
        responses={200: ReturnAnswer} | refused_by(UnknownLease),
    )
    def give_back(self, request: Request) -> HttpResponse:
        """Return a lease's seats. Harmless if it is returned already."""
        lease_id = LeaseRequest.validated(body_of(request))["id"]
        leases = services.give_back(lease_id=lease_id, **acting_on_lease(request, lease_id))
        note_leases(leases)
        return answer(request, {"status": "ok", "tool": leases[0].tool.name})
