"""One writer: only the ledger changes seats and what is counted of them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from licenses.leases.ledger import COUNTED
from tests.support.paths import ROOT

pytestmark = pytest.mark.any_database

# What only the ledger writes: counters of tools and teams, and the life of leases.
COLUMNS = {*COUNTED, "ended_at", "end_reason", "end_note", "ended_by", "expires_at", "fence", "overdraft_seats"}
# Rows whose columns have the same names: a token and an idempotency key end too.
OTHERS = {"ApiToken", "BorrowKey", "Session", "AccountSession", "DeviceLogin"}
LEDGER = {"licenses/leases/ledger.py", "licenses/leases/sql.py"}
TABLES = ("licenses_tool", "licenses_lease", "licenses_allotment")


def writes(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the column of each write to the database that names a column of ours."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield from _writes_of_call(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.replace('"', "").split()
            if words[:1] in (["UPDATE"], ["INSERT"]) and set(words[:3]) & set(TABLES):
                yield node.lineno, words[0]


def _writes_of_call(call: ast.Call) -> Iterator[tuple[int, str]]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    model = ast.unparse(call.func).partition(".")[0]
    if model in OTHERS:
        return
    for keyword in call.keywords:
        if name in {"update", "create", "update_or_create", "Lease"} and keyword.arg in COLUMNS:
            yield call.lineno, str(keyword.arg)
        if keyword.arg == "update_fields" or (name == "bulk_update" and keyword.arg == "fields"):
            for text in ast.walk(keyword.value):
                if isinstance(text, ast.Constant) and text.value in COLUMNS:
                    yield call.lineno, str(text.value)
    if name == "Lease" or (name in {"create", "bulk_create"} and model == "Lease"):
        yield call.lineno, name


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("Tool.objects.filter(pk=1).update(borrowed=F('borrowed') - 1)", ["borrowed"]),
        ("tool.save(update_fields=['name', 'waiting'])", ["waiting"]),
        ("Lease(user='ana')", ["Lease"]),
        ("cursor.execute('UPDATE licenses_tool SET in_use = 0')", ["UPDATE"]),
        ("tool.save(update_fields=['capacity'])", []),
        ("ApiToken.objects.update(expires_at=now)", []),
        ("cursor.execute('UPDATE licenses_failurecount SET pending = 0')", []),
    ],
)
def test_a_write_is_known_when_it_is_seen(source: str, found: list[str]) -> None:
    assert [column for _, column in writes(source)] == found


def modules() -> list[str]:
    paths = sorted((ROOT / "licenses").rglob("*.py"))
    names = [path.relative_to(ROOT).as_posix() for path in paths]
    return [name for name in names if "/migrations/" not in name and name not in LEDGER]


@pytest.mark.parametrize("module", modules())
def test_no_other_module_writes_seats(module: str) -> None:
    assert list(writes(Path(ROOT / module).read_text())) == []
