"""Read the monitoring files for tests."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.ports import free_port
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE, until

DASHBOARDS = sorted((ROOT / "monitoring" / "grafana" / "dashboards").glob("*.json"))
RULES = sorted((ROOT / "monitoring" / "prometheus" / "rules").glob("*.yml"))
PROMQL_WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset"}


def read_yaml(path: str | Path) -> Any:
    # In C: Python's own loader takes ten times as long.
    return yaml.load((ROOT / path).read_text(), Loader=yaml.CSafeLoader)


def rules() -> list[dict[str, Any]]:
    """Return all alerts and recording rules."""
    return [rule for path in RULES for group in read_yaml(path)["groups"] for rule in group["rules"]]


def recorded() -> set[str]:
    """Return the names of the series that recording rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}


def read_dashboard(path: Path) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(path.read_text())
    return dashboard


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels without the row titles."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def metrics_in(expression: str) -> set[str]:
    """Return the names of the metrics in a PromQL expression."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - PROMQL_WORDS


def program(*names: str) -> str:
    """Return a program of Prometheus' by one of its names; skips the test where there
    is none. No package of pip's has them: Debian's and Ubuntu's ``prometheus``
    and ``prometheus-alertmanager`` do."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"{names[0]} is not installed (apt-get install prometheus prometheus-alertmanager)")


@contextmanager
def started(command: list[str | Path], folder: Path, url: str) -> Iterator[str]:
    """Provide a ready Prometheus server with its files in a folder."""
    log = folder / "log"

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        until(ready, log.read_text)
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextmanager
def running_prometheus(folder: Path, server: str, alertmanager: str | None = None) -> Iterator[str]:
    """Provide the committed configuration and rules with short intervals and these addresses."""
    command = program("prometheus")
    (folder / "rules").mkdir(parents=True)
    for path in RULES:
        quick = re.sub(r"^(    interval:) .*", r"\1 500ms", path.read_text(), flags=re.MULTILINE)
        (folder / "rules" / path.name).write_text(quick)
    config = read_yaml("monitoring/prometheus/prometheus.yml")
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    (manager,) = config["alerting"]["alertmanagers"]
    manager["static_configs"][0]["targets"] = [alertmanager.removeprefix("http://")] if alertmanager else []
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "licenseserver"]
    job["static_configs"][0]["targets"] = [server.removeprefix("http://")]
    config["scrape_configs"] = [job]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    arguments = [f"--web.listen-address={address}", f"--storage.tsdb.path={folder / 'data'}"]
    with started(
        [command, f"--config.file={folder / 'prometheus.yml'}", *arguments], folder, f"http://{address}"
    ) as url:
        yield url
