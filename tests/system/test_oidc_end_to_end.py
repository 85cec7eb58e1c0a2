"""Sign-in with a certified OpenID provider and a real browser, all on this machine.

Needs node with npm, and Chromium: without them it is skipped and says why.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import install_from_npm, running_browser
from tests.support.issuer import AUDIENCE
from tests.support.paths import ROOT
from tests.support.servers import Server, collect_static_files
from tests.support.shell import Shell
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.any_database

PROVIDER = ROOT / "tests" / "support" / "oidc_provider"


@pytest.fixture(scope="module")
def provider_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the provider from its lock file."""
    folder = tmp_path_factory.mktemp("provider")
    install_from_npm(PROVIDER, folder)
    return folder / "provider.js"


@pytest.fixture
def provider(provider_program: Path, server_port: int) -> Iterator[str]:
    """Provide the provider's address."""
    process = subprocess.Popen(
        ["node", str(provider_program)],
        env=os.environ | {"TEST_SERVER": f"http://127.0.0.1:{server_port}", "TEST_AUDIENCE": AUDIENCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), "the provider did not start"
        yield address
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@pytest.fixture
def configured(provider: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Server:
    """Provide the license server as deployed, with sign-in at the provider."""
    for name, value in {
        "LICENSE_AUTH": "required",
        "LICENSE_LOCAL_PASSWORDS": "false",
        "LICENSE_OIDC_ISSUER": provider,
        "LICENSE_OIDC_CLIENT_ID": "licenses",
        "LICENSE_OIDC_CLIENT_SECRET": "the secret of the license server",
        "LICENSE_OIDC_SCOPES": "openid profile groups",
        "LICENSE_OIDC_ADMIN_GROUPS": "license admins",
        "LICENSE_OIDC_STAFF_GROUPS": "finance=managers",
        "LICENSE_OIDC_TEAM_PREFIX": "team-",
        "LICENSE_JWT_AUDIENCE": AUDIENCE,
        "LICENSE_JWT_USERNAME_CLAIMS": "preferred_username,client_id",
    }.items():
        monkeypatch.setenv(name, value)
    # The server finds the admin's scripts at its start.
    collect_static_files()
    server: Server = request.getfixturevalue("server")
    return server


@pytest.fixture
def console() -> list[str]:
    """Return the browser's console messages."""
    return []


@pytest.fixture
def page(configured: Server, console: list[str]) -> Iterator[Page]:
    """Provide a page of a browser that can reach only this machine."""
    with running_browser() as browser:
        page = browser.new_page()
        page.on("console", lambda message: console.append(message.text))
        yield page


def sign_in_as(page: Page, name: str) -> None:
    """At the provider's own pages: name, any password, consent."""
    page.click("#provider")
    page.fill("input[name=login]", name)
    page.fill("input[name=password]", "any")
    page.click("button[type=submit]")
    page.click("button[type=submit]")


def test_people_sign_in_work_and_sign_out(configured: Server, page: Page, console: list[str]) -> None:
    url = configured.url
    page.goto(f"{url}/admin/")
    assert page.locator("input[type=password]").count() == 0
    sign_in_as(page, "ana")
    page.wait_for_url(f"{url}/admin/")
    assert "Administration" in page.content()
    assert "ANA" in page.locator("#user-tools").inner_text().upper()

    # The groups are teams now.
    page.goto(f"{url}/admin/licenses/team/")
    page.click("text=crash")
    page.click("text=1 team member")
    assert page.locator("#result_list .field-user").inner_text() == "ana"

    # The API in the browser, with the session and its CSRF token.
    page.goto(f"{url}/api/v1/leases/")
    borrow = """async ([user, withToken]) => {
        const token = document.cookie.match(/csrftoken=([^;]+)/)[1]
        const headers = {"Content-Type": "application/json"}
        if (withToken) headers["X-CSRFToken"] = token
        const answer = await fetch("/licenses/borrow", {method: "POST", headers, body: JSON.stringify(
            {tool: "cad_tool", ...(user && {user})})})
        return [answer.status, await answer.json()]
    }"""
    status, lease = page.evaluate(borrow, ["", True])
    assert (status, lease["user"]) == (200, "ana")
    assert page.evaluate(borrow, ["", False])[0] == 403

    # Nothing on these pages violates the Content-Security-Policy.
    for path in ("/admin/licenses/tool/add/", "/admin/licenses/apitoken/add/", "/admin/licenses/lease/", "/api/docs/"):
        page.goto(f"{url}{path}", wait_until="networkidle")
    page.wait_for_selector(".swagger-ui .opblock")
    assert not [line for line in console if "Content Security Policy" in line]

    # Signed out here and at the provider, which asks for the user again.
    page.goto(f"{url}/admin/")
    page.click("#logout-form button")
    page.click("button[value=yes]")
    page.wait_for_url(f"{url}/signin/**")
    page.goto(f"{url}/api/v1/leases/")
    assert page.url.startswith(f"{url}/signin/")
    sign_in_as(page, "ben")
    page.wait_for_url(f"{url}/api/v1/leases/")
    assert "cad_tool" in page.content()

    # Ben is not an administrator and borrows only for himself.
    assert page.evaluate(borrow, ["ana", True])[0] == 403
    assert page.evaluate(borrow, ["", True])[1]["user"] == "ben"
    page.goto(f"{url}/admin/")
    assert "This account has no permission for the page." in page.content()
    assert page.locator("input[type=password]").count() == 0


def test_a_manager_of_the_provider_sees_the_money_and_no_people(configured: Server, page: Page) -> None:
    page.goto(f"{configured.url}/admin/reports/money/")
    sign_in_as(page, "mia")
    page.wait_for_url(f"{configured.url}/admin/reports/money/")
    expect(page.get_by_role("heading", name="Tools by cost")).to_be_visible()
    assert page.request.get(f"{configured.url}/admin/licenses/lease/").status == 403


def test_a_person_of_the_provider_approves_license_login(configured: Server, page: Page, tmp_path: Path) -> None:
    shell = Shell(configured, tmp_path)
    process, address, code = shell.log_in()
    page.goto(address)
    sign_in_as(page, "ben")
    page.wait_for_url(lambda url: url == address)
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in a program")
    expect(page.locator(".code")).to_have_text(code)
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The program is signed in")
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert out.startswith(f"Signed in as ben at {configured.url} until ")
    # The token acts as ben, in the teams of the provider's groups.
    done = shell("run", "--tool", "cad_tool", "--team", "noise", "--", "sh", "-c", "echo $LICENSE_LEASE_ID")
    assert (done.returncode, done.stderr) == (0, "")
    lease = page.request.get(f"{configured.url}/api/v1/leases/{done.stdout.strip()}/").json()
    assert (lease["user"], lease["team"], lease["end_reason"]) == ("ben", "noise", "returned")
    assert shell("logout").returncode == 0
    assert shell("status").returncode == 77


def test_a_machine_comes_with_the_providers_jwt(configured: Server, provider: str) -> None:
    def jwt_for(audience: str) -> str:
        answer = httpx.post(
            f"{provider}/token",
            auth=("nightly", "the secret of the nightly build".replace(" ", "+")),
            data={"grant_type": "client_credentials", "resource": audience},
        )
        token: str = answer.json()["access_token"]
        return token

    def borrow(token: str, user: str) -> httpx.Response:
        return httpx.post(
            f"{configured.url}/licenses/borrow",
            headers={"Authorization": f"Bearer {token}"},
            json={"tool": "cad_tool", "user": user},
        )

    good = jwt_for(AUDIENCE)
    assert borrow(good, "nightly").status_code == 200
    assert borrow(good, "ana").status_code == 403
    assert borrow(jwt_for("https://other.example"), "nightly").status_code == 401
