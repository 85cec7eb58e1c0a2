"""Make the pictures of the documentation in docs/images/ from a running server.

    python scripts/screenshots.py
    python scripts/screenshots.py --every-page build/pages

With ``--every-page`` it makes a picture of each page instead, light and dark, on a desk and on a phone, to look at.

It starts a server on a new SQLite database with the example site: 40 tools, 12 teams, 300 people and a made-up
month. It needs Chromium.
"""

import argparse
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT))

from tests.support.example_settings import ADMINISTRATOR, ANA, SETTINGS, VISITOR  # noqa: E402
from tests.support.pages import PAGES  # noqa: E402

SCREENS = ((1440, 900), (320, 700))


def main() -> None:
    parser = argparse.ArgumentParser(description="Make pictures of the pages.")
    parser.add_argument("--every-page", type=Path, metavar="FOLDER", help="make a picture of each page, in this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="licenseserver-screenshots-") as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        password = secrets.token_urlsafe(12)
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "licenseserver.settings",
            "SECRET_KEY": secrets.token_urlsafe(48),
            "SECURE_SSL": "false",
            **SETTINGS,
            "DATABASE_URL": "",
            "LICENSE_DB_PATH": str(Path(folder) / "licenses.db"),
            "BIND": address,
            "WEB_CONCURRENCY": "1",
            "LOG_LEVEL": "WARNING",
        }
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        fill(password)
        with serving(f"http://{address}"):
            if options.every_page:
                photograph_all(f"http://{address}", password, options.every_page)
            else:
                photograph(f"http://{address}", password)


def fill(password: str) -> None:
    """Create the database of the example site."""
    import django
    from django.core.management import call_command
    from django.db import connections

    django.setup()
    from tests.support import example_site

    call_command("migrate", verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0)
    example_site.fill(password)
    connections.close_all()


@contextmanager
def serving(url: str) -> Iterator[None]:
    """Run the server during the block."""
    process = subprocess.Popen([sys.executable, "-m", "licenseserver"], cwd=ROOT)
    try:
        for _ in range(150):
            try:
                urllib.request.urlopen(f"{url}/readyz", timeout=2).close()  # noqa: S310
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None:
                    sys.exit("screenshots: the server did not start")
                time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def browsing() -> Iterator[Any]:
    """Run a browser during the block."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("screenshots: Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def sign_in(page: Any, url: str, name: str, password: str) -> None:
    """Sign in."""
    page.goto(f"{url}/signin/")
    page.fill("[name=username]", name)
    page.fill("[name=password]", password)
    page.press("[name=password]", "Enter")
    page.wait_for_url(lambda address: "/signin/" not in address)


def photograph(url: str, password: str) -> None:
    """Write pictures of the board and of a tool's report."""
    IMAGES.mkdir(exist_ok=True)
    with browsing() as browser:
        page: Any = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
        sign_in(page, url, ANA, password)
        page.goto(f"{url}/?show=simulation")
        page.screenshot(path=IMAGES / "board.png")
        page.context.clear_cookies()
        page.set_viewport_size({"width": 1000, "height": 620})
        sign_in(page, url, ADMINISTRATOR, password)
        page.goto(f"{url}/admin/reports/mesher/?until={datetime.now(UTC).date() - timedelta(days=1)}")
        page.screenshot(path=IMAGES / "report.png")
    for image in sorted(IMAGES.glob("*.png")):
        print(f"{image.relative_to(ROOT)}: {image.stat().st_size // 1024} KiB")


def photograph_all(url: str, password: str, folder: Path) -> None:
    """Write a picture of each page, light and dark, on a desk and on a phone."""
    folder.mkdir(parents=True, exist_ok=True)
    with browsing() as browser:
        for reader in dict.fromkeys(shown.reader for shown in PAGES):
            context = browser.new_context(base_url=url)
            page: Any = context.new_page()
            if reader != VISITOR:
                sign_in(page, url, reader, password)
            for shown in (shown for shown in PAGES if shown.reader == reader):
                page.goto(shown.path)
                if shown.act is not None:
                    shown.act(page)
                for scheme in ("light", "dark"):
                    page.emulate_media(color_scheme=scheme)
                    for width, height in SCREENS:
                        page.set_viewport_size({"width": width, "height": height})
                        picture = folder / f"{shown.name}.{scheme}.{width}.png"
                        # The admin changes its colors slowly.
                        page.screenshot(path=picture, full_page=True, animations="disabled")
            context.close()
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}")


if __name__ == "__main__":
    main()
