"""What a program's call passes on its way, and what it is spared that pages need."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext

from licenses.models import Tool

from .conftest import Api

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


def test_the_page_of_a_call_is_made_for_whoever_takes_any_text(make_tool: Callable[..., Tool]) -> None:
    make_tool("cad")
    answer = Client(headers={"Accept": "text/*"}).get("/api/v1/tools/")
    assert answer.status_code == 200
    assert answer["Content-Type"] == "text/html; charset=utf-8"


def test_a_call_is_told_the_policies_of_transport_and_contents(api: Api, make_tool: Callable[..., Tool]) -> None:
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
