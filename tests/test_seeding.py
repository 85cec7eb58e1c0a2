"""``manage.py seed`` and ``manage.py ensure_admin``."""

import io
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command

from licenses.models import Tool

pytestmark = pytest.mark.django_db


def seed(*arguments: str) -> str:
    output = io.StringIO()
    call_command("seed", *arguments, stdout=output)
    return output.getvalue()


def capacities() -> dict[str, int]:
    return dict(Tool.objects.values_list("name", "capacity"))


def test_the_default_tools_are_created_once() -> None:
    assert "cad_tool: created with capacity 5" in seed()
    assert "cad_tool: exists with capacity 5, left as it is" in seed()
    assert capacities() == {"cad_tool": 5, "simulation": 3, "analysis": 2}


def test_a_capacity_that_an_admin_changed_stays_unless_forced() -> None:
    seed()
    Tool.objects.filter(name="cad_tool").update(capacity=9, in_use=4)
    seed()
    assert capacities()["cad_tool"] == 9
    assert "cad_tool: capacity 9 -> 5" in seed("--force")
    assert Tool.objects.get(name="cad_tool").in_use == 4


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
    monkeypatch.setenv("ADMIN_PASSWORD", "first")
    call_command("ensure_admin", stdout=io.StringIO())
    monkeypatch.setenv("ADMIN_PASSWORD", "second")
    call_command("ensure_admin", stdout=io.StringIO())
    user = get_user_model().objects.get(username="root")
    assert user.is_superuser
    assert user.check_password("first")


def test_an_administrator_without_a_password_is_not_created(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_USERNAME", "root")
    monkeypatch.delenv("ADMIN_PASSWORD", raising=False)
    with pytest.raises(CommandError, match="ADMIN_PASSWORD"):
        call_command("ensure_admin", stdout=io.StringIO())
