"""Support the former spelling of license for one release.

Delete this module, the package ``licence`` and the command ``licence`` after it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping

UNTIL = "The old names stop working with the next release."


def variable(name: str) -> str:
    """Return the former name of ``LICENSE_...``."""
    return name.replace("LICENSE_", "LICENCE_", 1)


def in_both_names(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables under their new and their former names."""
    return {**environment, **{variable(name): value for name, value in environment.items()}}


def sentence(renamed: Iterable[tuple[str, str]]) -> str:
    """Return one line with each former name that was used and its new name."""
    return "; ".join(f"{old} is now {new}" for old, new in renamed) + f". {UNTIL}"


def warn(old: str, new: str) -> None:
    """Warn that the program uses a former name."""
    warnings.warn(sentence([(old, new)]), FutureWarning, stacklevel=3)


def main() -> int:
    """Run the command ``license`` by its former name."""
    from .cli import main as run

    return run(sys.argv[1:], renamed=[("the command licence", "license")])
