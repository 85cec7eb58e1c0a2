"""A server below a path of its host, behind a proxy that removes the path or not."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.paths import ROOT
from tests.support.servers import Server, collect_static_files, running_server

pytestmark = pytest.mark.any_database

BELOW = "/tools/licenses"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    collect_static_files()
    folder = Path(tmp_path_factory.mktemp("below"))
    with running_server(folder, SCRIPT_NAME=BELOW, LICENSE_AUTH="open", WEB_CONCURRENCY="1") as running:
        running.manage(
            "shell",
            "-c",
            "from django.contrib.auth.models import User; User.objects.create_superuser('ada', '', 'pass')",
        )
        yield running


@pytest.mark.parametrize("page", ["/", "/admin/login/", "/signin/", "/api/docs/", "/nothing"])
def test_pages_find_their_styles_and_scripts(server: Server, page: str) -> None:
    text = httpx.get(server.url + BELOW + page, follow_redirects=True, headers={"Accept": "text/html"}).text
    found = re.findall(r'(?:href|src)="(/[^"]*)"', text)
    assert found
    for address in found:
        assert address.startswith(f"{BELOW}/"), address
        if "/static/" in address:
            assert httpx.get(server.url + address).status_code == 200, address


def test_a_person_signs_in_there_with_cookies_of_the_path(server: Server) -> None:
    with httpx.Client(base_url=server.url) as browser:
        away = browser.get(f"{BELOW}/admin/")
        assert away.headers["Location"].startswith(f"{BELOW}/admin/login/")
        page = browser.get(f"{BELOW}/signin/")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token
        form = {"username": "ada", "password": "pass", "csrfmiddlewaretoken": token[1]}
        signed_in = browser.post(f"{BELOW}/signin/", data=form, headers={"Referer": f"{server.url}{BELOW}/signin/"})
        assert (signed_in.status_code, signed_in.headers["Location"]) == (302, f"{BELOW}/")
        assert {cookie.path for cookie in browser.cookies.jar} == {BELOW}
        reports = browser.get(f"{BELOW}/admin/reports/", follow_redirects=True)
        links = re.findall(r'href="(/[^"]*)"', reports.text)
        assert f"{BELOW}/api/v1/reports/" in reports.text
        assert [link for link in links if not f"{link}/".startswith(f"{BELOW}/")] == []


def test_the_api_leads_to_addresses_of_the_path(server: Server) -> None:
    call = server.url + BELOW
    for _ in range(3):
        assert httpx.post(f"{call}/licenses/borrow", json={"tool": "simulation", "user": "ana"}).status_code == 200
    waiting = httpx.post(f"{call}/licenses/borrow", json={"tool": "simulation", "user": "ana", "wait_seconds": 60})
    assert waiting.headers["Location"] == f"{BELOW}/licenses/queue/{waiting.json()['ticket']}"
    assert httpx.get(server.url + waiting.headers["Location"]).status_code == 202
    following = httpx.get(f"{call}/api/v1/leases/?page_size=1").json()["next"]
    assert following.startswith(f"{call}/api/v1/leases/")
    assert httpx.get(following).status_code == 200


def test_the_path_may_be_taken_away_and_probes_come_without(server: Server) -> None:
    for path in ("/livez", "/readyz", f"{BELOW}/readyz", "/licenses/status"):
        assert httpx.get(server.url + path).status_code == 200
    assert f'href="{BELOW}/static/' in httpx.get(f"{server.url}/").text
    assert httpx.get(f"{server.url}{BELOW}x/licenses/status").status_code == 404


def test_the_client_takes_the_path(server: Server) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "client/src"), "LICENSE_USER": "ci", "NO_PROXY": "*"}
    command = ["-m", "license_client", "run", "--server", server.url + BELOW, "--tool", "cad_tool", "--", "true"]
    subprocess.run([sys.executable, *command], env=environment, check=True)
