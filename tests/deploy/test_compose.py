"""Compose: the services that an upgrade restarts, and the reload of changed files.

``scripts/verify_compose`` starts the stack. These tests need no Docker.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.ports import free_port
from tests.support.monitoring import program, read_yaml
from tests.support.paths import ROOT
from tests.support.waiting import until

RELOAD = ROOT / "deploy" / "compose" / "reload"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml("docker-compose.yml")["services"]
    return found


def test_the_image_is_built_by_one_service_and_used_by_the_others(services: dict[str, Any]) -> None:
    built = [name for name, service in services.items() if "build" in service]
    assert built == ["api"]
    users = [name for name, service in services.items() if service["image"] == services["api"]["image"]]
    assert users == ["migrate", "api", "sweeper"]


def test_no_variable_is_read_that_may_be_unset() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in lines:
        for name, default in re.findall(r"(?<!\$)\$\{?(\w+)(:[-+])?", line):
            assert default, f"Compose warns that {name} is not set"


def test_the_settings_of_notifications_reach_the_server_and_the_sweeper(services: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    rows = re.findall(r"^\| (`LICENSE_[^|]+) \|", page.partition("## Mail and webhooks")[2], re.MULTILINE)
    names = set(re.findall(r"LICENSE_\w+", " ".join(rows)))
    assert len(names) > 10
    # A file would have to be mounted first.
    names.remove("LICENSE_EMAIL_PASSWORD_FILE")
    for service in ("api", "sweeper"):
        assert {name for name in names if f"${{{name}:-" not in services[service]["environment"].get(name, "")} == set()


def test_the_server_requires_no_https_behind_a_proxy_without_it(services: dict[str, Any]) -> None:
    site = (ROOT / "deploy" / "nginx" / "site.conf").read_text()
    assert re.search(r"map \$scheme \$forwarded_proto \{\s+default \$scheme;\s+\}", site)
    assert services["proxy"]["ports"] == ["${LISTEN_ADDRESS:-127.0.0.1}:${API_PORT:-8000}:8080"]
    for name in ("api", "sweeper", "migrate"):
        assert services[name]["environment"]["SECURE_SSL"] == "false"


def reloaded() -> dict[str, str]:
    """Return the services that reload changed files, and the folder of these files."""
    return {"proxy": "/etc/nginx", "prometheus": "/etc/prometheus", "alertmanager": "/etc/alertmanager"}


@pytest.mark.parametrize(("name", "folder"), reloaded().items())
def test_a_service_takes_up_changed_files_by_its_health_check(services: dict[str, Any], name: str, folder: str) -> None:
    service = services[name]
    assert any(mount.split(":")[1] == folder for mount in service["volumes"])
    assert "./deploy/compose:/opt/compose:ro" in service["volumes"]
    assert f"sh /opt/compose/reload {folder} " in service["healthcheck"]["test"][-1]
    # The script keeps what it has seen there.
    assert "/tmp" in service["tmpfs"]


def test_every_service_with_files_of_ours_takes_up_changes_or_the_docs_say_how(services: dict[str, Any]) -> None:
    upgrades = (ROOT / "docs" / "howto" / "upgrades.md").read_text()
    for name, service in services.items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("./") and source not in {"./deploy/compose", "./monitoring/grafana/dashboards"}:
                assert name in reloaded() or f"`{source.removeprefix('./')}/`" in upgrades, mount


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# A shell with a trap loses a signal now and then.
SERVER = """
import signal

signal.signal(signal.SIGHUP, lambda *_: print("reloaded"))
print("up")
while True:
    signal.pause()
"""


class Running:
    """A server that reads the files of a folder, as in its container."""

    def __init__(self, folder: Path, closing: ExitStack, *command: str) -> None:
        self.folder = folder
        self.log = folder.parent / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder.parent)
        closing.callback(self.process.wait, 30)
        closing.callback(self.process.send_signal, signal.SIGTERM)

    def check(self, *check: str) -> "subprocess.CompletedProcess[str]":
        """Return the first command of the health check."""
        environment = os.environ | {"MAIN_PID": str(self.process.pid), "SEEN": str(self.folder.parent / "seen")}
        shell = ["busybox", "sh"] if shutil.which("busybox") else ["sh"]
        return subprocess.run(
            [*shell, str(RELOAD), str(self.folder), *check], env=environment, capture_output=True, text=True
        )


def answer(url: str) -> str:
    with suppress(httpx.TransportError):
        return httpx.get(url).text
    return ""


def test_a_changed_nginx_conf_is_in_force_and_a_wrong_one_is_not(tmp_path: Path, closing: ExitStack) -> None:
    if shutil.which("nginx") is None:
        pytest.skip("there is no nginx here")
    port, folder = free_port(), tmp_path / "nginx"
    folder.mkdir()
    file = folder / "nginx.conf"

    def configure(text: str) -> None:
        file.write_text(
            f"pid {tmp_path}/nginx.pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; server {{ listen 127.0.0.1:{port}; return 200 {text}; }} }}\n"
        )

    configure("old")
    nginx = ["nginx", "-p", str(tmp_path), "-c", str(file)]
    running = Running(folder, closing, *nginx, "-g", "daemon off;")
    url = f"http://127.0.0.1:{port}/"
    until(lambda: answer(url) == "old", running.log.read_text)
    check = (*nginx, "-t", "-q")
    assert running.check(*check).returncode == 0

    configure("new")
    assert running.check(*check).returncode == 0
    until(lambda: answer(url) == "new", running.log.read_text)

    configure("new; nonsense")
    done = running.check(*check)
    assert done.returncode != 0
    assert "nonsense" in done.stderr
    # A worker of before may answer for a moment after the first new one does.
    until(lambda: [answer(url) for _ in range(5)] == ["new"] * 5, running.log.read_text)
    # It stays unhealthy until somebody repairs it.
    assert running.check(*check).returncode != 0
    configure("mended")
    assert running.check(*check).returncode == 0
    until(lambda: answer(url) == "mended", running.log.read_text)


def test_changed_rules_are_in_force(tmp_path: Path, closing: ExitStack) -> None:
    folder = tmp_path / "prometheus"
    shutil.copytree(ROOT / "monitoring" / "prometheus", folder)
    url, config = f"127.0.0.1:{free_port()}", folder / "prometheus.yml"
    running = Running(
        folder,
        closing,
        program("prometheus"),
        f"--config.file={config}",
        f"--web.listen-address={url}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
    )
    rules = f"http://{url}/api/v1/rules"
    until(lambda: '"ToolExhausted"' in answer(rules), running.log.read_text)
    check = (program("promtool"), "check", "config", str(config))
    assert running.check(*check).returncode == 0

    file = folder / "rules" / "licenses.yml"
    file.write_text(file.read_text().replace("alert: ToolExhausted", "alert: OutOfSeats"))
    assert running.check(*check).returncode == 0
    until(lambda: '"OutOfSeats"' in answer(rules) and '"ToolExhausted"' not in answer(rules), running.log.read_text)

    file.write_text("groups: [nonsense]")
    assert running.check(*check).returncode != 0
    assert '"OutOfSeats"' in answer(rules)


def test_nothing_is_reloaded_that_did_not_change(tmp_path: Path, closing: ExitStack) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "file").write_text("one")
    running = Running(folder, closing, sys.executable, "-u", "-c", SERVER)
    # A signal before its handler would end it.
    until(lambda: running.log.read_text() == "up\n", running.log.read_text)
    for _ in range(3):
        assert running.check("true").returncode == 0
    until(lambda: running.log.read_text() == "up\nreloaded\n", running.log.read_text)
    (folder / "file").write_text("two")
    assert running.check("true").returncode == 0
    until(lambda: running.log.read_text() == "up\n" + "reloaded\n" * 2, running.log.read_text)
