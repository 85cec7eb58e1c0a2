"""Every panel of every dashboard, asked of a real Prometheus with the committed
rules that watches a real server at work. What Grafana draws of the answers is
not seen here: ``scripts/verify_compose`` starts it."""

import math
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.monitoring import DASHBOARDS, panels, program, read_dashboard, running_prometheus
from tests.support.servers import Server, running_server
from tests.support.waiting import until

DAY = 86_400

# cad_tool has 5 seats: one reserved for crash, one for aero, and an overdraft of one.
TEAMS_AND_LIMITS = """
from datetime import timedelta
from django.utils import timezone
from licenses.tools import contracts, quotas
from licenses.auditing import Actor
from licenses.models import Contract, Team, TeamMember, Tool
ends = timezone.now() + timedelta(days=20)
Tool.objects.filter(name="cad_tool").update(overdraft=1, valid_until=ends)
crash, aero = (Team.objects.create(name=name) for name in ("crash", "aero"))
TeamMember.objects.create(team=crash, user="ana")
TeamMember.objects.create(team=aero, user="amy")
terms = {crash: quotas.AllotmentTerms(quota=1), aero: quotas.AllotmentTerms(reservation=1)}
begins = timezone.now() - timedelta(days=90)
bought = Contract(
    tool=Tool.objects.get(name="cad_tool"), seats=5, first_day=begins.date(), last_day=ends.date(), reference="PO-1"
)
contracts.save(contracts=[bought], by=Actor.of_command("test"))
quotas.allot(tool="cad_tool", terms=terms, by=Actor.of_command("test"))
"""


@dataclass
class Watched:
    """A working server and its Prometheus."""

    server: Server
    prometheus: str
    # The ticket of a user who always waits.
    ticket: str = ""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(method, f"{self.server.url}{path}", json=body)
        assert answer.status_code < 500, answer.text
        return answer.json()

    def borrow(self, user: str, **more: Any) -> Any:
        return self.call("POST", "/licenses/borrow", {"tool": "cad_tool", "user": user} | more)

    def give_back(self, lease: Any) -> None:
        self.call("POST", "/licenses/return", {"id": lease["id"]})

    def poll(self, ticket: str) -> Any:
        return self.call("GET", f"/licenses/queue/{ticket}")

    def use_up(self) -> None:
        """Borrow all seats with the overdraft; let one user wait and get a seat, and others wait."""
        self.server.manage("shell", "-c", TEAMS_AND_LIMITS)
        self.server.manage("expire_leases")
        held = [self.borrow(user) for user in ("ana", "ben", "cleo", "dan", "eve", "amy")]
        assert all("id" in lease for lease in held), held
        self.call("POST", "/licenses/renew", {"id": held[0]["id"]})
        *tickets, self.ticket = (self.borrow(user, wait_seconds=600)["ticket"] for user in ("fay", "gus", "hal"))
        # One of them is reserved for aero.
        for lease in (held[1], held[2], held[5]):
            self.give_back(lease)
        until(lambda: all("id" in self.poll(ticket) for ticket in tickets), lambda: "no seat came free")

    def work_on(self) -> None:
        """Make the calls that repeat all the time."""
        # Poll, or the ticket is dropped.
        assert "ticket" in self.poll(self.ticket)
        self.give_back(self.borrow("amy"))
        refusals = [self.borrow("ana"), self.borrow("ira"), self.borrow("ira", tool="no_such_tool"), self.borrow("")]
        assert all("code" in refusal for refusal in refusals), refusals
        self.call("GET", "/licenses/no_such_tool/status")
        self.call("GET", "/api/v1/reports/utilisation?tool=cad_tool")

    def ask(self, target: dict[str, Any], since: float) -> list[float]:
        """Return the numbers that Prometheus answers, asked as Grafana asks it for a
        panel that shows these last seconds."""
        if target.get("instant"):
            answer = self._get("query", query=target["expr"])
            values = [series["value"] for series in answer]
        else:
            step = DAY if target.get("interval") == "1d" else 5
            start = (time.time() - since) // step * step
            answer = self._get("query_range", query=target["expr"], start=start, end=time.time(), step=step)
            values = [value for series in answer for value in series["values"]]
        return [float(number) for _, number in values if math.isfinite(float(number))]

    def _get(self, what: str, **parameters: Any) -> Any:
        answer = httpx.post(f"{self.prometheus}/api/v1/{what}", data=parameters).json()
        assert answer["status"] == "success", f"{parameters['query']}: {answer.get('error')}"
        return answer["data"]["result"]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    program("prometheus")
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("dashboards")
        server = stack.enter_context(running_server(folder))
        prometheus = stack.enter_context(running_prometheus(folder / "prometheus", server.url))
        watched = Watched(server, prometheus)
        # Prometheus sees an increase only after it has scraped the 0.
        seen = {"expr": 'license_borrow_attempts_total{tool="cad_tool"}', "instant": True}
        until(lambda: watched.ask(seen, 0) == [0], lambda: "Prometheus doesn't reach the server")
        watched.use_up()
        yield watched


def filled_in(expression: str, tool: str) -> str:
    """Return the expression with Grafana's variables as they are for these tools and
    all of everything else."""
    values = {"__rate_interval": "5m", "__range": "1h", "tool": tool, "installation": "compose"}
    return re.sub(r"\$([a-z_]+)", lambda name: values.get(name[1], ".*"), expression)


def choices() -> Iterator[Any]:
    """Yield the dashboards with each choice of tools: all, or one."""
    for path in DASHBOARDS:
        variables = {variable["name"]: variable for variable in read_dashboard(path)["templating"]["list"]}
        tool = variables.get("tool")
        if tool is None or tool["includeAll"]:
            yield pytest.param(path, ".*", id=path.stem)
        if tool is not None:
            yield pytest.param(path, "cad_tool", id=f"{path.stem} of one tool")


@pytest.mark.parametrize(("path", "tool"), list(choices()))
def test_every_panel_has_data(watched: Watched, path: Path, tool: str) -> None:
    missing = {
        f"{panel['title']}, {target['refId']}": (
            target | {"expr": filled_in(target["expr"], tool)},
            28 * DAY if panel.get("timeFrom") == "28d" else 60,
        )
        for panel in panels(read_dashboard(path))
        for target in panel["targets"]
    }

    def all_there() -> bool:
        watched.work_on()
        for name, (target, since) in list(missing.items()):
            if watched.ask(target, since):
                del missing[name]
        return not missing

    until(all_there, lambda: "\n".join(f"{name}: {target['expr']}" for name, (target, _) in missing.items()))


def test_the_heat_map_has_each_hour_s_highest_mark_in_the_day_s_column(tmp_path: Path) -> None:
    (panel,) = [p for path in DASHBOARDS for p in panels(read_dashboard(path)) if p["type"] == "status-history"]
    (target,) = panel["targets"]
    query = filled_in(target["expr"], "cad_tool")

    def at(day: int, hours: dict[int, float]) -> dict[str, Any]:
        samples = [{"labels": f'{{hour="{hour:02}"}}', "value": value} for hour, value in hours.items()]
        return {"expr": query, "eval_time": f"{day}d", "exp_samples": samples}

    # From midnight on: a quiet day but for half an hour of its tenth hour, and
    # one that gets fuller every hour, and is not over at its third.
    quiet = [0.2] * 24 * 60
    quiet[9 * 60 + 15 : 9 * 60 + 45] = [0.9] * 30
    rising = [0.5] * 60 + [0.75] * 60 + [1.2] * 30
    series = {
        "series": 'tool:licenses_utilisation:ratio{installation="compose",tool="cad_tool"}',
        "values": " ".join(str(value) for value in quiet + rising),
    }
    test = {
        "interval": "1m",
        "input_series": [
            series,
            {"series": 'tool:licenses_utilisation:ratio{installation="compose",tool="sim"}', "values": "1x4000"},
        ],
        "promql_expr_test": [
            at(0, {hour: 0.9 if hour == 9 else 0.2 for hour in range(24)}),
            at(1, {0: 0.5, 1: 0.75, 2: 1.2}),
            at(2, {}),
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": [test]}))
    told = subprocess.run([program("promtool"), "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
