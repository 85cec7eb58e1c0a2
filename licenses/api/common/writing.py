"""Read, put and delete rows that administrators change, with entity tags.

The tag of a row names its version (``licenses.preconditions``): ``If-Match`` makes a change
only of the version that the caller has read. The service checks it under its lock.
"""

from collections.abc import Collection, Mapping
from typing import Any

from django.db import models
from django.utils.http import parse_etags
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework import serializers, viewsets
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.metadata import SimpleMetadata
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from licenses.api.authentication import caller_of
from licenses.api.permissions import MayAdminister
from licenses.auditing import Actor
from licenses.errors import OutOfDate, Refusal
from licenses.names import NAME_LENGTH, is_clean
from licenses.preconditions import Check, Precondition, version_of

from .openapi import refused_by
from .pagination import INVALID_CURSOR, Pages
from .queries import StrictQuery

IF_MATCH = OpenApiParameter(
    "If-Match",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="Change only this version of the row: the `ETag` of an answer. `*`: only a row that exists.",
)
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="`*`: only create the row, and change none that exists.",
)
ETAG = OpenApiParameter(
    "ETag",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="The version of the row: of what an administrator can change.",
    response=[200, 201],
)


def example(title: str, value: dict[str, Any]) -> list[OpenApiExample]:
    """Return an example of a body for the schema."""
    return [OpenApiExample(title, value=value, request_only=True)]


def put_by(serializer: type[serializers.Serializer[Any]], *refusals: type[Refusal]) -> dict[int, Any]:
    """Return the responses of a ``PUT`` for the schema."""
    return {
        200: OpenApiResponse(serializer, description="Changed, or already as wanted."),
        201: OpenApiResponse(serializer, description="Created."),
    } | refused_by(OutOfDate, *refusals)


def deleted_by(*refusals: type[Refusal]) -> dict[int, Any]:
    """Return the responses of a ``DELETE`` for the schema."""
    return {204: None} | refused_by(OutOfDate, *refusals)


def precondition_of(headers: Mapping[str, Any]) -> Precondition:
    """Return what ``If-Match`` and ``If-None-Match`` ask for."""
    return Precondition(_versions(headers.get("HTTP_IF_MATCH")), _versions(headers.get("HTTP_IF_NONE_MATCH")))


def _versions(header: str | None) -> frozenset[str] | None:
    """Return the versions in a header. A proxy that compresses answers makes a tag weak; it names the same version."""
    if header is None:
        return None
    return frozenset(tag.removeprefix("W/").strip('"') for tag in parse_etags(header))


def etag_of(row: models.Model) -> dict[str, str]:
    """Return the header with the version of a row."""
    return {"ETag": f'"{version_of(row)}"'}


class PlainMetadata(SimpleMetadata):
    """Answer ``OPTIONS`` without a look at the row. The schema has the fields."""

    def determine_actions(self, request: Request, view: Any) -> dict[str, Any]:
        return {}


class RowPages(Pages):
    """Paginate by ``ordering``: the key or a name."""

    ordering: Any = ("id",)

    def decode_cursor(self, request: Request) -> Any:
        """Return the cursor. Raises ValidationError for one that this server did not make."""
        try:
            cursor = super().decode_cursor(request)
        except NotFound:
            raise INVALID_CURSOR from None
        if cursor is None or cursor.position is None:
            return cursor
        position = str(cursor.position)
        if self.ordering[0].lstrip("-") == "id":
            valid = position.isascii() and position.isdecimal() and len(position) < 19
        else:
            valid = is_clean(position) and len(position) <= NAME_LENGTH
        if not valid:
            raise INVALID_CURSOR
        return cursor


class LatestPages(RowPages):
    ordering = ("-id",)


class NamePages(RowPages):
    ordering = ("name",)


class UserPages(RowPages):
    ordering = ("user",)


class AccountPages(RowPages):
    ordering = ("username",)


class RowsViewSet(StrictQuery, viewsets.GenericViewSet[Any]):
    """Rows of ``model``, which administrators change.

    The caller needs the scope ``admin``, and the account behind it Django's permission for
    the action. ``right_of`` names that permission where it is another one.
    """

    model: type[models.Model]
    permission_classes = [MayAdminister]
    metadata_class = PlainMetadata
    renderer_classes: list[Any] = [JSONRenderer]
    pagination_class = RowPages
    right_of: Mapping[str, str] = {}

    def needed(self, method: str) -> Collection[str]:
        """Return the permissions of which a caller of this method needs one."""
        verbs = {"PUT": ("add", "change"), "POST": ("add",), "DELETE": ("delete",)}.get(method, ("view", "change"))
        return [self.permission(verb) for verb in verbs]

    def permission(self, verb: str) -> str:
        """Return Django's permission to view, add, change or delete a row."""
        opts = self.model._meta
        return f"{opts.app_label}.{self.right_of.get(verb, verb)}_{opts.model_name}"

    @property
    def actor(self) -> Actor:
        """Return who changes the row, for the audit."""
        return Actor.of_call(caller_of(self.request), self.request.META)

    def check(self) -> Check:
        """Return the check of this change: the rights of the caller, and the precondition."""
        caller, precondition = caller_of(self.request), precondition_of(self.request.META)
        is_deletion = self.request.method == "DELETE"

        def check(row: models.Model | None) -> None:
            verb = "delete" if is_deletion else "add" if row is None else "change"
            if not caller.is_admin(self.permission(verb)):
                raise PermissionDenied
            precondition(row)

        return check

    def pages(self, rows: models.QuerySet[Any]) -> Response:
        """Return a page of a list."""
        page = self.paginate_queryset(rows)
        return self.get_paginated_response(self.get_serializer(page, many=True).data)

    def shown(self, row: models.Model, *, is_new: bool = False) -> Response:
        """Return a row with its tag."""
        data = self.get_serializer(row).data
        return Response(data, status=201 if is_new else 200, headers=etag_of(row))

    def body(self, serializer: Any, *, same: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the validated body of a change.

        A ``PUT`` can have all fields of an answer, so that a caller can send what it has read;
        those that only the server sets are ignored. ``same`` are fields that the path has
        too. Raises ValidationError.
        """
        # The parser returns only objects.
        data: dict[str, Any] = self.request.data  # type: ignore[assignment]
        for name, value in (same or {}).items():
            if data.get(name, value) != value:
                raise ValidationError({name: [f"The address says {value}."]})
        shown: Any = self.get_serializer()
        ignored = {*shown.fields, *(same or ())} - serializer().fields.keys() if self.request.method == "PUT" else ()
        wanted = {name: value for name, value in data.items() if name not in ignored}
        validated: dict[str, Any] = serializer.validated(wanted)
        return validated
