"""Fill a database with a site of 40 tools, 12 teams and 300 people at work, to look at and to test the pages."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.utils import timezone

from licenses.access import accounts, tokens
from licenses.access.callers import Scope
from licenses.auditing import Actor
from licenses.errors import Refusal
from licenses.leases import expiry, services
from licenses.leases.requests import BorrowRequest, Granted
from licenses.models import (
    ApiToken,
    Denial,
    Event,
    Identity,
    Lease,
    NotificationPreference,
    Star,
    Team,
    TeamMember,
    Tool,
    Webhook,
)
from licenses.notifications import outbox, webhooks
from licenses.policy import Item
from licenses.tools import contracts, quotas
from tests.support.example_settings import ADMINISTRATOR, ANA

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
HELD = timedelta(minutes=85)
# The borrows of a working day by hour.
BUSY = [0, 0, 0, 0, 0, 1, 3, 9, 17, 19, 18, 15, 10, 16, 18, 17, 13, 8, 4, 2, 1, 1, 0, 0]

BY = Actor.of_command("example site")


def fill(password: str, *, days: int = 30) -> None:
    """Fill an empty, migrated database: accounts with this password, a history of these days, and today's seats."""
    midnight = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    hashed = make_password(password)
    User.objects.bulk_create(User(username=name, email=f"{name}@example.com", password=hashed) for name in FIRST)
    User.objects.create(username=ADMINISTRATOR, password=hashed, is_staff=True, is_superuser=True)
    tools = _tools(midnight)
    _history(tools, _teams(), midnight, days)
    _seats()
    _rules(midnight)
    _credentials()
    _notifications()


def _tools(midnight: datetime) -> list[Tool]:
    tools = [
        Tool.objects.create(
            name=name, display_name=title, vendor=vendor, capacity=seats, seat_hour_price="4.50", holding_time=HELD
        )
        for name, (seats, title, vendor) in TOOLS.items()
    ]
    Tool.objects.update(created_at=midnight - timedelta(days=40))
    Tool.objects.filter(name="plotter_driver").update(enabled=False)
    Tool.objects.filter(name="nvh").update(valid_until=midnight + timedelta(days=12))
    Tool.objects.filter(name="analysis").update(overdraft=1)
    for name in ("cad_tool", "simulation", "rtl_simulator"):
        Star.objects.create(user=User.objects.get(username=ANA), tool=Tool.objects.get(name=name))
    return tools


def _teams() -> dict[str, Team]:
    """Create the teams. Return the team of each person."""
    teams: dict[str, Team] = {}
    for name, people in TEAMS.items():
        team = Team.objects.create(name=name)
        TeamMember.objects.bulk_create(TeamMember(team=team, user=user, is_lead=user == ANA) for user in people)
        teams |= dict.fromkeys(people, team)
    return teams


def _history(tools: list[Tool], teams: dict[str, Team], midnight: datetime, days: int) -> None:
    """Make up the leases and refusals of some days, the same ones every time."""
    chance = random.Random(7)
    leases, refused = [], []
    for tool in tools:
        out: list[datetime] = []
        for back in range(24 * days, 0, -1):
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


def _seats() -> None:
    """Borrow seats, wait in queues, and be refused."""
    in_use = _borrow("ana", "cad_tool", host="ws-17")
    _borrow("farid", "cad_tool", host="ws-04")
    _borrow("emma", "cad_tool", host="ws-21")
    _borrow("ben", "simulation", seats=2, host="node-3", project="hood")
    _borrow("greta", "simulation", host="node-7", project="door")
    _borrow("hugo", "simulation", wait=1800)
    _borrow("ana", "simulation", wait=1800)
    _borrow("cleo", "mesher", seats=3, host="node-1")
    _borrow("jonas", "mesher", host="ws-09")
    _borrow("ivo", "analysis", seats=2, host="ws-12")
    _borrow("ana", "analysis", host="ws-17")
    _borrow("dario", "analysis")
    # A seat that comes free for Ana.
    first = _borrow("ivo", "optimizer", host="ws-12")
    _borrow("kaya", "optimizer", host="ws-30")
    _borrow("ana", "optimizer", wait=24 * 3600)
    if first is not None:
        services.give_back(lease_id=first)
    expiry.tidy()
    taken = {*Lease.objects.filter(ended_at=None).values_list("tool__name", flat=True), "plotter_driver"}
    for user, tool, seats, host in _others(taken):
        _borrow(user, tool, seats=seats, host=host)
    if in_use is not None:
        services.renew(lease_id=in_use)


def _others(taken: set[str]) -> Iterator[tuple[str, str, int, str]]:
    """Yield borrows of the other tools, the same ones every time: user, tool, seats, host."""
    chance = random.Random(11)
    for name, (seats, _, _) in TOOLS.items():
        share = 0 if name in taken else chance.choice([0.2, 0.4, 0.5, 0.8, 1])
        left = round(seats * share)
        while left > 0:
            some = min(left, chance.choice([1, 1, 1, 2]) if seats < 100 else chance.choice([1, 16, 32]))
            yield chance.choice(PEOPLE[13:]), name, some, f"ws-{chance.randrange(1, 300)}"
            left -= some


def _borrow(user: str, tool: str, *, seats: int = 1, wait: int = 0, **more: Any) -> Any:
    """Borrow seats of a tool, and return the id of the lease; None for a place in the queue or a refusal."""
    request = BorrowRequest(
        user=user, alternatives=((Item(tool, seats),),), wait=timedelta(seconds=wait), kept=True, **more
    )
    try:
        outcome = services.borrow(request)
    except Refusal:
        return None
    return outcome.head.pk if isinstance(outcome, Granted) else None


def _rules(midnight: datetime) -> None:
    """Give some tools contracts, quotas, limits and access rules."""
    bought: dict[str, Any] = {"first_day": midnight.date() - timedelta(days=340), "reference": "PO-4711"}
    ends = midnight.date() + timedelta(days=25)
    contracts.add(tool="mesher", values=bought | {"seats": 8, "price": Decimal(24_000)}, by=BY)
    contracts.add(tool="waveform", values=bought | {"seats": 30, "last_day": ends, "price": Decimal(9_600)}, by=BY)
    quotas.put_quota(tool="crash_solver", team="crash", values={"quota": 10, "reservation": 3}, by=BY)
    quotas.put_user_limit(tool="cfd_hpc_pack", user=ANA, seats=64, by=BY)
    for effect, kind, name in (("include", "team", "embedded"), ("exclude", "host", "ws-13")):
        quotas.put_access_rule(tool="compiler_safety", effect=effect, kind=kind, name=name, by=BY)


def _credentials() -> None:
    """Give Ana, a team and others what signs them in."""
    now = timezone.now()
    ana = User.objects.get(username=ANA)
    tokens.make_own(ana, name="nightly build", days=60, scopes=[Scope.READ, Scope.BORROW], by=BY)
    tokens.make_own(ana, name="license login on ws-17", days=4, scopes=[Scope.READ, Scope.BORROW], by=BY)
    of_team = ApiToken(name="pipeline", team=Team.objects.get(name="ci"), expires_at=now + timedelta(days=20))
    of_team.created_at, of_team.may_read, of_team.may_borrow = now, True, True
    tokens.issue(of_team, by=BY)
    Identity.objects.create(
        user=User.objects.get(username="emma"), issuer="https://sso.example.com", subject="6f1c2a9e-4c1d"
    )
    accounts.bind(issuer="https://sso.example.com", subject="pipeline-7", name="pipeline-runner")
    accounts.delete(User.objects.create_user("former.colleague"), by=BY)
    Group.objects.create(name="License operators")


def _notifications() -> None:
    """Set up a webhook, and record what goes to it."""
    chat = Webhook(name="chat of the methods team", kind="slack", events=[Event.TOOL_EXHAUSTED], for_people=True)
    webhooks.save(chat, url="https://chat.example.com/hooks/7d1f", by=BY)
    outbox.record_test(chat, by=ADMINISTRATOR)
    NotificationPreference.objects.create(
        account=User.objects.get(username=ANA), event=Event.LEASE_ENDING, webhook=chat, wanted=True
    )
