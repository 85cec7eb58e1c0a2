"""Make the pictures of the documentation in docs/images/ from a running server.

    python scripts/screenshots.py

It starts a server on a new SQLite database with a made-up month, borrows over HTTP,
and needs Chromium.
"""

import json
import os
import random
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

TOOLS = {"cad_tool": (5, "CAD"), "simulation": (3, "Simulation"), "analysis": (2, "Analysis"), "mesher": (8, "Mesher")}
PEOPLE = ["ana", "ben", "cleo", "dario", "emma", "farid", "greta", "hugo", "ivo", "jonas"]
TEAMS = {"crash": PEOPLE[:5], "noise": PEOPLE[5:]}
# The borrows of a working day by hour.
BUSY = [0, 0, 0, 0, 0, 1, 3, 9, 17, 19, 18, 15, 10, 16, 18, 17, 13, 8, 4, 2, 1, 1, 0, 0]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="licenseserver-screenshots-") as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        password = secrets.token_urlsafe(12)
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "licenseserver.settings",
            "SECRET_KEY": secrets.token_urlsafe(48),
            "SECURE_SSL": "false",
            "DATABASE_URL": "",
            "LICENSE_DB_PATH": str(Path(folder) / "licenses.db"),
            "LICENSE_DB_SEED": "false",
            "LICENSE_AUTH": "open",
            "BIND": address,
            "WEB_CONCURRENCY": "1",
            "LOG_LEVEL": "WARNING",
        }
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        fill(password)
        with serving(f"http://{address}"):
            borrow(f"http://{address}")
            photograph(f"http://{address}", password)


def fill(password: str) -> None:
    """Create tools, teams, an administrator and a month of leases."""
    import django
    from django.core.management import call_command
    from django.db import connections

    django.setup()
    call_command("migrate", verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0)
    from django.contrib.auth.models import User

    from licenses.models import Denial, Lease, Team, TeamMember, Tool

    User.objects.create_superuser("admin", password=password)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    created = midnight - timedelta(days=40)
    tools = [
        Tool.objects.create(name=name, display_name=title, capacity=seats, seat_hour_price="4.50")
        for name, (seats, title) in TOOLS.items()
    ]
    Tool.objects.update(created_at=created)
    teams = {}
    for name, people in TEAMS.items():
        team = Team.objects.create(name=name)
        for user in people:
            TeamMember.objects.create(team=team, user=user)
            teams[user] = team
    chance = random.Random(7)  # noqa: S311 - the same month every time
    leases, refused = [], []
    for tool in tools:
        out: list[datetime] = []
        for back in range(24 * 30, 0, -1):
            hour = midnight - timedelta(hours=back)
            busy = BUSY[hour.hour] * (1 if hour.weekday() < 5 else 0.1) * tool.capacity / 30
            for minute in sorted(chance.uniform(0, 60) for _ in range(round(busy + chance.random() - 0.5))):
                start = hour + timedelta(minutes=minute)
                out = [end for end in out if end > start]
                user = chance.choice(PEOPLE)
                if len(out) >= tool.capacity:
                    refused.append(Denial(tool=tool, user=user, code="exhausted", first_at=start, last_at=start))
                    continue
                end = min(start + timedelta(minutes=5 + chance.expovariate(1 / 80)), midnight - timedelta(seconds=1))
                out.append(end)
                leases.append(
                    Lease(
                        tool=tool, user=user, team=teams[user], borrowed_at=start, ended_at=end, end_reason="returned"
                    )
                )
    Lease.objects.bulk_create(leases, batch_size=1000)
    Denial.objects.bulk_create(refused)
    call_command("rebuild_history", verbosity=0)
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


def borrow(url: str) -> None:
    """Borrow seats, wait in a queue, and be refused, for the board."""
    for body in [
        {"tool": "cad_tool", "user": "ana", "host": "ws-17"},
        {"tool": "cad_tool", "user": "farid", "host": "ws-04"},
        {"tool": "cad_tool", "user": "emma", "host": "ws-21"},
        {"tool": "simulation", "user": "ben", "seats": 2, "host": "node-3", "project": "hood"},
        {"tool": "simulation", "user": "greta", "host": "node-7", "project": "door"},
        {"tool": "simulation", "user": "hugo", "wait_seconds": 1800},
        {"tool": "mesher", "user": "cleo", "seats": 3, "host": "node-1"},
        {"tool": "mesher", "user": "jonas", "host": "ws-09"},
        {"tool": "analysis", "user": "ivo", "seats": 2, "host": "ws-12"},
        {"tool": "analysis", "user": "dario"},
    ]:
        data = json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310
            f"{url}/licenses/borrow", data, {"Content-Type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=10).close()  # noqa: S310
        except urllib.error.HTTPError as refusal:
            if refusal.code != 409:
                raise


def photograph(url: str, password: str) -> None:
    """Write pictures of the board and of a tool's report."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("screenshots: Chromium is not installed")
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page: Any = browser.new_page(viewport={"width": 1000, "height": 620}, color_scheme="light")
        page.goto(f"{url}/")
        page.screenshot(path=IMAGES / "board.png")
        page.goto(f"{url}/admin/login/")
        page.fill("[name=username]", "admin")
        page.fill("[name=password]", password)
        page.press("[name=password]", "Enter")
        page.goto(f"{url}/admin/reports/mesher/?until={datetime.now(UTC).date() - timedelta(days=1)}")
        page.screenshot(path=IMAGES / "report.png")
        browser.close()
    for image in sorted(IMAGES.glob("*.png")):
        print(f"{image.relative_to(ROOT)}: {image.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
