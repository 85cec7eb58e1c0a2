"""What Prometheus sees."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import httpx
import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from prometheus_client import REGISTRY

from licenses.api.middleware import EventMiddleware
from licenses.models import Tool
from tests.support.api import Api
from tests.support.metrics import Samples, parse, scrape, value
from tests.support.paths import ROOT
from tests.support.servers import Server
from tests.support.waiting import until


def test_a_known_tool_starts_at_zero(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("never_borrowed", capacity=7)
    samples = scrape(api)
    for name in ("license_borrow_attempts_total", "license_borrow_success_total"):
        assert value(samples, name, tool="never_borrowed") == 0
    assert value(samples, "license_borrow_failure_total", tool="never_borrowed", reason="exhausted") == 0
    assert value(samples, "license_returns_total", tool="never_borrowed", reason="returned") == 0
    assert value(samples, "license_borrow_duration_seconds_count", tool="never_borrowed") == 0
    assert value(samples, "licenses_total", tool="never_borrowed") == 7


def test_levels_follow_the_seats(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("levels", capacity=3)
    lease = api.borrow("levels", seats=2).json()
    during = scrape(api)
    api.give_back(lease["id"])
    after = scrape(api)
    assert value(during, "licenses_borrowed", tool="levels") == 2
    assert value(during, "licenses_available", tool="levels") == 1
    assert value(after, "licenses_borrowed", tool="levels") == 0


def test_attempts_are_successes_and_failures(api: Api, make_tool: Callable[..., Tool]) -> None:
    tool = make_tool("summed", capacity=2)
    for _ in range(5):
        api.borrow("summed")
    Tool.objects.filter(pk=tool.pk).update(enabled=False)
    api.borrow("summed")
    samples = scrape(api)
    failures = sum(
        amount
        for (name, labels), amount in samples.items()
        if name == "license_borrow_failure_total" and ("tool", "summed") in labels
    )
    assert value(samples, "license_borrow_attempts_total", tool="summed") == 6
    assert value(samples, "license_borrow_success_total", tool="summed") == 2
    assert failures == 4
    assert value(samples, "license_borrow_failure_total", tool="summed", reason="disabled") == 1


def test_failures_of_the_server_are_not_counted_as_denials(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("broken")
    lease = api.borrow("broken").json()

    def answers(samples: Samples, view: str, status: int) -> float:
        name = "django_http_responses_total_by_status_view_method_total"
        return samples.get((name, frozenset({"status": str(status), "view": view, "method": "POST"}.items())), 0)

    assert api.borrow("broken").status_code == 409
    before = scrape(api)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE licenses_lease RENAME TO licenses_lease_away")
    assert api.borrow("broken").status_code == 503
    assert api.give_back(lease["id"]).status_code == 503
    after = scrape(api)
    for view in ("borrow", "return"):
        assert answers(after, view, 503) == answers(before, view, 503) + 1
        assert answers(after, view, 500) == answers(before, view, 500)
    assert answers(after, "borrow", 409) == answers(before, "borrow", 409)
    # An increase is seen only from a 0 that was seen.
    series = {labels for name, labels in before if name == "django_http_responses_total_by_status_view_method_total"}
    for view in ("borrow", "return"):
        for status in ("200", "500", "503"):
            assert frozenset({("status", status), ("view", view), ("method", "POST")}) in series


def test_unknown_names_add_no_series(api: Api) -> None:
    api.borrow("nobody0")
    before = scrape(api)
    for number in range(200):
        api.borrow(f"nobody{number}")
    after = scrape(api)
    assert {key for key in after if key[0].startswith("license")} == {
        key for key in before if key[0].startswith("license")
    }
    name, reason = "license_borrow_failure_total", "unknown_tool"
    assert value(after, name, tool="unknown", reason=reason) == value(before, name, tool="unknown", reason=reason) + 200


def test_counters_are_there_while_the_database_is_away(tmp_path: Path) -> None:
    """Run a process with an invalid database file."""
    (tmp_path / "licenses.db").write_text("not a database, but long enough to tell")
    program = (
        "import django; django.setup();"
        "from licenses import metrics; metrics.know('cad'); metrics.borrow_failed('cad', 'busy', 3.0);"
        "print(metrics.exposition('test').decode())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    output = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment
        | {
            "DJANGO_SETTINGS_MODULE": "licenseserver.settings",
            "LICENSE_DB_PATH": str(tmp_path / "licenses.db"),
        },
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    samples = parse(output)
    assert value(samples, "license_borrow_failure_total", tool="cad", reason="busy") == 1
    assert value(samples, "licenseserver_database_up") == 0
    assert not any(name.startswith("licenses_") for name, _ in samples)


@pytest.mark.parametrize(("folder", "wiped"), [(".", True), ("", False)])
def test_a_start_wipes_old_counters_and_nothing_else(tmp_path: Path, folder: str, wiped: bool) -> None:
    counters, database = tmp_path / "counter_1.db", tmp_path / "licenses.db"
    counters.write_bytes(b"old")
    database.write_bytes(b"")
    config = ROOT / "licenseserver/gunicorn.conf.py"
    subprocess.run(
        [sys.executable, "-m", "gunicorn", "--check-config", "--config", config, "licenseserver.wsgi"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": folder},
        check=True,
    )
    assert database.exists()
    assert counters.exists() != wiped


def test_a_repeated_return_is_counted_once(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("twice")
    lease = api.borrow("twice").json()
    for _ in range(3):
        api.give_back(lease["id"])
    assert value(scrape(api), "license_returns_total", tool="twice", reason="returned") == 1


def test_four_workers_answer_with_the_same_counts(server: Server) -> None:
    for _ in range(12):
        httpx.post(f"{server.url}/licenses/borrow", json={"tool": "cad_tool", "user": "ana"})
    for _ in range(12):
        samples = parse(httpx.get(f"{server.url}/metrics").text)
        assert value(samples, "license_borrow_attempts_total", tool="cad_tool") == 12
        assert value(samples, "license_borrow_success_total", tool="cad_tool") == 5
        assert value(samples, "licenses_borrowed", tool="cad_tool") == 5
    assert any(name.startswith("django_http_responses_total_by_status") for name, _ in samples)
    assert any(name == "licenseserver_build_info" for name, _ in samples)


def test_a_wait_that_outlived_the_server_is_counted_for_its_tool(server: Server) -> None:
    def call(method: str, path: str, **body: object) -> dict[str, str]:
        answer: dict[str, str] = httpx.request(method, f"{server.url}{path}", json=body).raise_for_status().json()
        return answer

    lease, _ = (call("POST", "/licenses/borrow", tool="analysis", user=user) for user in ("ana", "ben"))
    ticket = call("POST", "/licenses/borrow", tool="analysis", user="eve", wait_seconds=600)["ticket"]
    call("POST", "/licenses/return", id=lease["id"])
    server.stop()
    server.start()
    # The first that this worker hears of the tool.
    assert call("GET", f"/licenses/queue/{ticket}")["tool"] == "analysis"
    samples = parse(httpx.get(f"{server.url}/metrics").text)
    assert value(samples, "license_queue_waits_total", tool="analysis", outcome="granted") == 1
    assert value(samples, "license_queue_wait_seconds_count", tool="analysis") == 1
    assert value(samples, "license_borrow_success_total", tool="analysis") == 1


def test_the_sweepers_last_run_and_the_end_of_licenses_are_seen(api: Api, make_tool: Callable[..., Tool]) -> None:
    until = datetime(2030, 1, 1, tzinfo=UTC)
    make_tool("ends", valid_until=until)
    make_tool("endless")

    def metrics() -> Samples:
        return parse(api.client.get("/metrics").content.decode())

    ends = "license_valid_until_timestamp_seconds"
    swept = ("licenseserver_sweeper_last_run_timestamp_seconds", frozenset[tuple[str, str]]())
    found = metrics()
    assert found[ends, frozenset({("tool", "ends")})] == until.timestamp()
    assert (ends, frozenset({("tool", "endless")})) not in found
    assert swept not in found
    started = datetime.now(UTC).timestamp()
    for _ in range(2):
        call_command("expire_leases", stdout=StringIO())
        assert started - 60 < metrics()[swept] < started + 60


# --- What the workers do ----------------------------------------------------


def workers_of(server: Server) -> set[int]:
    """Return the server's child processes."""
    assert server.process is not None
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return {int(pid) for pid in children.read_text().split()}


@contextmanager
def unfinished_request(server: Server) -> Iterator[None]:
    """Send a borrow whose body is slow, and close the connection before its end."""
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(
            f"POST /licenses/borrow HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\n"
            'Transfer-Encoding: chunked\r\n\r\n64\r\n{"tool": '.encode()
        )
        yield


def wait_for_gauges(server: Server, **wanted: float) -> None:
    """Until the server's gauges say that."""
    found: dict[str, float] = {}
    deadline = time.monotonic() + 60
    while found != wanted:
        assert time.monotonic() < deadline, f"{found}, not {wanted}"
        try:
            samples = parse(httpx.get(f"{server.url}/metrics").text)
        except httpx.TransportError:
            # Asked a worker that was being killed.
            continue
        found = {name: value(samples, f"licenseserver_{name}") for name in wanted}


def test_a_request_is_in_flight_until_it_is_answered_or_fails(server: Server) -> None:
    # The one that asks is among them.
    wait_for_gauges(server, requests_in_flight=1)
    with unfinished_request(server):
        wait_for_gauges(server, requests_in_flight=2)
        with unfinished_request(server):
            wait_for_gauges(server, requests_in_flight=3)
        wait_for_gauges(server, requests_in_flight=2)
    wait_for_gauges(server, requests_in_flight=1)
    for body in (b"{", b'{"tool":"cad_tool","user":"ana"}'):
        httpx.post(f"{server.url}/licenses/borrow", content=body, headers={"Content-Type": "application/json"})
    wait_for_gauges(server, requests_in_flight=1)


def test_a_request_stops_counting_when_its_worker_stops_at_once(api: Api, rf: RequestFactory) -> None:
    def stopped(_: HttpRequest) -> HttpResponse:
        raise SystemExit

    before = value(scrape(api), "licenseserver_requests_in_flight")
    with pytest.raises(SystemExit):
        EventMiddleware(stopped)(rf.get("/"))
    assert value(scrape(api), "licenseserver_requests_in_flight") == before


def test_a_worker_that_is_gone_takes_its_share_along(server: Server) -> None:
    wait_for_gauges(server, workers=4, threads=64, requests_in_flight=1)
    with unfinished_request(server):
        wait_for_gauges(server, workers=4, threads=64, requests_in_flight=2)
        gone = workers_of(server)
        for pid in gone:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not gone & workers_of(server), lambda: "the killed workers are still there")
        wait_for_gauges(server, workers=4, threads=64, requests_in_flight=1)


def test_a_worker_that_died_before_it_counted_anything_spoils_nothing(server: Server) -> None:
    (Path(server.environment["PROMETHEUS_MULTIPROC_DIR"]) / "counter_999999999.db").touch()
    httpx.post(f"{server.url}/licenses/borrow", json={"tool": "cad_tool", "user": "ana"})
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.status_code == 200
    assert value(parse(answer.text), "license_borrow_attempts_total", tool="cad_tool") == 1


def test_statements_are_counted_with_their_time_and_errors(db: None) -> None:
    labels = {"alias": "default", "vendor": connection.vendor}

    def counted(name: str, **more: str) -> float:
        return REGISTRY.get_sample_value(name, labels | more) or 0

    def counts() -> list[float]:
        names = ("execute", "execute_many")
        return [
            *(counted(f"django_db_{name}_total") for name in names),
            counted("django_db_query_duration_seconds_count"),
        ]

    before = counts()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.executemany("UPDATE licenses_tool SET vendor = %s WHERE name = %s", [("a", "cad"), ("b", "cam")])
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [3, 2, 2]
    kind = "OperationalError" if connection.vendor == "sqlite" else "UndefinedTable"
    failed = counted("django_db_errors_total", type=kind)
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM nowhere")
    assert counted("django_db_errors_total", type=kind) == failed + 1
