"""Find words that our texts avoid, so that a reader whose second language is English understands them.

``python scripts/check_words.py [FILE ...]`` reads the files that it is given, or
those that git knows: Markdown, templates, rules and dashboards, and in Python the
strings that are texts (docstrings only where the API's documentation shows them).
It prints a line for each finding and ends with 1 if there is one.
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Each word with what to write instead.
INSTEAD = {
    r"licences?|licenced|licencing|sublicence": "license",
    r"told": "say who says what to whom",
    r"besides?": "in addition to, next to, except",
    r"of late": "recently, lately",
    r"for ever": "without an end, never",
    r"nobody's": "of no user",
    r"in vain": "timed out, without success",
    r"so (?:many|long)(?! (?:as|that)\b)": "the number or the time itself",
    r"alone": "only",
    r"anew": "again",
    r"artefacts?": "artifact",
    r"behaviours?": "behavior",
    r"colours?": "color",
    r"defence": "defense",
    r"utilisation": "utilization",
}
PATTERN = re.compile("|".join(rf"\b(?P<w{number}>{words})\b" for number, words in enumerate(INSTEAD)), re.IGNORECASE)
ADVICE = list(INSTEAD.values())
# What lives for the former names, and goes with them.
FORMER = ("client/src/licence/", "client/src/license_client/former.py")
# These docstrings are the texts of the API's documentation.
SHOWN = "licenses/api/"
NO_TEXTS = (
    "tests/",
    "scripts/check_words.py",
    "monitoring/prometheus/tests/",
    "benchmarks/",
    "licenses/migrations/",
    *FORMER,
)


def findings(path: Path) -> Iterator[str]:
    """Yield each avoided word of a file's texts with its line and what to write instead."""
    for line, text in _texts(path):
        for match in PATTERN.finditer(text):
            at = line + text.count("\n", 0, match.start())
            group = match.lastgroup or "w0"
            yield f"{path}:{at}: {match.group()}: write: {ADVICE[int(group[1:])]}"


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from _strings(ast.parse(content), with_docstrings=path.as_posix().startswith(SHOWN))
    elif path.suffix == ".md":
        fences = re.sub(r"^ *```.*?^ *```", _blank, content, flags=re.MULTILINE | re.DOTALL)
        yield 1, re.sub(r"`[^`\n]*`|\]\([^)]*\)", _blank, fences)
    elif path.suffix == ".html":
        yield 1, re.sub(r"<[^>]*>|{[%#].*?[%#]}", _blank, content, flags=re.DOTALL)
    elif path.suffix in {".yml", ".yaml"}:
        yield 1, re.sub(r"#.*", "", content)
    elif path.suffix == ".json":
        yield 1, json.dumps(json.loads(content), indent=2, ensure_ascii=False)


def _strings(tree: ast.Module, *, with_docstrings: bool) -> Iterator[tuple[int, str]]:
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = " " in node.value.strip() and "SELECT" not in node.value
            if text and (with_docstrings or id(node) not in docstrings):
                yield node.lineno, node.value


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match.group())


def texts_of_the_repository() -> list[Path]:
    """Return the files with texts that people read."""
    suffixes = ("*.py", "*.md", "*.html", "monitoring/*.yml", "monitoring/*.json")
    command = ["git", "ls-files", "--", *suffixes]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [Path(name) for name in names.splitlines() if not name.startswith(NO_TEXTS)]


def main() -> int:
    """Print the findings; return 1 if there is one."""
    paths = [Path(name) for name in sys.argv[1:]] or texts_of_the_repository()
    found = [finding for path in paths for finding in findings(path)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
