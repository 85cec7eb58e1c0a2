"""The words of the pages and of the code are the same ones."""

import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GLOSSARY = ROOT / "docs/development/glossary.md"


def rows() -> list[list[str]]:
    lines = (line for line in GLOSSARY.read_text().splitlines() if line.startswith("| "))
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [row for row in cells if row[0] != "Word"]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_the_glossary_names_code_that_exists(row: list[str]) -> None:
    word, meaning, *others, code = row
    assert len(row) == 5
    assert all((word, meaning, *others))
    assert meaning.endswith(".")
    names = re.findall(r"`(licenses\.[\w.]+)`", code)
    assert names or code == "-"
    for name in names:
        assert pkgutil.resolve_name(name).__module__.startswith("licenses.")


def test_the_glossary_explains_each_word_once() -> None:
    words = [word for row in rows() for word in row[0].split(", ")]
    assert len(words) == len(set(words)) > 25
