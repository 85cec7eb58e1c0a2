"""Run the command-line client against a real server."""

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..conftest import ROOT, Server, running_server

PATIENCE = 60

# The client runs on older Pythons than the server: the one to try it with.
CLIENT_PYTHON = os.environ.get("CLIENT_PYTHON", sys.executable)

# As in a shell, also where the suite runs in the background. Not as preexec_fn:
# that is a fork, of which Python warns in a process with threads.
HEED_SIGNALS = (
    "import os, signal, sys\n"
    "for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):\n"
    "    signal.signal(number, signal.SIG_DFL)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


class Shell:
    """Runs ``license`` against a server."""

    def __init__(self, server: Server, home: Path) -> None:
        self.server = server
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "client" / "src"),
            "PYTHONUNBUFFERED": "1",
            "HOME": str(home),
            "LICENSE_SERVER": server.url,
            "LICENSE_USER": "ci",
            "NO_PROXY": "*",
        }

    def command(self, *arguments: str) -> list[str]:
        return [CLIENT_PYTHON, "-m", "license_client", *arguments]

    def __call__(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments),
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def start(self, *arguments: str, **more: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", HEED_SIGNALS, *self.command(*arguments)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def leases(self) -> int:
        """Return the number of all leases, ended ones too."""
        found = httpx.get(f"{self.server.url}/api/v1/leases/?page_size=200").json()
        assert found["next"] is None
        return len(found["results"])

    def borrowed(self, tool: str = "cad_tool") -> int:
        return int(httpx.get(f"{self.server.url}/licenses/{tool}/status").json()["borrowed"])


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


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def line_of(process: "subprocess.Popen[str]") -> str:
    """Wait for the next line of a started command and return it."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@dataclass(frozen=True)
class Call:
    """A call that has come to a gateway."""

    method: str
    path: str
    headers: Any
    at: float  # monotonic


@dataclass(frozen=True)
class Reply:
    """What a gateway answers in the server's place."""

    status: int
    body: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lost:
    """The call reaches the server, but its reply never the client; which hears
    nothing at all until ``silence`` is over."""

    silence: threading.Event | None = None


@dataclass
class Gateway:
    """What stands between the client and the server, and has its faults:
    ``fault`` decides for each call; None passes it on."""

    server: Server
    url: str
    calls: list[Call] = field(default_factory=list)
    fault: Callable[[Call], Reply | Lost | None] = lambda call: None

    def to(self, name: str) -> list[Call]:
        """Return the calls so far whose path has this end."""
        return [call for call in self.calls if call.path.endswith(name)]


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
            self.send_response(status)
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


def problem(status: int, code: str) -> Reply:
    """Return a refusal in the server's form."""
    return Reply(status, json.dumps({"status": status, "code": code, "detail": f"This is {code}."}))
