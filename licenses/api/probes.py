"""Answer the machines that watch this server."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from drf_spectacular.utils import extend_schema
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from licenses import metrics, readiness
from licenseserver import logs

from .common.queries import StrictQuery
from .permissions import MayScrape

# Plain views: probes must answer without anything that could be in the way.


@require_safe
@never_cache
def livez(request: HttpRequest) -> HttpResponse:
    """Answer that the process is up."""
    return JsonResponse({"status": "ok"})


@require_safe
@never_cache
def readyz(request: HttpRequest) -> HttpResponse:
    """Answer whether the database answers, has every migration and room to grow; else 503
    and why. The log says more, because anyone can read this page."""
    trouble = readiness.check()
    if trouble is None:
        return JsonResponse({"status": "ok"})
    if trouble.serves:
        return JsonResponse({"status": "ok", "detail": trouble.detail})
    logs.note(reason=trouble.reason)
    return JsonResponse({"status": "unready", "detail": trouble.detail}, status=503)


class VersionView(StrictQuery, APIView):
    """What is running."""

    renderer_classes = [JSONRenderer]

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        return Response({"version": settings.VERSION})


class MetricsView(APIView):
    """Metrics in Prometheus' text format, whatever the client accepts."""

    permission_classes = [MayScrape]
    schema = None

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        return JSONRenderer(), JSONRenderer.media_type

    def get(self, request: Request) -> HttpResponse:
        page = metrics.exposition(settings.VERSION)
        return HttpResponse(page, content_type="text/plain; version=0.0.4; charset=utf-8")


prometheus = never_cache(MetricsView.as_view())
