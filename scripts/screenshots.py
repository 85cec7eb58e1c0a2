"""Make the pictures of the documentation in docs/images/ from a running server.

    python scripts/screenshots.py
    python scripts/screenshots.py --every-page build/pages

With ``--every-page`` it makes a picture of each page instead, light and dark, on a desk and on a phone, to look at.

It starts a server on a new SQLite database with 40 tools, 12 teams, 300 people and a made-up month, borrows over
HTTP, and needs Chromium.
"""

import argparse
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

# By vendor: the seats and the name for people of each tool.
VENDORS: dict[str, dict[str, tuple[int, str]]] = {
    "Northwind Systems": {
        "cad_tool": (5, "CAD"),
        "cad_sheet_metal": (4, "CAD Sheet Metal"),
        "cad_surface": (6, "CAD Freeform Surfaces"),
        "cad_harness": (3, "CAD Wire Harness"),
        "pdm_client": (60, "PDM Client"),
        "viewer": (120, "3D Viewer"),
        "mesher": (8, "Mesher"),
        "drafting": (25, "Drafting"),
    },
    "Contoso Simulation": {
        "simulation": (3, "Simulation"),
        "analysis": (2, "Analysis"),
        "crash_solver": (16, "Crash Solver"),
        "cfd_solver": (12, "Fluid Dynamics Solver"),
        "cfd_hpc_pack": (512, "Fluid Dynamics HPC Tokens"),
        "nvh": (4, "Noise and Vibration"),
        "multibody": (5, "Multibody Dynamics"),
        "fatigue": (3, "Fatigue"),
        "postprocessor": (20, "Postprocessor"),
        "optimizer": (2, "Topology Optimizer"),
    },
    "Fabrikam EDA": {
        "pcb_layout": (10, "PCB Layout"),
        "pcb_review": (15, "PCB Review"),
        "rtl_simulator": (40, "RTL Simulator"),
        "synthesis": (8, "Synthesis"),
        "formal": (6, "Formal Verification"),
        "signal_integrity": (3, "Signal Integrity"),
        "waveform": (30, "Waveform Viewer"),
        "fpga_place_and_route": (12, "FPGA Place and Route"),
    },
    "Tailspin Embedded": {
        "compiler_safety": (14, "Compiler, qualified for safety"),
        "debugger": (22, "Debugger"),
        "static_analysis": (9, "Static Analysis"),
        "unit_test": (18, "Unit Test Generator"),
        "can_analyzer": (7, "Bus Analyzer"),
        "calibration": (5, "Calibration"),
        "model_coder": (11, "Model-Based Code Generator"),
    },
    "": {
        "matrix": (35, "Matrix Computing"),
        "matrix_control": (6, "Matrix Control Design"),
        "matrix_signal": (8, "Matrix Signal Processing"),
        "requirements": (50, "Requirements Manager"),
        "plotter_driver": (1, "Plotter Driver"),
        "legacy-translator-for-neutral-files": (2, ""),
        "camera_calibration": (4, "Camera Calibration"),
    },
}
TOOLS = {name: (*values, vendor) for vendor, tools in VENDORS.items() for name, values in tools.items()}
FIRST = ["ana", "ben", "cleo", "dario", "emma", "farid", "greta", "hugo", "ivo", "jonas", "kaya", "lena", "mats"]
PEOPLE = [*FIRST, *(f"{name}.{letter}" for letter in "bcdefghijklmnopqrstuvwxyz" for name in FIRST)][:300]
TEAM_NAMES = [
    *("crash", "noise", "aero", "body", "chassis", "powertrain"),
    *("embedded", "verification", "layout", "controls", "methods", "ci"),
]
TEAMS = {name: PEOPLE[number::12] for number, name in enumerate(TEAM_NAMES)}
# Pages to look at: as whom, and the address. A page that is not there is left out.
PAGES = {
    "anonymous": ("/", "/?free=1&sort=free", "/tools/cad_tool/", "/nope", "/signin/"),
    "ana": (
        *("/", "/?show=simulation&show=crash_solver", "/?vendor=Fabrikam+EDA", "/?mine=1", "/?q=nothing"),
        *("/tools/simulation/", "/tools/cad_tool/", "/tools/viewer/", "/tools/plotter_driver/"),
        *("/yours/", "/tokens/", "/device/", "/notifications/"),
    ),
    "admin": (
        "/admin/",
        "/admin/reports/",
        "/admin/reports/mesher/",
        "/admin/licenses/tool/",
        "/admin/licenses/lease/",
    ),
}
HELD = timedelta(minutes=85)
# The borrows of a working day by hour.
BUSY = [0, 0, 0, 0, 0, 1, 3, 9, 17, 19, 18, 15, 10, 16, 18, 17, 13, 8, 4, 2, 1, 1, 0, 0]


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
            "DATABASE_URL": "",
            "LICENSE_DB_PATH": str(Path(folder) / "licenses.db"),
            "LICENSE_DB_SEED": "false",
            "LICENSE_AUTH": "open",
            "LICENSE_RATE_PER_ADDRESS": "off",
            "LICENSE_RATE_PER_CREDENTIAL": "off",
            "LICENSE_SHOW_CONTACTS": "true",
            "BIND": address,
            "WEB_CONCURRENCY": "1",
            "LOG_LEVEL": "WARNING",
        }
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        fill(password)
        with serving(f"http://{address}"):
            borrow(f"http://{address}")
            if options.every_page:
                photograph_all(f"http://{address}", password, options.every_page)
            else:
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

    from licenses.models import Denial, Lease, Star, Team, TeamMember, Tool

    User.objects.create_superuser("admin", password=password)
    for user in FIRST:
        User.objects.create_user(user, f"{user}@example.com", password)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    created = midnight - timedelta(days=40)
    tools = [
        Tool.objects.create(
            name=name, display_name=title, vendor=vendor, capacity=seats, seat_hour_price="4.50", holding_time=HELD
        )
        for name, (seats, title, vendor) in TOOLS.items()
    ]
    Tool.objects.update(created_at=created)
    Tool.objects.filter(name="plotter_driver").update(enabled=False)
    Tool.objects.filter(name="nvh").update(valid_until=midnight + timedelta(days=12))
    Tool.objects.filter(name="analysis").update(overdraft=1)
    for name in ("cad_tool", "simulation", "rtl_simulator"):
        Star.objects.create(user=User.objects.get(username="ana"), tool=Tool.objects.get(name=name))
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
            busy = BUSY[hour.hour] * (1 if hour.weekday() < 5 else 0.1) * min(tool.capacity, 8) / 30
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
    send: list[dict[str, Any]] = [
        {"tool": "cad_tool", "user": "ana", "host": "ws-17"},
        {"tool": "cad_tool", "user": "farid", "host": "ws-04"},
        {"tool": "cad_tool", "user": "emma", "host": "ws-21"},
        {"tool": "simulation", "user": "ben", "seats": 2, "host": "node-3", "project": "hood"},
        {"tool": "simulation", "user": "greta", "host": "node-7", "project": "door"},
        {"tool": "simulation", "user": "hugo", "wait_seconds": 1800},
        {"tool": "simulation", "user": "ana", "wait_seconds": 1800},
        {"tool": "mesher", "user": "cleo", "seats": 3, "host": "node-1"},
        {"tool": "mesher", "user": "jonas", "host": "ws-09"},
        {"tool": "analysis", "user": "ivo", "seats": 2, "host": "ws-12"},
        {"tool": "analysis", "user": "ana", "seats": 1, "host": "ws-17"},
        {"tool": "analysis", "user": "dario"},
    ]
    chance = random.Random(11)  # noqa: S311 - the same seats every time
    taken = {body["tool"] for body in send} | {"plotter_driver"}
    for name, (seats, _, _) in TOOLS.items():
        share = 0 if name in taken else chance.choice([0.2, 0.4, 0.5, 0.8, 1])
        left = round(seats * share)
        while left > 0:
            some = min(left, chance.choice([1, 1, 1, 2]) if seats < 100 else chance.choice([1, 16, 32]))
            user = chance.choice(PEOPLE[13:])
            send.append({"tool": name, "user": user, "seats": some, "host": f"ws-{chance.randrange(1, 300)}"})
            left -= some
    for body in send:
        data = json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310
            f"{url}/licenses/borrow", data, {"Content-Type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=10).close()  # noqa: S310
        except urllib.error.HTTPError as refusal:
            if refusal.code != 409:
                raise
    # Nobody polls these.
    from licenses.models import Ticket

    for ticket in Ticket.objects.all():
        ticket.alive_until = ticket.deadline
        ticket.save()


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
        sign_in(page, url, "ana", password)
        page.goto(f"{url}/?show=simulation")
        page.screenshot(path=IMAGES / "board.png")
        page.context.clear_cookies()
        page.set_viewport_size({"width": 1000, "height": 620})
        sign_in(page, url, "admin", password)
        page.goto(f"{url}/admin/reports/mesher/?until={datetime.now(UTC).date() - timedelta(days=1)}")
        page.screenshot(path=IMAGES / "report.png")
    for image in sorted(IMAGES.glob("*.png")):
        print(f"{image.relative_to(ROOT)}: {image.stat().st_size // 1024} KiB")


def photograph_all(url: str, password: str, folder: Path) -> None:
    """Write a picture of each page, light and dark, on a desk and on a phone."""
    folder.mkdir(parents=True, exist_ok=True)
    with browsing() as browser:
        for name, paths in PAGES.items():
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            page: Any = context.new_page()
            if name != "anonymous":
                sign_in(page, url, name, password)
            for path in paths:
                for scheme in ("light", "dark"):
                    page.emulate_media(color_scheme=scheme)
                    for width, height in ((1440, 900), (390, 844)):
                        page.set_viewport_size({"width": width, "height": height})
                        answer = page.goto(f"{url}{path}")
                        if answer.status == 404 and path != "/nope":
                            continue
                        file = f"{name}{path}".strip("/").translate(str.maketrans("/?&=+", "-----"))
                        page.screenshot(path=folder / f"{file}.{scheme}.{width}.png", full_page=True)
            context.close()
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}")


if __name__ == "__main__":
    main()
