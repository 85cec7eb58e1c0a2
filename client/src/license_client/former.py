"""The names of before license had one spelling; they work for one release.

Delete this module then, the package ``licence`` and the command ``licence``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping

UNTIL = "The old names stop working with the next release."


def variable(name: str) -> str:
    """Return what ``LICENSE_...`` was called."""
    return name.replace("LICENSE_", "LICENCE_", 1)


def in_both_names(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with their former names as well."""
    return {**environment, **{variable(name): value for name, value in environment.items()}}


def sentence(renamed: Iterable[tuple[str, str]]) -> str:
    """Return the one line that names what was used, and its new name."""
    return "; ".join(f"{old} is now {new}" for old, new in renamed) + f". {UNTIL}"


def warn(old: str, new: str) -> None:
    """Warn a program that uses a former name."""
    warnings.warn(sentence([(old, new)]), FutureWarning, stacklevel=3)


def main() -> int:
    """Run the command ``license`` by its former name."""
    from .cli import main as run

    return run(sys.argv[1:], renamed=[("the command licence", "license")])
