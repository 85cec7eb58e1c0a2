"""The log has one event per line, with caller and subject, and no secrets."""

import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from licenseserver import logs
from tests.support.issuer import AUDIENCE, Issuer, running_issuer
from tests.support.log_lines import event_of, events, events_of, requests, send_raw
from tests.support.paths import ROOT
from tests.support.servers import Server, running_server

pytestmark = pytest.mark.any_database

GIVEN_ID = re.compile(r"[0-9a-f]{32}")


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def logging_server(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Server]:
    """Provide a server for the whole module, where every call needs a credential."""
    variables = {"LICENSE_AUTH": "required", "LICENSE_OIDC_ISSUER": issuer.url, "LICENSE_JWT_AUDIENCE": AUDIENCE}
    with running_server(tmp_path_factory.mktemp("logging"), **variables) as server:
        yield server


@pytest.fixture(scope="module")
def make_secret(logging_server: Server) -> Callable[..., str]:
    """Makes an API token: ``make_secret("nightly", "--user", "ana")``."""

    def make(*arguments: str) -> str:
        return logging_server.manage("token", "create", *arguments).strip()

    return make


@pytest.fixture(scope="module")
def ana(logging_server: Server, make_secret: Callable[..., str]) -> Iterator[httpx.Client]:
    """ana, with a token of her own."""
    secret = make_secret("of ana", "--user", "ana")
    with httpx.Client(base_url=logging_server.url, headers={"Authorization": f"Bearer {secret}"}) as client:
        yield client


@pytest.fixture(scope="module")
def boss(logging_server: Server) -> tuple[str, str]:
    """Provide an administrator's name and password."""
    logging_server.environment.update({"ADMIN_USERNAME": "boss", "ADMIN_PASSWORD": "correct horse battery"})
    logging_server.manage("ensure_admin")
    return "boss", "correct horse battery"


# --- One event a request ----------------------------------------------------


def test_every_line_of_a_server_s_life_is_one_json_object(server: Server) -> None:
    httpx.get(f"{server.url}/licenses/status")
    server.stop()
    found = events(server)
    for event in found:
        assert datetime.strptime(event["time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC) <= datetime.now(UTC)
        assert event["level"] in {"debug", "info", "warning", "error", "critical"}
        assert event["logger"]
        assert event["event"]
    said = [event["event"] for event in found]
    for line in ("Starting gunicorn", "Seeding: cad_tool", "Booting worker", "Worker exiting", "Shutting down"):
        assert any(event.startswith(line) for event in said), line
    # Facts outside a request belong to no request.
    assert [event["event"] for event in found if "request_id" in event] == ["request"]


def test_a_borrow_and_its_return_show_the_holder(logging_server: Server, ana: httpx.Client) -> None:
    borrow = ana.post("/licenses/borrow", json={"tool": "cad_tool"}, headers={"X-Request-ID": "build-4711"})
    lease = borrow.json()["id"]
    event = event_of(logging_server, borrow)
    assert event.pop("duration_seconds") > 0
    assert event.pop("time")
    assert re.fullmatch(r"token \d+", event.pop("credential"))
    assert event == {
        "level": "info",
        "logger": "licenses.request",
        "event": "request",
        "request_id": "build-4711",
        "method": "POST",
        "path": "/licenses/borrow",
        "status": 200,
        "client": "127.0.0.1",
        "caller": "ana",
        "caller_kind": "token",
        "user": "ana",
        "tool": "cad_tool",
        "lease": lease,
    }
    for path in ("/licenses/renew", "/licenses/return"):
        event = event_of(logging_server, ana.post(path, json={"id": lease}))
        assert (event["lease"], event["tool"], event["user"], event["status"]) == (lease, "cad_tool", "ana", 200)


def test_a_borrow_of_several_tools_names_them_all(logging_server: Server, ana: httpx.Client) -> None:
    items = [{"tool": "cad_tool", "seats": 1}, {"tool": "simulation", "seats": 1}]
    borrow = ana.post("/licenses/borrow", json={"items": items})
    assert set(event_of(logging_server, borrow)["tool"].split(",")) == {"cad_tool", "simulation"}
    ana.post("/licenses/return", json={"id": borrow.json()["id"]})


def test_a_refusal_tells_its_code_and_tool(logging_server: Server, ana: httpx.Client) -> None:
    refused = ana.post("/licenses/borrow", json={"tool": "analysis", "seats": 9})
    event = event_of(logging_server, refused)
    assert (event["status"], event["code"], event["tool"], event["user"]) == (409, "exhausted", "analysis", "ana")
    # Not an error of the server.
    assert event["level"] == "info"


def test_a_wait_is_followed_by_its_ticket(logging_server: Server, ana: httpx.Client) -> None:
    held = ana.post("/licenses/borrow", json={"tool": "analysis", "seats": 2}).json()["id"]
    waiting = ana.post("/licenses/borrow", json={"tool": "analysis", "wait_seconds": 600})
    ticket = waiting.json()["ticket"]
    assert event_of(logging_server, waiting)["ticket"] == ticket
    assert event_of(logging_server, ana.get(f"/licenses/queue/{ticket}"))["ticket"] == ticket
    ana.post("/licenses/return", json={"id": held})
    granted = ana.get(f"/licenses/queue/{ticket}")
    event = event_of(logging_server, granted)
    assert (event["ticket"], event["lease"]) == (ticket, granted.json()["id"])
    ana.post("/licenses/return", json={"id": granted.json()["id"]})


def test_a_force_return_tells_whose_lease_it_was(
    logging_server: Server, ana: httpx.Client, make_secret: Callable[..., str]
) -> None:
    lease = ana.post("/licenses/borrow", json={"tool": "cad_tool"}).json()["id"]
    administrator = {"Authorization": f"Bearer {make_secret('boss', '--scope', 'admin')}"}
    forced = httpx.post(
        f"{logging_server.url}/api/v1/leases/{lease}/force-return/", json={"reason": "x"}, headers=administrator
    )
    event = event_of(logging_server, forced)
    assert (event["status"], event["lease"], event["user"], event["tool"]) == (200, lease, "ana", "cad_tool")
    assert event["caller_kind"] == "token"


def test_callers_have_separate_limits(
    logging_server: Server, boss: tuple[str, str], issuer: Issuer, make_secret: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "members.csv").write_text("team,user\ncrash,ben\n")
    logging_server.manage("team", "import", str(tmp_path / "members.csv"))

    def told(**more: Any) -> dict[str, Any]:
        event = event_of(logging_server, httpx.get(f"{logging_server.url}/borrows", **more))
        return {name: event.get(name) for name in ("status", "caller", "caller_kind", "caller_team", "code")}

    def by(**facts: Any) -> dict[str, Any]:
        return {"status": 200, "caller": None, "caller_team": None, "code": None} | facts

    team = {"Authorization": f"Bearer {make_secret('of crash', '--team', 'crash')}"}
    assert told(headers=team) == by(caller_kind="token", caller_team="crash")
    assert told(headers={"Authorization": f"Bearer {issuer.sign()}"}) == by(caller="ben", caller_kind="jwt")
    assert told(auth=boss) == by(caller="boss", caller_kind="password")
    nobody = by(status=401, caller_kind="anonymous")
    assert told() == nobody | {"code": "not_authenticated"}
    assert told(headers={"Authorization": "Bearer nonsense"}) == nobody | {"code": "invalid_credential"}


def test_pages_show_the_signed_in_account(logging_server: Server, boss: tuple[str, str]) -> None:
    with httpx.Client(base_url=logging_server.url) as browser:
        browser.get("/signin/")
        form = {"username": boss[0], "password": boss[1]}
        signed_in = browser.post("/signin/", data=form | {"csrfmiddlewaretoken": browser.cookies["csrftoken"]})
        assert signed_in.status_code == 302
        event = event_of(logging_server, browser.get("/admin/"))
        assert (event["caller"], event["caller_kind"], event["status"]) == ("boss", "session", 200)
        event = event_of(logging_server, browser.get("/borrows"))
        assert (event["caller"], event["caller_kind"]) == ("boss", "session")


def test_health_checks_and_scrapes_are_no_events(logging_server: Server) -> None:
    before = len(requests(logging_server))
    for path in ("/livez", "/readyz", "/metrics"):
        assert "X-Request-ID" in httpx.get(f"{logging_server.url}{path}").headers
    assert len(requests(logging_server)) == before


def test_every_line_during_a_request_has_its_id(logging_server: Server, issuer: Issuer) -> None:
    late = issuer.sign(issuer.claims(exp=1_000_000_000, iat=999_999_999))
    headers = {"Authorization": f"Bearer {late}", "X-Request-ID": "late"}
    answer = httpx.get(f"{logging_server.url}/borrows", headers=headers)
    said = [(event["logger"], event["request_id"]) for event in events_of(logging_server, answer)]
    assert said == [("licenses.access.credentials", "late"), ("licenses.request", "late")]


# --- X-Request-ID -----------------------------------------------------------


@pytest.mark.parametrize(
    "request_id", ["a", "4bf92f3577b34da6a3ce929d0e0e4736", "2db236c4-a601-4b7a-897d-25b58a4c3a61", "x" * 36, "f" * 64]
)
def test_a_request_keeps_the_id_it_came_with(logging_server: Server, request_id: str) -> None:
    answer = httpx.get(f"{logging_server.url}/borrows", headers={"X-Request-ID": request_id})
    assert answer.headers["X-Request-ID"] == request_id
    assert event_of(logging_server, answer)["path"] == "/borrows"


@pytest.mark.parametrize(
    "request_id",
    [
        "",
        "x" * 65,
        "x" * 5000,
        "two words",
        "one,two",
        '"},{"level":"critical"',
        "a\tb",
        "caf\xe9",
        "../../etc/passwd",
        "lic_" + "a" * 43,
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbmEifQ.c2lnbmF0dXJl",
    ],
)
def test_an_invalid_request_id_is_replaced(logging_server: Server, request_id: str) -> None:
    headers = [(b"X-Request-ID", request_id.encode("latin-1"))]
    answer = httpx.get(f"{logging_server.url}/borrows", headers=headers)
    assert GIVEN_ID.fullmatch(answer.headers["X-Request-ID"])
    assert event_of(logging_server, answer)["status"] == 401
    if request_id:
        assert request_id not in logging_server.log.read_text()


def test_two_ids_are_none(logging_server: Server) -> None:
    answer = httpx.get(f"{logging_server.url}/borrows", headers=[("X-Request-ID", "one"), ("X-Request-ID", "two")])
    assert GIVEN_ID.fullmatch(answer.headers["X-Request-ID"])


def test_every_answer_has_an_id(logging_server: Server) -> None:
    ids = [
        httpx.request(method, f"{logging_server.url}{path}", headers={"Host": host}).headers["X-Request-ID"]
        for method, path, host in [
            ("GET", "/livez", "10.1.2.3"),
            ("GET", "/", "evil.example"),
            ("POST", "/licenses/borrow", "localhost"),
            ("GET", "/nowhere", "localhost"),
            ("DELETE", "/admin/", "localhost"),
        ]
    ]
    assert all(GIVEN_ID.fullmatch(request_id) for request_id in ids)
    assert len(set(ids)) == len(ids)


def test_the_proxy_takes_the_same_ids_as_the_server() -> None:
    config = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
    taken = re.findall(r'"~\^(.+)\$" +\$http_x_request_id;', config)
    assert taken == [logs.REQUEST_ID.pattern]


@pytest.mark.parametrize("prefix", ["lic_", "lic-", "LIC_", "Lic-", ""])
def test_a_token_sent_as_an_id_is_not_written_down(logging_server: Server, prefix: str) -> None:
    secret = "Zk3" + "aB9xQ" * 8
    for place in ("header", "path"):
        path, headers = (
            ("/borrows", {"X-Request-ID": prefix + secret}) if place == "header" else (f"/{prefix}{secret}", {})
        )
        answer = httpx.get(f"{logging_server.url}{path}", headers=headers)
        assert secret not in answer.headers["X-Request-ID"]
        if prefix or place == "header":
            assert secret not in logging_server.log.read_text()


# --- Hostile requests -------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        '/licenses/%0a{"level":"critical","event":"forged"}%0a/status',
        "/licenses/%0d%0a%1b[2J/status",
        "/licenses/%00%e2%80%ae/status",
        "/licenses/%ff%fe/status",
        "/" + "x" * 4000,
    ],
)
def test_nothing_in_an_address_makes_a_line_of_its_own(logging_server: Server, path: str) -> None:
    before = len(requests(logging_server))
    answer = send_raw(logging_server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 40")
    (event,) = requests(logging_server)[before:]
    assert event["path"].startswith("/")
    assert logging_server.log.read_text().isascii()


def test_a_log_for_people_can_not_be_forged_either(tmp_path: Path) -> None:
    with running_server(tmp_path, LOG_FORMAT="text") as server:
        borrow = httpx.post(f"{server.url}/licenses/borrow", json={"tool": "cad_tool", "user": "ana"})
        send_raw(
            server, b"GET /a%0a12:00:00.000%20INFO%20forged HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        server.manage("migrate", "sessions", "zero", "--verbosity", "0")
        httpx.get(f"{server.url}/admin/", headers={"Cookie": f"sessionid={'a' * 32}"})
        lines = server.log.read_text().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} (INFO|WARNING|ERROR)|    ", line) for line in lines)
    assert not any(re.match(r"12:00:00\.000 INFO", line) for line in lines)
    assert "    Traceback (most recent call last):" in lines
    (line,) = [line for line in lines if "/licenses/borrow" in line]
    assert re.search(r"INFO +200 +[\d.]+ ms  POST   /licenses/borrow  ", line)
    for part in ("user=ana", "tool=cad_tool", f"lease={borrow.json()['id']}"):
        assert part in line
    # To a file: no colors.
    assert "\x1b" not in "".join(lines)


def test_a_terminal_gets_colors() -> None:
    said = "import logging.config; from licenseserver import logs; " + (
        "logging.config.dictConfig(logs.configuration('text', 'INFO')); logging.warning('careful')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    for more, color in [({}, "\x1b[33mWARNING"), ({"NO_COLOR": "1"}, " WARNING")]:
        ours, theirs = os.openpty()
        subprocess.run([sys.executable, "-c", said], cwd=ROOT, env=environment | more, stderr=theirs, check=True)
        os.close(theirs)
        line = os.read(ours, 1000).decode()
        os.close(ours)
        assert color in line
        assert line.endswith("careful\r\n")


# --- Outside requests -------------------------------------------------------


def test_the_sweeper_logs_only_rounds_that_closed_something(server: Server) -> None:
    for user, more in [("ana", {"seats": 2}), ("ben", {"wait_seconds": 1})]:
        httpx.post(f"{server.url}/licenses/borrow", json={"tool": "analysis", "user": user} | more)
    sweeper = subprocess.Popen(
        [sys.executable, "manage.py", "expire_leases", "--loop", "--every", "0.1"],
        cwd=ROOT,
        env=server.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(60, sweeper.kill)
    watchdog.start()
    try:
        assert sweeper.stderr is not None
        line = sweeper.stderr.readline()
    finally:
        watchdog.cancel()
        sweeper.terminate()
        out, rest = sweeper.communicate(timeout=30)
    event = json.loads(line)
    assert (event["event"], event["level"], event["leases"], event["tickets"]) == ("tidied", "info", 0, 1)
    assert (out, rest) == ("", "")


def test_a_command_that_breaks_tells_it_in_one_line(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    broken = subprocess.run(
        [sys.executable, "manage.py", "shell", "--command", "raise RuntimeError('a defect')"],
        cwd=ROOT,
        env=environment | {"LICENSE_DB_PATH": str(tmp_path / "empty.db")},
        capture_output=True,
        text=True,
    )
    assert broken.returncode == 1
    event = json.loads(broken.stderr)
    assert (event["level"], event["event"]) == ("critical", "uncaught exception")
    assert "a defect" in event["exception"]


MANY_THREADS = """
import logging, logging.config, sys, threading
from licenseserver import logs

logging.config.dictConfig(logs.configuration("json", "INFO"))
logs.start_thread()
logger = logging.getLogger("licenses")

def answer(thread):
    for number in range(200):
        with logs.Event(f"{thread}-{number}"):
            logger.info("line")

threads = [threading.Thread(target=answer, args=(number,)) for number in range(8)]
with logs.Event("all"):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logger.info("the last line")
"""


def test_no_line_of_many_threads_is_lost_when_the_process_ends() -> None:
    ended = subprocess.run([sys.executable, "-c", MANY_THREADS], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert lines[-1]["event"] == "the last line"
    ids = [line["request_id"] for line in lines[:-1]]
    assert len(ids) == len(set(ids)) == 8 * 200
    for thread in range(8):
        assert [one for one in ids if one.startswith(f"{thread}-")] == [f"{thread}-{number}" for number in range(200)]


def test_a_warning_is_written_at_once_after_the_lines_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logs.StderrHandler()
    # Its thread would write the line as well, at some time.
    handler._has_thread = True
    logger = logging.Logger("of a test")
    logger.addHandler(handler)
    with logs.Event("one"), logs.Event("two"):
        logger.info("waits for others")
        assert capsys.readouterr().err == ""
        logger.warning("at once")
        assert capsys.readouterr().err == "waits for others\nat once\n"
    logger.info("of the only request")
    assert capsys.readouterr().err == "of the only request\n"


def test_every_request_of_a_busy_server_has_its_line(server: Server) -> None:
    def ask() -> None:
        with httpx.Client(base_url=server.url) as client:
            for _ in range(25):
                client.get("/licenses/cad_tool/status")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.stop()
    lines = [event for event in requests(server) if event["path"] == "/licenses/cad_tool/status"]
    assert len({line["request_id"] for line in lines}) == len(lines) == 200
