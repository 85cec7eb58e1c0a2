"""How the loop of a worker and its threads share the connections."""

import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.servers import running_server

pytestmark = pytest.mark.any_database


def test_a_busy_connection_leaves_the_thread_to_others(tmp_path: Path) -> None:
    with running_server(tmp_path, WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS="--threads 1") as server:
        done = threading.Event()
        answered = []

        def go_on() -> None:
            with httpx.Client(base_url=server.url, timeout=30) as client:
                while not done.is_set():
                    answered.append(client.get("/version").status_code)

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


CALL = b"GET /licenses/cad_tool/status HTTP/1.1\r\nHost: localhost\r\n\r\n"


def answers(connection: socket.socket, number: int) -> bytes:
    """Return what a connection receives until it has so many answers."""
    received = b""
    while received.count(b'"total":') < number:
        part = connection.recv(65536)
        assert part, received
        received += part
    return received


def test_a_call_is_answered_however_it_arrives(tmp_path: Path) -> None:
    """Those of the loop and those of threads come on one connection, whole, in pieces, and several at once."""
    with running_server(tmp_path, WEB_CONCURRENCY="1") as server:
        url = httpx.URL(server.url)
        with socket.create_connection((url.host, url.port), timeout=30) as connection:
            for sent in ((CALL,), (CALL[:10], CALL[10:]), (CALL * 3,), (CALL + CALL[:5], CALL[5:]), (CALL,)):
                for part in sent:
                    connection.sendall(part)
                    # The server reads each piece by itself.
                    assert httpx.get(f"{server.url}/licenses/cad_tool/status").status_code == 200
                number = b"".join(sent).count(CALL)
                assert answers(connection, number).count(b"HTTP/1.1 200 OK") == number


def test_clients_that_do_not_close_their_connections_stop_nobody(tmp_path: Path) -> None:
    with running_server(tmp_path, WEB_CONCURRENCY="1") as server, ExitStack() as closing:
        url = httpx.URL(server.url)
        for _ in range(40):
            connection = closing.enter_context(socket.create_connection((url.host, url.port), timeout=30))
            connection.sendall(CALL.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answers(connection, 1)
        assert connection.recv(1) == b""
        assert httpx.get(f"{server.url}/licenses/cad_tool/status", timeout=30).status_code == 200


BORROW = b'POST /licenses/borrow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\n\r\n{"tool":'


@pytest.mark.parametrize("begun", [b"", b"G", CALL[:-2], BORROW, CALL + CALL[:-2], b"\x16\x03\x01"])
def test_clients_that_stall_hold_no_thread(tmp_path: Path, begun: bytes) -> None:
    with running_server(tmp_path, WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS="--threads 1") as server, ExitStack() as open_:
        url = httpx.URL(server.url)
        for _ in range(3):
            stalled = open_.enter_context(socket.create_connection((url.host, url.port), timeout=30))
            stalled.sendall(begun)
        assert httpx.get(f"{server.url}/version", timeout=30).status_code == 200
        assert httpx.get(f"{server.url}/licenses/cad_tool/status", timeout=30).status_code == 200


def test_a_worker_accepts_no_more_connections_than_it_may_open_files(tmp_path: Path) -> None:
    with running_server(tmp_path, WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS="--keep-alive 1") as server:
        server.stop()
        limited = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (180, 180)); "
        server.command = ("-c", f"{limited}from licenseserver.__main__ import main; main()")
        server.start()
        url = httpx.URL(server.url)
        with ExitStack() as idle:
            for _ in range(180):
                idle.enter_context(socket.create_connection((url.host, url.port), timeout=30))
            # Its turn comes after theirs.
            assert httpx.get(f"{server.url}/licenses/cad_tool/status", timeout=60).status_code == 200
        assert "Too many open files" not in server.log.read_text()


def test_a_server_whose_threads_are_all_busy_is_alive(tmp_path: Path) -> None:
    alone = {"WEB_CONCURRENCY": "1", "GUNICORN_CMD_ARGS": "--threads 1"}
    with running_server(tmp_path, LICENSE_AUTH="open", **alone) as server:
        url = httpx.URL(server.url)
        with socket.create_connection((url.host, url.port), timeout=30) as busy:
            busy.sendall(BORROW.replace(b"Host", b"Expect: 100-continue\r\nContent-Type: application/json\r\nHost"))
            # The thread reads the body now.
            assert busy.recv(4096).startswith(b"HTTP/1.1 100 ")
            assert httpx.get(f"{server.url}/livez", timeout=20).status_code == 200
