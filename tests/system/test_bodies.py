"""Bodies of different clients, against gunicorn."""

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from django.conf import settings

from tests.support import waiting
from tests.support.servers import Server, running_server

pytestmark = pytest.mark.any_database


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(Path(tmp_path_factory.mktemp("server")), LICENSE_AUTH="open", WEB_CONCURRENCY="1") as running:
        yield running


def in_chunks(body: bytes, size: int = 7) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def test_a_body_in_chunks_is_taken(server: Server) -> None:
    with httpx.Client(base_url=server.url, headers={"Content-Type": "application/json"}) as client:
        body = json.dumps({"tool": "cad_tool", "user": "net"}).encode()
        answer = client.post("/licenses/borrow", content=in_chunks(body))
        assert (answer.status_code, answer.json()["user"]) == (200, "net")
        # The same connection works again: nothing of the body was left in it.
        back = json.dumps({"id": answer.json()["id"]}).encode()
        assert client.post("/licenses/return", content=in_chunks(back)).json()["status"] == "ok"


@pytest.mark.parametrize("over", [False, True])
def test_a_body_in_chunks_has_the_usual_limit(server: Server, over: bool) -> None:
    body = json.dumps({"tool": "cad_tool", "user": "net"}).encode().ljust(settings.API_BODY_LIMIT + over)
    answer = httpx.post(
        f"{server.url}/licenses/explain", content=in_chunks(body, 8192), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == (413 if over else 200)
    if over:
        assert answer.json()["code"] == "too_large"


def test_a_body_of_no_chunks_is_an_empty_one(server: Server) -> None:
    answer = httpx.post(
        f"{server.url}/licenses/explain", content=iter([b""]), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400


def test_broken_chunks_are_refused_with_a_problem(server: Server) -> None:
    address = urlsplit(server.url)
    assert address.hostname
    assert address.port
    with socket.create_connection((address.hostname, address.port), timeout=30) as line:
        line.sendall(
            b"POST /licenses/explain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nno number\r\n{}\r\n0\r\n\r\n"
        )
        answer = b"".join(iter(lambda: line.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer


def test_a_body_that_breaks_off_is_no_defect(server: Server) -> None:
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port), timeout=30) as line:
        line.sendall(
            b"POST /licenses/explain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"X-Request-ID: breaks-off\r\nExpect: 100-continue\r\nContent-Length: 40\r\n\r\n"
        )
        # The server reads the body now.
        assert line.recv(4096).startswith(b"HTTP/1.1 100 ")
        # Close it with a reset.
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    waiting.until(lambda: "breaks-off" in server.log.read_text(), "the call is not in the log")
    (event,) = (text for text in server.log.read_text().splitlines() if "breaks-off" in text)
    assert '"status":400' in event.replace(" ", "")
