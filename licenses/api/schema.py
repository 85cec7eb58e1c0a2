"""The OpenAPI schema, and how it describes the credentials."""

import hashlib
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
