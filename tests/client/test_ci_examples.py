"""The examples of the documentation and of the board work against a server that requires credentials."""

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from license_client import Item
from license_client.cli import parser

from tests.support.paths import ROOT
from tests.support.person import PASSWORD, Person
from tests.support.servers import Server, running_server
from tests.support.shell import CLIENT_PYTHON
from tests.support.waiting import PATIENCE

# A member's name in the examples; the longest that GitHub allows has 140 characters.
MEMBERS = {"short": "acme/regression", "longest": "a" * 39 + "/" + "r" * 100}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLE_SERVER = "https://licenses.example.com"


@dataclass(frozen=True)
class Job:
    """The variables and scripts of a CI system for an example."""

    variables: dict[str, str]
    scripts: list[str]


def examples() -> list[tuple[str, str]]:
    """Return the code blocks of the documentation with their languages."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [(match[1], match[2]) for page in pages for match in FENCE.finditer(page.read_text())]


def the_example(mark: str) -> str:
    """Return the only job with this mark of its CI system."""
    (found,) = [text for _, text in examples() if mark in text and "license run" in text]
    return found


def github(text: str, token: str, member: str) -> Job:
    for expression, value in {"secrets.LICENSE_TOKEN": token, "github.repository": member}.items():
        text = text.replace("${{ " + expression + " }}", value)
    assert "${{" not in text
    # The board shows only the inside of a job.
    (job,) = yaml.safe_load(text).get("jobs", {"": yaml.safe_load(text)}).values()
    return Job(job["env"], [step["run"] for step in job["steps"] if "run" in step])


def gitlab(text: str, token: str, member: str) -> Job:
    parsed = yaml.safe_load(text)
    (job,) = [parsed] if "script" in parsed else parsed.values()
    variables = {name: value.replace("$CI_PROJECT_PATH", member) for name, value in job["variables"].items()}
    # Set in the project's settings.
    variables["LICENSE_TOKEN"] = token
    return Job(variables, ["\n".join([*job.get("before_script", []), *job["script"]])])


def jenkins(text: str, token: str, member: str) -> Job:
    text = text.replace("credentials('license-token')", f"'{token}'")
    text = text.replace('"${env.JOB_NAME}"', f"'{member}'")
    variables = dict(re.findall(r"^ +(LICENSE_\w+) = '(.*)'$", text, re.MULTILINE))
    return Job(variables, re.findall(r"^ +sh '(.*)'$", text, re.MULTILINE))


def terminal(text: str, token: str, member: str) -> Job:
    return Job({"LICENSE_TOKEN": token, "LICENSE_USER": member}, [text])


Read = Callable[[str, str, str], Job]
# The mark of each system in the documentation, and its name on the board.
MARKS: dict[Read, str] = {github: "runs-on:", gitlab: "before_script:", jenkins: "pipeline {"}
ON_THE_BOARD: dict[str, Read] = {
    "Terminal": terminal,
    "GitHub Actions": github,
    "GitLab CI": gitlab,
    "Jenkins": jenkins,
}
# Every kind of character that the name of a tool can have.
ODD_TOOL = "_ansys.hfss-2024_r1"
SETUP = f"""
from django.contrib.auth.models import User
from licenses.models import Tool
User.objects.create_user("ana", password={PASSWORD!r})
Tool.objects.create(name={ODD_TOOL!r}, capacity=1)
"""


@dataclass
class Runner:
    """Run a job on a machine where ``pip`` only records what it would install."""

    server: Server
    folder: Path

    def __post_init__(self) -> None:
        tools = self.folder / "bin"
        tools.mkdir()
        for name, script in {
            "bin/pip": f'echo "$@" >> {self.folder}/installed',
            "bin/license": f'exec {CLIENT_PYTHON} -m license_client "$@"',
            "run-regression": f'echo "$LICENSE_LEASE_ID" > {self.folder}/lease; exit "$CODE"',
            "your-command": f'echo "$LICENSE_LEASE_ID" > {self.folder}/lease; exit "$CODE"',
        }.items():
            (self.folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (self.folder / name).chmod(0o755)

    def run(self, job: Job, code: int = 0, **variables: str) -> tuple[int, str]:
        """Return the exit code of the first script that fails, or 0, and their output."""
        environment = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT / "client" / "src"),
            "NO_PROXY": "*",
            "CODE": str(code),
            **{name: value.replace(EXAMPLE_SERVER, self.server.url) for name, value in job.variables.items()},
            **variables,
        }
        for script in job.scripts:
            done = subprocess.run(
                ["bash", "-e", "-c", script],
                cwd=self.folder,
                env={name: value for name, value in environment.items() if value},
                stderr=subprocess.PIPE,
                text=True,
                timeout=PATIENCE,
            )
            if done.returncode:
                return done.returncode, done.stderr
        return 0, ""


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Provide a server where every call needs a credential."""
    with running_server(tmp_path_factory.mktemp("server"), LICENSE_AUTH="required") as running:
        running.manage("shell", "-c", SETUP)
        yield running


@pytest.fixture
def runner(strict_server: Server, tmp_path: Path) -> Runner:
    return Runner(strict_server, tmp_path)


def documented_token(runner: Runner, member: str) -> str:
    """Do what the documentation says before the examples; the token."""
    (text,) = [text for _, text in examples() if "team import members.csv" in text and "cat members.csv" in text]
    table, commands = re.search(r"members\.csv\n((?:\w+,.*\n)+)", text), re.findall(r"\$ \S+ manage\.py (.*)", text)
    assert table is not None
    members = runner.folder / "members.csv"
    members.write_text(table[1].replace(MEMBERS["short"], member))
    said = ""
    for command in commands:
        said = runner.server.manage(*shlex.split(command.replace("members.csv", str(members))))
    return re.search(r"lic_\S+", said)[0]  # type: ignore[index]


def lease_of(runner: Runner, token: str) -> dict[str, Any]:
    """Return the lease that the command of a job had."""
    lease = (runner.folder / "lease").read_text().strip()
    found: dict[str, Any] = httpx.get(
        f"{runner.server.url}/api/v1/leases/{lease}/", headers={"Authorization": f"Bearer {token}"}
    ).json()
    return found


def commands_on_the_board(server: Server, tool: str) -> dict[str, str]:
    """Return the commands to copy on the page of a tool, by where they are for."""
    page = Person(server.url, "ana").client.get(f"/tools/{tool}/").raise_for_status().text
    found = re.findall(r'<details class="command".*?<summary>(.*?)</summary>.*?<code>(.*?)</code>', page, re.DOTALL)
    # Elements in it keep words together.
    return {where: unescape(re.sub(r"<[^>]+>", "", text)) for where, text in found}


@pytest.mark.parametrize("tool", ["cad_tool", ODD_TOOL])
def test_the_commands_on_the_board_run_with_a_seat_and_return_it(runner: Runner, tool: str) -> None:
    member = MEMBERS["short"]
    token = documented_token(runner, member)
    commands = commands_on_the_board(runner.server, tool)
    assert list(commands) == [*ON_THE_BOARD, "PowerShell"]
    for where, read in ON_THE_BOARD.items():
        (runner.folder / "lease").unlink(missing_ok=True)
        job = read(commands[where], token, member)
        assert runner.run(job) == (0, ""), where
        lease = lease_of(runner, token)
        assert (lease["user"], lease["end_reason"]) == (member, "returned")
        assert {item["tool"]: item["seats"] for item in lease["items"]} == {tool: 1}
        assert runner.run(job, code=3)[0] == 3, where
    # There is no PowerShell here.
    variable, line = commands["PowerShell"].splitlines()
    assert variable == f"$env:LICENSE_SERVER = '{runner.server.url}'"
    program, *arguments = line.split()
    options = parser().parse_args(arguments)
    assert (program, options.wanted, options.wait) == ("license", [Item(tool, 1)], 1800)
    assert options.argv == [".\\your-command.exe"]


@pytest.mark.parametrize("system", MARKS, ids=lambda system: system.__name__)
@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
def test_an_example_runs_its_command_with_the_seats_and_returns_them(runner: Runner, system: Read, member: str) -> None:
    token = documented_token(runner, member)
    text = the_example(MARKS[system])
    assert runner.run(system(text, token, member)) == (0, "")
    found = lease_of(runner, token)
    assert (found["user"], found["team"], found["end_reason"]) == (member, "ci", "returned")
    assert {item["tool"]: item["seats"] for item in found["items"]} == {"simulation": 2, "cad_tool": 1}
    assert runner.run(system(text, token, member), code=3)[0] == 3
    assert "subdirectory=client" in (runner.folder / "installed").read_text()


@pytest.mark.parametrize("system", MARKS, ids=lambda system: system.__name__)
def test_an_example_that_lacks_something_says_what_to_set(runner: Runner, system: Read) -> None:
    member = MEMBERS["short"]
    job = system(the_example(MARKS[system]), documented_token(runner, member), member)
    assert runner.run(job, LICENSE_TOKEN="") == (
        77,
        "license: The server needs a token: run `license login`, or set LICENSE_TOKEN.\n",
    )
    code, said = runner.run(job, LICENSE_USER="", LOGNAME="runner")
    assert code == 77
    assert said.endswith("The request was for runner, your login name on this machine. Set LICENSE_USER.\n")
    assert not (runner.folder / "lease").exists()
