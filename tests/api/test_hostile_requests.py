"""Bad input gets a clear 4xx problem document and changes nothing."""

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client
from django.utils.html import escape

from licenses.models import Lease, Tool
from tests.support.api import Api, assert_problem

GOOD = {"tool": "cad", "user": "ana"}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


BODIES: list[tuple[str, bytes | dict[str, Any], int]] = [
    ("empty", b"", 400),
    ("null", b"null", 400),
    ("list", b"[]", 400),
    ("string", b'"x"', 400),
    ("number", b"12", 400),
    ("broken", b'{"tool":', 400),
    ("trailing garbage", b'{"tool":"cad","user":"a"} x', 400),
    ("single quotes", b"{'tool':'cad','user':'a'}", 400),
    ("UTF-16", '{"tool":"cad","user":"a"}'.encode("utf-16"), 400),
    ("invalid UTF-8", b'{"tool":"cad","user":"\xff"}', 400),
    ("NaN", b'{"tool":"cad","user":"a","seats":NaN}', 400),
    ("infinite", b'{"tool":"cad","user":"a","seats":1e999}', 400),
    ("deep", b"[" * 10_000 + b"]" * 10_000, 400),
    ("a key twice", b'{"tool":"cad","tool":"sim","user":"a"}', 400),
    ("number of 5,000 digits", b'{"tool":"cad","user":"a","seats":' + b"9" * 5000 + b"}", 400),
    ("no tool", without("tool"), 400),
    ("no user", without("user"), 400),
    ("empty tool", GOOD | {"tool": ""}, 400),
    ("empty user", GOOD | {"user": ""}, 400),
    ("blank user", GOOD | {"user": "   "}, 400),
    ("user null", GOOD | {"user": None}, 400),
    ("user true", GOOD | {"user": True}, 400),
    ("user number", GOOD | {"user": 1}, 400),
    ("user list", GOOD | {"user": ["a"]}, 400),
    ("user object", GOOD | {"user": {"a": 1}}, 400),
    ("user of 256", GOOD | {"user": "u" * 256}, 400),
    ("user of 10,000", GOOD | {"user": "u" * 10_000}, 400),
    ("user with NUL", GOOD | {"user": "a\0b"}, 400),
    ("user with a line break", GOOD | {"user": "a\nb"}, 400),
    ("user with text direction", GOOD | {"user": "a\u202eb"}, 400),
    ("user with zero width", GOOD | {"user": "a\u200bb"}, 400),
    ("user with a lone surrogate", b'{"tool":"cad","user":"\\ud800"}', 400),
    ("tool list", GOOD | {"tool": ["cad"]}, 400),
    ("tool with NUL", GOOD | {"tool": "cad\0"}, 400),
    ("tool of 10,000", GOOD | {"tool": "c" * 10_000}, 400),
    ("tool in capitals", GOOD | {"tool": "CAD"}, 404),
    ("tool as a path", GOOD | {"tool": "../cad"}, 404),
    ("tool as SQL", GOOD | {"tool": "' OR 1=1 --"}, 404),
    ("no seats", GOOD | {"seats": 0}, 400),
    ("negative seats", GOOD | {"seats": -1}, 400),
    ("seats true", GOOD | {"seats": True}, 400),
    ("seats a string", GOOD | {"seats": "1"}, 400),
    ("seats a fraction", GOOD | {"seats": 1.5}, 400),
    ("seats 2^63", GOOD | {"seats": 2**63}, 400),
    ("seats over the most", GOOD | {"seats": 1_000_001}, 400),
    ("host of 256", GOOD | {"host": "h" * 256}, 400),
    ("team list", GOOD | {"team": ["crash"]}, 400),
    ("team empty", GOOD | {"team": ""}, 400),
    ("team with NUL", GOOD | {"team": "crash\0"}, 400),
    ("team of 65", GOOD | {"team": "t" * 65}, 400),
    ("team that there isn't", GOOD | {"team": "crash"}, 403),
    ("project of 256", GOOD | {"project": "p" * 256}, 400),
    ("project with a line break", GOOD | {"project": "a\nb"}, 400),
    ("project number", GOOD | {"project": 1}, 400),
    ("an overdraft of one's own", GOOD | {"overdraft_seats": 1}, 400),
    ("an id of one's own", GOOD | {"id": "00000000-0000-4000-8000-000000000000"}, 400),
    ("an end of one's own", GOOD | {"ended_at": None}, 400),
    ("10 MB", b'{"tool":"cad","user":"' + b"u" * 10_000_000 + b'"}', 413),
]


@pytest.mark.parametrize("path", ["/licenses/borrow", "/licenses/explain"])
@pytest.mark.parametrize(("body", "status"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES])
def test_a_bad_borrow_is_refused_and_changes_nothing(
    api: Api, make_tool: Callable[..., Tool], body: bytes | dict[str, Any], status: int, path: str
) -> None:
    make_tool("cad", capacity=5)
    assert_problem(api.post(path, body), status)
    assert not Lease.objects.exists()
    assert api.status()["borrowed"] == 0


@pytest.mark.parametrize("lease_id", ["", "x", 1, None, True, [], {}, "0" * 10_000, "\0", "../../etc/passwd"])
def test_an_id_that_is_no_uuid_is_refused(api: Api, lease_id: Any) -> None:
    assert_problem(api.post("/licenses/return", {"id": lease_id}), 400)


JSON_WANTED = "Send the header Content-Type: application/json."


@pytest.mark.parametrize(
    ("method", "path", "kind", "hint"),
    [
        ("GET", "/licenses/borrow", "", "Use POST."),
        ("POST", "/licenses/status", "application/json", "Use GET."),
        ("PATCH", "/api/v1/tools/cad/", "application/json", "Use GET or PUT or DELETE."),
        # What curl sends with -d and without a header.
        (
            "POST",
            "/licenses/borrow",
            "application/x-www-form-urlencoded",
            JSON_WANTED,
        ),
        ("PUT", "/api/v1/tools/cad/", "text/plain", JSON_WANTED),
    ],
)
def test_a_wrong_method_or_content_type_is_refused_with_the_right_one(
    admin_api: Api, method: str, path: str, kind: str, hint: str
) -> None:
    answer = admin_api.client.generic(method, path, b"{}" if kind else b"", content_type=kind)
    assert answer.status_code in {405, 415}
    assert answer.json()["hint"] == hint


REQUESTS = [
    ("GET", "/licenses/borrow", {}, 405),
    ("PUT", "/licenses/return", {}, 405),
    ("DELETE", "/licenses/status", {}, 405),
    ("POST", "/borrows", {}, 405),
    ("PUT", "/borrows", {}, 405),
    ("POST", "/licenses/borrow", {"content_type": "text/plain", "data": b"x"}, 415),
    ("POST", "/licenses/borrow", {"content_type": "application/xml", "data": b"<x/>"}, 415),
    ("POST", "/licenses/borrow", {"content_type": "application/x-www-form-urlencoded", "data": b"tool=%00"}, 415),
    ("GET", "/licenses/nope/status", {}, 404),
    ("GET", "/licenses/%00/status", {}, 404),
    ("GET", "/licenses/%ED%A0%80/status", {}, 404),
    ("GET", "/licenses/" + "c" * 2000 + "/status", {}, 404),
    ("GET", "/licenses/nothing/here", {}, 404),
    ("GET", "/licenses/cad/status?user=%00", {}, 400),
    ("GET", "/licenses/cad/status?team=" + "t" * 65, {}, 400),
    ("GET", "/licenses/cad/status?nosuch=1", {}, 400),
    ("GET", "/licenses/nope/status?user=ana", {}, 404),
    ("GET", "/licenses/explain", {}, 405),
    ("GET", "/borrows?user=%00", {}, 400),
    ("GET", "/borrows?nosuch=1", {}, 400),
    ("GET", "/api/v1/tools/?cursor=cD1DQUQ=", {}, 404),
    ("GET", "/borrows?user=" + "u" * 256, {}, 400),
    ("GET", "/api/v1/nothing/", {}, 404),
    ("GET", "/api/v1/tools/nope/", {}, 404),
    ("GET", "/api/v1/tools/%00/", {}, 404),
    ("GET", "/api/v1/leases/nope/", {}, 404),
    ("GET", "/api/v1/leases/?user=%00", {}, 400),
    ("GET", "/api/v1/leases/?tool=%00", {}, 400),
    ("GET", "/api/v1/leases/?team=%00", {}, 400),
    ("GET", "/api/v1/leases/?project=%00", {}, 400),
    ("GET", "/api/v1/leases/?state=dead", {}, 400),
    ("GET", "/api/v1/leases/?borrowed_after=yesterday", {}, 400),
    ("GET", "/api/v1/leases/?borrowed_after=0000-00-00", {}, 400),
    ("GET", "/api/v1/leases/?borrowed_after=9999-12-31T23:59:59-14:00", {}, 400),
    ("GET", "/api/v1/leases/?borrowed_before=0001-01-01T00:00:00%2B14:00", {}, 400),
    ("GET", "/api/v1/leases/?cursor=cD0lMDA=", {}, 400),
]


@pytest.mark.parametrize(
    ("method", "path", "more", "status"), REQUESTS, ids=[f"{row[0]} {row[1][:60]}" for row in REQUESTS]
)
def test_a_request_that_makes_no_sense_gets_a_problem_document(
    api: Api, make_tool: Callable[..., Tool], method: str, path: str, more: dict[str, Any], status: int
) -> None:
    make_tool("cad")
    assert_problem(api.client.generic(method, path, **more), status)


@pytest.mark.parametrize("host", ["box.lan", "box.lan:8000", "<b>box", "x" * 300])
def test_an_unknown_host_is_named(host: str, caplog: pytest.LogCaptureFixture) -> None:
    browser = Client(raise_request_exception=False)
    answer = browser.get("/licenses/status", HTTP_HOST=host)
    assert_problem(answer, 400)
    named = f'"{host.removesuffix(":8000")[:255]}" is not in ALLOWED_HOSTS.'
    assert (answer.json()["code"], answer.json()["detail"]) == ("unknown_host", named)
    assert [record.message for record in caplog.records if "ALLOWED_HOSTS" in record.message] == [
        f"Refused a request: {named}"
    ]
    page = browser.get("/", HTTP_HOST=host)
    assert page.status_code == 400
    assert escape(named) in page.content.decode()


def test_probes_answer_whatever_host_they_were_asked_by(db: None) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert Client().get(path, HTTP_HOST="10.1.2.3:8000").status_code == 200


def test_a_broken_server_says_so_without_its_insides(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**values: Any) -> None:
        raise RuntimeError("secret insides")

    monkeypatch.setattr("licenses.leases.services.borrow", fail)
    answer = api.borrow()
    assert_problem(answer, 500)
    assert b"secret insides" not in answer.content


@pytest.mark.parametrize(
    "position", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01", "x", "\0", "9" * 500]
)
@pytest.mark.parametrize("collection", ["leases", "denials", "audit"])
def test_a_cursor_that_is_not_ours_is_refused(admin_client: Client, collection: str, position: str) -> None:
    cursor = b64encode(urlencode({"p": position}).encode()).decode()
    assert_problem(admin_client.get(f"/api/v1/{collection}/", {"cursor": cursor}), 400)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://testserver.evil.example", "http://[", ""])
def test_a_page_of_another_site_changes_nothing(api: Api, make_tool: Callable[..., Tool], origin: str) -> None:
    make_tool("cad")
    lease = api.borrow("cad").json()
    for path, form in (
        (f"/api/v1/leases/{lease['id']}/renew/", b""),
        ("/licenses/return", json.dumps({"id": lease["id"]}).encode()),
    ):
        answer = api.client.generic("POST", path, form, content_type="application/json", headers={"Origin": origin})
        assert_problem(answer, 403)
        assert answer.json()["code"] == "cross_site"
    assert api.client.delete("/licenses/queue/x", headers={"Origin": origin}).status_code == 403
    assert api.status()["borrowed"] == 1
    # Programs send no Origin, and our pages send this server's.
    assert api.client.post(f"/api/v1/leases/{lease['id']}/renew/").status_code == 200
    own = api.client.post(f"/api/v1/leases/{lease['id']}/renew/", headers={"Origin": "http://testserver"})
    assert own.status_code == 200


def test_metrics_answer_no_name_but_the_servers(db: None) -> None:
    """Another's name is that of a page in somebody's browser, which would read the answer."""
    for host in ("evil.example", "evil.example:8000", "10.1.2.3.evil.example", "x y"):
        assert Client(raise_request_exception=False).get("/metrics", HTTP_HOST=host).status_code == 400, host
    for host in ("localhost", "10.1.2.3", "10.1.2.3:8000", "[fd00::1]:8000", "testserver"):
        assert Client().get("/metrics", HTTP_HOST=host).status_code == 200, host


def test_no_page_may_use_the_machine_of_its_reader(api: Api) -> None:
    for path in ("/", "/signin/", "/admin/login/", "/borrows"):
        policy = api.client.get(path, headers={"Accept": "text/html,*/*;q=0.8"})["Permissions-Policy"]
        assert {"camera=()", "microphone=()", "geolocation=()"} <= set(policy.split(", "))
