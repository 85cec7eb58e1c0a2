"""Other accounts of the machine cannot read or change the server's files."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from licenseserver import private
from tests.support.paths import ROOT
from tests.support.servers import running_server

pytestmark = pytest.mark.any_database

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
    # A name that the number of an earlier server makes guessable.
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
def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path, rights: int) -> None:
    tmp_path.chmod(rights)
    with pytest.raises(private.NotPrivate, match="Others can write to"):
        private.metrics_folder(str(tmp_path))


def test_a_folder_that_others_can_write_to_stops_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "counter_1.db").write_bytes(b"planted")
    result = check_config(folder)
    assert result.returncode != 0
    assert "PROMETHEUS_MULTIPROC_DIR can't be used: Others can write to" in result.stderr
    assert "Traceback" not in result.stderr
    assert (folder / "counter_1.db").exists()
    # As in Kubernetes, where everybody can write to the folder of a volume.
    assert check_config(folder / "own").returncode == 0
    assert mode(folder / "own") & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root can give a folder away.")
def test_a_folder_of_another_account_stops_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    result = check_config(folder)
    assert result.returncode != 0
    assert "belongs to user 65534" in result.stderr
    assert "Traceback" not in result.stderr


# --- SQLite ----------------------------------------------------------------------


def migrate(database: Path, umask: int = 0o022) -> None:
    """Make the tables of accounts, which is quick."""
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "auth", "--verbosity", "0"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        | {"LICENSE_DB_PATH": str(database)},
        umask=umask,
        check=True,
    )


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_nobody_else_reads_a_new_database(tmp_path: Path, umask: int) -> None:
    database = tmp_path / "licenses.db"
    migrate(database, umask)
    assert mode(database) == 0o600
    program = (
        "import django; django.setup();"
        "from django.contrib.auth.models import User; User.objects.create(username='ana');"
        "import glob, os;"
        f"print(*(oct(os.stat(name).st_mode & 0o777) for name in glob.glob({str(database)!r} + '*')))"
    )
    modes = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        | {"LICENSE_DB_PATH": str(database), "DJANGO_SETTINGS_MODULE": "licenseserver.settings"},
        umask=umask,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    # With SQLite's other files.
    assert modes == ["0o600"] * 3


def test_a_connection_more_takes_no_lock_from_the_others_of_its_process(tmp_path: Path) -> None:
    """Or another process, which finds no lock, takes the log of changes away from them:
    what is committed after that is lost."""
    database = tmp_path / "licenses.db"
    migrate(database, 0o022)
    program = f"""
import django, os, sqlite3, subprocess, sys, threading
django.setup()
from django.contrib.auth.models import User
from django.db import connection
User.objects.create(username="ana")
another = threading.Thread(target=lambda: (User.objects.count(), connection.close()))
another.start()
another.join()
other = "import sqlite3; found = sqlite3.connect({str(database)!r}); " \\
    "found.execute('SELECT * FROM auth_user').fetchall(); found.close()"
subprocess.run([sys.executable, "-c", other], check=True)
print(os.path.exists({str(database)!r} + "-wal"))
"""
    kept = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        | {"LICENSE_DB_PATH": str(database), "DJANGO_SETTINGS_MODULE": "licenseserver.settings"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert kept.strip() == "True"


def test_a_connection_is_kept_until_its_file_is_replaced(tmp_path: Path) -> None:
    database = tmp_path / "licenses.db"
    migrate(database, 0o022)
    program = f"""
import django, pathlib
django.setup()
from django.contrib.auth.models import User
from django.db import close_old_connections, connection
database = pathlib.Path({str(database)!r})
User.objects.create(username="ana")
kept = connection.connection
close_old_connections()
print(connection.connection is kept)
connection.close()
copy = database.read_bytes()
User.objects.create(username="ben")
for file in database.parent.glob("licenses.db*"):
    file.rename(file.with_name("aside" + file.name))
close_old_connections()
print(connection.connection is None)
database.write_bytes(copy)
print(*User.objects.values_list("username", flat=True))
"""
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        | {"LICENSE_DB_PATH": str(database), "DJANGO_SETTINGS_MODULE": "licenseserver.settings"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.split() == ["True", "True", "ana"]


@pytest.mark.skipif("DATABASE_URL" in os.environ, reason="PostgreSQL has no file of ours.")
def test_a_database_that_others_can_read_is_named_at_the_start_and_by_the_check(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with running_server(tmp_path, WEB_CONCURRENCY="1") as server:
        database = Path(server.environment["LICENSE_DB_PATH"])
        assert "can read" not in server.log.read_text()
        server.stop()
        database.chmod(0o644)
        server.start()
        assert f"Other accounts of this machine can read {database}" in server.log.read_text()
        checked = subprocess.run(
            [sys.executable, "manage.py", "check", "--deploy"],
            cwd=ROOT,
            env=server.environment,
            capture_output=True,
            text=True,
        )
        assert "licenses.W003" in checked.stderr
        # In a private folder they cannot read it.
        tmp_path.chmod(0o700)
        server.stop()
        server.log.write_text("")
        server.start()
        assert "can read" not in server.log.read_text()


def test_the_key_of_make_run_is_private_whatever_the_umask(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    subprocess.run(["make", ".secret_key"], cwd=tmp_path, umask=0, check=True, capture_output=True)
    assert mode(tmp_path / ".secret_key") == 0o600


# --- Uploads -----------------------------------------------------------------------


LIMITS = {"/signin/": 65_536, "/": 65_536, "/x": 65_536, "/admin/login/": 2_621_440}


def test_no_page_accepts_a_body_larger_than_its_forms(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with running_server(tmp_path, TMPDIR=str(temporary), WEB_CONCURRENCY="1") as server:
        for path, limit in LIMITS.items():
            for size in (limit + 1, 8 * 1024 * 1024):
                body = part + b"0" * (size - len(part))
                answer = httpx.post(f"{server.url}{path}", content=body, headers=headers)
                assert answer.status_code == 413, path
                assert "at most" in answer.text
            small = part + b"0" * (limit - len(part) - 10) + b"\r\n--x--\r\n"
            answer = httpx.post(f"{server.url}{path}", content=small[:limit], headers=headers)
            assert answer.status_code in {403, 404, 405}, path
            assert [path for path in temporary.iterdir() if "upload" in path.name] == []
