"""The board in a real browser, on a server as deployed. Needs Chromium."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.support.servers import Server, collect_static_files, running_server

pytestmark = pytest.mark.any_database

PEOPLE = ("ana", "ben", "cleo", "root")
PASSWORD = "a long pass phrase"
LONG_NAME = "an.exceptionally.long.name.of.somebody.who.works.here@example.co"
LONG_HOST = "build-agent-0017.continuous-integration.frankfurt-am-main.datacentre.example.com"
SCREENS = [(320, "light"), (320, "dark"), (768, "light"), (1280, "light"), (1280, "dark")]
PAGES = (
    "/",
    "/?show=sim&show=big&show=off&show=thermal",
    "/tools/cad/",
    "/tools/big/",
    "/yours/",
    "/teams/crash/",
    "/tools/nope/",
    "/tokens/",
)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Provide a server with sign-in and with rows of each kind on its board."""
    # The server finds scripts and styles at its start.
    collect_static_files()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LICENSE_AUTH", "required")
        patch.setenv("LICENSE_DB_SEED", "false")
        with running_server(tmp_path_factory.mktemp("board")) as server:
            server.manage("seed", "--tool", "cad=3", "--tool", "sim=2", "--tool", "big=16384")
            people = f"""
from datetime import timedelta
from django.contrib.auth.models import User
from django.utils import timezone
from licenses.models import AccessRule, Allotment, Team, TeamMember, Tool, UserLimit
for name in {PEOPLE}:
    is_root = name == "root"
    User.objects.create_user(name, password="{PASSWORD}", is_staff=is_root or name == "ana", is_superuser=is_root)
Tool.objects.filter(name="big").update(display_name="Big Tool", valid_until=timezone.now() + timedelta(days=9))
off = Tool.objects.create(name="off", capacity=4, enabled=False)
team = Team.objects.create(name="crash")
TeamMember.objects.create(team=team, user="ana", is_lead=True)
UserLimit.objects.create(tool=off, user="ana", seats=1)
AccessRule.objects.create(tool=off, effect="include", kind="team", team=team)
Allotment.objects.create(tool=off, team=team, quota=1)
Tool.objects.create(name="thermal", capacity=2, overdraft=2)
"""
            server.manage("shell", "-c", people)
            caller = Caller(server)
            server.manage(
                "token", "create", "a program with a name as long as a name of a token may ever be..", "--user", "ana"
            )
            caller.borrow("sim", "ana", seats=2, project="p" * 255)
            for _ in range(2):
                caller.borrow("sim", LONG_NAME, host=LONG_HOST)
            caller.borrow("sim", "ben", wait_seconds=3600)
            caller.borrow("big", LONG_NAME, host=LONG_HOST, project="p" * 255, seats=9999)
            caller.borrow("thermal", LONG_NAME, host=LONG_HOST, seats=4)
            for number in range(60):
                caller.borrow("big", f"job{number}", host="node1")
            yield server


class Caller:
    """A program that borrows for all users."""

    def __init__(self, server: Server) -> None:
        secret = server.manage("token", "create", "scheduler", "--scope", "admin").split()[-1]
        self.client = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {secret}"})

    def borrow(self, tool: str, user: str, **more: Any) -> Any:
        return self.client.post("/licenses/borrow", json={"tool": tool, "user": user, **more}).json()

    def give_back(self, lease: str) -> None:
        self.client.post("/licenses/return", json={"id": lease}).raise_for_status()

    def held_by(self, user: str) -> list[Any]:
        held: list[Any] = self.client.get("/borrows", params={"user": user}).json()
        return held


@pytest.fixture(scope="module")
def caller(board: Server) -> Caller:
    return Caller(board)


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """Collect the browser's errors. The list must be empty at the end."""
    complaints: list[str] = []
    yield complaints
    assert complaints == []


@pytest.fixture(scope="module")
def sessions(board: Server, browser: Browser) -> dict[str, Any]:
    """Provide the session cookies of each user."""
    sessions = {}
    for name in PEOPLE:
        page = browser.new_page(base_url=board.url)
        page.goto("/")
        fill_in(page, name)
        page.wait_for_url("**/")
        sessions[name] = page.context.storage_state()
        page.close()
    return sessions


def fill_in(page: Page, name: str) -> None:
    """Sign in, at the page for that."""
    page.fill("input[name=username]", name)
    page.fill("input[name=password]", PASSWORD)
    page.click("input[type=submit]")


@pytest.fixture
def sign_in(
    board: Server, browser: Browser, sessions: dict[str, Any], complaints: list[str]
) -> Iterator[Callable[..., Page]]:
    """Opens a page of the board, as somebody who is signed in: ``sign_in("ben")``."""
    contexts = []

    def note(message: ConsoleMessage) -> None:
        # Some tests expect a missing page.
        if message.type in {"error", "warning"} and "404 (Not Found)" not in message.text:
            complaints.append(message.text)

    def open_as(name: str, path: str = "/", **options: Any) -> Page:
        context = browser.new_context(base_url=board.url, storage_state=sessions[name], **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.clock.install()
        page.goto(path)
        return page

    yield open_as
    for context in contexts:
        context.close()


def later(page: Page, seconds: int = 16) -> None:
    """Let time go by in the browser."""
    page.clock.fast_forward(seconds * 1000)


def test_a_borrow_made_elsewhere_appears_by_itself(sign_in: Callable[..., Page], caller: Caller) -> None:
    page = sign_in("ben", "/?show=cad")
    row, cad = page.locator("#row-cad"), page.locator("#details-cad")
    expect(cad).to_contain_text("No leases.")
    lease = caller.borrow("cad", "dora", host="ws7")["id"]
    later(page)
    expect(cad.get_by_role("row").filter(has_text="dora")).to_contain_text("ws7")
    expect(row).to_contain_text("1 of 3")
    caller.give_back(lease)
    later(page)
    expect(cad).to_contain_text("No leases.")


def test_a_refresh_leaves_the_reader_where_they_are(sign_in: Callable[..., Page], caller: Caller) -> None:
    page = sign_in("ben", "/?show=big", viewport={"width": 800, "height": 400})
    as_of = page.locator("#live").get_attribute("data-as-of")
    page.locator("#more-big").focus()
    page.mouse.wheel(0, 100)
    page.wait_for_function("scrollY > 0")
    before = page.evaluate("[scrollY, document.activeElement.id]")
    assert before[1] == "more-big"
    later(page)
    expect(page.locator("#live")).not_to_have_attribute("data-as-of", as_of or "")
    assert page.evaluate("[scrollY, document.activeElement.id]") == before
    # If the focused element is gone, the focus moves to the top of the page.
    lease = caller.borrow("cad", "ben")["id"]
    later(page)
    page.locator(f"#return-{lease}").focus()
    caller.give_back(lease)
    later(page)
    expect(page.locator(f"#return-{lease}")).to_have_count(0)
    expect(page.locator("h1")).to_be_focused()


def test_a_failed_refresh_is_shown_until_one_succeeds(sign_in: Callable[..., Page], complaints: list[str]) -> None:
    page = sign_in("ben")
    status = page.locator("#failure")
    expect(status).to_have_role("status")
    expect(status).to_be_empty()
    shown = page.locator("#as-of").inner_text()
    page.route("**/", lambda route: route.abort())
    later(page)
    expect(status).to_contain_text("The board can't be refreshed")
    assert page.locator("#as-of").inner_text() == shown
    page.unroute("**/")
    page.route("**/", lambda route: route.fulfill(status=503, body="busy"))
    later(page)
    page.wait_for_event("console", lambda message: "503" in message.text)
    expect(status).to_contain_text("The board can't be refreshed")
    page.unroute("**/")
    later(page)
    expect(status).to_be_empty()
    assert len(complaints) == 2
    complaints.clear()


def refreshes(page: Page) -> list[str]:
    """Return the list of addresses that a page refreshes. It grows."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "x-refresh" in request.headers else None)
    return asked


def test_a_board_that_nobody_looks_at_asks_nothing(sign_in: Callable[..., Page]) -> None:
    page = sign_in("ben")
    asked = refreshes(page)
    page.evaluate("away = true; Object.defineProperty(document, 'hidden', {get: () => away})")
    later(page, 600)
    page.evaluate("0")
    assert asked == []
    # When it is visible again, it refreshes at once.
    with page.expect_request("**/"):
        page.evaluate("away = false; document.dispatchEvent(new Event('visibilitychange'))")
    assert len(asked) == 1


def test_refreshing_can_be_paused(sign_in: Callable[..., Page]) -> None:
    page = sign_in("ben")
    asked = refreshes(page)
    page.get_by_role("button", name="Pause").click()
    later(page, 60)
    expect(page.locator("#period")).to_have_text(", paused")
    assert asked == []
    with page.expect_request("**/"):
        page.get_by_role("button", name="Resume").click()


def test_nothing_moves_away_under_a_pointer_or_a_marked_text(sign_in: Callable[..., Page], caller: Caller) -> None:
    lease = caller.borrow("cad", "ben")["id"]
    page = sign_in("ben")
    asked = refreshes(page)
    page.locator(f"#return-{lease}").hover()
    later(page)
    page.evaluate("0")
    assert asked == []
    page.mouse.move(0, 0)
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#live .rows'))")
    later(page)
    page.evaluate("0")
    assert asked == []
    page.evaluate("getSelection().removeAllRanges()")
    with page.expect_request("**/"):
        later(page, 2)
    caller.give_back(lease)


def test_a_button_returns_an_own_seat(sign_in: Callable[..., Page], caller: Caller) -> None:
    caller.borrow("cad", "ben", host="ws1")
    caller.borrow("cad", "cleo")
    page = sign_in("ben", "/tools/cad/")
    page.get_by_role("button", name="Return 1 of cad on ws1").click()
    expect(page.get_by_role("status").first).to_have_text("Returned: 1 seat of cad.")
    assert page.url.endswith("/tools/cad/")
    expect(page.get_by_role("button", name="Return")).to_have_count(0)
    assert caller.held_by("ben") == []
    (kept,) = caller.held_by("cleo")
    caller.give_back(kept["id"])


def test_a_return_of_a_running_program_asks_once(sign_in: Callable[..., Page], caller: Caller) -> None:
    lease = caller.borrow("cad", "ben", host="node7")["id"]
    caller.client.post("/licenses/renew", json={"id": lease}).raise_for_status()
    page = sign_in("ben", "/tools/cad/")
    page.locator(f"#return-{lease}").click()
    expect(page.locator("h1")).to_have_text("Return a seat that is in use?")
    page.get_by_role("link", name="Keep the lease").click()
    expect(page.locator("h1")).to_have_text("cad")
    assert [held["id"] for held in caller.held_by("ben")] == [lease]
    page.locator(f"#return-{lease}").click()
    page.get_by_role("button", name="Return it anyway").click()
    expect(page.get_by_role("status").first).to_have_text("Returned: 1 seat of cad.")
    assert caller.held_by("ben") == []


def test_a_seat_is_got_with_the_keyboard(sign_in: Callable[..., Page], caller: Caller) -> None:
    page = sign_in("ben")
    page.locator("#get-cad").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/tools/cad/#get")
    page.get_by_label("For", exact=True).select_option("2 hours")
    page.get_by_label("Host").fill("ws9")
    page.get_by_role("button", name="Get a seat").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("You have 1 seat of cad until")
    (lease,) = caller.held_by("ben")
    assert lease["host"] == "ws9"
    caller.give_back(lease["id"])


def test_a_person_who_waits_is_told_of_the_seat(board: Server, sign_in: Callable[..., Page], caller: Caller) -> None:
    leases = [caller.borrow("cad", "dora")["id"] for _ in range(3)]
    page = sign_in("ben", "/tools/cad/")
    page.get_by_role("button", name="Get a seat").click()
    expect(page.get_by_role("status").first).to_contain_text("You wait at position 1.")
    expect(page).to_have_title(re.compile("^cad"))
    for lease in leases:
        caller.give_back(lease)
    board.manage("expire_leases")
    later(page)
    expect(page.locator("[data-offer]")).to_contain_text("1 seat of cad is kept for you until")
    expect(page).to_have_title(re.compile("^Your seat is there"))
    expect(page.locator("#news")).to_contain_text("1 seat of cad is kept for you")
    page.get_by_role("button", name="Take the seat of cad").click()
    expect(page.get_by_role("status").first).to_contain_text("You have 1 seat of cad until")
    expect(page).to_have_title(re.compile("^cad"))
    (held,) = caller.held_by("ben")
    caller.give_back(held["id"])


def test_details_are_shown_and_hidden_without_leaving_the_page(sign_in: Callable[..., Page]) -> None:
    page = sign_in("ben")
    page.evaluate("stayed = true")
    toggle = page.get_by_role("link", name="Details of Big Tool")
    expect(toggle).to_have_attribute("aria-expanded", "false")
    toggle.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#details-big")).to_contain_text("All 61 leases of Big Tool")
    expect(toggle).to_be_focused()
    expect(toggle).to_have_attribute("aria-expanded", "true")
    assert page.url.endswith("/?show=big")
    with page.expect_response("**/?show=big"):
        later(page)
    expect(page.locator("#details-big")).to_be_visible()
    toggle.click()
    expect(page.locator("#details-big")).to_have_count(0)
    assert page.evaluate("stayed")


def test_a_board_without_changes_is_not_sent_again(sign_in: Callable[..., Page]) -> None:
    page = sign_in("ben")
    statuses: list[int] = []
    # Each minute it is sent once more, because it says how long ago something was.
    while 304 not in statuses[1:]:
        with page.expect_response("**/") as answer:
            later(page)
        statuses.append(answer.value.status)
    assert statuses[0] == 200
    expect(page.locator("#failure")).to_be_empty()


def test_a_star_puts_a_tool_first(sign_in: Callable[..., Page]) -> None:
    page = sign_in("cleo")
    names = page.locator("#live .board th.tool a")
    expect(names.first).not_to_have_text("thermal")
    page.get_by_role("button", name="Star thermal").click()
    expect(names.first).to_have_text("thermal")
    expect(page.get_by_role("button", name="Star thermal")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Star thermal").click()
    expect(names.first).not_to_have_text("thermal")


def test_a_reader_whose_session_ended_is_sent_to_sign_in(sign_in: Callable[..., Page]) -> None:
    page = sign_in("ben", "/tools/cad/")
    page.context.clear_cookies()
    later(page)
    page.wait_for_url("**/signin/?next=/tools/cad/")


def test_times_are_those_of_the_readers_clock(sign_in: Callable[..., Page]) -> None:
    page = sign_in("ben", timezone_id="Australia/Adelaide")
    expect(page.locator("footer")).to_contain_text("Australia/Adelaide")
    times = page.locator("#live time").evaluate_all("all => all.map(time => [time.dateTime, time.textContent])")
    assert times
    for written, shown in times:
        minute = (int(written[14:16]) + 30) % 60
        assert shown.endswith(f":{minute:02}"), (written, shown)


def test_without_scripts_the_board_is_read_and_seats_returned_all_the_same(
    board: Server, browser: Browser, caller: Caller
) -> None:
    caller.borrow("cad", "cleo")
    context = browser.new_context(base_url=board.url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    fill_in(page, "cleo")
    assert page.locator("noscript meta[http-equiv=refresh]").count() == 1
    assert not page.get_by_role("button", name="Pause").is_visible()
    assert "Times are in UTC." in page.locator("footer").inner_text()
    page.get_by_role("button", name="Return").click()
    assert "Returned: 1 seat of cad." in page.locator("main").inner_text()
    assert caller.held_by("cleo") == []
    context.close()


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_no_page_is_wider_than_the_screen(sign_in: Callable[..., Page], width: int, scheme: str) -> None:
    page = sign_in("ana", viewport={"width": width, "height": 700}, color_scheme=scheme)
    grounds = {"light": "rgb(245, 246, 247)", "dark": "rgb(20, 23, 26)"}
    for path in PAGES:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == grounds[scheme]
        # Nothing is cut off at its edge, except texts only for screen readers.
        wider = "all => all.filter(one => one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML)"
        assert page.locator("main *:not(thead *)").evaluate_all(wider) == [], path


def test_tables_stay_tables_for_screen_readers_on_a_phone(sign_in: Callable[..., Page]) -> None:
    page = sign_in("ana", "/tools/big/", viewport={"width": 320, "height": 700})
    table = page.get_by_role("table", name=re.compile("Leases of Big Tool"))
    expect(table.get_by_role("columnheader")).to_have_text(["User", "Host", "Seats", "Since", "Until"])
    expect(table.get_by_role("rowheader")).to_have_count(50)


# --- The admin --------------------------------------------------------------


def test_a_file_is_imported_after_a_look_at_its_changes(sign_in: Callable[..., Page]) -> None:
    page = sign_in("root", "/admin/flexlm/")
    license = b"INCREMENT mesher acme 1.0 permanent 4\nINCREMENT post acme 1.0 permanent 2\nNONSENSE here\n"
    page.set_input_files("input[name=license]", {"name": "acme.lic", "mimeType": "text/plain", "buffer": license})
    page.get_by_role("button", name="Show the changes").click()
    expect(page.get_by_role("row", name="mesher")).to_contain_text("new, capacity 4")
    expect(page.get_by_role("listitem").filter(has_text="acme.lic:3")).to_be_visible()
    page.get_by_role("button", name="Skip 1 line and make 2 changes").click()
    expect(page.get_by_text("2 changes made.")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("mesher"))).to_be_visible()


def test_a_force_return_is_confirmed_on_its_own_page(sign_in: Callable[..., Page], caller: Caller) -> None:
    lease = caller.borrow("cad", "dora", host="ws9")["id"]
    page = sign_in("root", "/admin/licenses/lease/?user=dora")
    page.locator(f"input[name=_selected_action][value='{lease}']").check()
    page.select_option("select[name=action]", "force_return")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_role("row", name="dora")).to_contain_text("1 of cad")
    assert len(caller.held_by("dora")) == 1
    page.get_by_label("Reason").fill("machine is dead")
    page.get_by_role("button", name="Take 1 seat back").click()
    expect(page.get_by_text("1 seat(s) force-returned.")).to_be_visible()
    assert caller.held_by("dora") == []


def test_money_is_printed_without_its_controls(sign_in: Callable[..., Page]) -> None:
    page = sign_in("root", "/admin/reports/money/", color_scheme="dark")
    expect(page.get_by_role("button", name="Show")).to_be_visible()
    page.emulate_media(media="print")
    for hidden in (".report-form", "#header", ".report-links >> nth=0"):
        expect(page.locator(hidden)).to_be_hidden()
    expect(page.locator("#total-cost")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.figures dd')).color") == "rgb(0, 0, 0)"


def test_the_costs_of_a_team_are_printed_in_columns_and_in_light_colors(sign_in: Callable[..., Page]) -> None:
    paper = {"width": 720, "height": 1000}
    page = sign_in("ana", "/teams/crash/", color_scheme="dark", viewport=paper)
    today = page.get_by_label("To", exact=True).input_value()
    on_screen = page.evaluate("getComputedStyle(document.body).color")
    page.emulate_media(media="print")
    for hidden in (".top", ".search", ".back"):
        expect(page.locator(hidden)).to_be_hidden()
    expect(page.get_by_text(f"to {today}, UTC")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).color") != on_screen
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "normal"
    assert page.evaluate("getComputedStyle(document.querySelector('.sheet')).containerType") == "normal"


def test_the_board_is_printed_without_its_buttons(sign_in: Callable[..., Page]) -> None:
    page = sign_in("ana", viewport={"width": 720, "height": 1000})
    expect(page.get_by_role("button", name="Return").first).to_be_visible()
    page.emulate_media(media="print")
    expect(page.get_by_role("button")).to_have_count(0)
    heads = page.locator(".board thead th:visible").evaluate_all("heads => heads.map(head => head.offsetLeft)")
    cells = page.locator(".board tbody tr").first.locator("th:visible, td:visible")
    assert cells.evaluate_all("cells => cells.map(cell => cell.offsetLeft)") == heads
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
