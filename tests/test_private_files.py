"""What the server writes is its own: no other account of the machine reads or changes it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, running_server

CONFIG = ROOT / "licenseserver" / "gunicorn.conf.py"


def check_config(folder: Path | str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Read gunicorn's settings as at a start, which makes the folder for metrics."""
    return subprocess.run(
        [sys.executable, "-m", "gunicorn", "--check-config", "--config", CONFIG, "licenseserver.wsgi"],
        cwd=ROOT,
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)} | variables,
        capture_output=True,
        text=True,
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_for_metrics_is_new_private_and_gone_at_the_end(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir(mode=0o1777)
    # What an earlier server's number makes guessable.
    for number in range(os.getpid(), os.getpid() + 300):
        (temporary / f"licenseserver-metrics-{number}").mkdir(mode=0o777)
    guessed = set(temporary.iterdir())
    with running_server(tmp_path, TMPDIR=str(temporary), PROMETHEUS_MULTIPROC_DIR="") as server:
        (folder,) = (path for path in set(temporary.iterdir()) - guessed if path.name.startswith("licenseserver"))
        assert mode(folder) == 0o700
        assert list(folder.glob("counter_*.db"))
        server.stop()
        assert not folder.exists()
    assert not any(list(folder.iterdir()) for folder in guessed)


def test_a_given_folder_is_made_private(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "metrics"
    assert check_config(folder).returncode == 0
    assert mode(folder) == 0o700


@pytest.mark.parametrize("rights", [0o777, 0o770, 0o1777, 0o2777, 0o722])
def test_a_folder_that_others_can_write_to_stops_the_start(tmp_path: Path, rights: int) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    folder.chmod(rights)
    (folder / "counter_1.db").write_bytes(b"planted")
    result = check_config(folder)
    assert result.returncode != 0
    assert "PROMETHEUS_MULTIPROC_DIR can't be used: Others can write to" in result.stderr
    assert "Traceback" not in result.stderr
    assert (folder / "counter_1.db").exists()
    # As in Kubernetes, where everyone can write to a volume's own folder.
    assert check_config(folder / "own").returncode == 0
    assert mode(folder / "own") & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root can give a folder away.")
def test_a_folder_of_somebody_else_stops_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    result = check_config(folder)
    assert result.returncode != 0
    assert "belongs to user 65534" in result.stderr
    assert "Traceback" not in result.stderr
