"""Write the refusals of the code into the tables of docs/reference/errors.md.

    python scripts/error_tables.py          write the tables
    python scripts/error_tables.py --check  fail if they are out of date

A row is made of a refusal's declaration: status, code, and docstring.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from licenses.errors import Refusal, kinds  # noqa: E402
from licenses.policy import RULES, Rule  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "errors.md"


def row(refusal: type[Refusal]) -> list[str]:
    """Return the status, the codes and the meaning of a refusal."""
    return [str(refusal.status), ", ".join(f"`{code}`" for code in refusal.codes()), refusal.meaning()]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, *rows]).replace(
        "\n", f"\n|{'---|' * len(head)}\n", 1
    )


def tables() -> dict[str, str]:
    """Return each table by the name in its comments."""
    others = [kind for kind in kinds(Refusal) if not issubclass(kind, Rule)]
    return {
        "rules": table(
            ["status", "code", "meaning", "waiting helps"],
            ([*row(rule), "yes" if rule.is_temporary else "no"] for rule in RULES),
        ),
        "refusals": table(["status", "code", "meaning"], map(row, sorted(others, key=lambda kind: kind.status))),
    }


def main() -> None:
    before = text = PAGE.read_text()
    for name, rows in tables().items():
        begin, end = f"<!-- {name}: `make error-tables` writes this -->", "<!-- end -->"
        if text.count(begin) != 1:
            sys.exit(f"error tables: {PAGE.relative_to(ROOT)} must have one line {begin}")
        head, rest = text.split(begin)
        text = f"{head}{begin}\n\n{rows}\n{end}{rest.split(end, 1)[1]}"
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(text)
    elif text != before:
        sys.exit(f"error tables: {PAGE.relative_to(ROOT)} is out of date; run `make error-tables`")


if __name__ == "__main__":
    main()
