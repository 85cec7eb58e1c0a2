"""Seats come back exactly once, whatever fails between the client and the server."""

import email.utils
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from license_client import License
from license_client.units import clock_time

from tests.support.gateway import Call, Gateway, Lost, Reply, problem
from tests.support.shell import Shell, line_of
from tests.support.waiting import PATIENCE, until

RUN_UNTIL_A_LINE_COMES = ["--", "sh", "-c", "echo $LICENSE_LEASE_ID; read line"]
# Run a program in the foreground of the terminal that is its stdin.
IN_THE_FOREGROUND = (
    "import fcntl, os, sys, termios\n"
    "os.setsid()\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


# --- Answers that get lost ------------------------------------------------------


def test_a_borrow_whose_reply_is_lost_takes_one_seat(shell: Shell, gateway: Gateway) -> None:
    before = shell.leases()
    gateway.fault = lambda call: Lost() if len(gateway.to("/borrow")) == 1 else None
    assert shell("run", "--tool", "cad_tool", "--", "true").returncode == 0
    keys = {call.headers["Idempotency-Key"] for call in gateway.to("/borrow")}
    assert (len(gateway.to("/borrow")), len(keys)) == (2, 1)
    # The replayed answer is old, so the client renewed the lease.
    assert gateway.to("/renew")
    assert (shell.leases(), shell.borrowed()) == (before + 1, 0)


def test_a_seat_is_borrowed_again_if_its_lease_ended_before_the_reply(shell: Shell, gateway: Gateway) -> None:
    before = shell.leases()

    def lose_the_first(call: Call) -> Reply | Lost | None:
        if len(gateway.to("/borrow")) == 1:
            return Lost()
        still_out = httpx.get(f"{shell.server.url}/borrows").json()
        return Reply(502, "") if still_out and len(gateway.to("/renew")) == 0 else None

    gateway.fault = lose_the_first
    assert shell("run", "--tool", "cad_tool", "--ttl", "1s", "--", "true").returncode == 0
    assert len({call.headers["Idempotency-Key"] for call in gateway.to("/borrow")}) == 2
    assert (shell.leases(), shell.borrowed()) == (before + 2, 0)


@pytest.mark.parametrize("wait", [[], ["--wait", "5m"]])
def test_an_interrupt_before_the_reply_leaves_no_seat_behind(shell: Shell, gateway: Gateway, wait: list[str]) -> None:
    over = threading.Event()
    gateway.fault = lambda call: Lost(silence=over) if len(gateway.to("/borrow")) == 1 else None
    process = shell.start("run", "--tool", "cad_tool", *wait, "--", "true")
    until(lambda: shell.borrowed() == 1, "the server has granted the seat")
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    finally:
        over.set()
    assert shell.borrowed() == 0


# --- Answers that aren't the server's ---------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        Reply(404, "default backend - 404"),
        Reply(403, "<html>Sign in", {"Content-Type": "text/html"}),
        Reply(302, "", {"Location": "http://[elsewhere"}),
        Reply(200, "<html>Sign in"),
        Reply(200, '{"id": null}'),
        Reply(200, "[" * 100_000),
        Reply(503, "[" * 100_000),
    ],
    ids=["404", "403", "302", "no JSON", "no lease", "too deep", "too deep a problem"],
)
def test_the_lease_survives_answers_of_a_gateway(shell: Shell, gateway: Gateway, reply: Reply) -> None:
    process = shell.start(
        "run", "--tool", "cad_tool", "--ttl", "6s", "--on-lost", "kill", *RUN_UNTIL_A_LINE_COMES, stdin=subprocess.PIPE
    )
    lease = line_of(process)
    gateway.fault = lambda call: reply
    until(lambda: len(gateway.to("/renew")) >= 2, "a heartbeat is tried again")
    gateway.fault = lambda call: None
    seen = len(gateway.to("/renew"))
    until(lambda: len(gateway.to("/renew")) > seen, "heartbeats go on")
    assert process.communicate("\n", timeout=PATIENCE)[1] == ""
    assert process.returncode == 0
    assert httpx.get(f"{shell.server.url}/api/v1/leases/{lease}/").json()["end_reason"] == "returned"


def test_a_heartbeat_comes_no_sooner_than_it_is_asked_to_and_once_more_at_the_end(
    shell: Shell, gateway: Gateway
) -> None:
    busy = Reply(503, json.dumps({"code": "busy", "detail": "Busy."}), {"Retry-After": "3600"})
    gateway.fault = lambda call: busy if call.path.endswith("/renew") else None
    process = shell.start("run", "--tool", "cad_tool", "--ttl", "2s", *RUN_UNTIL_A_LINE_COMES, stdin=subprocess.PIPE)
    assert line_of(process)
    assert process.stderr is not None
    assert "THE LEASE IS LOST. No heartbeat has reached the server in time. Busy." in process.stderr.readline()
    # The first one and the last one; one more if the last was just before the end.
    assert len(gateway.to("/renew")) in {2, 3}
    process.communicate("\n", timeout=PATIENCE)
    assert process.returncode == 0


def test_a_busy_server_is_asked_again_when_it_says(shell: Shell, gateway: Gateway) -> None:
    busy = Reply(503, json.dumps({"code": "busy", "detail": "Busy."}), {"Retry-After": "1"})
    gateway.fault = lambda call: busy if len(gateway.to("/borrow")) == 1 else None
    assert shell("run", "--tool", "cad_tool", "--", "true").returncode == 0
    first, second = gateway.to("/borrow")
    assert second.at - first.at >= 1
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]


@pytest.mark.parametrize("code", ["rate_limited", "throttled"])
def test_a_client_that_sends_too_many_calls_slows_down_and_goes_on(shell: Shell, gateway: Gateway, code: str) -> None:
    slower = Reply(429, json.dumps({"status": 429, "code": code, "detail": "Slow down."}), {"Retry-After": "1"})
    told: set[str] = set()

    def each_call_once(call: Call) -> Reply | None:
        return slower if call.path not in told and not told.add(call.path) else None  # type: ignore[func-returns-value]

    gateway.fault = each_call_once
    process = shell.start("run", "--tool", "cad_tool", "--ttl", "4s", *RUN_UNTIL_A_LINE_COMES, stdin=subprocess.PIPE)
    lease = line_of(process)
    until(lambda: len(gateway.to("/renew")) >= 3, "heartbeats go on")
    assert process.communicate("\n", timeout=PATIENCE)[1] == ""
    assert process.returncode == 0
    for name in ("/borrow", "/renew", "/return"):
        first, second = gateway.to(name)[:2]
        assert second.at - first.at >= 1
    assert httpx.get(f"{shell.server.url}/api/v1/leases/{lease}/").json()["end_reason"] == "returned"


def test_a_pause_longer_than_the_patience_ends_the_call(shell: Shell, gateway: Gateway) -> None:
    limited = json.dumps({"status": 429, "code": "rate_limited", "detail": "Slow down."})
    gateway.fault = lambda call: Reply(429, limited, {"Retry-After": "900"})
    done = shell("run", "--tool", "cad_tool", "--json", "--", "true")
    assert (done.returncode, json.loads(done.stderr)["code"], len(gateway.calls)) == (69, "rate_limited", 1)


def test_a_pause_may_end_at_a_date(shell: Shell, gateway: Gateway) -> None:
    def busy(call: Call) -> Reply | None:
        date = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
        return Reply(503, "", {"Retry-After": date}) if len(gateway.calls) == 1 else None

    gateway.fault = busy
    assert shell("status").returncode == 0
    first, second = gateway.calls
    # A date has whole seconds.
    assert second.at - first.at >= 1.5


def test_a_message_says_that_the_server_has_not_answered(shell: Shell, gateway: Gateway) -> None:
    gateway.fault = lambda call: Reply(503, "", {"Retry-After": "30"})
    process = shell.start("run", "--tool", "cad_tool", "--json", "--", "true")
    assert process.stderr is not None
    said = json.loads(process.stderr.readline())
    assert (said["event"], "answered 503" in said["detail"]) == ("retrying", True)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 128 + signal.SIGINT


# --- Who one is -------------------------------------------------------------------


def test_every_call_carries_the_token_of_the_file(shell: Shell, gateway: Gateway, tmp_path: Path) -> None:
    kept, given = (shell.server.manage("token", "create", name, "--user", "ci").strip() for name in ("kept", "given"))
    del shell.environment["LICENSE_SERVER"]
    file = tmp_path / ".config" / "license" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(f'server = "{gateway.url}"\ntoken = "{kept}"\n')
    assert shell("run", "--tool", "cad_tool", "--", "true").returncode == 0
    assert shell("status", "--token", given).returncode == 0
    shown = [call.headers["Authorization"] for call in gateway.calls]
    assert shown == [f"Bearer {kept}", f"Bearer {kept}", f"Bearer {given}"]


@pytest.mark.parametrize(("status", "code"), [(401, 77), (403, 77), (422, 65), (409, 75)])
def test_a_refusal_is_final(shell: Shell, gateway: Gateway, status: int, code: int) -> None:
    gateway.fault = lambda call: problem(status, "no_way")
    done = shell("run", "--tool", "cad_tool", "--", "true")
    assert (done.returncode, done.stderr) == (code, "license: This is no_way.\n")
    assert len(gateway.calls) == 1


# --- A server that goes and comes ---------------------------------------------------


def test_a_wait_outlives_the_server(shell: Shell) -> None:
    held = shell("borrow", "analysis:2").stdout.strip()
    process = shell.start("run", "--tool", "analysis", "--wait", "5m", "--", "echo", "got it")
    assert process.stderr is not None
    process.stderr.readline()
    shell.server.kill()
    shell.server.start()
    shell("return", held)
    assert process.communicate(timeout=PATIENCE)[0] == "got it\n"
    assert (process.returncode, shell.borrowed("analysis")) == (0, 0)


# --- Signals ----------------------------------------------------------------------


def test_several_signals_at_once_leave_the_queue_once(shell: Shell) -> None:
    held = shell("borrow", "analysis:2").stdout.strip()
    process = shell.start("run", "--tool", "analysis", "--wait", "5m", "--", "true")
    assert process.stderr is not None
    process.stderr.readline()
    # As a closed terminal or a service manager does. All signals wait when it continues.
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCONT):
        process.send_signal(number)
    assert process.wait(PATIENCE) > 128
    assert httpx.get(f"{shell.server.url}/licenses/analysis/status").json()["queued"] == 0
    shell("return", held)


# A command that counts its signals until it reads a line.
COUNT_SIGNALS = (
    "import os, signal, sys\n"
    # Do not use print(), because a second signal may arrive during it.
    "def count(number, frame): os.write(1, signal.Signals(number).name.encode() + b'\\n')\n"
    "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1): signal.signal(number, count)\n"
    "print('up', flush=True)\n"
    "sys.stdin.readline()\n"
)


@contextmanager
def at_a_terminal(shell: Shell) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """``license run`` in the foreground of a terminal, and the terminal's other end."""
    command = shell.command("run", "--tool", "cad_tool", "--", sys.executable, "-E", "-c", COUNT_SIGNALS)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-E", "-c", IN_THE_FOREGROUND, *command],
        env=shell.environment,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            os.close(ours)
            process.kill()


def test_a_ctrl_c_reaches_the_command_once(shell: Shell) -> None:
    with at_a_terminal(shell) as (process, terminal):
        assert line_of(process) == "up"
        os.write(terminal, b"\x03")
        assert line_of(process) == "SIGINT"
        os.write(terminal, b"\n")
        assert process.communicate(timeout=PATIENCE) == ("", "")
    assert (process.returncode, shell.borrowed()) == (0, 0)


@pytest.mark.parametrize("others", [[], [signal.SIGTERM, signal.SIGUSR1]], ids=["Ctrl-C", "Ctrl-C and others"])
def test_signals_while_the_command_is_being_started_reach_it_once(
    shell: Shell, tmp_path: Path, others: list[signal.Signals]
) -> None:
    # As on a busy machine: the command runs long before Popen returns in the client.
    go_on, waiting = tmp_path / "go-on", tmp_path / "waiting"
    os.mkfifo(go_on)
    os.mkfifo(waiting)
    (tmp_path / "sitecustomize.py").write_text(
        "import subprocess\n"
        "start, wait = subprocess.Popen.__init__, subprocess.Popen.wait\n"
        "def start_slowly(*arguments, **more):\n"
        "    start(*arguments, **more)\n"
        f"    open({str(go_on)!r}).read()\n"
        "def say_and_wait(*arguments, **more):\n"
        f"    open({str(waiting)!r}, 'w').close()\n"
        "    return wait(*arguments, **more)\n"
        "subprocess.Popen.__init__, subprocess.Popen.wait = start_slowly, say_and_wait\n"
    )
    shell.environment["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    with at_a_terminal(shell) as (process, terminal):
        assert line_of(process) == "up"
        os.write(terminal, b"\x03")
        assert line_of(process) == "SIGINT"
        # The client passes on a signal that only it gets.
        for number in others:
            process.send_signal(number)
        go_on.write_text("")
        waiting.read_text()
        os.write(terminal, b"\n")
        output, errors = process.communicate(timeout=PATIENCE)
        assert (sorted(output.split()), errors) == ([number.name for number in others], "")
    assert (process.returncode, shell.borrowed()) == (0, 0)


def test_a_stopped_client_loses_its_seat_and_says_so_when_it_continues(shell: Shell) -> None:
    process = shell.start("run", "--tool", "analysis:2", "--ttl", "1s", *RUN_UNTIL_A_LINE_COMES, stdin=subprocess.PIPE)
    assert line_of(process)
    process.send_signal(signal.SIGSTOP)
    try:
        until(lambda: shell("run", "--tool", "analysis", "--", "true").returncode == 0, "the seat comes back")
    finally:
        process.send_signal(signal.SIGCONT)
    assert process.stderr is not None
    assert "THE LEASE IS LOST" in process.stderr.readline()
    process.communicate("\n", timeout=PATIENCE)
    assert process.returncode == 0


# --- Leases that end otherwise ------------------------------------------------------


def test_the_client_shows_why_an_administrator_ended_the_lease(shell: Shell) -> None:
    options = ["--ttl", "2s", "--on-lost", "kill", "--json"]
    command = ["sh", "-c", "echo $LICENSE_LEASE_ID; exec cat"]
    process = shell.start("run", "--tool", "cad_tool", *options, "--", *command, stdin=subprocess.PIPE)
    lease = line_of(process)
    code = (
        "from uuid import UUID\n"
        "from licenses.leases import services\n"
        "from licenses.auditing import Actor\n"
        f"services.force_return(lease_id=UUID('{lease}'), note='Maintenance tonight', by=Actor.of_command('shell'))\n"
    )
    shell.server.manage("shell", "-c", code)
    assert process.stderr is not None
    said = json.loads(process.stderr.readline())
    assert (said["event"], said["lease"]) == ("lost", lease)
    assert "Maintenance tonight" in said["detail"]
    # Keep its input open, because the end of the input would end the command.
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM


def test_the_client_reports_the_end_of_the_license_before_a_heartbeat_is_due(shell: Shell) -> None:
    code = (
        "from datetime import timedelta\n"
        "from django.utils.timezone import now\n"
        "from licenses.models import Tool\n"
        "Tool.objects.create(name='trial', capacity=1, valid_until=now() + timedelta(seconds=5))\n"
    )
    shell.server.manage("shell", "-c", code)
    with License("trial", ttl="1h", server=shell.server.url) as holding:
        assert holding.lost.wait(PATIENCE)
    assert "The tool's license ended" in holding.reason


@pytest.mark.parametrize("impatient", [False, True])
def test_the_client_says_when_a_seat_it_could_not_return_is_free_again(shell: Shell, impatient: bool) -> None:
    patience = "5m" if impatient else "1s"
    command = ["sh", "-c", "trap '' INT; echo up; read line; exit 3"]
    process = shell.start("run", "--tool", "cad_tool", "--patience", patience, "--", *command, stdin=subprocess.PIPE)
    assert line_of(process) == "up"
    (lease,) = httpx.get(f"{shell.server.url}/borrows").json()
    shell.server.kill()
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()

    def is_over() -> bool:
        if impatient:
            process.send_signal(signal.SIGINT)
        return process.poll() is not None

    until(is_over, "the client gives up")
    assert process.returncode == 3
    assert process.stderr is not None
    assert f"It is free again at {clock_time(lease['expires_at'])}" in process.stderr.read()


@pytest.mark.parametrize(("output", "code"), [("/dev/full", 74), (None, 128 + signal.SIGPIPE)])
def test_a_lease_whose_id_nobody_can_read_is_returned(shell: Shell, output: str | None, code: int) -> None:
    if output is None:
        unread, pipe = os.pipe()
        os.close(unread)
    else:
        pipe = os.open(output, os.O_WRONLY)
    try:
        done = subprocess.run(shell.command("borrow", "cad_tool"), env=shell.environment, stdout=pipe, timeout=PATIENCE)
    finally:
        os.close(pipe)
    assert (done.returncode, shell.borrowed()) == (code, 0)


def closing(streams: str, *command: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a command without these streams, as ``command >&-`` does."""
    shell = ["sh", "-c", f'exec "$@" {streams}', "sh", *command]
    return subprocess.run(shell, env=env, capture_output=True, text=True, timeout=PATIENCE)


def test_a_closed_stream_is_an_error_and_holds_no_seat(shell: Shell) -> None:
    borrow = closing(">&-", *shell.command("borrow", "cad_tool"), env=shell.environment)
    assert (borrow.returncode, borrow.stderr) == (74, "license: standard output: Bad file descriptor\n")
    assert shell.borrowed() == 0
    apply = closing("<&-", *shell.command("admin", "apply", "-"), env=shell.environment)
    assert (apply.returncode, apply.stderr) == (64, "license: standard input is closed\n")
    run = closing(
        "<&- >&- 2>&-", *shell.command("run", "--tool", "cad_tool", "--", "sh", "-c", "exit 7"), env=shell.environment
    )
    assert (run.returncode, shell.borrowed()) == (7, 0)


def test_with_a_closed_stderr_no_message_goes_to_what_has_its_number_now(shell: Shell, tmp_path: Path) -> None:
    connection = tmp_path / "connection"
    program = (
        "import os, sys; from license_client.messages import Messages;"
        "os.dup2(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY), 2); Messages(as_json=False).say('lost', 'text')"
    )
    done = closing("2>&-", shell.command()[0], "-c", program, str(connection), env=shell.environment)
    assert (done.returncode, connection.read_text()) == (0, "")


def test_everything_is_given_back_even_if_nobody_reads_it(shell: Shell) -> None:
    for _ in range(2):
        assert shell("borrow", "cad_tool").returncode == 0
    # A lease, and two tickets.
    for _ in range(3):
        asked = {"tool": "analysis", "user": "ci", "seats": 2, "wait_seconds": 600}
        httpx.post(f"{shell.server.url}/licenses/borrow", json=asked).raise_for_status()
    with Path("/dev/full").open("w") as full:
        for command in (["return", "cad_tool", "--all"], ["queue", "--leave", "analysis"]):
            done = subprocess.run(shell.command(*command), env=shell.environment, stdout=full, timeout=PATIENCE)
            assert done.returncode == 74
    assert (shell.borrowed(), shell.borrowed("analysis")) == (0, 2)
    assert json.loads(shell("queue", "--json").stdout) == []
