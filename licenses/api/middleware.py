"""What happens before Django looks at a request: probes, and a limit on bodies."""

from collections.abc import Callable
from typing import ClassVar

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

from . import views
from .problems import is_api_path, problem

# A body that nobody read makes the kernel reset the connection, and the client
# would never see the answer; so up to this much is read and thrown away.
DISCARD_LIMIT = 16 * 1024 * 1024
CHUNK = 64 * 1024


class ProbeMiddleware:
    """Answers the addresses for machines, whatever host they were asked by:
    Kubernetes and Prometheus come by the pod's address, over plain HTTP, which
    is in no list of allowed hosts."""

    probes: ClassVar[dict[str, Callable[[HttpRequest], HttpResponseBase]]] = {
        "/livez": views.livez,
        "/readyz": views.readyz,
        "/metrics": views.prometheus,
    }

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.probes.get(request.path_info, self.get_response)(request)


class BodyLimitMiddleware:
    """Answers 413 to an API call with a body over ``API_BODY_LIMIT`` bytes and
    411 to one that doesn't say its length, which WSGI would read as empty."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if is_api_path(request.path_info):
            if request.META.get("HTTP_TRANSFER_ENCODING") and not request.META.get("CONTENT_LENGTH"):
                return problem(
                    status=411, code="length_required", title="Length required", detail="Send a Content-Length."
                )
            if _content_length(request) > settings.API_BODY_LIMIT:
                _discard_body(request)
                return problem(
                    status=413,
                    code="too_large",
                    title="Body too large",
                    detail=f"The body may have {settings.API_BODY_LIMIT} bytes at most.",
                )
        return self.get_response(request)


def _content_length(request: HttpRequest) -> int:
    try:
        return int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return 0


def _discard_body(request: HttpRequest) -> None:
    left = DISCARD_LIMIT
    while left > 0 and (chunk := request.read(min(CHUNK, left))):
        left -= len(chunk)
