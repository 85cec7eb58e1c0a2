"""The suite itself: what test modules share is in ``tests/support/``."""

import ast
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.any_database

TESTS = ROOT / "tests"
MODULES = [path for path in sorted(TESTS.rglob("*.py")) if path.parent.name != "faults"]


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, with their packages."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return found


def test_modules_of_tests_import_only_support() -> None:
    own = {
        str(path.relative_to(TESTS)): {
            name for name in imported(path) if name.split(".")[0] in ("", "tests", "conftest")
        }
        for path in MODULES
    }
    assert "unit/test_layout.py" in own
    assert [
        (path, name) for path, names in own.items() for name in names if not name.startswith("tests.support.")
    ] == []


def test_a_test_is_in_the_folder_of_its_kind() -> None:
    kinds = {path.parent.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py") if path.parent != TESTS}
    assert kinds == {"unit", "api", "system", "deploy", "client", "faults"}
    assert sorted(TESTS.glob("test_*.py")) == []
