"""The files that watch the server, as tests read them."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
RULES = sorted((ROOT / "monitoring" / "prometheus" / "rules").glob("*.yml"))
PROMQL_WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset"}


def read_yaml(path: str | Path) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def rules() -> list[dict[str, Any]]:
    """All alerts and recording rules."""
    return [rule for path in RULES for group in read_yaml(path)["groups"] for rule in group["rules"]]


def recorded() -> set[str]:
    """The names of the series that recording rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}


def metrics_in(expression: str) -> set[str]:
    """The names of the metrics that a PromQL expression asks for."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)", " ", bare)
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - PROMQL_WORDS


def program(*names: str) -> str:
    """A program of Prometheus' by one of its names; skips the test where there
    is none. No package of pip's has them: Debian's and Ubuntu's ``prometheus``
    and ``prometheus-alertmanager`` do."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"{names[0]} is not installed (apt-get install prometheus prometheus-alertmanager)")
