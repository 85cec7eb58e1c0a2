"""Pages and code use the same words."""

import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import apps

from tests.support.paths import ROOT

pytestmark = pytest.mark.any_database

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


def labels_and_help_texts() -> Iterator[tuple[str, str]]:
    for model in apps.get_app_config("licenses").get_models():
        for field in model._meta.fields:
            texts = [*(label for _, label in field.flatchoices), field.help_text]
            yield from ((f"{model.__name__}.{field.name}", str(text)) for text in texts if text)


# Proper names, which keep their capital letters.
NAMES = re.compile(r"\b(?:[A-Z]+|JWTs|Microsoft Teams|Standard Webhooks|SHA-256|Unicode)\b")


def test_labels_and_help_texts_are_sentences() -> None:
    for field, text in labels_and_help_texts():
        assert not re.match(r"(?:What|Whether|When|Where|Who|Whose|How|Why)\b", text), f"{field} has no noun: {text}"
        for sentence in re.split(r"[.:] ", NAMES.sub("", text)):
            assert not re.search(r"\w.* [A-Z]", sentence), f"{field} is no sentence: {text}"


def test_the_glossary_explains_each_word_once() -> None:
    words = [word for row in rows() for word in row[0].split(", ")]
    assert len(words) == len(set(words)) > 25


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("page.md", "The holder is told.\n", ["1: told"]),
        ("page.md", "Use `licence` or [this](besides.md).\n\n```\nfor ever\n```\n\nFor ever.\n", ["7: For ever"]),
        ("page.md", "It stays so for\never.\n", ["1: for ever"]),
        ("page.html", '<p class="alone">{# told #}{% load besides %}Only\nbesides</p>', ["2: besides"]),
        ("rules.yml", "# who is told\nsummary: Waited in vain\n", ["2: in vain"]),
        ("board.json", '{"title": "Seats of late"}', ["2: of late"]),
        ("code.py", '"""Be told."""\n\nHELP = "Wait so long."\nNAME = "licence"\n', ["1: told", "3: so long"]),
        ("code.py", "X = 1\n# Wait for\n# ever.\nY = 2  # told\n", ["2: for ever", "4: told"]),
        (
            "code.py",
            'def f():\n    """The number. Who has it."""\n',
            ["2: Who has", "2: The: begin the docstring with a verb"],
        ),
        ("code.py", 'def test_f():\n    """The number."""\n', []),
        ("code.py", 'HELP = "Wait so long as you can: a license of everybody, only recently."\n', []),
    ],
)
def test_the_check_finds_the_words_that_texts_avoid(
    tmp_path: Path, name: str, text: str, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    check = [sys.executable, str(ROOT / "scripts" / "check_words.py"), name]
    done = subprocess.run(check, check=False, capture_output=True, text=True)
    assert [line.removeprefix(f"{name}:").split(": write")[0] for line in done.stdout.splitlines()] == found
    assert done.returncode == bool(found), done.stderr
