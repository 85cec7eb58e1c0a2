"""View sets for the calls that programs make most.

DRF makes a new parser and a new renderer for each request, and asks each of them whether it
fits. Here they are made once. The headers show whether a request is the usual one, with
JSON in and out; DRF handles every other request.
"""

from functools import cache
from typing import Any, cast

from django.http import HttpResponse
from rest_framework import viewsets
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.encoders import JSONEncoder

from licenses.access.credentials import anonymous

from .parsers import parsed
from .queries import StrictQuery

JSON = "application/json"
JSON_BODIES = frozenset({JSON, "application/json; charset=utf-8", "application/json;charset=utf-8"})
# The Accept headers that JSON without a media type parameter satisfies.
TAKES_JSON = frozenset({"", "*/*", JSON, "application/json, */*", "application/json, */*;q=0.5"})

# DRF's renderer makes the same one for each answer.
_ENCODER = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_RENDERER = JSONRenderer()
_NEGOTIATOR = DefaultContentNegotiation()


@cache
def _made(classes: tuple[type, ...]) -> list[Any]:
    """Return an instance of each class. None of our classes keeps a request."""
    return [each() for each in classes]


class CallViewSet(StrictQuery, viewsets.ViewSet):
    """A view set that answers in JSON."""

    renderer_classes = [JSONRenderer]
    _allowed: dict[tuple[str, ...], str] = {}

    def get_authenticators(self) -> list[Any]:
        return _made(tuple(self.authentication_classes))

    def get_permissions(self) -> list[Any]:
        return _made(tuple(self.permission_classes))

    def get_parsers(self) -> list[Any]:
        return _made(tuple(self.parser_classes))

    def get_content_negotiator(self) -> DefaultContentNegotiation:
        return _NEGOTIATOR

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        if request.META.get("HTTP_ACCEPT", "") in TAKES_JSON:
            return _RENDERER, JSON
        return super().perform_content_negotiation(request, force)

    def perform_authentication(self, request: Request) -> None:
        headers = request.META
        if headers.get("HTTP_AUTHORIZATION") or headers.get("HTTP_COOKIE"):
            super().perform_authentication(request)
        else:
            request.user, request.auth = cast(Any, None), anonymous()

    @property
    def default_response_headers(self) -> dict[str, str]:
        actions = tuple(self.action_map or ())
        allow = self._allowed.get(actions)
        if allow is None:
            allow = self._allowed[actions] = ", ".join(self.allowed_methods)
        return {"Allow": allow}


def body_of(request: Request) -> Any:
    """Return the data of a request. Raises what DRF raises for a body that is not a JSON object."""
    headers = request.META
    if headers.get("CONTENT_TYPE") in JSON_BODIES and headers.get("CONTENT_LENGTH") not in {None, "", "0"}:
        return parsed(request._request.read())
    return request.data


def encoded(data: Any) -> bytes:
    """Return data as JSON, with the same bytes as DRF's renderer."""
    # Both end a line for JavaScript, but not for JSON.
    return _ENCODER.encode(data).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").encode()


def answer(request: Request, data: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> HttpResponse:
    """Return data in the form that was negotiated."""
    if request.accepted_renderer is not _RENDERER:
        return Response(data, status=status, headers=headers)
    return HttpResponse(encoded(data), status=status, headers=headers, content_type=JSON)
