"""Each page of the server in a real browser, on a server as deployed, with a site of 40 tools, 12 teams and 300
people. Needs Chromium, and npm for the accessibility rules."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from django.urls import Resolver404, resolve
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.support.browser import install_from_npm
from tests.support.example_settings import ADMINISTRATOR, ANA, SETTINGS, VISITOR
from tests.support.pages import PAGES, Shown
from tests.support.paths import ROOT
from tests.support.person import PASSWORD
from tests.support.servers import Server, collect_static_files, running_server

pytestmark = pytest.mark.any_database

# Each width and each theme once: colors do not depend on the width. The second time only the rules that a
# theme or a width makes a difference to: they take half of the time.
SCREENS: list[tuple[int, Literal["light", "dark"]]] = [(1280, "light"), (320, "dark")]
CHANGED_BY_SCREEN = ["color-contrast", "link-in-text-block", "target-size", "scrollable-region-focusable"]
# The rule of WCAG 2.2 that axe leaves out by default.
RULES = {
    "light": "rules: {'target-size': {enabled: true}}",
    "dark": f"runOnly: {CHANGED_BY_SCREEN}",
}
# A page has thousands of elements that pass; to bring them all here takes longer than the rules.
FOUND = """axe.run({%s, resultTypes: ["violations"]}).then(({passes, violations}) => ({
  passes: passes.length,
  violations: violations.map(({id, nodes}) => [id, nodes.slice(0, 3).map(({html}) => html.slice(0, 150))]),
}))"""
GROUNDS = {"light": "rgb(245, 246, 247)", "dark": "rgb(20, 23, 26)"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Provide a server with the example site."""
    # The server finds scripts and styles at its start.
    collect_static_files()
    with running_server(tmp_path_factory.mktemp("site"), WEB_CONCURRENCY="2", **SETTINGS) as server:
        fill = f"from tests.support.example_site import fill; fill({PASSWORD!r}, days=3)"
        server.manage("shell", "-c", fill)
        yield server


@pytest.fixture(scope="module")
def readers(site: Server, browser: Browser) -> Iterator[dict[str, BrowserContext]]:
    """Provide a browser for each reader, signed in."""
    readers = {}
    for name in (VISITOR, ANA, ADMINISTRATOR):
        # Nothing moves while the rules look at colors.
        context = browser.new_context(base_url=site.url, reduced_motion="reduce")
        if name:
            page = context.new_page()
            page.goto("/signin/")
            page.fill("[name=username]", name)
            page.fill("[name=password]", PASSWORD)
            page.press("[name=password]", "Enter")
            page.wait_for_url("**/")
            page.close()
        readers[name] = context
    yield readers
    for context in readers.values():
        context.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Provide axe-core as a script."""
    folder = tmp_path_factory.mktemp("axe")
    install_from_npm(ROOT / "tests" / "support" / "axe", folder)
    return Path(folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


def violations(page: Page, scheme: str) -> list[Any]:
    """Return what the rules of WCAG 2.2 AA and good practice find."""
    # Colors of the admin change slowly from one theme to the other.
    page.evaluate("Promise.all(document.getAnimations().map(animation => animation.finished))")
    found = page.evaluate(FOUND % RULES[scheme])
    assert found["passes"]
    return list(found["violations"])


# What runs out of its box, and times that are broken across lines. What is only for screen readers has no size.
RUNS_OUT = """[...document.querySelectorAll("main#main *")].filter((element) => {
  const style = getComputedStyle(element);
  if (style.overflowX !== "visible" || element.closest("thead, .unseen, select")) return false;
  if (element.matches("time")) return element.getClientRects().length > 1;
  return style.display !== "inline" && element.clientWidth && element.scrollWidth > element.clientWidth + 1;
}).map((element) => element.outerHTML.slice(0, 150))"""


def view_of(url: str) -> str:
    try:
        return str(resolve(urlsplit(url).path).view_name or "")
    except Resolver404:
        return ""


@pytest.fixture(scope="module")
def pages(readers: dict[str, BrowserContext], axe: str) -> Iterator[dict[str, Page]]:
    """Provide a page of each reader, with the rules."""
    pages = {name: context.new_page() for name, context in readers.items()}
    for page in pages.values():
        page.add_init_script(axe)
    yield pages
    for page in pages.values():
        page.close()


@pytest.mark.parametrize("shown", PAGES, ids=lambda shown: shown.name)
def test_a_page_is_accessible_and_within_the_screen(pages: dict[str, Page], shown: Shown) -> None:
    page = pages[shown.reader]
    page.goto(shown.path)
    if shown.act is not None:
        shown.act(page)
    expect(page.locator("h1")).to_be_visible()
    # The admin's own address for what it does not know is a view without a name.
    assert not shown.view or view_of(page.url) == shown.view
    wrong = []
    for width, scheme in SCREENS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        wrong += [(width, scheme, *violation) for violation in violations(page, scheme)]
        if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
            wrong.append((width, scheme, f"is {wide} wide"))
        wrong += [(width, scheme, "runs out", html) for html in page.evaluate(RUNS_OUT)]
    # Marks of Markdown are for the terminal.
    if (main := page.locator("main#main")).count() and "`" in main.inner_text():
        wrong.append(("has a backtick", main.inner_text()))
    page.set_viewport_size({"width": 1280, "height": 800})
    for table in page.locator("#changelist .results").all():
        if hidden := table.evaluate("table => table.scrollWidth - table.clientWidth"):
            wrong.append((1280, f"hides {hidden} px of the list"))
    assert not wrong, "\n".join(map(str, wrong))


def test_forty_tools_are_seen_on_two_screens(readers: dict[str, BrowserContext]) -> None:
    page = readers[ANA].new_page()
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto("/")
    rows = page.locator(".board > tbody > tr")
    expect(rows).to_have_count(40)
    assert page.evaluate("document.querySelector('.board').getBoundingClientRect().bottom + scrollY") <= 2 * 900
    # No name needs a second line, and no row is cut off.
    assert max(rows.evaluate_all("rows => rows.map(row => row.offsetHeight)")) < 40
    page.close()


def test_the_board_is_sorted_narrowed_and_starred_with_the_keyboard(readers: dict[str, BrowserContext]) -> None:
    page = readers[ANA].new_page()
    page.goto("/")
    show = page.get_by_role("button", name="Show", exact=True)
    page.get_by_label("Sort by").focus()
    page.keyboard.type("Longest queue")
    show.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**sort=queue**")
    # Those with a star come first, and of them the one with the longest queue.
    expect(page.locator(".board th.tool a").first).to_have_text("Simulation")
    page.get_by_label("Free only").focus()
    page.keyboard.press("Space")
    show.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**free=1**")
    expect(page.locator("#row-viewer")).to_be_visible()
    expect(page.locator("#row-simulation")).to_have_count(0)
    for pressed in ("true", "false"):
        page.locator("#star-viewer").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#star-viewer")).to_have_attribute("aria-pressed", pressed)
    page.close()


def test_a_phone_shows_what_a_tool_has_and_its_buttons(readers: dict[str, BrowserContext]) -> None:
    page = readers[ANA].new_page()
    page.set_viewport_size({"width": 320, "height": 700})
    page.goto("/")
    row = page.locator("#row-simulation")
    for text in ("Simulation", "3 of 3", "about"):
        expect(row).to_contain_text(text)
    for name in ("Details of Simulation", "Wait for Simulation"):
        link = row.get_by_role("link", name=name)
        link.scroll_into_view_if_needed()
        expect(link).to_be_in_viewport()
    # What is as usual takes no line.
    expect(row.locator("[data-of=waiting]")).to_be_visible()
    expect(page.locator("#row-viewer [data-of=waiting]")).to_be_hidden()
    page.close()


def test_a_page_that_refuses_too_many_calls_needs_nothing_else_from_the_server(
    tmp_path: Path, browser: Browser, axe: str
) -> None:
    """The files of the page would be refused as well."""
    limits = {"LICENSE_RATE_PER_ADDRESS": "1", "LICENSE_RATE_BURST": "1", "WEB_CONCURRENCY": "1"}
    with running_server(tmp_path, **limits) as server:
        context = browser.new_context(base_url=server.url)
        page = context.new_page()
        # Each costs more than a second brings.
        while (answer := page.goto("/")) is not None and answer.status != 429:
            pass
        expect(page.locator("h1")).to_have_text("Too many calls")
        expect(page.get_by_text("Try again in")).to_be_visible()
        page.evaluate(axe)
        for width, scheme in SCREENS:
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == GROUNDS[scheme]
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert violations(page, scheme) == []
        context.close()
