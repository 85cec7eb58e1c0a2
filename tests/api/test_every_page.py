"""Each page of the server is in the list of those that are photographed and checked in a browser."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, resolve, reverse

from licenses.api.common.problems import is_api_path
from tests.support.pages import PAGES

ID = "00000000-0000-4000-8000-000000000000"
# Addresses that show no page of their own: the targets of forms, redirects, files and answers to scripts.
NO_PAGES = {
    "board_star": "/tools/cad/star/",
    "board_take": f"/tickets/{ID}/take/",
    "board_leave": f"/tickets/{ID}/leave/",
    "board_notifications_save": "/notifications/save/",
    "tokens_revoke": "/tokens/1/revoke/",
    "signout": "/signout/",
    "oidc_authentication_init": "/oidc/authenticate/",
    "oidc_authentication_callback": "/oidc/callback/",
    "favicon": "/favicon.ico",
    "admin:logout": "/admin/logout/",
    "admin:autocomplete": "/admin/autocomplete/",
    "admin:jsi18n": "/admin/jsi18n/",
    "admin:view_on_site": "/admin/r/1/1/",
}
# Django makes these pages alike for all rows: that of a team is in the list.
ALIKE = ("_delete",)
# These lead to the audit.
HISTORIES = "_history"


def addresses(patterns: list[URLPattern | URLResolver], namespace: str = "", route: str = "/") -> Iterator[str]:
    """Yield the names of the addresses below these patterns that are not of the API."""
    for pattern in patterns:
        here = f"{route}{pattern.pattern}"
        if isinstance(pattern, URLResolver):
            inside = f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace
            yield from addresses(pattern.url_patterns, inside, here)
        elif not is_api_path(here) and pattern.name:
            yield f"{namespace}{pattern.name}"


def test_every_page_is_in_the_list() -> None:
    known = set(addresses(get_resolver().url_patterns))
    assert {"board", "board_team", "signin", "admin:licenses_money", "admin:licenses_tool_changelist"} <= known
    listed = {shown.view for shown in PAGES}
    left_out = {name for name in known - listed - set(NO_PAGES) if not name.endswith((*ALIKE, HISTORIES))}
    # Rows that nobody adds: see the next test.
    assert {name for name in left_out if not name.endswith("_add")} == set(), "add them to tests/support/pages.py"
    assert listed - known <= {""}
    for kind in ALIKE:
        assert any(name.endswith(kind) for name in listed), kind


@pytest.mark.django_db
def test_what_is_not_in_the_list_shows_no_page(admin_client: Client) -> None:
    listed = {shown.view for shown in PAGES}
    paths = dict(NO_PAGES)
    paths |= {name: reverse(name) for name in addresses(get_resolver().url_patterns) if name.endswith("_add")}
    for name, path in paths.items():
        if name in listed and name not in NO_PAGES:
            continue
        answer = admin_client.get(path)
        is_page = answer.status_code == 200 and answer["Content-Type"].startswith("text/html")
        assert not is_page, path


def test_an_address_in_the_list_is_of_its_view() -> None:
    for shown in PAGES:
        if shown.act is None and shown.view:
            assert resolve(urlsplit(shown.path).path).view_name == shown.view, shown.path


def test_the_pages_have_names_apart() -> None:
    names = [shown.name for shown in PAGES]
    assert sorted(set(names)) == sorted(names)
