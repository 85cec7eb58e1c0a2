"""A program's call runs only the middleware that it needs, not that of pages."""

import json
from collections.abc import Callable
from datetime import UTC
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.exceptions import ValidationError
from rest_framework.renderers import JSONRenderer

from licenses.api.borrowing import (
    BorrowBody,
    GrantedSerializer,
    ItemRequest,
    LeaseRequest,
    ReturnAnswer,
    WaitingSerializer,
)
from licenses.api.common.calls import encoded
from licenses.api.common.fields import StrictSerializer, _plain
from licenses.api.leases import ForceReturnRequest, LeaseItem, LeaseSerializer
from licenses.api.tools import StatusQuery, ToolStatus
from licenses.models import Tool
from tests.support.api import Api

NOTHING = "67c49b0a-27a3-4d8f-81be-5ce835b88447"
CALLS = [
    ("GET", "/licenses/status", None),
    ("GET", "/licenses/cad/status", None),
    ("GET", "/licenses/cad/status?user=ana", None),
    ("POST", "/licenses/borrow", {"tool": "cad", "user": "ana"}),
    ("POST", "/licenses/explain", {"tool": "cad", "user": "ana"}),
    ("POST", "/licenses/renew", {"id": NOTHING}),
    ("POST", "/licenses/return", {"id": NOTHING}),
    ("GET", f"/licenses/queue/{NOTHING}", None),
    ("DELETE", f"/licenses/queue/{NOTHING}", None),
    ("GET", "/borrows", None),
    ("GET", "/api/v1/", None),
    ("GET", "/api/v1/tools/", None),
    ("GET", "/api/v1/leases/", None),
    ("GET", "/api/v1/denials/", None),
    ("GET", "/api/v1/audit/", None),
    ("GET", "/api/v1/reports/usage", None),
    ("GET", "/api/schema/", None),
    ("GET", "/api/nope", None),
    ("PUT", "/licenses/borrow", {}),
]


def ask(client: Client, method: str, path: str, body: Any = None, **headers: str) -> Any:
    data = b"" if body is None else json.dumps(body).encode()
    return client.generic(method, path, data, content_type="application/json", headers=headers)


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_a_call_without_a_cookie_has_no_session(
    make_tool: Callable[..., Tool], method: str, path: str, body: object
) -> None:
    make_tool("cad")
    with CaptureQueriesContext(connection) as queries:
        answer = ask(Client(), method, path, body)
    assert not hasattr(answer.wsgi_request, "session")
    assert not hasattr(answer.wsgi_request, "_messages")
    assert not answer.cookies
    assert not [query["sql"] for query in queries if "django_session" in query["sql"] or "auth_user" in query["sql"]]
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["X-Request-ID"]
    assert int(answer["Content-Length"]) == len(answer.content)


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_a_call_with_a_session_needs_the_csrf_token(
    make_tool: Callable[..., Tool], method: str, path: str, body: object
) -> None:
    make_tool("cad")
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(User.objects.create_user("ana"))
    answer = ask(browser, method, path, body)
    assert answer.wsgi_request.session.session_key
    if method == "GET" or path == "/api/nope":
        assert answer.status_code in {200, 202, 403, 404}
        return
    assert answer.status_code == 403
    assert "CSRF" in answer.json()["detail"]
    browser.get("/")
    token = browser.cookies["csrftoken"].value
    assert ask(browser, method, path, body, **{"X-CSRFToken": token}).status_code in {200, 404, 405}


@pytest.mark.parametrize("path", ["/", "/signin/", "/admin/login/", "/api/docs/", "/borrows", "/api/v1/tools/"])
def test_a_page_has_a_session_and_the_headers_for_browsers(db: None, path: str) -> None:
    answer = Client(headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}).get(path)
    assert hasattr(answer.wsgi_request, "session")
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == "same-origin"
    assert "camera=()" in answer["Permissions-Policy"]


def test_the_page_of_a_call_is_sent_to_clients_that_accept_any_text(make_tool: Callable[..., Tool]) -> None:
    make_tool("cad")
    answer = Client(headers={"Accept": "text/*"}).get("/api/v1/tools/")
    assert answer.status_code == 200
    assert answer["Content-Type"] == "text/html; charset=utf-8"


def test_an_answer_has_the_policies_for_transport_and_content(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad")
    with override_settings(
        SECURE_HSTS_SECONDS=60, SECURE_HSTS_INCLUDE_SUBDOMAINS=True, SECURE_HSTS_PRELOAD=False, SECURE_SSL_REDIRECT=True
    ):
        client = Client()
        answer = client.get("/licenses/status", secure=True)
        plain = client.get("/licenses/status")
    assert answer["Strict-Transport-Security"] == "max-age=60; includeSubDomains"
    assert answer["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer["Cache-Control"] == "no-store"
    assert plain.status_code == 403
    assert plain.json()["code"] == "https_required"


@pytest.mark.parametrize("headers", [{}, {"Cookie": "x=y"}, {"Accept": "text/html"}])
def test_an_address_without_its_slash_leads_to_the_one_with_it(db: None, headers: dict[str, str]) -> None:
    client = Client(headers=headers)
    answer = client.get("/api/v1/tools?page_size=1")
    assert answer.status_code == 301
    assert answer["Location"] == "/api/v1/tools/?page_size=1"
    assert client.get("/api/v1/nope").status_code == 404
    assert client.get("/licenses/status/").status_code == 404


@pytest.mark.parametrize("headers", [{}, {"Cookie": "x=y"}])
def test_a_call_by_another_name_than_the_servers_is_refused(db: None, headers: dict[str, str]) -> None:
    answer = Client(headers=headers).get("/licenses/status", HTTP_HOST="evil.example")
    assert answer.status_code == 400
    assert answer.json()["code"] == "unknown_host"


@pytest.mark.parametrize("headers", [{}, {"Cookie": "x=y"}])
def test_a_body_over_the_limit_is_refused(db: None, headers: dict[str, str]) -> None:
    answer = ask(Client(headers=headers), "POST", "/licenses/borrow", {"tool": "x" * 70_000})
    assert answer.status_code == 413
    assert answer.json()["code"] == "too_large"


# --- JSON in, JSON out -------------------------------------------------------

TEXTS = st.one_of(
    st.from_regex(r"\A[!-~ ]{0,70}\Z"),
    st.text(max_size=300),
    st.sampled_from(["", " ", "a b", " a", "a ", "a\n", "\u00e5", "A\u030a", "x" * 64, "x" * 65, "x" * 255, "x" * 256]),
)
NUMBERS = st.one_of(st.integers(-5, 5), st.integers(), st.floats(), st.booleans())
IDS = st.one_of(st.uuids().map(str), st.uuids().map(lambda value: str(value).upper()), st.uuids().map(lambda v: v.hex))
VALUES = st.one_of(TEXTS, NUMBERS, IDS, st.none(), st.lists(TEXTS, max_size=2))
PLAINLY = {"tool": TEXTS, "user": TEXTS, "seats": NUMBERS, "ttl_seconds": NUMBERS, "id": IDS, "reason": TEXTS}


def bodies(serializer: type[StrictSerializer]) -> st.SearchStrategy[Any]:
    """Bodies with the fields of a serializer, and one that it doesn't know."""
    names = [*serializer().fields, "nonsense"]
    fields = {name: st.one_of(PLAINLY.get(name, VALUES), VALUES) for name in names}
    return st.one_of(VALUES, st.fixed_dictionaries({}, optional=fields))


def outcome(validate: Callable[[], Any]) -> Any:
    try:
        return validate()
    except ValidationError as error:
        return error.detail


@pytest.mark.parametrize("serializer", [BorrowBody, LeaseRequest, ForceReturnRequest, ItemRequest, StatusQuery])
@given(data=st.data())
@settings(max_examples=300)
def test_the_fast_way_to_read_a_body_gives_the_result_of_the_serializer(
    serializer: type[StrictSerializer], data: st.DataObject
) -> None:
    body = data.draw(bodies(serializer))
    assert outcome(lambda: serializer.validated(body)) == outcome(lambda: serializer().run_validation(body))


@pytest.mark.parametrize(
    ("serializer", "body"),
    [
        (BorrowBody, {"tool": "cad_tool", "user": "ana"}),
        (BorrowBody, {"tool": "cad_tool", "user": "Ana Lopez", "seats": 2, "ttl_seconds": 60, "host": "node1"}),
        (LeaseRequest, {"id": NOTHING}),
    ],
)
def test_the_usual_body_goes_the_short_way(serializer: type[StrictSerializer], body: dict[str, Any]) -> None:
    assert _plain(serializer)(body) == serializer().run_validation(body)


@given(st.recursive(VALUES | st.datetimes(timezones=st.just(UTC)), lambda inner: st.dictionaries(TEXTS, inner)))
def test_an_answer_is_written_as_drf_writes_it(data: Any) -> None:
    def written(write: Callable[[Any], bytes]) -> Any:
        try:
            return write(data)
        except ValueError as error:  # Infinity
            return type(error)

    assert written(encoded) == (written(JSONRenderer().render) if data is not None else b"null")


def test_every_answer_has_the_fields_that_are_declared(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad")
    lease = api.borrow("cad").json()
    waits = api.borrow("cad", wait_seconds=60)
    assert waits.status_code == 202
    assert list(lease) == list(GrantedSerializer().fields)
    assert list(lease["items"][0]) == list(LeaseItem().fields)
    assert list(waits.json()) == list(WaitingSerializer().fields)
    assert list(api.post("/licenses/renew", {"id": lease["id"]}).json()) == list(LeaseSerializer().fields)
    assert list(api.status()) == list(ToolStatus().fields)
    assert list(api.client.get("/licenses/status").json()[0]) == list(ToolStatus().fields)
    assert list(api.give_back(lease["id"]).json()) == list(ReturnAnswer().fields)


def test_another_form_is_sent_on_request(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad")

    def get(accept: str) -> Any:
        return api.client.get("/licenses/cad/status", headers={"Accept": accept})

    plain = get("application/json")
    assert plain["Content-Type"] == "application/json"
    assert b"\n" not in plain.content
    for accept in ("*/*", "application/*", "text/html, */*;q=0.5", "application/json;q=0.9, text/plain"):
        answer = get(accept)
        assert (answer["Content-Type"], answer.json()) == ("application/json", plain.json())
    indented = get("application/json; indent=4")
    assert b"\n    " in indented.content
    assert indented.json() == plain.json()
    assert get("application/xml").status_code == 406


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "application/json;version=1"])
def test_a_body_of_json_is_read_whatever_its_parameters(api: Api, make_tool: Callable[..., Tool], kind: str) -> None:
    make_tool("cad")

    def post(body: bytes) -> Any:
        return api.client.generic("POST", "/licenses/borrow", body, content_type=kind)

    for body, wrong in (
        (b"", "tool"),
        (b"{}", "tool"),
        (b"[]", "object"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"\xff", "utf-8"),
        (b'{"tool": "cad", "tool": "cad"}', "twice"),
        (b'{"seats": NaN}', "NaN"),
        (b"[" * 50_000, "not JSON"),
    ):
        answer = post(body)
        assert answer.status_code == 400
        assert wrong in answer.json()["detail"]
    assert post(b'{"tool": "cad", "user": "ana"}').status_code == 200


def test_a_body_of_another_type_is_refused(api: Api, make_tool: Callable[..., Tool]) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""):
        answer = api.client.generic("POST", "/licenses/borrow", b'{"tool": "cad"}', content_type=kind)
        assert answer.status_code == 415 if kind else answer.status_code in {400, 415}
