"""``license login`` with a real client, a real browser and a server as deployed. Needs Chromium."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.person import PASSWORD
from tests.support.servers import Server, collect_static_files, running_server
from tests.support.shell import Shell

pytestmark = pytest.mark.any_database


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Provide a server that requires a credential, with ana's account."""
    collect_static_files()
    with running_server(tmp_path_factory.mktemp("server"), LICENSE_AUTH="required", WEB_CONCURRENCY="2") as running:
        account = f"User.objects.create_user('ana', password={PASSWORD!r})"
        running.manage("shell", "-c", f"from django.contrib.auth.models import User; {account}")
        yield running


@pytest.fixture(scope="module")
def session(server: Server, browser: Browser) -> Any:
    """Provide ana's cookies."""
    page = browser.new_page(base_url=server.url)
    page.goto("/tokens/")
    sign_in(page)
    page.wait_for_url("**/tokens/")
    state = page.context.storage_state()
    page.close()
    return state


def sign_in(page: Page) -> None:
    page.fill("input[name=username]", "ana")
    page.fill("input[name=password]", PASSWORD)
    page.click("input[type=submit]")


def begin(server: Server, device: str = "ws-17") -> str:
    """Begin a sign-in of a program. Return its user code."""
    form = {"client_id": "license", "device_name": device}
    return str(httpx.post(f"{server.url}/api/v1/login/device", data=form).raise_for_status().json()["user_code"])


def test_a_person_approves_license_login_with_the_keyboard(server: Server, browser: Browser, tmp_path: Path) -> None:
    shell = Shell(server, tmp_path)
    process, address, code = shell.log_in()
    context = browser.new_context()
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(address)
    # The page comes after the sign-in.
    sign_in(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in a program")
    expect(page.locator(".code")).to_have_text(code)
    expect(page.get_by_text("Approve only if you ran license login yourself")).to_be_visible()
    page.get_by_role("link", name="Tokens").last.focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Deny")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Approve")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("The program is signed in")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.startswith(f"Signed in as ana at {server.url} until ")
    assert shell("run", "--tool", "cad_tool", "--", "true").returncode == 0
    # The person revokes it on their page.
    page.get_by_role("link", name="Tokens").first.click()
    row = page.get_by_role("row").filter(has_text="license login on")
    expect(row).to_contain_text("read, borrow")
    row.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("status").first).to_contain_text("Revoked: license login on")
    assert shell("status").returncode == 77
    assert complaints == []
    context.close()


def test_a_person_types_the_code(server: Server, browser: Browser, session: Any) -> None:
    code = begin(server)
    context = browser.new_context(base_url=server.url, storage_state=session)
    page = context.new_page()
    page.goto("/device/")
    page.get_by_role("textbox", name="Code").fill(code.lower().replace("-", " "))
    page.keyboard.press("Enter")
    expect(page.locator(".code")).to_have_text(code)
    page.get_by_role("button", name="Deny").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("You denied the program")
    # The code is used.
    page.goto(f"/device/?code={code}")
    expect(page.get_by_role("alert")).to_contain_text("No sign-in waits with this code.")
    context.close()


def test_a_new_token_is_copied_and_a_form_is_sent_once(server: Server, browser: Browser, session: Any) -> None:
    context = browser.new_context(
        base_url=server.url, storage_state=session, permissions=["clipboard-read", "clipboard-write"]
    )
    page = context.new_page()
    page.goto("/tokens/")
    page.get_by_label("Name").fill("nightly build")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.get_by_role("button", name="Create the token").dblclick()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your new token")
    assert len(sent) == 1
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("status")).to_have_text("Copied.")
    secret = page.evaluate("navigator.clipboard.readText()")
    answer = httpx.get(f"{server.url}/licenses/status", headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 200
    context.close()
