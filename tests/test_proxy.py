"""The proxy that compose and the chart run, with their nginx.conf."""

import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from .conftest import ROOT, free_port
from .monitoring import until

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="There is no nginx here.")


class Upstream(BaseHTTPRequestHandler):
    """A server that answers any method and notes what came."""

    seen: list[str]

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        self.seen.append(self.command)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def seen() -> list[str]:
    """The methods that came through the proxy."""
    return []


@pytest.fixture
def proxy(tmp_path: Path, seen: list[str]) -> Iterator[int]:
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


def ask(port: int, method: str, path: str = "/borrows") -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path)
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
