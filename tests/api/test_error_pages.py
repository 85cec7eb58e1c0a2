"""Error pages look like the board and have its navigation."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import InterfaceError, OperationalError
from django.test import Client

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
    assert "Sign in" in answer.content.decode()


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
    for text in ("License board", 'href="/signin/', ICON):
        assert text in page


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
def test_every_page_has_the_icon(admin_client: Client, path: str) -> None:
    answer = admin_client.get(path, headers={"Accept": "text/html"}, follow=True)
    assert answer.status_code == 200
    page = answer.content.decode()
    icons = re.findall(r'<link rel="(?:shortcut )?icon"[^>]*href="([^"]*)"', page)
    assert icons == ["/static/licenses/board.svg"]


def test_a_browser_that_looks_for_an_icon_by_itself_finds_it(client: Client) -> None:
    answer = client.get("/favicon.ico")
    assert (answer.status_code, answer["Location"]) == (302, "/static/licenses/board.svg")
