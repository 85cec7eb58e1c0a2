"""Run the command-line client against a real server."""

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import Call, Gateway, Lost, Reply
from tests.support.servers import Server, running_server
from tests.support.shell import Shell
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="package")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def shell(shared_server: Server, tmp_path: Path) -> Shell:
    """Provide a shell with a running server whose seats are all free."""
    if shared_server.process is None:
        shared_server.start()
    for lease in httpx.get(f"{shared_server.url}/borrows").json():
        httpx.post(f"{shared_server.url}/licenses/return", json={"id": lease["id"]}).raise_for_status()
    return Shell(shared_server, tmp_path)


@pytest.fixture
def gateway(shell: Shell) -> Iterator[Gateway]:
    """Provide a gateway between the shell and its server."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            call = Call(self.command, self.path, self.headers, time.monotonic())
            # First, that the test may see it while it is on its way.
            made.calls.append(call)
            fault = made.fault(call)
            if isinstance(fault, Reply):
                self._send(fault.status, fault.headers, fault.body.encode())
                return
            names = ("Content-Type", "Authorization", "Idempotency-Key")
            headers = {name: value for name in names if (value := self.headers.get(name))}
            answer = httpx.request(self.command, made.server.url + self.path, content=body, headers=headers, timeout=30)
            if isinstance(fault, Lost):
                if fault.silence is not None:
                    fault.silence.wait(PATIENCE)
                self.close_connection = True
                return
            kept = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
            self._send(answer.status_code, kept, answer.content)

        do_POST = do_DELETE = do_GET

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            # A reply may have its own date.
            self.send_response_only(status) if "Date" in headers else self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        made = Gateway(shell.server, f"http://127.0.0.1:{listener.server_port}")
        shell.environment["LICENSE_SERVER"] = made.url
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            listener.shutdown()
            thread.join()


PASSED_ON = ("Content-Type", "Retry-After", "Idempotent-Replayed")
