"""Run a server under gunicorn, as deployed."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from django.conf import settings
from django.core.management import call_command

from benchmarks.ports import free_port
from tests.support import commands, suite
from tests.support.databases import migrated_database
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE


@dataclass
class Server:
    """A server under gunicorn, as deployed, with its own database."""

    url: str
    environment: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    code: Path = ROOT
    command: Sequence[str] = ("-m", "licenseserver")

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.command],
                cwd=self.code,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_ready(self.process)

    def stop(self) -> None:
        """End it as an operator does."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE)
            self.process = None

    def kill(self) -> None:
        """End it as a power cut does: master and workers at once."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)
            self.process = None

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the server is not ready:\n{self.log.read_text()}")

    def manage(self, *arguments: str) -> str:
        """Run a management command against the server's database. Return what it prints."""
        return commands.output(*arguments, environment=self.environment)


def collect_static_files() -> None:
    """Copy the files of pages to where a server finds them at its start; one process at a time."""
    with (Path(os.environ[suite.FOLDER]) / "static.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        call_command("collectstatic", interactive=False, verbosity=0)


def server_environment(folder: Path, database: dict[str, str], port: int) -> dict[str, str]:
    """Return the variables of a server that keeps its files in a folder."""
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    (folder / "metrics").mkdir(exist_ok=True)
    return (
        inherited
        | database
        | {
            "DJANGO_SETTINGS_MODULE": "licenseserver.settings",
            "SECRET_KEY": settings.SECRET_KEY,
            "SECURE_SSL": "false",
            "LICENSE_DB_SEED": "true",
            "WEB_CONCURRENCY": "4",
            # Long enough for a slow machine.
            "LICENSE_LONGEST_WAIT": "60",
            "BIND": f"127.0.0.1:{port}",
            "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
        }
    )


@contextmanager
def running_server(folder: Path, port: int = 0, /, **variables: str) -> Iterator[Server]:
    """Provide a server with four workers and the default tools; keeps its files in a
    folder, takes any port if it is not given one, and has these variables beside
    those of the suite."""
    with migrated_database(folder) as database:
        port = port or free_port()
        environment = server_environment(folder, database, port) | variables
        running = Server(f"http://127.0.0.1:{port}", environment, folder / "server.log")
        try:
            running.start()
            yield running
        finally:
            running.stop()
