"""The addresses where the server listens, and the client addresses that it trusts."""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gunicorn.util import parse_address

from benchmarks.ports import free_port
from licenseserver.environment import is_local
from tests.support.databases import empty_database, migrated_database
from tests.support.paths import ROOT
from tests.support.servers import Server, running_server, server_environment

pytestmark = pytest.mark.any_database

# --- Open to the network ------------------------------------------------------


def start(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Start a server that is expected not to, and wait for its end."""
    with empty_database(folder) as database:
        environment = server_environment(folder, database, free_port()) | {"LICENSE_DB_SEED": "false"} | variables
        return subprocess.run(
            [sys.executable, "-m", "licenseserver"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:0", "example.com:0"])
def test_an_address_that_other_machines_reach_is_of_the_network(bind: str) -> None:
    assert not is_local(parse_address(bind))


def test_a_server_open_to_all_does_not_start_on_the_network(tmp_path: Path) -> None:
    result = start(tmp_path, LICENSE_AUTH="open", BIND="0.0.0.0:0")
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("licenseserver: ")]
    assert len(lines) == 1
    assert "LICENSE_OPEN_TO_NETWORK" in lines[0]
    assert "Traceback" not in result.stderr
    assert "Listening" not in result.stderr


def test_a_way_around_bind_is_looked_at_too(tmp_path: Path) -> None:
    result = start(tmp_path, LICENSE_AUTH="open", GUNICORN_CMD_ARGS="--bind 0.0.0.0:0 --bind 127.0.0.1:0")
    assert result.returncode == 2
    assert "LICENSE_OPEN_TO_NETWORK" in result.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"LICENSE_AUTH": "open", "LICENSE_OPEN_TO_NETWORK": "true"},
        {"LICENSE_AUTH": "required"},
    ],
    ids=str,
)
def test_a_server_may_listen_on_the_network(tmp_path: Path, variables: dict[str, str]) -> None:
    """Ask for all addresses, by a word or with credentials. The test uses only loopback."""
    port = free_port()
    with running_server(tmp_path, port, BIND=f":{port}", WEB_CONCURRENCY="1", **variables) as server:
        assert httpx.get(f"{server.url}/livez").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_open_to_all_starts_on_this_machine(tmp_path: Path, host: str) -> None:
    port = free_port()
    with running_server(tmp_path, port, BIND=f"{host}:{port}", LICENSE_AUTH="open", WEB_CONCURRENCY="1") as server:
        server.url = f"http://{host}:{port}"
        assert httpx.get(f"{server.url}/livez").status_code == 200


def test_make_run_listens_on_this_machine_only() -> None:
    script = subprocess.run(["make", "--dry-run", "serve"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in script.splitlines() if "licenseserver" in line and "exec" in line]
    environment = {name: value for name, value in os.environ.items() if name not in {"BIND", "LICENSE_AUTH"}}
    shown = subprocess.run(
        ["sh", "-c", line.partition("exec")[0] + "env"], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "BIND=127.0.0.1:8000" in shown
    assert "LICENSE_AUTH=open" in shown


# --- Headers that only a proxy may send ------------------------------------------


@pytest.fixture(scope="module")
def closed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Provide a server without TLS that trusts no proxy."""
    folder = tmp_path_factory.mktemp("closed")
    with running_server(
        folder, SECURE_SSL="true", TRUST_PROXY="false", WEB_CONCURRENCY="1", FORWARDED_ALLOW_IPS="*"
    ) as server:
        yield server


def ask(server: Server, path: str, **headers: str) -> tuple[int, bytes]:
    """GET the path; underscores in names stay as they are."""
    url = httpx.URL(server.url)
    connection = http.client.HTTPConnection(str(url.host), url.port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


CLAIMS = [
    {"X-Forwarded-Proto": "https"},
    {"X-Forwarded-Protocol": "ssl"},
    {"X-Forwarded-Ssl": "on"},
    {"X_FORWARDED_PROTO": "https"},
    {"Forwarded": "proto=https;host=localhost"},
    {"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "off"},
    {"X-Forwarded-Port": "443"},
    {"X-Forwarded-Scheme": "https", "X-Url-Scheme": "https", "Front-End-Https": "on"},
]


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_no_client_makes_its_connection_secure(closed_server: Server, claim: dict[str, str]) -> None:
    assert ask(closed_server, "/")[0] == 301
    assert ask(closed_server, "/", **claim)[0] == 301
    assert ask(closed_server, "/borrows", **claim)[0] == 403


def test_no_client_moves_a_path(server: Server) -> None:
    for claim in (
        {"SCRIPT_NAME": "/x"},
        {"Script-Name": "/x"},
        {"PATH_INFO": "/livez"},
        {"X-Script-Name": "/x"},
        {"X-Forwarded-Prefix": "/x"},
        {"X-Original-URL": "/livez"},
        {"X-Rewrite-URL": "/livez"},
    ):
        assert ask(server, "/x/livez", **claim)[0] == 404, claim
        status, page = ask(server, "/api/v1/tools/", **claim)
        assert status == 200
        assert b"/x/" not in page


def test_no_client_can_forge_its_address_or_name(required_server: Server) -> None:
    claims = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Real-IP": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
        "REMOTE_ADDR": "6.6.6.6",
        "Remote-User": "admin",
        "REMOTE_USER": "admin",
        "X-Remote-User": "admin",
        "X-Forwarded-User": "admin",
        "X-Forwarded-Host": "evil.example",
    }
    assert ask(required_server, "/borrows", **claims)[0] == 401
    lines = [json.loads(line) for line in required_server.log.read_text().splitlines() if '"/borrows"' in line]
    assert [line["client"] for line in lines] == ["127.0.0.1"]
    assert "6.6.6.6" not in required_server.log.read_text()
    assert b"evil.example" not in ask(required_server, "/signin/", **claims)[1]


def test_a_socket_of_this_machine_is_not_trusted_as_a_proxy(tmp_path: Path) -> None:
    """gunicorn takes what comes by one for a proxy's."""
    path = tmp_path / "server.sock"
    variables = {"BIND": f"unix:{path}", "SECURE_SSL": "true", "TRUST_PROXY": "false", "LICENSE_DB_SEED": "false"}
    with migrated_database(tmp_path) as database:
        environment = server_environment(tmp_path, database, 1) | {"LICENSE_AUTH": "required"} | variables
        with subprocess.Popen(
            [sys.executable, "-m", "licenseserver"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stderr is not None
                for line in process.stderr:
                    if "Booting worker" in line:
                        break
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(60)
                    connection.connect(str(path))
                    connection.sendall(
                        b"GET /x/livez HTTP/1.1\r\nHost: localhost\r\n"
                        b"SCRIPT_NAME: /x\r\nX-Forwarded-Proto: https\r\n\r\n"
                    )
                    answer = connection.recv(1000)
            finally:
                process.terminate()
    assert answer.startswith(b"HTTP/1.1 301 "), answer


def test_a_proxy_is_believed_where_it_is_trusted(tmp_path: Path) -> None:
    with running_server(tmp_path, SECURE_SSL="true", TRUST_PROXY="true", WEB_CONCURRENCY="1") as server:
        assert ask(server, "/borrows")[0] == 403
        secure = {"X-Forwarded-Proto": "https"}
        assert ask(server, "/borrows", **secure)[0] == 200
        assert ask(server, "/x/livez", SCRIPT_NAME="/x", **secure)[0] == 404


# --- Plain HTTP ---------------------------------------------------------------


def test_a_credential_in_plain_text_is_refused_and_not_led_on(closed_server: Server) -> None:
    for path, headers in (
        ("/borrows", {}),
        ("/licenses/status", {"Authorization": "Bearer lic_x"}),
        ("/api/v1/tools/", {}),
        ("/version", {"Authorization": "Bearer lic_x"}),
        ("/", {"Authorization": "Basic eDp5"}),
    ):
        answer = httpx.get(f"{closed_server.url}{path}", headers=headers)
        assert answer.status_code == 403, path
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["code"] == "https_required"
        assert "Location" not in answer.headers
    # Browsers are redirected: they send no secrets yet, and use HTTPS from then on.
    for path in ("/", "/signin/", "/admin/"):
        answer = httpx.get(f"{closed_server.url}{path}")
        assert (answer.status_code, answer.headers["Location"][:8]) == (301, "https://")
