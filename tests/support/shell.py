"""Run the command-line client as a user's shell does."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.support.paths import ROOT
from tests.support.servers import Server
from tests.support.waiting import PATIENCE

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
            "TZ": "UTC",
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

    def log_in(self) -> tuple["subprocess.Popen[str]", str, str]:
        """Begin ``license login``, from now on without a user in the environment. Return its process, and the
        address and the code that it shows."""
        del self.environment["LICENSE_USER"]
        process = self.start("login")
        assert process.stderr is not None
        found = re.search(r"Open (\S+) and approve the code (\S+),", process.stderr.readline())
        assert found
        address, code = found.groups()
        return process, address, code

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


def line_of(process: "subprocess.Popen[str]") -> str:
    """Wait for the next line of a started command and return it."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
