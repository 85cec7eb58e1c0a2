"""How gunicorn's threads share the connections."""

import socket
import threading
from pathlib import Path

import httpx
import pytest

from tests.support.servers import running_server

pytestmark = pytest.mark.any_database


def test_a_busy_connection_leaves_the_thread_to_others(tmp_path: Path) -> None:
    """A thread stays with a connection whose next request is there at once, while no other waits."""
    with running_server(tmp_path, WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS="--threads 1") as server:
        done = threading.Event()
        answered = []

        def go_on() -> None:
            with httpx.Client(base_url=server.url, timeout=30) as client:
                while not done.is_set():
                    answered.append(client.get("/livez").status_code)

        busy = [threading.Thread(target=go_on) for _ in range(2)]
        for thread in busy:
            thread.start()
        try:
            with httpx.Client(base_url=server.url, timeout=30) as other:
                statuses = [other.get("/version").status_code for _ in range(20)]
        finally:
            done.set()
            for thread in busy:
                thread.join()
    assert statuses == [200] * 20
    assert set(answered) == {200}


def test_requests_that_come_together_are_all_answered(tmp_path: Path) -> None:
    """The second one is in gunicorn's buffer when the first is answered: the socket has no more."""
    with running_server(tmp_path, WEB_CONCURRENCY="1") as server:
        url = httpx.URL(server.url)
        ask = f"GET /version HTTP/1.1\r\nHost: {url.host}\r\n\r\n".encode()
        with socket.create_connection((url.host, url.port), timeout=30) as connection:
            connection.sendall(ask * 3)
            received = b""
            while received.count(b'{"version"') < 3:
                received += connection.recv(65536) or b"closed" * 100_000
                assert len(received) < 100_000
    assert received.count(b"HTTP/1.1 200 OK") == 3
