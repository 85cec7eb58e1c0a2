"""Find words that our texts avoid, so that a reader whose second language is English understands them.

``python scripts/check_words.py [FILE ...]`` reads these files, or those that git knows:
Markdown, templates, rules and dashboards, and the texts, docstrings and comments of
Python. It also finds docstrings of functions that do not begin with a verb. It prints a
line for each finding and exits with 1 if it has any.
"""

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
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
    r"whoever|whomever": "the user, caller or client that",
    r"for want of": "because there is no",
    r"once more": "again",
    r"(?:need|must|sha|may)n't": "need not, must not",
    r"oneself|themself": "the user's own",
    r"(?:is|are|was|were) had": "name what gets it",
    r"(?<=[.;:]\s)Who (?:has|is|may|does|waits|holds|asks|had|was)(?! [^.]*\?)": "name the user, caller or client",
    r"(?<=[.;:]\s)What (?:is|was|has|comes|came)\b(?![^.]*\?)": "name the thing",
}
# A docstring of a function begins with a verb, not with one of these.
NO_VERB = re.compile(
    r"(?:The|A|An|All|Each|Every|What|Whether|How|Who|Whom|Whose|Which|Why|When|Where|Of|So|Up|If|As|For|By|In|On) "
)
# A line may end inside a group of words.
GROUPS = (rf"\b(?P<w{number}>{words})\b".replace(" ", r"\s+") for number, words in enumerate(INSTEAD))
PATTERN = re.compile("|".join(GROUPS), re.IGNORECASE)
ADVICE = list(INSTEAD.values())
# The support for the former names.
FORMER = ("client/src/licence/", "client/src/license_client/former.py")
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
            yield f"{path}:{at}: {' '.join(match.group().split())}: write: {ADVICE[int(group[1:])]}"
    if path.suffix == ".py":
        for line, docstring in _docstrings_of_functions(ast.parse(path.read_text(encoding="utf-8"))):
            if start := NO_VERB.match(docstring):
                yield f"{path}:{line}: {start.group().strip()}: begin the docstring with a verb"


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from _strings(ast.parse(content))
        yield from _comments(content)
    elif path.suffix == ".md":
        fences = re.sub(r"^ *```.*?^ *```", _blank, content, flags=re.MULTILINE | re.DOTALL)
        yield 1, re.sub(r"`[^`\n]*`|\]\([^)]*\)", _blank, fences)
    elif path.suffix == ".html":
        yield 1, re.sub(r"<[^>]*>|{[%#].*?[%#]}", _blank, content, flags=re.DOTALL)
    elif path.suffix in {".yml", ".yaml"}:
        yield 1, re.sub(r"#.*", "", content)
    elif path.suffix == ".json":
        yield 1, json.dumps(json.loads(content), indent=2, ensure_ascii=False)


def _strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the strings that are texts: docstrings, and others with a space that are no SQL."""
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    for string in strings:
        text = str(string.value)
        if " " in text.strip() and "SELECT" not in text:
            yield string.lineno, text


def _comments(content: str) -> Iterator[tuple[int, str]]:
    """Yield the comments, those of consecutive lines as one."""
    tokens = tokenize.generate_tokens(io.StringIO(content).readline)
    lines: list[str] = []
    first = 0
    for token in tokens:
        if token.type == tokenize.COMMENT:
            if token.start[0] != first + len(lines):
                yield first, "\n".join(lines)
                first, lines = token.start[0], []
            lines.append(token.string.lstrip("# "))
    yield first, "\n".join(lines)


def _docstrings_of_functions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of functions, without those of tests."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.FunctionDef)
            and not node.name.startswith("test_")
            and (text := ast.get_docstring(node))
        ):
            yield node.body[0].lineno, text


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
