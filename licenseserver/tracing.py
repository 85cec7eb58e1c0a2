"""Traces for OpenTelemetry, of requests and the statements that they run.

Imported only where the environment asks for traces, so that without them none
of this, nor the SDK, is even loaded. The SDK reads its variables (``OTEL_*``)
itself. Names are those of the semantic conventions
(https://opentelemetry.io/docs/specs/semconv/http/http-spans/ and
.../database/database-spans/). No span has a value of a statement, a query, a
header or a body, for the same reason as no line of the log has.
"""

import threading
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponseBase
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode

from licenseserver import logs

# What the line in the log tells, as far as it is of use to find a trace.
FACTS = ("code", "tool", "lease", "ticket")

# Until a worker starts, a stand-in that makes no spans.
tracer = trace.get_tracer("licenseserver", settings.VERSION)


# How long a collector that doesn't answer may hold up the end of a worker, in
# seconds; the SDK alone would try for thirty.
PATIENCE = 2


def start() -> Callable[[], None]:
    """Send this process' spans from now on; what it returns sends what is left,
    and ends it. After a fork: the thread that sends them isn't there in a child
    of the process that made it."""
    ours = Resource.create({"service.name": "licenseserver", "service.version": settings.VERSION})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    def stop() -> None:
        giving_up = threading.Timer(PATIENCE, exporter.shutdown)
        giving_up.start()
        provider.shutdown()
        giving_up.cancel()

    return stop


class TracingMiddleware:
    """A span for every request, below the client's own if it sent one
    (``traceparent``), whose id is on the request's lines in the log."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        # Part of the span's name: EventMiddleware let through only those that are known.
        method = str(request.method)
        attributes = {
            "http.request.method": method,
            "url.scheme": request.scheme or "http",
            "url.path": logs.redacted(request.path_info),
        }
        event = logs.current()
        with tracer.start_as_current_span(
            method,
            context=propagate.extract(request.headers),
            kind=SpanKind.SERVER,
            attributes=attributes,
        ) as span:
            if event:
                event.ids["trace_id"] = trace.format_trace_id(span.get_span_context().trace_id)
            with connection.execute_wrapper(_traced):
                response = self.get_response(request)
            if span.is_recording():
                if match := request.resolver_match:
                    span.set_attribute("http.route", f"/{match.route}")
                    span.update_name(f"{method} /{match.route}")
                _tell_outcome(span, response.status_code, event)
        return response


def _tell_outcome(span: Span, status: int, event: logs.Event | None) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)
    if event:
        facts = {name: event.facts[name] for name in FACTS if name in event.facts}
        for name, value in {"request_id": event.request_id, **facts}.items():
            span.set_attribute(f"licenseserver.{name}", logs.redacted(str(value)))


def _traced(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
    """Django's wrapper of a statement (``execute_wrapper``): its text, which has
    places for the values, and not the values. For the same reason an error is
    known by its type: its text may quote a row."""
    text = str(sql)
    verb = text.split(None, 1)[0].upper() if text else "SQL"
    attributes = {
        "db.system.name": context["connection"].vendor,
        "db.operation.name": verb,
        "db.query.text": text,
    }
    with tracer.start_as_current_span(
        verb, kind=SpanKind.CLIENT, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            return execute(sql, params, many, context)
        except Exception as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(StatusCode.ERROR)
            raise
