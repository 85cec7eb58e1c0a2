"""The proxy of compose and the chart, with their nginx.conf."""

import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from benchmarks.ports import free_port
from tests.support.paths import ROOT
from tests.support.waiting import until

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="There is no nginx here.")


class Upstream(BaseHTTPRequestHandler):
    """A server that answers any method and records the requests."""

    seen: list[str]
    # Calls of /held get no answer until it is set, and those of /gone none at all.
    held = Event()

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        self.seen.append(self.command)
        if self.path == "/held":
            self.held.wait(30)
        if self.path == "/gone":
            return
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def seen() -> list[str]:
    """Provide the methods that came through the proxy."""
    return []


@pytest.fixture
def narrowed() -> dict[str, str]:
    """Return the limits that a test lowers in the shipped file, to reach them with a few calls."""
    return {}


@pytest.fixture
def proxy(tmp_path: Path, seen: list[str], narrowed: dict[str, str]) -> Iterator[int]:
    """nginx with the shipped file, in front of a server that notes what comes; the port."""
    handler = type("Noting", (Upstream,), {"seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as upstream:
        Thread(target=upstream.serve_forever, daemon=True).start()
        port = free_port()
        (tmp_path / "site.conf").write_text(
            f"map $host $api {{ default http://127.0.0.1:{upstream.server_port}; }}\n"
            "map $scheme $forwarded_proto { default $scheme; }\n"
            "map $uri $not_for_callers { default 0; /metrics 1; }\n"
        )
        config = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
        for shipped, here in (
            ("/tmp/", f"{tmp_path}/"),
            ("listen 8080", f"listen 127.0.0.1:{port}"),
            ("/etc/nginx/site.conf", str(tmp_path / "site.conf")),
            ("/dev/stdout", str(tmp_path / "access.log")),
            ("/dev/stderr", str(tmp_path / "error.log")),
            *narrowed.items(),
        ):
            assert shipped in config
            config = config.replace(shipped, here)
        (tmp_path / "nginx.conf").write_text(config)
        command = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-g", "daemon off;"]
        with subprocess.Popen(command) as process:
            try:
                until((tmp_path / "nginx.pid").exists, lambda: "nginx does not start")
                yield port
            finally:
                process.terminate()
                upstream.shutdown()


def ask(
    port: int, method: str, path: str = "/borrows", *, client: str = "127.0.0.1", **sent: Any
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30, source_address=(client, 0))
    connection.request(method, path, **sent)
    answer = connection.getresponse()
    return answer, answer.read()


def test_the_proxy_passes_no_method_on_that_no_call_has(proxy: int, seen: list[str]) -> None:
    for method in ("QWXYZ", "PROPFIND", "TRACE", "GETS", "XGET"):
        answer, body = ask(proxy, method)
        assert answer.status == 405, method
        assert answer.headers["Allow"] == ", ".join(METHODS)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert json.loads(body)["code"] == "method_not_allowed"
    assert seen == []
    for method in METHODS:
        assert ask(proxy, method)[0].status == 204
    assert seen == METHODS


def assert_too_many(answer: http.client.HTTPResponse, body: bytes) -> None:
    assert (answer.status, answer.headers["Content-Type"]) == (429, "application/problem+json")
    assert answer.headers["Retry-After"] == "1"
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (429, "rate_limited")


@pytest.mark.parametrize("narrowed", [{"rate=300r/s": "rate=1r/m", "burst=4000 delay=1000": "burst=5 delay=5"}])
def test_too_many_calls_of_one_address_stop_at_the_proxy(proxy: int, seen: list[str]) -> None:
    answers = [ask(proxy, "GET") for _ in range(20)]
    assert [answer.status for answer, _ in answers] == [204] * 6 + [429] * 14
    assert_too_many(*answers[-1])
    assert len(seen) == 6
    assert ask(proxy, "GET", client="127.0.0.2")[0].status == 204
    assert [ask(proxy, "GET", path)[0].status for path in ("/livez", "/readyz") * 10] == [204] * 20


BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


SMALL = {
    "rate=300r/s": "rate=1r/m",
    "burst=4000 delay=1000": "burst=20 delay=20",
    "max_body_size 4m": "max_body_size 1k",
}


@pytest.mark.parametrize("narrowed", [SMALL])
def test_a_browser_gets_a_page_of_the_proxy_s_errors_and_a_program_a_document(proxy: int) -> None:
    def errors(headers: dict[str, str]) -> list[tuple[int, str | None, bytes]]:
        too_large = ask(proxy, "POST", "/yours/", headers=headers, body=b"x" * 2000, client="127.0.0.2")
        gone = ask(proxy, "GET", "/gone", headers=headers, client="127.0.0.2")
        while (too_many := ask(proxy, "GET", "/yours/", headers=headers))[0].status != 429:
            pass
        return [(answer.status, answer.headers["Content-Type"], body) for answer, body in (too_large, gone, too_many)]

    for status, form, body in errors(BROWSER):
        assert form == "text/html", status
        page = body.decode()
        assert '<meta name="color-scheme" content="light dark">' in page
        assert "prefers-color-scheme:dark" in page
        assert re.search(r"<h1>[A-Z].+</h1><p>.*(reload this page|Go back)", page)
    for headers in ({}, {"Accept": "application/json"}):
        documents = errors(headers)
        assert [status for status, _, _ in documents] == [413, 503, 429]
        assert {form for _, form, _ in documents} == {"application/problem+json"}
        assert [json.loads(body)["status"] for _, _, body in documents] == [413, 503, 429]
    # The errors of the API are documents for everybody.
    answer, _ = ask(proxy, "GET", "/api/v1/tools/", headers=BROWSER)
    assert (answer.status, answer.headers["Content-Type"]) == (429, "application/problem+json")


@pytest.mark.parametrize("narrowed", [{"rate=300r/s": "rate=5r/s", "burst=4000 delay=1000": "burst=20 delay=2"}])
def test_calls_wait_for_their_turn_at_the_proxy_before_they_are_refused(proxy: int, seen: list[str]) -> None:
    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(lambda _: ask(proxy, "GET")[0].status, range(10)))
    assert statuses == [204] * 10


@pytest.mark.parametrize("narrowed", [{"limit_conn connections 1000": "limit_conn connections 3"}])
def test_one_address_has_a_limit_of_pending_calls(proxy: int, seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    held = Event()
    monkeypatch.setattr(Upstream, "held", held)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(ask, proxy, "GET", "/held") for _ in range(3)]
        until(lambda: len(seen) == 3, lambda: f"{len(seen)} of 3 calls came through")
        assert_too_many(*ask(proxy, "GET"))
        assert ask(proxy, "GET", client="127.0.0.2")[0].status == 204
        assert ask(proxy, "GET", "/livez")[0].status == 204
        held.set()
        assert [call.result()[0].status for call in waiting] == [204] * 3
    assert ask(proxy, "GET")[0].status == 204
