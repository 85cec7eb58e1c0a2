"""The GitHub Action and the GitLab component, run as their runners run them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from license_client import Item
from license_client.cli import parser

from tests.support.paths import ROOT
from tests.support.servers import Server, running_server
from tests.support.shell import CLIENT_PYTHON
from tests.support.waiting import PATIENCE, until

ACTION = ROOT / ".github" / "actions" / "license"
FILES = ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT", "GITHUB_STATE")
NODE = shutil.which("node")


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Provide a server where every call needs a credential."""
    folder = tmp_path_factory.mktemp("strict")
    members = folder / "members.csv"
    members.write_text("team,user\nci,acme/regression\n")
    with running_server(folder, LICENSE_AUTH="required", WEB_CONCURRENCY="2") as running:
        running.manage("team", "import", str(members))
        yield running


@pytest.fixture(scope="module")
def token(strict_server: Server) -> str:
    return strict_server.manage("token", "create", "CI", "--team", "ci").split()[-1]


def shown(output: str) -> str:
    """Return what the runner shows of an output: it hides the values that the output masks."""
    for secret in re.findall(r"^::add-mask::(.*)\n", output, re.MULTILINE):
        output = output.replace(f"::add-mask::{secret}\n", "").replace(secret, "***")
    return output


@dataclass
class Runner:
    """Runs the steps of a job as GitHub's runner does: inputs as variables, results by files."""

    server: Server
    token: str
    folder: Path
    inputs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in FILES:
            (self.folder / name).touch()

    @property
    def environment(self) -> dict[str, str]:
        action = yaml.safe_load((ACTION / "action.yml").read_text())
        given = {"server": self.server.url, "token": self.token} | self.inputs
        assert given.keys() <= action["inputs"].keys()
        values = {name: about.get("default", "") for name, about in action["inputs"].items()} | given
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "NO_PROXY": "*",
            "LICENSE_PYTHON": CLIENT_PYTHON,
            "RUNNER_TEMP": str(self.folder),
            "GITHUB_REPOSITORY": "acme/regression",
            **{f"INPUT_{name.upper()}": value for name, value in values.items()},
            **{name: str(self.folder / name) for name in FILES},
        }

    def start(self, stage: str) -> "subprocess.Popen[str]":
        script = yaml.safe_load((ACTION / "action.yml").read_text())["runs"][stage]
        states = {f"STATE_{name}": value for name, value in self.values("GITHUB_STATE").items()}
        assert NODE is not None
        return subprocess.Popen(
            [NODE, str(ACTION / script)],
            env=self.environment | states,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, stage: str) -> tuple[int, str]:
        process = self.start(stage)
        output, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, shown(output)

    def values(self, file: str) -> dict[str, str]:
        """Read NAME<<END, the value and END, as the runner does."""
        lines = iter((self.folder / file).read_text().splitlines())
        found = {}
        for line in lines:
            name, _, end = line.partition("<<")
            found[name] = "\n".join(iter(lambda: next(lines), end))
        return found

    def lease(self, lease: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}"}
        answer: dict[str, Any] = httpx.get(f"{self.server.url}/api/v1/leases/{lease}/", headers=headers).json()
        return answer

    def active(self) -> list[dict[str, Any]]:
        headers = {"Authorization": f"Bearer {self.token}"}
        found: list[dict[str, Any]] = httpx.get(f"{self.server.url}/borrows", headers=headers).json()
        return found


@pytest.fixture
def runner(strict_server: Server, token: str, tmp_path: Path) -> Runner:
    if NODE is None:
        pytest.skip("there is no node here")
    return Runner(strict_server, token, tmp_path)


def test_the_action_runs_a_command_with_its_seats(runner: Runner) -> None:
    runner.inputs = {"tools": "simulation:2 cad_tool", "run": 'echo "lease=$LICENSE_LEASE_ID"\nexit 7'}
    code, output = runner.run("main")
    assert code == 7
    lease = runner.lease(output.partition("lease=")[2].split()[0])
    assert (lease["user"], lease["team"], lease["end_reason"]) == ("acme/regression", "ci", "returned")
    assert {item["tool"]: item["seats"] for item in lease["items"]} == {"simulation": 2, "cad_tool": 1}
    assert runner.run("post") == (0, "")


def test_the_action_hides_the_token_and_quotes_its_inputs(runner: Runner) -> None:
    project = """it's "x" $(touch pwned) `touch pwned` ${HOME} %PATH% ü; touch pwned"""
    words = r"""printf '%s\n' "it's" '$(x)' "ü" "$LICENSE_PROJECT" """
    command = f'echo "token=$LICENSE_TOKEN lease=$LICENSE_LEASE_ID"\n{words}'
    runner.inputs = {"tools": "cad_tool", "project": project, "run": command}
    code, output = runner.run("main")
    assert code == 0
    assert output.splitlines()[1:] == ["it's", "$(x)", "ü", project]
    assert output.startswith("token=*** lease=")
    assert runner.lease(output.splitlines()[0].partition("lease=")[2])["project"] == project
    assert not (ROOT / "pwned").exists()
    # A word of `tools` is a tool, and no command.
    runner.inputs = {"tools": "cad_tool;touch $(touch${IFS}pwned)", "run": "true"}
    assert runner.run("main")[0] != 0
    assert not (ROOT / "pwned").exists()
    assert runner.active() == []


def test_the_action_holds_seats_until_the_end_of_the_job(runner: Runner) -> None:
    runner.inputs = {"tools": "simulation:9\nor\nsimulation:2 cad_tool", "ttl": "2s"}
    code, output = runner.run("main")
    assert (code, "Holding lease" in output) == (0, True)
    lease = runner.values("GITHUB_OUTPUT")["lease"]
    assert runner.values("GITHUB_ENV")["LICENSE_LEASE_ID"] == lease
    first = runner.lease(lease)["expires_at"]
    # Its keeper sends heartbeats while the other steps run.
    until(lambda: runner.lease(lease)["expires_at"] > first, "a heartbeat arrives")
    code, output = runner.run("post")
    assert (code, output) == (0, "The seats are returned.\n")
    assert runner.lease(lease)["end_reason"] == "returned"


def test_the_action_says_that_the_seats_were_lost(runner: Runner) -> None:
    runner.inputs = {"tools": "cad_tool", "ttl": "1s"}
    assert runner.run("main")[0] == 0
    lease = runner.values("GITHUB_OUTPUT")["lease"]
    headers = {"Authorization": f"Bearer {runner.token}"}
    httpx.post(f"{runner.server.url}/licenses/return", json={"id": lease}, headers=headers).raise_for_status()
    folder = Path(runner.values("GITHUB_STATE")["folder"])
    until((folder / "code").exists, "the keeper ends")
    code, output = runner.run("post")
    assert code == 0
    assert "THE LEASE IS LOST" in output
    assert "::warning::The seats were lost" in output


def test_the_action_fails_without_a_seat_and_with_a_wrong_token(runner: Runner) -> None:
    runner.inputs = {"tools": "analysis:3", "wait": "1s"}
    code, output = runner.run("main")
    assert code == 75
    assert "::error::" in output
    # There is nothing to return.
    assert runner.run("post") == (0, "")
    runner.inputs = {"tools": "analysis", "token": ""}
    code, output = runner.run("main")
    assert (code, "::error::license: The server needs a token" in output) == (77, True)
    assert runner.active() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_canceled_job_leaves_the_queue(runner: Runner, number: signal.Signals) -> None:
    runner.inputs = {"tools": "analysis:2"}
    assert runner.run("main")[0] == 0
    (runner.folder / "second").mkdir()
    waiting = Runner(runner.server, runner.token, runner.folder / "second", {"tools": "analysis"})
    process = waiting.start("main")
    assert process.stdout is not None
    assert "waiting for analysis: position 1" in "".join(process.stdout.readline() for _ in range(2))
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert waiting.run("post") == (0, "")
    headers = {"Authorization": f"Bearer {runner.token}"}
    address = f"{runner.server.url}/licenses/analysis/status"
    until(lambda: bool(httpx.get(address, headers=headers).json()["queued"] == 0), "it gives up its place in the queue")
    assert runner.run("post")[0] == 0


def test_the_action_without_tools_installs_the_command(runner: Runner) -> None:
    assert runner.run("main") == (0, "")
    (folder,) = (runner.folder / "GITHUB_PATH").read_text().splitlines()
    variables = runner.values("GITHUB_ENV")
    assert variables == {"LICENSE_SERVER": runner.server.url, "LICENSE_USER": "acme/regression"}
    done = subprocess.run(
        [f"{folder}/license", "status", "cad_tool", "--json"],
        env=runner.environment | variables | {"LICENSE_TOKEN": runner.token},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert json.loads(done.stdout)["total"] == 5


def test_the_action_is_one_that_github_can_run() -> None:
    schema = ["--builtin-schema", "vendor.github-actions"]
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *schema, str(ACTION / "action.yml")],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout
    runs = yaml.safe_load((ACTION / "action.yml").read_text())["runs"]
    assert all((ACTION / runs[stage]).is_file() for stage in ("main", "post"))


# --- The documentation ---------------------------------------------------------------


def examples(language: str) -> list[str]:
    page = (ROOT / "docs" / "howto" / "ci.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def test_the_documented_use_of_the_action_works(runner: Runner) -> None:
    (text,) = [text for text in examples("yaml") if "/.github/actions/license@" in text]
    (job,) = yaml.safe_load(text)["jobs"].values()
    (step,) = [step for step in job["steps"] if "/license@" in step["uses"]]
    given = {"server": runner.server.url, "token": runner.token, "run": "echo $LICENSE_LEASE_ID"}
    assert given.keys() <= step["with"].keys()
    runner.inputs = step["with"] | given
    code, output = runner.run("main")
    assert code == 0
    assert {item["tool"] for item in runner.lease(output.strip())["items"]} == {"simulation", "cad_tool"}


def test_the_documented_inputs_are_those_of_the_action() -> None:
    page = (ROOT / "docs" / "howto" / "ci.md").read_text()
    table = page[page.index("| input |") : page.index("Without `tools`")]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    action = yaml.safe_load((ACTION / "action.yml").read_text())
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == action["inputs"].keys()


def test_the_documented_line_of_powershell_is_one_that_the_client_knows() -> None:
    (text,) = examples("powershell")
    (line,) = [line for line in text.splitlines() if "license.pyz" in line]
    program, file, *arguments = line.split()
    assert (program, file) == ("py", "license.pyz")
    options = parser().parse_args(arguments)
    assert (options.wanted, options.wait, options.ttl) == ([Item("simulation", 2), Item("cad_tool", 1)], 1800, 300)
    assert options.argv == [".\\run-regression.bat"]


# --- GitLab --------------------------------------------------------------------------


COMPONENT = ROOT / "deploy" / "gitlab" / "templates" / "license.yml"


def component(**given: str) -> dict[str, Any]:
    """Return the jobs of the component with these inputs in their places, as GitLab does."""
    head, text = COMPONENT.read_text().split("\n---\n")
    inputs = yaml.safe_load(head)["spec"]["inputs"]
    assert given.keys() <= inputs.keys()
    assert {name for name, about in inputs.items() if "default" not in about} <= given.keys()
    values = {name: about.get("default") for name, about in inputs.items()} | given

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {filled(name): filled(each) for name, each in value.items()}
        if isinstance(value, list):
            return [filled(each) for each in value]
        if not isinstance(value, str):
            return value
        return re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda match: str(values[match[1]]), value)

    jobs: dict[str, Any] = filled(yaml.safe_load(text))
    return jobs


def run_job(job: dict[str, Any], token: str, tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    """Run a job as a runner does: its variables, and its lines in one shell. ``pip`` only notes what it installs."""
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    for name, script in {
        "pip": f'echo "$@" > {tmp_path}/installed',
        "license": f'exec {CLIENT_PYTHON} -m license_client "$@"',
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    variables = {name: each["value"] if isinstance(each, dict) else each for name, each in job["variables"].items()}
    return subprocess.run(
        ["sh", "-e", "-c", "\n".join([*job["before_script"], *job["script"]])],
        cwd=tmp_path,
        env={
            "PATH": f"{tools}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT / "client" / "src"),
            "NO_PROXY": "*",
            "LICENSE_TOKEN": token,
            **{name: value.replace("$CI_PROJECT_PATH", "acme/regression") for name, value in variables.items()},
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def lease_of(server: Server, token: str, id: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    lease: dict[str, Any] = httpx.get(f"{server.url}/api/v1/leases/{id}/", headers=headers).raise_for_status().json()
    return lease


def test_the_documented_use_of_the_component_runs_its_command_with_the_seats(
    strict_server: Server, token: str, tmp_path: Path
) -> None:
    (text,) = [text for text in examples("yaml") if "deploy/gitlab" in text]
    (include,) = yaml.safe_load(text)["include"]
    assert (ROOT / include["file"]) == COMPONENT
    jobs = component(**include["inputs"] | {"server": strict_server.url, "run": 'echo "$LICENSE_LEASE_ID"; exit 7'})
    assert jobs.keys() == {"regression"}
    done = run_job(jobs["regression"], token, tmp_path)
    assert (done.returncode, done.stderr) == (7, "")
    lease = lease_of(strict_server, token, done.stdout.strip())
    assert (lease["user"], lease["team"], lease["end_reason"]) == ("acme/regression", "ci", "returned")
    assert {item["tool"]: item["seats"] for item in lease["items"]} == {"simulation": 2, "cad_tool": 1}
    assert "subdirectory=client" in (tmp_path / "installed").read_text()


def test_the_component_quotes_its_inputs(strict_server: Server, token: str, tmp_path: Path) -> None:
    project = """it's "x" `touch pwned` * ü; touch pwned"""
    words = r"""printf '%s\n' "it's" '$(x)' "ü" "$LICENSE_PROJECT" """
    given = {"server": strict_server.url, "tools": "cad_tool", "project": project}
    (job,) = component(**given, run=f"echo $LICENSE_LEASE_ID\n{words}").values()
    done = run_job(job, token, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lease, *words_shown = done.stdout.splitlines()
    assert words_shown == ["it's", "$(x)", "ü", project]
    assert lease_of(strict_server, token, lease)["project"] == project
    # A word of `tools` is a tool, and no command.
    (job,) = component(**given | {"tools": "cad_tool;touch $(touch${IFS}pwned)"}, run="true").values()
    assert run_job(job, token, tmp_path).returncode != 0
    assert not (tmp_path / "pwned").exists()


def test_the_component_is_a_job_that_gitlab_knows(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.yml"
    jobs.write_text(yaml.safe_dump(component(server="https://licenses.example.com", tools="cad_tool", run="true")))
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.gitlab-ci", str(jobs)],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout
