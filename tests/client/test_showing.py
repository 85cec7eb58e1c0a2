"""What people see: help, holders, local times, colors, and the wait on a terminal."""

import json
import re
import shlex
import subprocess
import tomllib
from datetime import datetime

import httpx
import pytest
from license_client.cli import parser

from tests.support.gateway import Call, Gateway, Reply
from tests.support.paths import ROOT
from tests.support.servers import Server
from tests.support.shell import CLIENT_PYTHON, Shell
from tests.support.terminal import on_terminal
from tests.support.waiting import PATIENCE

COLOR = re.compile("\x1b\\[[0-9;]*m")


@pytest.fixture(scope="module")
def helps(shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], str]:
    """Provide the help of each command, by its words, as the helps list them."""
    shell, helps, left = Shell(shared_server, tmp_path_factory.mktemp("home")), dict[tuple[str, ...], str](), [()]
    while left:
        words: tuple[str, ...] = left.pop()
        shown = shell(*words, "--help").stdout
        if not words or re.search(r"^usage:.* COMMAND ", shown):
            found = re.findall(r"^    (\w+)(?:  |$)", shown, re.MULTILINE)
            assert found
            left += [(*words, name) for name in found]
        else:
            helps[words] = shown
    return helps


# --- Help and version -----------------------------------------------------------


def test_the_version_is_the_released_one(shell: Shell) -> None:
    version = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]["version"]
    done = shell("--version")
    assert done.returncode == 0
    assert done.stdout.startswith(f"license {version} (Python 3.")


def test_the_help_lists_the_exit_codes_of_the_page(shell: Shell) -> None:
    page = (ROOT / "client" / "README.md").read_text()
    rows = re.findall(r"^\| ([0-9]+(?:, [0-9]+)*) \|", page, re.MULTILINE)
    listed = shell("--help").stdout.partition("Otherwise: ")[2].partition("environment:")[0]
    assert set(", ".join(rows).split(", ")) == set(re.findall(r"[0-9]+", listed))


def test_the_help_of_every_command_has_examples_that_parse(helps: dict[tuple[str, ...], str]) -> None:
    assert {"status", "run", "who"} <= {words[0] for words in helps}
    for words, shown in helps.items():
        examples = re.search(r"^examples:\n((?:  .+\n)+)", shown, re.MULTILINE)
        assert examples, words
        for line in examples[1].splitlines():
            # Within $(...), before a pipe, a file or a comment.
            example = re.search(r"\blicense ([^)|>#]+)", line)
            assert example, line
            arguments = shlex.split(example[1])
            assert tuple(arguments[: len(words)]) == words
            assert parser().parse_args(arguments), line


def test_the_usage_has_a_command_with_its_arguments(helps: dict[tuple[str, ...], str]) -> None:
    usage = " ".join(helps["run",].partition("\n\n")[0].split())
    assert usage.endswith("[--on-lost {continue,kill}] -- CMD [ARG ...]")


def test_the_readme_lists_every_command(helps: dict[tuple[str, ...], str]) -> None:
    readme = (ROOT / "client" / "README.md").read_text()
    table = readme[readme.index("## Commands") : readme.index("## Completion")]
    for words in helps:
        assert f"`license {' '.join(words)}" in table


# --- Who holds the seats ----------------------------------------------------------


def test_who_shows_the_holders_of_a_tool_and_their_last_heartbeat(shell: Shell) -> None:
    shell("borrow", "simulation:2", "cad_tool", "--host", "ws7", "--ttl", "1h", LICENSE_USER="ana")
    shell("borrow", "analysis", LICENSE_USER="ben")
    heads, row = shell("who", "simulation").stdout.splitlines()
    columns = re.split(r" {2,}", row)
    assert re.split(r" {2,}", heads) == ["USER", "HOST", "SEATS", "TEAM", "SINCE", "UNTIL", "LAST HEARTBEAT"]
    assert columns[:4] == ["ana", "ws7", "2", "-"]
    since, until_, heartbeat = columns[4:]
    # Nothing was renewed.
    assert since == heartbeat < until_
    (lease,) = json.loads(shell("who", "simulation", "--json").stdout)
    assert lease["last_heartbeat_at"] == lease["borrowed_at"]
    renewed = httpx.post(f"{shell.server.url}/licenses/renew", json={"id": lease["id"]}).json()
    (lease,) = json.loads(shell("who", "simulation", "--json").stdout)
    assert lease["borrowed_at"] < lease["last_heartbeat_at"] <= renewed["server_time"]


def test_who_says_that_nobody_holds_a_seat(shell: Shell) -> None:
    done = shell("who", "cad_tool")
    assert (done.returncode, done.stdout) == (0, "Nobody holds a seat of cad_tool. 5 of 5 are available.\n")
    assert json.loads(shell("who", "cad_tool", "--json").stdout) == []


def test_who_says_that_others_hold_seats_which_the_caller_may_not_see(shell: Shell, gateway: Gateway) -> None:
    shell("borrow", "cad_tool:2")
    gateway.fault = lambda call: Reply(200, "[]") if call.path.startswith("/borrows") else None
    said = "Nobody whose leases you may see holds a seat of cad_tool. 3 of 5 are available.\n"
    assert shell("who", "cad_tool").stdout == said


def test_who_marks_names_that_the_server_hides(shell: Shell, gateway: Gateway) -> None:
    shell("borrow", "cad_tool", "--host", "ws7")

    def without_names(call: Call) -> Reply | None:
        if not call.path.startswith("/borrows"):
            return None
        leases = httpx.get(shell.server.url + call.path).json()
        return Reply(200, json.dumps([lease | {"user": "", "host": ""} for lease in leases]))

    gateway.fault = without_names
    assert re.split(r" {2,}", shell("who", "cad_tool").stdout.splitlines()[1])[:3] == ["hidden", "-", "1"]


# --- Return by tool ---------------------------------------------------------------


def test_a_lease_is_returned_by_its_tool(shell: Shell) -> None:
    shell("borrow", "simulation:2", "cad_tool", "--host", "ws7")
    done = shell("return", "simulation")
    assert done.returncode == 0
    assert re.fullmatch(r"Returned 2 x simulation, cad_tool, borrowed \S+ \S+ UTC on ws7\.\n", done.stdout)
    assert (shell.borrowed("simulation"), shell.borrowed("cad_tool")) == (0, 0)
    again = shell("return", "simulation")
    assert again.returncode == 65
    assert "ci holds no seat of simulation. `license list` lists your leases." in again.stderr


def test_a_return_by_tool_leaves_the_leases_of_others_and_of_other_machines(shell: Shell) -> None:
    shell("borrow", "cad_tool", "--host", "ws7")
    shell("borrow", "cad_tool", LICENSE_USER="ana")
    assert shell("return", "cad_tool", "--here").returncode == 65
    assert shell.borrowed() == 2
    assert shell("return", "cad_tool").returncode == 0
    assert [lease["user"] for lease in json.loads(shell("who", "cad_tool", "--json").stdout)] == ["ana"]


def test_a_return_by_tool_that_is_ambiguous_changes_nothing_and_says_what_to_do(shell: Shell) -> None:
    leases = {shell("borrow", "cad_tool", "--host", host).stdout.strip() for host in ("ws1", "ws2")}
    done = shell("return", "cad_tool")
    assert (done.returncode, shell.borrowed()) == (65, 2)
    assert "You hold 2 leases of cad_tool. Return one of them, or all with --all:" in done.stderr
    assert set(re.findall(r"license return (\S+) ", done.stderr)) == leases
    assert set(json.loads(shell("return", "cad_tool", "--json").stderr)["leases"]) == leases
    assert shell("return", leases.pop()).returncode == 0
    assert shell("return", "cad_tool", "--all").returncode == 0
    assert shell.borrowed() == 0


# --- Times and colors ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "shown"), [("UTC0", "UTC"), ("XYZ-5:30", "XYZ"), ("<+0530>-5:30", "+05:30"), ("<-04>4", "-04:00")]
)
def test_times_are_local_and_name_their_zone(shell: Shell, zone: str, shown: str) -> None:
    lease = json.loads(shell("borrow", "cad_tool", "--json").stdout)
    end = re.split(r" {2,}", shell("list", TZ=zone).stdout.splitlines()[1])[-1]
    day, clock, name = end.split(" ")
    offset = {"UTC": "+00:00", "XYZ": "+05:30"}.get(name, name)
    moment = datetime.fromisoformat(f"{day}T{clock}{offset}")
    assert name == shown
    assert moment == datetime.fromisoformat(lease["expires_at"]).replace(microsecond=0)


@pytest.mark.parametrize(
    ("arguments", "environment", "colored"),
    [
        ([], {"TERM": "xterm"}, True),
        ([], {"TERM": "dumb"}, False),
        ([], {"NO_COLOR": "1"}, False),
        ([], {"NO_COLOR": ""}, True),
        (["--color", "never"], {"TERM": "xterm"}, False),
        (["--color", "always"], {"NO_COLOR": "1"}, True),
    ],
)
def test_colors_are_for_terminals(
    shell: Shell, arguments: list[str], environment: dict[str, str], colored: bool
) -> None:
    plain = shell("status").stdout
    with on_terminal(shell.command("status", *arguments), shell.environment | environment) as terminal:
        code, shown = terminal.finish()
    assert code == 0
    assert bool(COLOR.search(shown)) == colored
    assert COLOR.sub("", shown).replace("\r\n", "\n") == plain


def test_a_pipe_gets_colors_only_on_request(shell: Shell) -> None:
    assert not COLOR.search(shell("status").stdout)
    assert COLOR.sub("", shell("status", "--color", "always").stdout) == shell("status").stdout
    assert COLOR.search(shell("status", "--color", "always").stdout)
    assert json.loads(shell("status", "--json", "--color", "always").stdout)
    error = shell("status", "no_such_tool", "--color", "always").stderr
    assert error.startswith("license: \x1b[31m")
    assert json.loads(shell("status", "no_such_tool", "--json", "--color", "always").stderr)["status"] == 404


# --- The wait -------------------------------------------------------------------------


def test_the_wait_is_one_line_that_keeps_moving_and_goes_away(shell: Shell) -> None:
    held = shell("borrow", "analysis:2").stdout.strip()
    command = shell.command("run", "--tool", "analysis", "--wait", "5m", "--", "echo", "got it")
    with on_terminal(command, shell.environment, columns=200) as terminal:
        terminal.read_until("\r\x1b\\[Klicense: waiting for analysis: position 1, waited ")
        terminal.read_until(r"waited (\d+) s[^\n]*\r\x1b\[Klicense: waiting for analysis: position 1, waited (?!\1 s)")
        shell("return", held)
        code, shown = terminal.finish()
    assert code == 0
    assert "\r\x1b[Kgot it\r\n" in shown


def test_the_line_of_the_wait_fits_a_narrow_terminal(shell: Shell) -> None:
    held = shell("borrow", "analysis:2").stdout.strip()
    command = shell.command("run", "--tool", "analysis", "--or", "--tool", "analysis:2", "--wait", "5m", "--", "true")
    with on_terminal(command, shell.environment, columns=40) as terminal:
        terminal.read_until("license: waiting[^\n]*\r")
        shell("return", held)
        code, shown = terminal.finish()
    assert code == 0
    drawn = {part.rstrip("\r") for part in shown.split("\x1b[K") if part.startswith("license: waiting")}
    assert drawn == {"license: waiting for analysis, or analy"}


def test_a_dumb_terminal_gets_lines(shell: Shell) -> None:
    held = shell("borrow", "analysis:2").stdout.strip()
    command = shell.command("run", "--tool", "analysis", "--wait", "5m", "--", "true")
    with on_terminal(command, shell.environment | {"TERM": "dumb"}) as terminal:
        terminal.read_until("license: waiting for analysis: position 1, waited [0-9]+ s[^\n]*\r\n")
        shell("return", held)
        code, shown = terminal.finish()
    assert (code, "\x1b" in shown) == (0, False)


def test_a_log_gets_a_line_now_and_then_while_nothing_changes(shell: Shell) -> None:
    held = shell("borrow", "analysis:2").stdout.strip()
    often = (
        "import sys; from license_client import cli, messages; messages.STILL_WAITING = 0.1; "
        "sys.exit(cli.main(['borrow', 'analysis', '--wait', '5m']))"
    )
    process = subprocess.Popen(
        [CLIENT_PYTHON, "-c", often], env=shell.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(2)]
    assert all(line.startswith("license: waiting for analysis: position 1, waited ") for line in lines)
    shell("return", held)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
