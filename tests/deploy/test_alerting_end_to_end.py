"""The way of an alert, on loopback: the server, a Prometheus with the committed rules, an
Alertmanager with the committed routes, and a webhook."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.ports import free_port
from tests.support.monitoring import program, read_yaml, running_prometheus, started
from tests.support.monitoring import rules as committed_rules
from tests.support.servers import Server, running_server
from tests.support.waiting import until

Alert = dict[str, Any]


class Webhook:
    """Whoever is to be told; ``told`` are the paths and alerts as they come in."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.told: queue.Queue[tuple[str, Alert]] = queue.Queue()

    def wait_for(self, alertname: str, status: str = "firing") -> tuple[str, Alert]:
        """Return the next matching alert and the path of its request."""
        while True:
            path, alert = self.told.get(timeout=60)
            if (alert["labels"]["alertname"], alert["status"]) == (alertname, status):
                return path, alert


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for alert in message["alerts"]:
                listening.told.put((self.path, alert))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening = Webhook(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield listening
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def running_alertmanager(folder: Path, webhook: str) -> Iterator[str]:
    """Provide the committed routes without delays and with a receiver."""
    command = program("prometheus-alertmanager", "alertmanager")
    folder.mkdir()
    config = read_yaml("monitoring/alertmanager/alertmanager.yml")
    for route in [config["route"], *config["route"]["routes"]]:
        route["group_wait"] = "100ms"
    config["route"]["group_interval"] = "1s"
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": f"{webhook}/{receiver['name']}"}]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    arguments = [f"--web.listen-address={address}", "--cluster.listen-address=", f"--storage.path={folder / 'data'}"]
    with started(
        [command, f"--config.file={folder / 'alertmanager.yml'}", *arguments], folder, f"http://{address}"
    ) as url:
        yield url


@dataclass
class Watched:
    """A server and its Prometheus."""

    server: Server
    prometheus: str


@pytest.fixture(scope="module")
def watched(webhook: Webhook, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Provide one for all tests of this module. Each test has its own tool."""
    program("prometheus")
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("watched")
        alertmanager = stack.enter_context(running_alertmanager(folder / "alertmanager", webhook.url))
        server = stack.enter_context(running_server(folder))
        yield Watched(server, stack.enter_context(running_prometheus(folder / "prometheus", server.url, alertmanager)))


def test_an_overdraft_alert_goes_to_the_receiver_of_tickets(watched: Watched, webhook: Webhook) -> None:
    watched.server.manage(
        "shell",
        "-c",
        "from licenses.models import Tool; Tool.objects.filter(name='analysis').update(overdraft=1)",
    )
    for user in ("ana", "ben", "eve"):
        body = {"tool": "analysis", "user": user}
        httpx.post(f"{watched.server.url}/licenses/borrow", json=body).raise_for_status()
    path, alert = webhook.wait_for("OverdraftEntered")
    assert path == "/tickets"
    assert alert["labels"] == {
        "alertname": "OverdraftEntered",
        "tool": "analysis",
        "severity": "ticket",
        "service": "licenseserver",
        "installation": "compose",
    }
    (base,) = read_yaml("monitoring/prometheus/rules/runbooks.yml")["groups"][0]["rules"]
    assert alert["annotations"] == {
        "summary": "analysis is overdrawn (compose)",
        "description": "More seats of analysis are borrowed than its capacity, or were in the last 15 minutes.",
        "runbook_url": f"{base['labels']['url']}/licenses.md#overdraftentered",
    }


def test_the_end_and_the_renewal_of_a_license_show_at_once(watched: Watched, webhook: Webhook, tmp_path: Path) -> None:
    file = tmp_path / "tools.toml"

    def ends_in(time: timedelta) -> None:
        file.write_text(f"[cad_tool]\ncapacity = 5\nvalid_until = {(datetime.now(UTC) + time).isoformat()}\n")
        watched.server.manage("seed", "--file", str(file), "--force")

    ends_in(timedelta(hours=12))
    path, alert = webhook.wait_for("LicenseExpires")
    assert path == "/pages"
    assert alert["labels"]["days"] == "1"
    assert "cad_tool (5 seats) ends in 11h 59m" in alert["annotations"]["description"]
    ends_in(timedelta(days=400))
    path, alert = webhook.wait_for("LicenseExpires", "resolved")
    assert (path, alert["labels"]["tool"]) == ("/pages", "cad_tool")


def test_every_rule_is_evaluated_without_an_error(watched: Watched) -> None:
    body = {"tool": "simulation", "user": "ana"}
    httpx.post(f"{watched.server.url}/licenses/borrow", json=body).raise_for_status()

    def rules() -> list[dict[str, Any]]:
        groups = httpx.get(f"{watched.prometheus}/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def states() -> str:
        return "\n".join(f"{rule['name']}: {rule['health']} {rule.get('lastError', '')}" for rule in rules())

    # The objectives are evaluated every 30 s.
    until(lambda: all(rule["health"] != "unknown" for rule in rules()), states)
    assert {rule["health"] for rule in rules()} == {"ok"}, states()
    assert len(rules()) == len(committed_rules())


# --- What follows from another alert ----------------------------------------


@pytest.mark.parametrize(
    ("cause", "follows", "stands"),
    [
        (
            {"alertname": "LicenseServerDown"},
            [{"alertname": "ToolExhausted", "tool": "cad"}, {"alertname": "LicenseServerSweeperNotRunning"}],
            [{"alertname": "ToolExhausted", "tool": "cad", "service": "another"}],
        ),
        (
            {"alertname": "LicenseServerDatabaseUnready"},
            [{"alertname": "LicenseServerErrorBudgetBurn", "slo": "availability", "severity": "page"}],
            [{"alertname": "LicenseExpires", "tool": "cad"}],
        ),
        (
            {"alertname": "LicenseServerErrorBudgetBurn", "slo": "latency", "severity": "page"},
            [{"alertname": "LicenseServerErrorBudgetBurn", "slo": "latency", "severity": "ticket"}],
            [{"alertname": "LicenseServerErrorBudgetBurn", "slo": "availability", "severity": "ticket"}],
        ),
        (
            {"alertname": "ToolExhausted", "tool": "cad"},
            [{"alertname": "ToolNearExhaustion", "tool": "cad"}],
            [{"alertname": "ToolNearExhaustion", "tool": "sim"}],
        ),
    ],
    ids=lambda value: value["alertname"] if isinstance(value, dict) else "",
)
def test_an_alert_that_follows_from_another_is_not_sent(
    cause: dict[str, str], follows: list[dict[str, str]], stands: list[dict[str, str]], tmp_path: Path, webhook: Webhook
) -> None:
    def with_service(labels: dict[str, str]) -> dict[str, str]:
        return {"service": "licenseserver", **labels}

    with running_alertmanager(tmp_path / "alertmanager", webhook.url) as alertmanager:
        address = f"{alertmanager}/api/v2/alerts"
        # The cause is known before what follows from it.
        httpx.post(address, json=[{"labels": with_service(cause)}]).raise_for_status()
        assert webhook.wait_for(cause["alertname"])[1]["labels"] == with_service(cause)
        posted = [with_service(labels) for labels in [*follows, *stands]]
        httpx.post(address, json=[{"labels": labels} for labels in posted]).raise_for_status()
        for labels in stands:
            assert webhook.wait_for(labels["alertname"])[1]["labels"] == with_service(labels)

        def state(labels: dict[str, str]) -> str:
            (found,) = [alert for alert in httpx.get(address).json() if alert["labels"] == with_service(labels)]
            return str(found["status"]["state"])

        for labels in follows:
            until(lambda labels=labels: state(labels) == "suppressed", lambda: httpx.get(address).text)  # type: ignore[misc]
        for labels in [cause, *stands]:
            assert state(labels) == "active"
