"""Error pages look like the board and have its navigation."""

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import InterfaceError, OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

import licenses
from licenses.access.buckets import Buckets
from licenses.api import rate_limits
from licenses.errors import Busy
from licenses.leases import snapshot
from licenses.models import Tool

pytestmark = pytest.mark.django_db

ICON = '<link rel="icon" type="image/svg+xml" href="/static/licenses/board.svg">'


@pytest.fixture
def staff() -> Client:
    """Somebody who is signed in and may open the admin."""
    client = Client(raise_request_exception=False, enforce_csrf_checks=True)
    client.force_login(User.objects.create_user("ana", is_staff=True))
    return client


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a defect")


def lose_the_database(*_: Any, **__: Any) -> Any:
    raise OperationalError("the database is away")


# An address for each kind of error, its method, and the status.
ERRORS = [
    ("get", "/nonsense", 404),
    ("get", "/tools/nope/", 404),
    ("get", "/admin/nope/", 404),
    ("get", "/admin/licenses/tool/", 403),
    ("get", "/admin/reports/", 403),
    ("get", "/?page=x", 400),
    ("post", "/leases/00000000-0000-0000-0000-000000000000/return/", 403),
    ("post", "/admin/licenses/tool/add/", 403),
    ("post", "/signout/", 403),
    ("delete", "/", 403),
]


@pytest.mark.parametrize(("method", "path", "status"), ERRORS)
def test_an_error_page_shows_the_signed_in_account(staff: Client, method: str, path: str, status: int) -> None:
    answer = getattr(staff, method)(path)
    assert answer.status_code == status
    page = answer.content.decode()
    for text in (
        "<bdi>ana</bdi>",
        'href="/admin/"',
        "Sign out",
        'href="/api/docs/"',
        'href="/">Back to the board',
        ICON,
    ):
        assert text in page


@pytest.mark.parametrize(("method", "path", "status"), [ERRORS[0], ERRORS[5]])
def test_an_error_page_has_a_link_to_sign_in(method: str, path: str, status: int) -> None:
    answer = getattr(Client(), method)(path)
    assert answer.status_code == status
    page = answer.content.decode()
    assert re.search(r'href="/signin/\?next=[^"]+">Sign in', page)
    assert "Signed in as" not in page


def test_a_defect_leaves_the_navigation(
    staff: Client, make_tool: Callable[..., Tool], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tool()
    monkeypatch.setattr(snapshot, "with_levels", fail)
    answer = staff.get("/")
    assert answer.status_code == 500
    page = answer.content.decode()
    for text in ("<bdi>ana</bdi>", "Sign out", 'href="/admin/"', ICON):
        assert text in page


def test_a_page_about_a_lost_database_asks_it_for_nothing(
    staff: Client, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    # The session is read before that, but not the account.
    monkeypatch.setattr("django.contrib.auth.get_user", lose_the_database)
    answer = staff.get("/")
    assert answer.status_code == 503
    # Nobody knows whether Ana is signed in.
    assert "Sign" not in answer.content.decode()


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_a_page_of_the_admin_says_that_the_database_is_away(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def lose_it(*_: Any, **__: Any) -> Any:
        raise error("the connection is closed")

    admin = Client(raise_request_exception=False)
    admin.force_login(User.objects.create_superuser("root"))
    monkeypatch.setattr(Tool.objects, "with_current_counts", lose_it)
    answer = admin.get("/admin/licenses/tool/")
    assert (answer.status_code, answer["Retry-After"]) == (503, str(Busy.retry_after))
    assert Busy.title in answer.content.decode()


def test_a_session_that_the_database_cannot_save_is_no_bad_request(monkeypatch: pytest.MonkeyPatch) -> None:
    User.objects.create_superuser("root", password="a-long-passphrase")
    write = Session.save

    def lose_updates(session: Session, **options: Any) -> None:
        if options.get("force_update"):
            lose_the_database()
        write(session, **options)

    monkeypatch.setattr(Session, "save", lose_updates)
    form = {"username": "root", "password": "a-long-passphrase", "next": "/admin/"}
    answer = Client(raise_request_exception=False).post("/admin/login/", form)
    assert answer.status_code == 503


def test_a_defect_in_the_admin_is_no_trouble_with_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    admin = Client(raise_request_exception=False)
    admin.force_login(User.objects.create_superuser("root"))
    monkeypatch.setattr(Tool.objects, "with_current_counts", fail)
    assert admin.get("/admin/licenses/tool/").status_code == 500


def test_a_wrong_host_has_a_page_too(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["licenses.example.com"]
    answer = Client().get("/", headers={"Host": "box.lan"})
    assert answer.status_code == 400
    page = answer.content.decode()
    assert "License board" in page
    assert ICON in page
    # That has no page under this host either.
    assert "/signin/" not in page


# --- Each error that a browser can get ----------------------------------------

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FORM = "/leases/00000000-0000-4000-8000-000000000000/return/"
Patch = pytest.MonkeyPatch


def an_address_that_makes_no_sense(browser: Client, patch: Patch, settings: Any) -> Any:
    return browser.get("/?page=x")


def a_host_that_is_not_ours(browser: Client, patch: Patch, settings: Any) -> Any:
    settings.ALLOWED_HOSTS = ["licenses.example.com"]
    return browser.get("/", headers={"Host": "box.lan"})


def a_form_of_another_site(browser: Client, patch: Patch, settings: Any) -> Any:
    return browser.post(FORM)


def a_page_of_others(browser: Client, patch: Patch, settings: Any) -> Any:
    return browser.get("/admin/licenses/tool/")


def an_address_without_a_page(browser: Client, patch: Patch, settings: Any) -> Any:
    return browser.get("/nonsense")


def the_address_of_a_form(browser: Client, patch: Patch, settings: Any) -> Any:
    return browser.get(FORM)


def the_address_of_the_sign_out(browser: Client, patch: Patch, settings: Any) -> Any:
    return browser.get("/signout/")


def the_address_of_the_admin_s_sign_out(browser: Client, patch: Patch, settings: Any) -> Any:
    return browser.get("/admin/logout/")


def a_form_that_is_too_large(browser: Client, patch: Patch, settings: Any) -> Any:
    return browser.post(FORM, {"next": "n" * settings.PAGE_BODY_LIMIT})


def too_many_calls(browser: Client, patch: Patch, settings: Any) -> Any:
    patch.setattr(rate_limits, "credentials", Buckets())
    # No time passes, so each call counts as one, and no other comes.
    patch.setattr(rate_limits, "time", SimpleNamespace(monotonic=lambda: 0.0, perf_counter=lambda: 0.0))
    settings.LICENSE_RATE_PER_CREDENTIAL = settings.LICENSE_RATE_BURST = 1
    browser.get("/nonsense")
    with CaptureQueriesContext(connection) as queries:
        answer = browser.get("/")
    assert len(queries) == 0
    return answer


def a_defect(browser: Client, patch: Patch, settings: Any) -> Any:
    patch.setattr(snapshot, "with_levels", fail)
    return browser.get("/")


def a_database_that_is_away(browser: Client, patch: Patch, settings: Any) -> Any:
    patch.setattr("django.contrib.auth.get_user", lose_the_database)
    return browser.get("/")


def more_requests_than_can_be_answered(browser: Client, patch: Patch, settings: Any) -> Any:
    settings.LICENSE_LONGEST_WAIT = -1
    return browser.get("/")


FAILURES = [
    (an_address_that_makes_no_sense, 400),
    (a_host_that_is_not_ours, 400),
    (a_form_of_another_site, 403),
    (a_page_of_others, 403),
    (an_address_without_a_page, 404),
    (the_address_of_a_form, 405),
    (the_address_of_the_sign_out, 405),
    (the_address_of_the_admin_s_sign_out, 405),
    (a_form_that_is_too_large, 413),
    (too_many_calls, 429),
    (a_defect, 500),
    (a_database_that_is_away, 503),
    (more_requests_than_can_be_answered, 503),
]
# What a reader can do.
ADVICE = re.compile(r"Use |Go back|Check |Try again|can give|not in ALLOWED_HOSTS|must be", re.IGNORECASE)


@pytest.mark.parametrize(("failure", "status"), FAILURES, ids=lambda value: getattr(value, "__name__", value))
def test_every_error_is_a_page_in_the_style_of_the_board_that_says_what_to_do(
    failure: Any, status: int, make_tool: Callable[..., Tool], monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    make_tool()
    browser = Client(raise_request_exception=False, enforce_csrf_checks=True, headers=BROWSER)
    browser.force_login(User.objects.create_user("ana", is_staff=True))
    answer = failure(browser, monkeypatch, settings)
    assert (answer.status_code, answer["Content-Type"]) == (status, "text/html; charset=utf-8")
    page = answer.content.decode()
    assert '<meta name="color-scheme" content="light dark">' in page
    assert re.search(r"<h1>[A-Z].+</h1>", page)
    text = re.search(r"</h1>\s*<p>(.+)</p>", page)
    assert text
    assert ADVICE.search(text[1]), text[1]
    assert 'href="/">Back to the board' in page
    assert "next=" not in page
    # A page that comes before all else has its style in itself, and others name the files of the style.
    style = re.search(r"<style>(.*)</style>", page, re.DOTALL)
    if status in {413, 429} or failure is more_requests_than_can_be_answered:
        assert style
        assert "prefers-color-scheme: dark" in style[1]
        digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in answer["Content-Security-Policy"]
        assert "stylesheet" not in page
    else:
        assert style is None
        assert re.findall(r'<link rel="stylesheet" href="([^"]+)"', page) == [
            "/static/licenses/page.css",
            "/static/licenses/board.css",
        ]


def test_every_kind_of_error_page_is_tried() -> None:
    templates = {path.stem[:3] for path in (Path(licenses.__file__).parent / "templates").glob("[0-9]*.html")}
    assert {"403", "404", "500"} <= templates <= {str(status) for _, status in FAILURES}


def test_a_program_gets_a_document_all_the_same(settings: Any) -> None:
    settings.LICENSE_LONGEST_WAIT = -1
    answer = Client().get("/licenses/status", headers=BROWSER)
    assert (answer.status_code, answer["Content-Type"]) == (503, "application/problem+json")
    assert answer["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"


# --- The icon ---------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/yours/",
        "/tokens/",
        "/signin/",
        "/admin/",
        "/admin/login/",
        "/admin/password_change/",
        "/admin/reports/",
        "/admin/licenses/tool/",
        "/admin/licenses/tool/add/",
        "/admin/licenses/accessrule/lines/",
        "/admin/auth/user/",
        "/api/v1/",
        "/api/v1/tools/",
        "/api/docs/",
    ],
)
def test_every_page_has_the_icon_and_leads_to_the_board(admin_client: Client, path: str) -> None:
    answer = admin_client.get(path, headers={"Accept": "text/html"}, follow=True)
    assert answer.status_code == 200
    page = answer.content.decode()
    icons = re.findall(r'<link rel="(?:shortcut )?icon"[^>]*href="([^"]*)"', page)
    assert icons == ["/static/licenses/board.svg"]
    assert re.search(r'<a [^>]*href="/">', page)
    assert "django-rest-framework.org" not in page


def test_a_browser_that_looks_for_an_icon_by_itself_finds_it(client: Client) -> None:
    answer = client.get("/favicon.ico")
    assert (answer.status_code, answer["Location"]) == (302, "/static/licenses/board.svg")
