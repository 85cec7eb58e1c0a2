"""Traces are complete if the environment enables them, and otherwise absent."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings

from tests.support.paths import ROOT
from tests.support.servers import running_server

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from benchmarks.ports import free_port

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@dataclass
class Collector:
    """A collector of traces: OTLP over HTTP."""

    url: str
    bodies: list[bytes] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def spans(self) -> list[Span]:
        return [
            span
            for body in list(self.bodies)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def request_span(self, trace: str) -> Span:
        """Return the span of the one request of this trace; waits for it."""

        def found() -> list[Span]:
            return [
                span for span in self.spans() if span.trace_id.hex() == trace and span.kind == Span.SPAN_KIND_SERVER
            ]

        with self.arrived:
            assert self.arrived.wait_for(found, timeout=30), "no span came"
        (span,) = found()
        return span


@contextmanager
def running_collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
            with running.arrived:
                running.bodies.append(body)
                running.arrived.notify_all()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        running = Collector(f"http://127.0.0.1:{listener.server_port}")
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield running
        finally:
            listener.shutdown()
            thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


def attributes(span: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


def test_a_borrow_is_one_trace_from_the_client_to_the_database(tmp_path: Path, collector: Collector) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with running_server(tmp_path, **variables) as server:
        body = {"tool": "cad_tool", "user": "ana"}
        borrow = httpx.post(f"{server.url}/licenses/borrow", json=body, headers=TRACEPARENT)
        span = collector.request_span(TRACE)
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert span.name == "POST /licenses/borrow"
    assert span.parent_span_id.hex() == PARENT
    told = attributes(span)
    assert told["http.request.method"] == "POST"
    assert told["http.route"] == told["url.path"] == "/licenses/borrow"
    assert told["http.response.status_code"] == 200
    assert (told["licenseserver.tool"], told["licenseserver.lease"]) == ("cad_tool", borrow.json()["id"])
    # The log and the trace refer to each other.
    (line,) = [line for line in lines if line.get("path") == "/licenses/borrow"]
    assert (line["trace_id"], line["request_id"]) == (TRACE, told["licenseserver.request_id"])

    statements = [other for other in collector.spans() if other.parent_span_id == span.span_id]
    assert statements
    for statement in statements:
        assert statement.trace_id == span.trace_id
        assert attributes(statement)["db.system.name"] in {"sqlite", "postgresql"}
    assert any("licenses_lease" in attributes(statement)["db.query.text"] for statement in statements)

    (resource, *_) = ExportTraceServiceRequest.FromString(collector.bodies[0]).resource_spans
    assert attributes(resource.resource)["service.name"] == "licenseserver"
    assert attributes(resource.resource)["service.version"] == settings.VERSION


def test_no_secret_is_in_a_span(tmp_path: Path, collector: Collector) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "LICENSE_AUTH": "required",
        "ADMIN_USERNAME": "boss",
        "ADMIN_PASSWORD": "right-password-93c2",
    }
    with running_server(tmp_path, **variables) as server:
        server.manage("ensure_admin")
        token = server.manage("token", "create", "nightly", "--user", "ana").strip()
        secrets = [token, "right-password-93c2", "key-77ab", "query-1c9e", "reason-5d11"]
        with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"}) as ana:
            for _ in range(2):
                ana.post("/licenses/borrow", json={"tool": "cad_tool"}, headers={"Idempotency-Key": "key-77ab"})
            ana.get(f"/licenses/{token}/status", params={"user": "query-1c9e"})
        with httpx.Client(base_url=server.url) as browser:
            browser.get("/signin/")
            form = {"username": "boss", "password": "right-password-93c2"}
            browser.post("/signin/", data=form | {"csrfmiddlewaretoken": browser.cookies["csrftoken"]})
            secrets += [browser.cookies["sessionid"], browser.cookies["csrftoken"]]
            browser.get("/admin/")
        # A failing statement whose error contains its values.
        server.manage("migrate", "sessions", "zero", "--verbosity", "0")
        headers = {"Cookie": f"sessionid={'reason-5d11' * 3}", **TRACEPARENT}
        assert httpx.get(f"{server.url}/admin/", headers=headers).status_code == 503
        failed = collector.request_span(TRACE)
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert len(collector.spans()) > 20
    for secret in secrets:
        assert not any(secret.encode() in body for body in collector.bodies)


@pytest.mark.any_database
def test_remaining_traces_are_sent_when_the_server_stops(tmp_path: Path, collector: Collector) -> None:
    an_hour = "3600000"
    with running_server(
        tmp_path, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces", OTEL_BSP_SCHEDULE_DELAY=an_hour
    ) as server:
        httpx.get(f"{server.url}/licenses/status", headers=TRACEPARENT)
        assert not collector.bodies
        server.stop()
        assert collector.request_span(TRACE).name == "GET /licenses/status"


@pytest.mark.any_database
def test_a_collector_that_is_away_stops_nobody(tmp_path: Path) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with running_server(tmp_path, **variables) as server:
        for _ in range(3):
            answer = httpx.post(f"{server.url}/licenses/borrow", json={"tool": "cad_tool", "user": "ana"})
            assert answer.status_code == 200
        server.stop()
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert any(line["logger"].startswith("opentelemetry.") for line in lines)


@pytest.mark.any_database
def test_probes_are_no_traces(tmp_path: Path, collector: Collector) -> None:
    with running_server(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as server:
        for path in ("/livez", "/readyz", "/metrics"):
            httpx.get(f"{server.url}{path}", headers=TRACEPARENT)
        server.stop()
    assert not [span for span in collector.spans() if span.trace_id.hex() == TRACE]


# --- Off, as it is unless somebody says so ------------------------------------

LOADED = """
import sys, licenseserver.wsgi
print(sum(name.startswith("opentelemetry") for name in sys.modules), "of", len(sys.modules))
"""


def python(code: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment |= {"SECRET_KEY": settings.SECRET_KEY, "DJANGO_SETTINGS_MODULE": "licenseserver.settings"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment | variables, capture_output=True, text=True
    )


ON = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.any_database
@pytest.mark.parametrize(
    "variables",
    [{}, ON | {"OTEL_SDK_DISABLED": "true"}, ON | {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SERVICE_NAME": "x"}],
)
def test_without_traces_nothing_of_them_is_loaded(variables: dict[str, str]) -> None:
    done = python(LOADED, **variables)
    assert done.stdout.startswith("0 of "), done.stdout + done.stderr


@pytest.mark.any_database
def test_with_traces_it_is() -> None:
    loaded, _, _ = python(LOADED, **ON).stdout.partition(" of ")
    assert int(loaded) > 10


START = "from licenseserver.environment import settings_or_exit; settings_or_exit()"


@pytest.mark.any_database
def test_a_protocol_that_is_not_spoken_stops_the_start() -> None:
    for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        done = python(START, **ON, **{name: "grpc"})
        assert done.returncode == 2
        assert done.stderr == f"licenseserver: {name} must be one of http/protobuf, not 'grpc'.\n"


@pytest.mark.any_database
def test_traces_without_their_packages_stop_the_start() -> None:
    done = python(f"import sys; sys.modules['opentelemetry'] = None; {START}", **ON)
    assert done.returncode == 2
    assert done.stderr == (
        "licenseserver: OTEL_EXPORTER_OTLP_ENDPOINT needs the packages of requirements/tracing.txt.\n"
    )
