"""A server that can't listen says why in one line, and what to do."""

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.paths import ROOT
from tests.support.servers import server_environment
from tests.support.waiting import until

pytestmark = pytest.mark.any_database


def errors_of_a_start(folder: Path, database: dict[str, str], **more: str) -> list[str]:
    """Start a server that must fail, and return its errors."""
    environment = server_environment(folder, database, 1) | {"LICENSE_DB_SEED": "false"} | more
    done = subprocess.run(
        [sys.executable, "-m", "licenseserver"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    return [line["event"] for line in lines if line["level"] in {"error", "critical"}]


def test_a_port_in_use_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        (line,) = errors_of_a_start(tmp_path, {"LICENSE_DB_PATH": str(tmp_path / "licenses.db")}, BIND=address)
    assert f"BIND: {address} is in use" in line
    assert "or set BIND to another host:port" in line


@pytest.mark.parametrize(
    ("address", "why"),
    [("192.0.2.1:8000", "is not an address of this machine"), ("unix:/no/such/folder/s", "No such file")],
)
def test_an_address_that_cannot_be_had_is_one_line(tmp_path: Path, address: str, why: str) -> None:
    database = {"LICENSE_DB_PATH": str(tmp_path / "licenses.db")}
    (line,) = errors_of_a_start(tmp_path, database, BIND=address, LICENSE_AUTH="required")
    assert why in line
    assert address in line


def test_a_server_waits_for_an_address_that_comes_free(tmp_path: Path) -> None:
    """This happens in a restart, while the old server stops."""
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        database = {"LICENSE_DB_PATH": str(tmp_path / "licenses.db")}
        environment = server_environment(tmp_path, database, 1) | {"LICENSE_DB_SEED": "false", "BIND": address}
        process = subprocess.Popen([sys.executable, "-m", "licenseserver"], cwd=ROOT, env=environment, stderr=output)
        try:
            until(lambda: "is in use" in log.read_text(), log.read_text)
            listener.close()
            until(lambda: answers(f"http://{address}/livez"), log.read_text)
        finally:
            process.terminate()
            process.wait(30)


def answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(url).status_code == 200
    return False


KEY = "0123456789abcdefghijklmnopqrstuvwxyz"


def check(**variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "SECRET_KEY"}}
    return subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env=inherited | {"SECRET_KEY": KEY} | variables,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(("variable", "value"), [("SECRET_KEY", ""), ("DATABASE_URL", "mysql://u:p@h/d")])
def test_a_wrong_value_stops_commands_with_one_line(variable: str, value: str) -> None:
    result = check(**{variable: value})
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert variable in result.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WEB_CONCURRENCY", "many"),
        ("BIND", "127.0.0.1"),
        ("PROMETHEUS_MULTIPROC_DIR", "/dev/null"),
    ],
)
def test_a_wrong_value_stops_the_server_too(variable: str, value: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "licenseserver"],
        cwd=ROOT,
        env=os.environ | {"SECRET_KEY": KEY} | {"BIND": "127.0.0.1:0", variable: value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode != 0
    assert result.stderr.count("\n") == 1
    assert variable in result.stderr


def test_good_values_start() -> None:
    """Others are in tests/unit/test_settings.py."""
    result = check(
        LOG_FORMAT="TEXT",
        ALLOWED_HOSTS="licenses.example.com, .example.org,10.1.2.3,[::1],license_server",
        CSRF_TRUSTED_ORIGINS="https://licenses.example.com,https://*.example.org:8443",
        SECRET_KEY_FALLBACKS=f"{KEY},{KEY[::-1]}",
        BIND="unix:/run/licenses.sock",
        DATABASE_URL="postgresql://u@db1:5432,db2:5433/licenses?target_session_attrs=read-write",
        DATABASE_STATEMENT_TIMEOUT="0",
        LICENSE_RATE_PER_CREDENTIAL="off",
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_key_that_everyone_knows_is_warned_of() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    (key,) = re.findall(r"SECRET_KEY:-(demo-[\w-]+)", compose)
    for known, warned in ((key, True), (KEY, False)):
        result = subprocess.run(
            [sys.executable, "manage.py", "check", "--deploy"],
            cwd=ROOT,
            env=os.environ | {"SECRET_KEY": known},
            capture_output=True,
            text=True,
        )
        assert ("licenses.W002" in result.stderr) == warned
