"""Differences of Windows, simulated. test_launchers.py also runs on Windows."""

import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from license_client.platforms import Command, Unsafe, Windows

from tests.support.shell import CLIENT_PYTHON, Shell, line_of
from tests.support.waiting import PATIENCE

SYSTEM = {"SystemRoot": r"D:\Win"}
CMD = r"D:\Win\System32\cmd.exe"
# The code of a killed process on other systems than Windows.
KILLED = 256 - signal.SIGKILL
# The number on Windows, which the client passes to its caller.
ENDED_BY_CTRL_C = 0xC000013A


class WindowsShell(Shell):
    """Run ``license`` as on Windows."""

    def command(self, *arguments: str) -> list[str]:
        return [CLIENT_PYTHON, str(Path(__file__).with_name("like_windows.py")), *arguments]


@pytest.fixture
def windows(shell: Shell, tmp_path: Path) -> WindowsShell:
    return WindowsShell(shell.server, tmp_path)


# --- The commands ----------------------------------------------------------------------


def test_commands_work_without_what_windows_does_not_have(windows: WindowsShell) -> None:
    assert windows("status").returncode == 0
    done = windows("run", "--tool", "cad_tool", "--", "sh", "-c", "echo $LICENSE_TOOL; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "cad_tool\n", "")
    assert windows.borrowed() == 0


def test_the_file_is_where_windows_keeps_settings(windows: WindowsShell, tmp_path: Path) -> None:
    file = tmp_path / "Roaming" / "license" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(f'server = "{windows.environment.pop("LICENSE_SERVER")}"\n', encoding="utf-8-sig")
    assert windows("status", APPDATA=str(tmp_path / "Roaming")).returncode == 0


def test_ctrl_c_reaches_the_command_from_the_console_once(windows: WindowsShell) -> None:
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, lambda *_: print('interrupted', flush=True))\n"
        "print('up', flush=True)\n"
        "sys.stdin.readline()\n"
        "sys.exit(42)\n"
    )
    process = windows.start(
        "run", "--tool", "cad_tool", "--", CLIENT_PYTHON, "-c", script, stdin=subprocess.PIPE, start_new_session=True
    )
    assert line_of(process) == "up"
    # The console sends it to all of its programs.
    os.killpg(process.pid, signal.SIGINT)
    assert line_of(process) == "interrupted"
    assert process.communicate("\n", timeout=PATIENCE) == ("", "")
    assert (process.returncode, windows.borrowed()) == (42, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1], ids=["Ctrl-C", "Ctrl-Break"])
def test_an_interrupt_while_waiting_leaves_the_queue(windows: WindowsShell, number: signal.Signals) -> None:
    held = windows("borrow", "analysis:2").stdout.strip()
    process = windows.start("run", "--tool", "analysis", "--wait", "5m", "--", "true")
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert httpx.get(f"{windows.server.url}/licenses/analysis/status").json()["queued"] == 0
    windows("return", held)


def test_a_lost_lease_ends_the_command_and_what_it_has_started(windows: WindowsShell, tmp_path: Path) -> None:
    # The path of Windows' taskkill: here a file with that name.
    taskkill = tmp_path / r"Windows\System32\taskkill.exe"
    taskkill.write_text('#!/bin/sh\necho "$@" > "$0.log"; kill -9 "$5"\n')
    taskkill.chmod(taskkill.stat().st_mode | stat.S_IXUSR)
    windows.environment["SystemRoot"] = str(tmp_path / "Windows")
    options = ["--ttl", "1s", "--on-lost", "kill"]
    process = windows.start(
        "run", "--tool", "cad_tool", *options, "--", "sh", "-c", "echo $$ $LICENSE_LEASE_ID; exec cat",
        stdin=subprocess.PIPE,
    )  # fmt: skip
    number, lease = line_of(process).split()
    windows("return", lease)
    assert process.wait(PATIENCE) == KILLED
    process.communicate(timeout=PATIENCE)
    assert Path(f"{taskkill}.log").read_text().split() == ["/T", "/F", "/PID", number]


def test_a_lost_lease_ends_the_command_also_where_taskkill_fails(windows: WindowsShell) -> None:
    options = ["--ttl", "1s", "--on-lost", "kill"]
    process = windows.start(
        "run", "--tool", "cad_tool", *options, "--", "sh", "-c", "echo $LICENSE_LEASE_ID; exec cat",
        stdin=subprocess.PIPE,
    )  # fmt: skip
    windows("return", line_of(process))
    assert process.wait(PATIENCE) == KILLED
    process.communicate(timeout=PATIENCE)


def test_an_argument_that_a_batch_file_would_get_changed_takes_no_seat(windows: WindowsShell, tmp_path: Path) -> None:
    launcher = tmp_path / "tool.bat"
    launcher.touch(mode=0o755)
    before = windows.leases()
    done = windows("run", "--tool", "cad_tool", "--", str(launcher), "50%")
    assert (done.returncode, windows.leases()) == (126, before)
    assert "can't pass the argument '50%'" in done.stderr


# --- The parts -------------------------------------------------------------------------


def test_a_program_is_started_by_its_file() -> None:
    argv = ["solver", "a b", "50%"]
    assert Windows(SYSTEM).command(argv, r"C:\CAD\solver.exe") == Command(argv, r"C:\CAD\solver.exe")


@pytest.mark.parametrize("file", [r"C:\CAD\run.bat", r"C:\CAD x\RUN.CMD", r"C:\CAD\run.bat.", r"C:\CAD\run.bat "])
def test_a_batch_file_is_run_by_the_systems_cmd(file: str) -> None:
    command = Windows(SYSTEM).command(["run", "a b", "x&y", "C:\\dir\\", "", "!v!"], file)
    arguments = r'"a b" "x&y" "C:\dir\\" "" "!v!"'
    assert command == Command(f'"{CMD}" /d /e:on /v:off /s /c ""{file}" {arguments}"', CMD)


@pytest.mark.parametrize("argument", ['"&calc&"', "%PATH%", "a\nb", "a\rb", "a\0b"])
def test_arguments_that_a_batch_file_would_change_are_refused(argument: str) -> None:
    with pytest.raises(Unsafe, match="batch file"):
        Windows(SYSTEM).command(["run", "fine", argument], r"C:\CAD\run.bat")
    with pytest.raises(Unsafe, match="rename"):
        Windows(SYSTEM).command(["run"], rf"C:\{argument}\run.bat")


def test_a_name_with_a_folder_may_lack_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "tool.Cmd").touch()
    platform = Windows({"PATHEXT": ".EXE;.Cmd"})
    assert platform.find(f"{tmp_path}/tool") == f"{tmp_path}/tool.Cmd"
    assert platform.find(f"{tmp_path}/other") is None


@pytest.mark.parametrize(("code", "ours"), [(0, 0), (7, 7), (ENDED_BY_CTRL_C, ENDED_BY_CTRL_C - 2**32)])
def test_the_exit_code_fits_into_what_python_can_exit_with(code: int, ours: int) -> None:
    class Process:
        waited = 0

        def wait(self, timeout: float) -> int:
            self.waited += 1
            if self.waited == 1:
                raise subprocess.TimeoutExpired("tool", timeout)
            return code

    process: Any = Process()
    assert Windows(SYSTEM).wait(process) == ours
