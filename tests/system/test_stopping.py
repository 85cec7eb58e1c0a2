"""A server stops on a signal."""

import json
import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from tests.support.servers import Server

pytestmark = pytest.mark.any_database


def test_an_impatient_ctrl_c_stops_a_server_in_order(server: Server) -> None:
    assert server.process is not None
    # Often enough that a worker gets the next signal while it handles the last one.
    for _ in range(20_000):
        # As a terminal does, to the master and all workers.
        os.killpg(server.process.pid, signal.SIGINT)
    assert server.process.wait(60) == 0
    log = server.log.read_text()
    assert log.count("Worker exiting") == 4
    assert "SIGKILL" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_signal_to_the_master_is_enough(server: Server, number: signal.Signals) -> None:
    assert server.process is not None
    server.process.send_signal(number)
    assert server.process.wait(60) == 0
    assert "SIGKILL" not in server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopping_server_refuses_new_connections_and_answers_open_ones(
    server: Server, number: signal.Signals
) -> None:
    """In order, or because the master is gone: every call gets an end, and the address is free again."""
    assert server.process is not None
    url = httpx.URL(server.url)
    address = (url.host, url.port or 80)
    body = json.dumps({"tool": "nothing", "user": "ana"}).encode()
    head = f"POST /licenses/borrow HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(address, timeout=60) as call:
        call.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body[:5])
        server.process.send_signal(number)
        while True:
            try:
                socket.create_connection(address, timeout=60).close()
            except ConnectionRefusedError:
                break
            except ConnectionResetError:
                # It came at the moment of the end.
                pass
        # Another server can listen there before the call is answered.
        with socket.create_server(address):
            call.sendall(body[5:])
            answer = call.makefile("rb").readline()
        assert answer == b"HTTP/1.1 404 Not Found\r\n"
    server.process.wait(60)


def test_a_server_that_is_still_starting_its_workers_stops_in_order(server: Server) -> None:
    server.stop()
    server.log.write_text("")
    with server.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *server.command],
            cwd=server.code,
            # With traces a worker takes longer until it handles its signals.
            env=server.environment | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    # The master handles it after all forks, when the last worker has just started.
    while "Booting worker" not in server.log.read_text():
        assert process.poll() is None
    process.terminate()
    assert process.wait(60) == 0
    told = server.log.read_text()
    assert "SIGKILL" not in told
    assert told.count("Worker exiting") == told.count("Booting worker") == 4
