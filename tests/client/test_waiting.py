"""One's own places in the queue: show them and leave."""

import json
import re
import signal

from tests.support.shell import Shell
from tests.support.waiting import PATIENCE

WAITING = "license: waiting for analysis: position"


def test_places_in_the_queue_are_shown_and_left(shell: Shell) -> None:
    shell("borrow", "analysis:2")
    assert shell("queue").stdout == "ci waits for nothing.\n"
    process = shell.start("run", "--tool", "analysis", "--wait", "10m", "--", "true")
    assert process.stderr is not None
    assert process.stderr.readline().startswith(WAITING)
    heads, row = shell("queue").stdout.splitlines()
    assert re.split(r" {2,}", heads) == ["TICKET", "SEATS", "POSITION", "EXPECTED", "WAITING", "UNTIL"]
    ticket, seats, position, *_ = re.split(r" {2,}", row)
    assert (seats, position) == ("analysis:1", "1")
    (place,) = json.loads(shell("queue", "--json").stdout)
    assert (place["ticket"], place["position"], place["user"]) == (ticket, 1, "ci")
    assert json.loads(shell("queue", "--user", "ana", "--json").stdout) == []
    left = shell("queue", "--leave", "analysis")
    assert (left.returncode, left.stdout) == (0, f"Left the queue: ticket {ticket}.\n")
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 75
    assert shell("queue", "--leave", ticket).returncode == 0


def test_leaving_a_queue_without_a_place_changes_nothing(shell: Shell) -> None:
    none = shell("queue", "--leave", "analysis")
    assert none.returncode == 65
    assert "ci does not wait for analysis." in none.stderr
    assert shell("queue", "--leave", "no_such_tool").returncode == 65
    assert shell("queue", "--leave", "00000000-0000-4000-8000-000000000000").returncode == 65


def test_looking_at_the_queue_keeps_no_place_of_a_client_that_left(shell: Shell) -> None:
    shell("borrow", "analysis:2")
    process = shell.start("run", "--tool", "analysis", "--wait", "10m", "--", "true")
    assert process.stderr is not None
    assert process.stderr.readline().startswith(WAITING)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert json.loads(shell("queue", "--json").stdout) == []
