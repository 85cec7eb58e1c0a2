"""``manage.py seed`` and ``manage.py ensure_admin``."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.utils import timezone

from licenses.models import AuditRecord, Lease, Tool
from tests.support.api import Api

pytestmark = pytest.mark.django_db


def seed(*arguments: str) -> str:
    output = io.StringIO()
    call_command("seed", *arguments, stdout=output)
    return output.getvalue()


def capacities() -> dict[str, int]:
    return dict(Tool.objects.values_list("name", "capacity"))


def test_the_default_tools_are_created_once() -> None:
    assert "cad_tool: created with capacity 5" in seed()
    assert "cad_tool: exists with capacity 5, not changed" in seed()
    assert capacities() == {"cad_tool": 5, "simulation": 3, "analysis": 2}


def test_a_capacity_that_an_admin_changed_stays_unless_forced() -> None:
    seed()
    Tool.objects.filter(name="cad_tool").update(capacity=9, borrowed=4)
    seed()
    assert capacities()["cad_tool"] == 9
    assert "cad_tool: capacity 9 -> 5" in seed("--force")
    assert Tool.objects.get(name="cad_tool").borrowed == 4


def test_a_capacity_below_the_borrowed_seats_is_noted(api: Api) -> None:
    seed("--tool", "cad=5")
    api.borrow(seats=4)
    assert seed("--tool", "cad=2", "--force").splitlines() == [
        "cad: capacity 5 -> 2",
        "note: 4 seats of cad are borrowed, 2 more than its capacity of 2. Nobody loses a seat. "
        "New borrows are refused or wait until 3 are returned.",
    ]


def test_tools_are_named_on_the_command_line() -> None:
    seed("--tool", "a=1", "--tool", "b=2")
    assert capacities() == {"a": 1, "b": 2}


def test_tools_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tools.toml"
    path.write_text('[mesher]\ncapacity = 4\nvendor = "ACME"\nvalid_until = 2099-01-01T00:00:00Z\n')
    seed("--file", str(path))
    tool = Tool.objects.get(name="mesher")
    assert (tool.capacity, tool.vendor) == (4, "ACME")
    assert tool.valid_until is not None
    assert tool.valid_until.year == 2099


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "tools.toml"
    path.write_text("[mesher]\ncapacity = 4\n", encoding="utf-8-sig")
    seed("--file", str(path))
    assert capacities() == {"mesher": 4}


@pytest.mark.parametrize(
    "text",
    [
        "not toml [",
        "cad = 5",
        "[cad]",
        "[cad]\ncapacity = -1",
        '[cad]\ncapacity = "many"',
        "[cad]\ncapacity = 1000001",
        "[CAD]\ncapacity = 1",
        "[cad]\ncapacity = 1\nin_use = 3",
        "[good]\ncapacity = 1\n[unknown]\ncapacity = 1",
    ],
)
def test_a_file_with_a_mistake_changes_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tools.toml"
    path.write_text(text)
    with pytest.raises(CommandError):
        seed("--file", str(path))
    assert capacities() == {}


@pytest.mark.parametrize("argument", ["cad", "cad=", "cad=x", "cad=-1", "=5", "../x=1"])
def test_a_tool_that_makes_no_sense_is_refused(argument: str) -> None:
    with pytest.raises(CommandError):
        seed("--tool", argument)
    assert capacities() == {}


def test_the_first_administrator_is_created_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_USERNAME", "root")
    monkeypatch.setenv("ADMIN_PASSWORD", "the first phrase")
    call_command("ensure_admin", stdout=io.StringIO())
    monkeypatch.setenv("ADMIN_PASSWORD", "second")
    call_command("ensure_admin", stdout=io.StringIO())
    user = get_user_model().objects.get(username="root")
    assert user.is_superuser
    assert user.check_password("the first phrase")


@pytest.mark.parametrize("weak", ["a", "root1234", "password123", "12345678901"])
def test_an_administrator_with_a_weak_password_is_not_created(monkeypatch: pytest.MonkeyPatch, weak: str) -> None:
    monkeypatch.setenv("ADMIN_USERNAME", "root1234")
    monkeypatch.setenv("ADMIN_PASSWORD", weak)
    with pytest.raises(CommandError, match="ADMIN_PASSWORD"):
        call_command("ensure_admin", stdout=io.StringIO())
    assert not get_user_model().objects.exists()


def test_an_administrator_without_a_password_is_not_created(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_USERNAME", "root")
    monkeypatch.delenv("ADMIN_PASSWORD", raising=False)
    with pytest.raises(CommandError, match="ADMIN_PASSWORD"):
        call_command("ensure_admin", stdout=io.StringIO())


DAY, LATER = datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
NINE = datetime(2026, 12, 31, 9, tzinfo=UTC)


def tools_file(folder: Path, *lines: str) -> str:
    """Write a file with these lines of the tool mesher. Return the option that names it."""
    path = folder / "tools.toml"
    path.write_text("\n".join(["[mesher]", "capacity = 4", *lines]))
    return f"--file={path}"


# The same value as the beginning and as the end.
TIMES = [
    ("2026-12-31", DAY, LATER),
    ('"2026-12-31"', DAY, LATER),
    ("2026-12-31T09:00:00Z", NINE, NINE),
    ("2026-12-31T11:00:00+02:00", NINE, NINE),
    ("2026-12-31T09:00:00", NINE, NINE),
    ("2026-12-31 09:00:00", NINE, NINE),
    ('"2026-12-31T09:00:00Z"', NINE, NINE),
    ('"2026-12-31T11:00+02:00"', NINE, NINE),
    ('"2026-12-31 09:00"', NINE, NINE),
    ("2026-12-31T00:00:00Z", DAY, DAY),
    ('"2026-12-31 00:00"', DAY, DAY),
    ('""', None, None),
]


@pytest.mark.parametrize(("written", "beginning", "end"), TIMES)
def test_a_date_is_the_last_good_day_and_a_time_what_it_says(
    tmp_path: Path, written: str, beginning: datetime | None, end: datetime | None
) -> None:
    # A warning about a time without a zone would fail this test.
    for field, expected in (("valid_from", beginning), ("valid_until", end)):
        seed(tools_file(tmp_path, f"{field} = {written}"))
        assert getattr(Tool.objects.get(), field) == expected
        Tool.objects.all().delete()


@pytest.mark.parametrize("written", [written for written, *_ in TIMES])
def test_seeding_again_is_not_a_change(tmp_path: Path, written: str) -> None:
    file = tools_file(tmp_path, f"valid_until = {written}", 'vendor = "ACME"', "enabled = true")
    seed(file)
    recorded = AuditRecord.objects.count()
    assert seed(file, "--force") == "mesher: unchanged\n"
    assert AuditRecord.objects.count() == recorded


@pytest.mark.parametrize(
    "line",
    [
        "valid_until = 9999-12-31",
        "valid_until = 9999-12-31T23:59:59-01:00",
        "valid_from = 0001-01-01T00:00:00+01:00",
        "valid_until = 09:00:00",
        "valid_until = 2026",
        "valid_until = true",
        "valid_until = []",
        'valid_until = "2026-02-30"',
        'valid_until = "soon"',
        'valid_until = "permanent"',
        "valid_from = 2026-12-31\nvalid_until = 2026-12-30",
        'enabled = "perhaps"',
    ],
)
def test_a_time_that_makes_no_sense_changes_nothing(tmp_path: Path, line: str) -> None:
    with pytest.raises(CommandError, match="mesher"):
        seed(tools_file(tmp_path, line))
    assert not Tool.objects.exists()


def test_a_mistake_has_its_line(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"line 3: mesher.vendr: There is no such key. Did you mean vendor\?"):
        seed(tools_file(tmp_path, 'vendr = "ACME"'))


def test_seeding_takes_every_field_of_a_tool_but_no_teams_and_rules(tmp_path: Path) -> None:
    path = tmp_path / "tools.toml"
    path.write_text("[tools.mesher]\ncapacity = 4\noverdraft = 1\nmax_ttl_seconds = 86400\n")
    seed("--file", str(path))
    tool = Tool.objects.get()
    assert (tool.name, tool.overdraft, tool.max_ttl) == ("mesher", 1, timedelta(days=1))
    for more in ("[teams.crash]", "[tools.mesher.user_limits]\nana = 1"):
        path.write_text(f"[tools.mesher]\ncapacity = 5\n{more}\n")
        with pytest.raises(CommandError, match=r"manage\.py apply"):
            seed("--force", "--file", str(path))
    assert capacities() == {"mesher": 4}


@pytest.mark.parametrize("capacity", ["4.5", "true", '"4"', "[]"])
def test_a_number_of_seats_is_a_whole_number(tmp_path: Path, capacity: str) -> None:
    path = tmp_path / "tools.toml"
    path.write_text(f"[mesher]\ncapacity = {capacity}")
    with pytest.raises(CommandError, match="mesher"):
        seed("--file", str(path))
    assert not Tool.objects.exists()


def test_the_last_day_is_a_good_one(api: Api, tmp_path: Path) -> None:
    today = timezone.now().date()
    seed(tools_file(tmp_path, f"valid_until = {today}"))
    assert api.borrow("mesher").status_code == 200
    seed("--force", tools_file(tmp_path, f"valid_until = {today - timedelta(days=1)}"))
    assert api.borrow("mesher").json()["code"] == "expired"


@pytest.mark.parametrize("ttl", [{}, {"ttl_seconds": 3600}])
def test_a_past_end_frees_the_seats(api: Api, tmp_path: Path, ttl: dict[str, Any]) -> None:
    seed(tools_file(tmp_path))
    Tool.objects.update(default_ttl=None)
    lease = api.borrow("mesher", seats=2, **ttl).json()["id"]
    before = AuditRecord.objects.count()
    assert "valid_until" in seed("--force", tools_file(tmp_path, "valid_until = 2026-01-01"))
    assert (api.status("mesher")["borrowed"], api.renew(lease).json()["code"]) == (0, "revoked")
    call_command("expire_leases", stdout=io.StringIO())
    assert Lease.objects.get().end_reason == "revoked"
    tool = Tool.objects.get()
    assert (tool.borrowed, tool.revoked_total) == (0, 1)
    (record,) = AuditRecord.objects.order_by("pk")[before:]
    assert (record.actor_kind, record.origin, list(record.after)) == ("command", "seed", ["valid_until"])


def test_a_later_end_lets_leases_without_a_heartbeat_last(api: Api, tmp_path: Path) -> None:
    seed(tools_file(tmp_path, "valid_until = 2098-12-31"))
    Tool.objects.update(default_ttl=None)
    api.borrow("mesher")
    seed("--force", tools_file(tmp_path, "valid_until = 2099-12-31"))
    assert Lease.objects.get().expires_at == datetime(2100, 1, 1, tzinfo=UTC)
    seed("--force", tools_file(tmp_path, 'valid_until = ""'))
    assert Lease.objects.get().expires_at is None
