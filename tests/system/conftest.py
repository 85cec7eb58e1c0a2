"""The browser of a module."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.browser import running_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Provide Chromium. It stops with the module: Playwright's loop would forbid Django's queries in others."""
    with running_browser() as browser:
        yield browser
