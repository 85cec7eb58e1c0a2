"""Launchers of commands, on the system that runs the tests.

CI also runs this file on Windows, without the rest of the suite. Then
LICENSE_TEST_SERVER is the address of a server with the default tools.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60
WINDOWS = sys.platform == "win32"
SOURCE = Path(__file__).resolve().parents[2] / "client" / "src"
PYTHON = os.environ.get("CLIENT_PYTHON", sys.executable)
# What the console or terminal sends to all of its programs. A Ctrl-C can't be sent to one group on Windows.
OWN_GROUP: dict[str, Any]
if sys.platform == "win32":
    INTERRUPT, INTERRUPTED = signal.CTRL_BREAK_EVENT, 128 + signal.SIGBREAK
    OWN_GROUP = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
else:
    INTERRUPT, INTERRUPTED = signal.SIGINT, 128 + signal.SIGINT
    OWN_GROUP = {"start_new_session": True}
# As in a shell, also where the suite runs in the background with the interrupt ignored.
HEED_INTERRUPT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


class Caller:
    """Run ``license`` with a folder of launchers on its path."""

    def __init__(self, server: str, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.environment = os.environ | {
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(SOURCE),
            "PYTHONUNBUFFERED": "1",
            "LICENSE_SERVER": server,
            "LICENSE_USER": "ci",
            "NO_PROXY": "*",
        }

    def launcher(self, name: str, script: str) -> None:
        """Make a launcher with this name that runs a Python script, and exits with its code."""
        program = self.folder / f"{name}.py"
        program.write_text(script, encoding="utf-8")
        if WINDOWS:
            (self.folder / f"{name}.bat").write_text(f'@"{PYTHON}" "{program}" %*\n@exit /b %ERRORLEVEL%\n')
        else:
            launcher = self.folder / name
            launcher.write_text(f'#!/bin/sh\nexec "{PYTHON}" "{program}" "$@"\n')
            launcher.chmod(0o755)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        heeding = [] if WINDOWS else [PYTHON, "-c", HEED_INTERRUPT]
        return subprocess.Popen(
            [*heeding, PYTHON, "-m", "license_client", *arguments],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            **OWN_GROUP,
        )

    def interrupt(self, process: "subprocess.Popen[str]") -> None:
        if sys.platform == "win32":
            process.send_signal(INTERRUPT)
        else:
            os.killpg(process.pid, INTERRUPT)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=PATIENCE)
        return process.returncode, output, errors

    def status(self, tool: str = "cad_tool") -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.server}/licenses/{tool}/status", timeout=PATIENCE) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


@pytest.fixture
def caller(request: pytest.FixtureRequest, tmp_path: Path) -> Caller:
    address = os.environ.get("LICENSE_TEST_SERVER") or request.getfixturevalue("shell").server.url
    return Caller(address, tmp_path)


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def dumped(arguments: Sequence[str]) -> str:
    return json.dumps(list(arguments))


def test_a_launcher_is_found_by_its_name_and_gets_its_arguments_unchanged(caller: Caller) -> None:
    caller.launcher("tool", "import json, sys; print(json.dumps(sys.argv[1:]))")
    arguments = [
        "a b",
        "a&b",
        "a|b",
        "<a>",
        "^",
        "(a)",
        "!a!",
        "",
        "C:\\dir\\",
        "a'b",
        "a,b;c=d",
        "*",
        "~",
        "größe",
    ]
    code, output, errors = caller.run("run", "--tool", "cad_tool", "--", "tool", *arguments)
    assert (code, output.strip(), errors) == (0, dumped(arguments), "")


def test_the_client_exits_with_the_code_of_the_launcher(caller: Caller) -> None:
    caller.launcher("tool", "raise SystemExit(7)")
    assert caller.run("run", "--tool", "cad_tool", "--", "tool")[0] == 7
    assert caller.run("run", "--tool", "cad_tool", "--", "no-such-tool")[0] == 127
    assert caller.status()["borrowed"] == 0


def test_an_interrupt_reaches_what_the_launcher_runs_and_the_seat_comes_back(caller: Caller) -> None:
    # Without a terminal the signal may arrive twice, from the group and from the client.
    script = (
        "import signal, sys, time\n"
        "number = signal.SIGBREAK if sys.platform == 'win32' else signal.SIGINT\n"
        "came = []\n"
        "signal.signal(number, lambda *_: came.append(number))\n"
        "print('up', flush=True)\n"
        "while not came: time.sleep(0.1)\n"
        "signal.signal(number, signal.SIG_IGN)\n"
        "sys.exit(42)\n"
    )
    caller.launcher("tool", script)
    # Do not use the launcher: after an interrupt cmd.exe asks whether to end the batch job.
    process = caller.start("run", "--tool", "cad_tool", "--", PYTHON, str(caller.folder / "tool.py"))
    assert line_of(process) == "up"
    caller.interrupt(process)
    process.communicate(timeout=PATIENCE)
    assert (process.returncode, caller.status()["borrowed"]) == (42, 0)


def test_an_interrupt_while_waiting_leaves_the_queue(caller: Caller) -> None:
    lease = caller.run("borrow", "analysis:2")[1].strip()
    process = caller.start("run", "--tool", "analysis", "--wait", "5m", "--", PYTHON, "-V")
    assert process.stderr is not None
    assert "waiting for analysis: position 1" in process.stderr.readline()
    caller.interrupt(process)
    process.communicate(timeout=PATIENCE)
    assert (process.returncode, caller.status("analysis")["queued"]) == (INTERRUPTED, 0)
    assert caller.run("return", lease)[0] == 0


def test_a_lost_lease_ends_what_the_launcher_runs(caller: Caller) -> None:
    caller.launcher("tool", "import os, sys; print(os.environ['LICENSE_LEASE_ID'], flush=True); sys.stdin.read()")
    process = caller.start("run", "--tool", "cad_tool", "--ttl", "1s", "--on-lost", "kill", "--", "tool")
    assert caller.run("return", line_of(process))[0] == 0
    # Its output stays open while one of them runs; its input is always open.
    assert process.stdout is not None
    assert process.stdout.read() == ""
    assert process.wait(PATIENCE) != 0
    process.communicate(timeout=PATIENCE)


@pytest.mark.skipif(not WINDOWS, reason="Windows only; elsewhere test_platforms.py simulates it")
def test_windows_keeps_the_file_where_it_keeps_settings(caller: Caller, tmp_path: Path) -> None:
    file = tmp_path / "Roaming" / "license" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(f'server = "{caller.environment.pop("LICENSE_SERVER")}"\n', encoding="utf-8-sig")
    caller.environment["APPDATA"] = str(tmp_path / "Roaming")
    assert caller.run("status")[0] == 0


@pytest.mark.skipif(not WINDOWS, reason="Windows only; elsewhere test_platforms.py simulates it")
@pytest.mark.parametrize("argument", ['"&echo injected&"', "%PATH%"])
def test_windows_runs_nothing_that_an_argument_says(caller: Caller, argument: str) -> None:
    caller.launcher("tool", "print('ran')")
    code, output, errors = caller.run("run", "--tool", "cad_tool", "--", "tool", argument)
    assert (code, output) == (126, "")
    assert "batch file" in errors
