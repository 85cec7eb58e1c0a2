"""The OpenAPI schema, and how it describes the credentials."""

import hashlib
import re
import threading
from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpResponse, HttpResponseBase
from django.utils.cache import get_conditional_response
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request

from .problems import CONTENT_TYPE
from .queries import StrictQuery

_writing = threading.Lock()


class SchemaView(StrictQuery, SpectacularAPIView):
    """The OpenAPI schema. It is the same for every caller, and takes a tenth of a
    second to write: each process writes it once."""

    query_names = frozenset({"format"})

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponseBase:
        renderer = request.accepted_renderer
        with _writing:
            text, tag = _written(renderer.media_type)
        charset = f"; charset={renderer.charset}" if renderer.charset else ""
        response = HttpResponse(
            text,
            content_type=renderer.media_type + charset,
            headers={
                "ETag": tag,
                "Cache-Control": "private, no-cache",
                "Content-Disposition": f'inline; filename="{settings.SPECTACULAR_SETTINGS["TITLE"]}.{renderer.format}"',
            },
        )
        return get_conditional_response(request._request, etag=tag, response=response) or response


@cache
def _written(media_type: str) -> tuple[bytes, str]:
    """The schema in one of the view's formats, and its entity tag."""
    renderer = next(found for found in SchemaView.renderer_classes if found.media_type == media_type)
    schema = SchemaView.generator_class().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    text = renderer().render(schema, renderer_context={})
    data = text.encode() if isinstance(text, str) else text
    return data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'


# --- What every call has ------------------------------------------------------

PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
# What can become of any call, whatever it is about.
ANYWHERE = {
    "400": "`invalid`: a field or a query parameter is wrong, or there is no such one",
    "401": "`not_authenticated`, `invalid_credential`: no credential, or one that is not good",
    "403": "`permission_denied`: the credential is not good for this",
    "429": "`rate_limited`, `too_many_failures`: wait `Retry-After` seconds",
    "503": "`busy`, `read_only`, `provider_away`: try again after `Retry-After` seconds",
}
TAGS = {
    "status": "How many seats there are, and for whom.",
    "borrowing": "Take seats, keep them and give them back.",
    "queue": "Wait for seats.",
    "leases": "Who has seats, and who had.",
    "tools": "What seats are lent of.",
    "denials": "Who was refused a seat.",
    "reports": "What the tools were used for.",
    "audit": "Who changed what.",
}


def _tag(path: str) -> str:
    """The subject of a path."""
    if path.startswith("/api/v1/"):
        return path.split("/")[3]
    if path == "/borrows":
        return "leases"
    if path.startswith("/licenses/queue/"):
        return "queue"
    return "status" if path.endswith("/status") else "borrowing"


def complete(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Give each operation a tag, a summary and every problem that it can end with, as
    ``application/problem+json``; for drf-spectacular."""
    for path, operations in result["paths"].items():
        for operation in operations.values():
            operation["tags"] = [_tag(path)]
            text = " ".join(operation.get("description", "").split())
            operation["summary"] = re.split("[.;:] ", text, maxsplit=1)[0].rstrip(".")
            responses = operation["responses"]
            for status, description in ANYWHERE.items():
                responses.setdefault(status, {"description": description})
            if "{" in path or any(parameter["name"] == "cursor" for parameter in operation.get("parameters", ())):
                responses.setdefault("404", {"description": "`not_found`: there is no such thing"})
            if "requestBody" in operation:
                responses.setdefault("413", {"description": "`too_large`: the body is over the limit"})
                responses.setdefault("415", {"description": "`unsupported_media_type`: the body must be JSON"})
            for status, response in responses.items():
                if status >= "400":
                    response["content"] = {CONTENT_TYPE: PROBLEM}
            operation["responses"] = dict(sorted(responses.items()))
    for name, schema in result["components"]["schemas"].items():
        if name.endswith("Request"):
            # A field that there isn't is refused.
            schema["additionalProperties"] = False
    result["servers"] = [{"url": settings.SCRIPT_NAME or "/"}]
    result["tags"] = [{"name": name, "description": description} for name, description in TAGS.items()]
    return result


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "licenses.api.authentication.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "An API token, or a JWT of the provider."}


class PasswordScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "licenses.api.authentication.PasswordAuthentication"
    name = "password"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "basic"}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "licenses.api.authentication.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}
