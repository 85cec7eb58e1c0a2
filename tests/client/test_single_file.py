"""The client as one file, ``license.pyz``."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.shell import CLIENT_PYTHON, Shell
from tests.support.waiting import PATIENCE


def pack(target: Path) -> Path:
    script = str(ROOT / "scripts" / "pack_client.py")
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1767225600"}
    subprocess.run([sys.executable, script, str(target)], env=environment, check=True)
    return target


@pytest.fixture(scope="module")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("dist") / "license.pyz")


def run(program: list[str], shell: Shell, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in shell.environment.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*program, *arguments], env=environment, capture_output=True, text=True, timeout=PATIENCE, cwd="/"
    )


def test_the_file_borrows_a_seat_and_runs_a_command(shell: Shell, single_file: Path) -> None:
    done = run(
        # -I: nothing else of this machine's Python.
        [CLIENT_PYTHON, "-I", str(single_file)],
        shell,
        *("run", "--tool", "cad_tool", "--", "sh", "-c", "echo $LICENSE_TOOL; exit 7"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "cad_tool\n", "")
    assert shell.borrowed() == 0


def test_the_file_reads_a_configuration_without_other_packages(shell: Shell, single_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'server = "{shell.environment.pop("LICENSE_SERVER")}"\n')
    # -S: no installed packages. As if this Python had no reader of its own.
    code = (
        "import runpy, sys; sys.modules['tomllib'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], "
        "run_name='__main__')"
    )
    done = run(
        [CLIENT_PYTHON, "-I", "-S", "-c", code, str(single_file)], shell, "status", "cad_tool", "--config", str(file)
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "cad_tool" in done.stdout


def test_the_file_is_a_program_of_its_own(shell: Shell, single_file: Path) -> None:
    shell.environment["PATH"] = f"{Path(CLIENT_PYTHON).parent}:{shell.environment['PATH']}"
    assert run([str(single_file)], shell, "--version").stdout.startswith("license ")


def test_an_older_python_gets_one_line(shell: Shell, single_file: Path) -> None:
    code = "import runpy, sys; sys.version_info = (3, 8); runpy.run_path(sys.argv[1], run_name='__main__')"
    done = run([CLIENT_PYTHON, "-c", code, str(single_file)], shell)
    assert (done.returncode, done.stderr) == (1, "license.pyz needs Python 3.9 or later; this is Python 3.8.\n")


def test_the_same_sources_make_the_same_file(single_file: Path, tmp_path: Path) -> None:
    assert pack(tmp_path / "again.pyz").read_bytes() == single_file.read_bytes()
    names = zipfile.ZipFile(single_file).namelist()
    assert {"LICENSE", "tomli/LICENSE", "license_client/commands/seats.py"} <= set(names)
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
