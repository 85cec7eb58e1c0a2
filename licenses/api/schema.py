"""Serve the OpenAPI schema."""

import hashlib
import threading
from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpResponse, HttpResponseBase
from django.utils.cache import get_conditional_response
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from .common.queries import FormatNegotiation, StrictQuery

_writing = threading.Lock()


class SchemaView(StrictQuery, SpectacularAPIView):
    """Serve the OpenAPI schema. Each process writes it once, because that takes 0.1 s."""

    query_names = frozenset({"format"})
    content_negotiation_class = FormatNegotiation

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponseBase:
        known = sorted({renderer.format for renderer in self.renderer_classes})
        if request.query_params.get("format", known[0]) not in known:
            raise ValidationError({"format": [f"Choose one of: {', '.join(known)}."]})
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
    """Return the schema in one of the view's formats, and its entity tag."""
    renderer = next(found for found in SchemaView.renderer_classes if found.media_type == media_type)
    schema = SchemaView.generator_class().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    text = renderer().render(schema, renderer_context={})
    data = text.encode() if isinstance(text, str) else text
    return data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'
