"""Commands of the client against a real server."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from license_client import Client, ConfigError, Item, Lease, License, LicenseError, Refused, Unreachable
from license_client.config import load
from license_client.units import item, seconds

from tests.support.gateway import Call, Gateway, Reply
from tests.support.shell import Shell, line_of
from tests.support.waiting import PATIENCE, until

SET_ENABLED = "from licenses.models import Tool; Tool.objects.filter(name='analysis').update(enabled={})"

# --- run ----------------------------------------------------------------------


def test_run_holds_a_seat_for_as_long_as_the_command_runs(shell: Shell) -> None:
    address = f"{shell.server.url}/licenses/cad_tool/status"
    look = f"import urllib.request; print(urllib.request.urlopen('{address}').read().decode())"
    done = shell("run", "--tool", "cad_tool:2", "--", sys.executable, "-c", look)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["borrowed"] == 2
    assert shell.borrowed() == 0


def test_run_exits_with_the_commands_own_code_and_returns_the_seat(shell: Shell) -> None:
    assert shell("run", "--tool", "cad_tool", "--", "sh", "-c", "exit 7").returncode == 7
    assert shell("run", "--tool", "cad_tool", "--", "sh", "-c", "kill -9 $$").returncode == 137
    assert shell.borrowed() == 0


def test_the_command_finds_its_lease_in_the_environment(shell: Shell) -> None:
    done = shell("run", "--tool", "cad_tool", "--", "sh", "-c", "echo $LICENSE_TOOL $LICENSE_LEASE_ID $LICENSE_FENCE")
    tool, lease, fence = done.stdout.split()
    found = httpx.get(f"{shell.server.url}/api/v1/leases/{lease}/").json()
    assert (tool, found["fence"], found["end_reason"]) == ("cad_tool", int(fence), "returned")


def test_several_tools_are_one_lease_and_alternatives_are_tried_in_turn(shell: Shell) -> None:
    tools = ["--tool", "cad_tool:5", "--tool", "simulation", "--or", "--tool", "analysis"]
    first = shell.start("run", *tools, "--", "sh", "-c", "echo up; read line", stdin=subprocess.PIPE)
    assert line_of(first) == "up"
    assert (shell.borrowed("cad_tool"), shell.borrowed("simulation"), shell.borrowed("analysis")) == (5, 1, 0)
    second = shell("run", *tools, "--", "sh", "-c", "echo $LICENSE_TOOL")
    assert second.stdout.strip() == "analysis"
    first.communicate("\n", timeout=PATIENCE)
    assert (first.returncode, shell.borrowed("cad_tool"), shell.borrowed("simulation")) == (0, 0, 0)


def test_without_a_seat_the_command_is_not_run(shell: Shell, tmp_path: Path) -> None:
    shell("borrow", "analysis:2")
    done = shell("run", "--tool", "analysis", "--", "touch", str(tmp_path / "ran"))
    assert done.returncode == 75
    assert "2 of 2 are borrowed" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_command_that_is_not_there_takes_no_seat(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    before = shell.leases()
    assert shell("run", "--tool", "cad_tool", "--", "no-such-command").returncode == 127
    assert shell("run", "--tool", "cad_tool", "--", str(tmp_path / "text")).returncode == 126
    assert shell.leases() == before


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
)
def test_signals_reach_the_command_and_the_seat_comes_back(shell: Shell, number: signal.Signals) -> None:
    script = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(42))\n"
        "print('up', flush=True)\n"
        "time.sleep(300)\n"
    )
    process = shell.start("run", "--tool", "cad_tool", "--", sys.executable, "-c", script, start_new_session=True)
    assert line_of(process) == "up"
    process.send_signal(number)
    assert process.wait(PATIENCE) == 42
    assert shell.borrowed() == 0


def test_a_killed_clients_seat_comes_back_by_itself(shell: Shell) -> None:
    process = shell.start(
        "run", "--tool", "analysis:2", "--ttl", "2s", "--", "sh", "-c", "echo up; read line", stdin=subprocess.PIPE
    )
    assert line_of(process) == "up"
    assert shell("run", "--tool", "analysis", "--", "true").returncode == 75
    process.kill()
    process.communicate(timeout=PATIENCE)
    until(lambda: shell("run", "--tool", "analysis", "--", "true").returncode == 0, "the seat comes back")


def test_heartbeats_keep_the_lease_for_longer_than_its_ttl(shell: Shell) -> None:
    process = shell.start(
        "run",
        "--tool",
        "cad_tool",
        "--ttl",
        "1s",
        "--",
        "sh",
        "-c",
        "echo $LICENSE_LEASE_ID; read line",
        stdin=subprocess.PIPE,
    )
    lease = line_of(process)
    address = f"{shell.server.url}/api/v1/leases/{lease}/"
    first = httpx.get(address).json()["expires_at"]
    until(lambda: bool(httpx.get(address).json()["server_time"] > first), "the first ttl is over")
    assert httpx.get(address).json()["end_reason"] == ""
    process.communicate("\n", timeout=PATIENCE)
    assert httpx.get(address).json()["end_reason"] == "returned"


def test_a_lease_survives_a_killed_and_restarted_server(shell: Shell) -> None:
    process = shell.start(
        "run",
        "--tool",
        "cad_tool",
        "--ttl",
        "30s",
        "--",
        "sh",
        "-c",
        "echo $LICENSE_LEASE_ID; read line",
        stdin=subprocess.PIPE,
    )
    lease = line_of(process)
    shell.server.kill()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{shell.server.url}/livez")
    shell.server.start()
    assert shell.borrowed() == 1
    before = httpx.get(f"{shell.server.url}/api/v1/leases/{lease}/").json()["expires_at"]
    until(
        lambda: bool(httpx.get(f"{shell.server.url}/api/v1/leases/{lease}/").json()["expires_at"] > before),
        "heartbeats go on",
    )
    _, errors = process.communicate("\n", timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert httpx.get(f"{shell.server.url}/api/v1/leases/{lease}/").json()["end_reason"] == "returned"


def test_a_seat_is_returned_when_the_server_comes_back(shell: Shell) -> None:
    process = shell.start("run", "--tool", "cad_tool", "--", "sh", "-c", "echo up; read line", stdin=subprocess.PIPE)
    assert line_of(process) == "up"
    shell.server.kill()
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    shell.server.start()
    process.communicate(timeout=PATIENCE)
    assert (process.returncode, shell.borrowed()) == (0, 0)


@pytest.mark.parametrize(("choice", "code"), [("continue", 0), ("kill", 128 + signal.SIGTERM)])
def test_a_lost_lease_is_reported(shell: Shell, choice: str, code: int) -> None:
    process = shell.start(
        "run",
        "--tool",
        "cad_tool",
        "--ttl",
        "1s",
        "--on-lost",
        choice,
        "--",
        "sh",
        "-c",
        "echo $LICENSE_LEASE_ID; exec cat",
        stdin=subprocess.PIPE,
    )
    lease = line_of(process)
    shell("return", lease)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert "THE LEASE IS LOST" in said
    assert "It was returned" in said
    if choice == "continue":
        # The end of its input ends the program; one that is killed still has it.
        assert process.stdin is not None
        process.stdin.close()
    assert process.wait(PATIENCE) == code


# --- waiting ------------------------------------------------------------------


def test_run_waits_its_turn(shell: Shell) -> None:
    held = shell("borrow", "analysis:2").stdout.strip()
    process = shell.start("run", "--tool", "analysis", "--wait", "5m", "--", "echo", "got it")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("license: waiting for analysis: position 1")
    shell("return", held)
    output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (0, "got it\n")
    assert shell.borrowed("analysis") == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_waiting_leaves_the_queue(shell: Shell, number: signal.Signals) -> None:
    shell("borrow", "analysis:2")
    process = shell.start("run", "--tool", "analysis", "--wait", "5m", "--", "true")
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert httpx.get(f"{shell.server.url}/licenses/analysis/status").json()["queued"] == 0


def test_a_program_can_read_the_position_in_the_queue(shell: Shell) -> None:
    shell("borrow", "analysis:2")
    done = shell("borrow", "analysis", "--wait", "1s", "--json")
    waiting, over = map(json.loads, done.stderr.splitlines())
    assert (waiting["event"], waiting["position"]) == ("waiting", 1)
    assert (done.returncode, over["code"], over["status"]) == (75, "queue_timeout", 410)


def test_a_wait_times_out(shell: Shell) -> None:
    shell("borrow", "analysis:2")
    done = shell("run", "--tool", "analysis", "--wait", "1s", "--", "true")
    assert done.returncode == 75
    assert "No seat of analysis came free within 1 s." in done.stderr


def test_a_refusal_names_the_command_that_helps_and_no_call_of_http(shell: Shell) -> None:
    assert "`license status` lists the tools." in shell("borrow", "nothing").stderr
    shell("borrow", "analysis:2")
    later, never = shell("borrow", "analysis"), shell("borrow", "analysis:3")
    assert "`--wait 30m` waits in the queue." in later.stderr
    assert "--wait" not in never.stderr
    assert not re.search("GET /|wait_seconds", later.stderr + never.stderr)


# --- the other commands -------------------------------------------------------


def test_borrow_renew_list_and_return(shell: Shell) -> None:
    lease = shell("borrow", "cad_tool:2", "--ttl", "1h", "--host", "ws1").stdout.strip()
    renewed = json.loads(shell("renew", lease, "--json").stdout)
    assert (renewed["id"], renewed["heartbeat_seconds"], renewed["host"]) == (lease, 1200, "ws1")
    assert lease in shell("list").stdout
    assert lease not in shell("list", "--user", "somebody").stdout
    assert [entry["id"] for entry in json.loads(shell("list", "--all", "--json").stdout)] == [lease]
    assert json.loads(shell("list", "--here", "--json").stdout) == []
    assert shell("return", lease).returncode == 0
    assert json.loads(shell("return", lease, "--json").stdout) == {"status": "ok", "id": lease}
    over = shell("renew", lease, "--json")
    assert (over.returncode, json.loads(over.stderr)["code"]) == (75, "returned")


def test_status_is_for_people_and_for_programs(shell: Shell) -> None:
    header = "TOOL TOTAL BORROWED AVAILABLE QUEUED STATE"
    assert shell("status").stdout.splitlines()[0].split() == header.split()
    assert shell("status", "cad_tool").stdout.splitlines()[1].split() == ["cad_tool", "5", "0", "5", "0", "open"]
    assert [tool["tool"] for tool in json.loads(shell("status", "--json").stdout)] == [
        "analysis",
        "cad_tool",
        "simulation",
    ]
    assert json.loads(shell("status", "cad_tool", "--json").stdout)["total"] == 5


def test_status_says_why_nothing_can_be_borrowed(shell: Shell) -> None:
    shell.server.manage("shell", "-c", SET_ENABLED.format(False))
    try:
        row = shell("status", "analysis").stdout.splitlines()[1].split()
        assert row == ["analysis", "2", "0", "0", "0", "disabled"]
        assert Client(shell.server.url).tool_status("analysis").state == "disabled"
    finally:
        shell.server.manage("shell", "-c", SET_ENABLED.format(True))


def test_the_state_of_a_tool_on_an_older_server_comes_from_enabled(shell: Shell, gateway: Gateway) -> None:
    def without_state(call: Call) -> Reply:
        tool = httpx.get(f"{shell.server.url}/licenses/cad_tool/status").json() | {"enabled": False}
        return Reply(200, json.dumps({name: tool[name] for name in tool if name != "state"}))

    gateway.fault = without_state
    assert shell("status", "cad_tool").stdout.splitlines()[1].split()[-1] == "disabled"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["status", "no_such_tool"], 65),
        (["return", "not_a_tool"], 65),
        (["return", "00000000-0000-4000-8000-000000000000"], 65),
        (["return", "cad_tool"], 65),
        (["who", "no_such_tool"], 65),
        (["run", "--", "true"], 64),
        (["run", "--tool", "cad_tool", "--or", "--", "true"], 64),
        (["run", "--tool", "cad_tool:0", "--", "true"], 64),
        (["run", "--tool", "cad_tool", "--wait", "soon", "--", "true"], 64),
        (["run", "--tool", "cad_tool"], 64),
        (["run", "--tool", "cad_tool:6", "--wait", "1m", "--", "true"], 75),
        (["fly"], 64),
        ([], 64),
        (["status", "--server", "licenses.example.com"], 64),
        (["status", "--config", "/nowhere/config.toml"], 78),
    ],
)
def test_every_failure_has_its_exit_code(shell: Shell, arguments: list[str], code: int) -> None:
    done = shell(*arguments)
    assert done.returncode == code
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_a_call_to_a_server_that_is_away_is_retried_for_its_patience(shell: Shell) -> None:
    before = shell.leases()
    shell.server.kill()
    done = shell("run", "--tool", "cad_tool", "--patience", "1s", "--", "true")
    assert done.returncode == 69
    assert "can't be reached" in done.stderr
    process = shell.start("run", "--tool", "cad_tool", "--", "echo", "done")
    shell.server.start()
    assert process.communicate(timeout=PATIENCE)[0] == "done\n"
    assert shell.leases() == before + 1


# --- from Python --------------------------------------------------------------


def test_a_block_of_python_holds_a_seat(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LICENSE_SERVER", shell.server.url)
    with License("cad_tool", seats=2, user="ana") as holding:
        assert shell.borrowed() == 2
        assert holding.lease.tools == "2 x cad_tool"
    assert shell.borrowed() == 0

    def fail_in_a_block() -> None:
        with License(items=[Item("cad_tool"), Item("analysis")], user="ana"):
            assert (shell.borrowed(), shell.borrowed("analysis")) == (1, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_a_block()
    assert (shell.borrowed(), shell.borrowed("analysis")) == (0, 0)
    with pytest.raises(Refused) as refused, License("cad_tool", seats=6, user="ana"):
        pass
    assert (refused.value.code, refused.value.facts["total"]) == ("exhausted", 5)


def test_a_block_of_python_takes_what_is_free_and_waits(shell: Shell) -> None:
    with License(
        alternatives=[[Item("analysis", 3)], [Item("cad_tool"), Item("simulation", 2)]], server=shell.server.url
    ):
        status = {tool.tool: tool.borrowed for tool in Client(shell.server.url).status()}
        assert status == {"analysis": 0, "cad_tool": 1, "simulation": 2}
        (held,) = Client(shell.server.url).borrows(host=socket.gethostname())
        assert held.items == (Item("cad_tool"), Item("simulation", 2))
        with (
            pytest.raises(Refused) as refused,
            License("simulation", 2, wait=timedelta(seconds=1), server=shell.server.url),
        ):
            pass
        assert refused.value.code == "queue_timeout"


@pytest.mark.parametrize("wanted", [{}, {"tool": "cad_tool", "items": [Item("cad_tool")]}])
def test_a_block_takes_either_a_tool_or_items_or_alternatives(wanted: Any) -> None:
    with pytest.raises(ValueError, match="one of tool"):
        License(**wanted)


def test_a_block_keeps_its_work_if_the_seat_cant_be_returned(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    with License("cad_tool", server=shell.server.url, patience="1s") as holding:
        shell.server.kill()
    assert f"Lease {holding.lease.id} was not returned" in caplog.text
    assert str(holding.lease.expires_at) in caplog.text


def test_a_block_sees_that_its_seat_is_lost(shell: Shell) -> None:
    told: list[str] = []
    with License("cad_tool", ttl=1, server=shell.server.url, user="ana", on_lost=told.append) as holding:
        Client(shell.server.url).give_back(holding.lease.id)
        assert holding.lost.wait(PATIENCE)
    assert told == [holding.reason]


def test_a_heartbeat_that_never_arrives_loses_the_seat_at_its_end(shell: Shell) -> None:
    with License("cad_tool", ttl=2, server=shell.server.url, user="ana") as holding:
        shell.server.kill()
        assert holding.lost.wait(PATIENCE)
        assert holding.lease.ends is not None
        assert time.monotonic() >= holding.lease.ends
    shell.server.start()
    assert shell.borrowed() == 0


def test_a_lost_reply_takes_no_second_seat(shell: Shell) -> None:
    client = Client(shell.server.url)
    leases = [client.borrow([[Item("cad_tool")]], user="ana", key="one") for _ in range(2)]
    assert all(isinstance(lease, Lease) for lease in leases)
    assert leases[0].id == leases[1].id
    client.give_back(leases[0].id)
    with pytest.raises(Refused) as refused:
        client.borrow([[Item("cad_tool")]], user="ana", key="one")
    assert (refused.value.status, refused.value.code) == (410, "returned")


def test_an_answer_of_another_kind_of_server_is_an_error() -> None:
    import http.server

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/licenses/status":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"<html>")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            client = Client(f"http://127.0.0.1:{other.server_port}", token="secret", patience=0)
            with pytest.raises(Unreachable, match=r"redirects to http://127\.0\.0\.1:1/"):
                client.status()
            with pytest.raises(Unreachable, match="not JSON"):
                client.tool_status("cad_tool")
        finally:
            other.shutdown()
            thread.join()


# --- words --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", 90),
        ("90s", 90),
        ("30m", 1800),
        ("1.5h", 5400),
        ("2d", 172800),
        (5, 5),
        (0.5, 0.5),
        (timedelta(minutes=1), 60),
    ],
)
def test_durations(text: str | float | timedelta, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(
    "text", ["", "m", "-1", "1w", "1 h", "1h30m", "inf", "nan", "9" * 400, "٣", -1, float("nan"), timedelta(-1)]
)
def test_invalid_durations_are_refused(text: str | float | timedelta) -> None:
    with pytest.raises(ValueError, match="duration"):
        seconds(text)


def test_items() -> None:
    assert (item("cad"), item("cad:12")) == (Item("cad"), Item("cad", 12))
    for text in ("", ":1", "cad:", "cad:0", "cad:-1", "cad:x", "cad:1.5", "cad:1:2"):
        with pytest.raises(ValueError, match="not a tool"):
            item(text)


def test_a_lease_counts_for_a_team_and_a_project(shell: Shell, tmp_path: Path) -> None:
    members = tmp_path / "members.csv"
    members.write_text("team,user\ncrash,ci\nbody,ci\n")
    shell.server.manage("team", "import", str(members))
    named = json.loads(shell("borrow", "cad_tool", "--team", "crash", "--project", "hood", "--json").stdout)
    assert (named["team"], named["project"]) == ("crash", "hood")
    around = {"LICENSE_TEAM": "body", "LICENSE_PROJECT": "door"}
    kept = json.loads(shell("borrow", "cad_tool", "--json", **around).stdout)
    assert (kept["team"], kept["project"]) == ("body", "door")
    refused = shell("borrow", "cad_tool", "--team", "others")
    assert refused.returncode == 77
    assert "is not a member" in refused.stderr
    told = (
        "import json, sys; from license_client import Client; print(json.dumps(Client(sys.argv[1]).borrows()[0].raw))"
    )
    ran = shell("run", "--tool", "analysis", "--project", "hood", "--", sys.executable, "-c", told, shell.server.url)
    assert json.loads(ran.stdout)["project"] == "hood"


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "license" / "config.toml"
    file.parent.mkdir()
    file.write_text('server = "http://file"\ntoken = "file"\nuser = "file"\nteam = "file"\nproject = "file"\n')
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "LICENSE_TOKEN": "environment", "LICENSE_USER": "environment"}
    config = load(user="flag", environment=environment)
    assert (config.server, config.token, config.user) == ("http://file", "environment", "flag")
    assert (config.team, config.project) == ("file", "file")
    assert load(environment={"XDG_CONFIG_HOME": "/nowhere"}).server == "http://localhost:8000"


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def nobody() -> str:
        raise error

    # The errors of Python in a container for a user without a name.
    monkeypatch.setattr("getpass.getuser", nobody)
    assert load(environment={"XDG_CONFIG_HOME": "/nowhere"}).user == str(os.getuid())


@pytest.mark.parametrize(
    "server",
    [
        "licenses.example.com",
        "ftp://licenses.example.com",
        "http://",
        "http://[::1",
        "http://.example.com",
        f"http://{'x' * 64}.example.com",
        "http://localhost:port",
        "http://localhost:99999",
        "http://ana:secret@localhost",
        "http://local host",
        "http://localhost/?a=b",
    ],
)
def test_an_invalid_address_of_a_server_is_refused(server: str) -> None:
    with pytest.raises(LicenseError, match="not the address of a server"):
        Client(server)


@pytest.mark.parametrize("token", ["a b", "a\nb", "tök"])
def test_an_invalid_token_is_refused(token: str) -> None:
    with pytest.raises(LicenseError, match="token"):
        Client("http://localhost", token=token)


@pytest.mark.parametrize("text", ["server = ", "port = 1", "server = 1", "\xff"])
def test_an_invalid_file_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load(file=str(file), environment={})
