"""Trace requests and their SQL statements with OpenTelemetry.

Imported only if the environment enables traces, so that otherwise neither this nor the
SDK is loaded. The SDK reads its variables (``OTEL_*``). Names follow the semantic
conventions (https://opentelemetry.io/docs/specs/semconv/http/http-spans/ and
.../database/database-spans/). As in the log, no span has values of a statement, a
query, a header or a body.
"""

import threading
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db.backends.signals import connection_created
from django.http import HttpRequest, HttpResponseBase
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode

from licenseserver import logs

# The facts of the log line that help to find a trace.
FACTS = ("code", "tool", "lease", "ticket")

# Creates no spans until a worker starts.
tracer = trace.get_tracer("licenseserver", settings.VERSION)


# Seconds that a collector without an answer may delay the end of a worker. The SDK's
# default is 30.
PATIENCE = 2


def start() -> Callable[[], None]:
    """Send the spans of this process. Return a function that sends the rest and stops.

    Call it after a fork, because the sending thread does not exist in a child process.
    """
    ours = Resource.create({"service.name": "licenseserver", "service.version": settings.VERSION})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    connection_created.connect(_trace_statements, dispatch_uid="licenses.tracing")

    def stop() -> None:
        giving_up = threading.Timer(PATIENCE, exporter.shutdown)
        giving_up.start()
        provider.shutdown()
        giving_up.cancel()

    return stop


class TracingMiddleware:
    """Create a span for every request, below the client's span (``traceparent``) if it has one.

    The trace's id is on the request's log lines.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        # Safe in the span's name, because EventMiddleware accepts only known methods.
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


def _trace_statements(connection: Any, **signal: Any) -> None:
    """Trace what a new connection does. Receives a signal."""
    # Statements of a request also run in other threads than its own (``licenseserver.hub``).
    if _traced not in connection.execute_wrappers:
        connection.execute_wrappers.append(_traced)


def _traced(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
    """Trace a statement of a request, as Django's ``execute_wrapper``.

    The span has the text with placeholders, and of an error only the type, because its
    text may quote a row.
    """
    if not trace.get_current_span().get_span_context().is_valid:
        return execute(sql, params, many, context)
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
