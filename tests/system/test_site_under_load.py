"""A document that is applied while others are, and while many clients borrow: no mix, and no seat too many."""

import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from tests.support.contention import ledger
from tests.support.paths import ROOT
from tests.support.servers import Server, running_server

CLIENTS = 8
FEW, MANY = 2, 7

RECORDED = """
from licenses.models import AuditRecord
for record in AuditRecord.objects.filter(origin="apply", subject="cad_tool").order_by("pk"):
    print(record.recorded_at.isoformat(), record.after["capacity"])
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def begin(server: Server, path: Path) -> "subprocess.Popen[str]":
    """Begin to apply a document in another process."""
    command = [sys.executable, "manage.py", "apply", str(path)]
    return subprocess.Popen(
        command, cwd=ROOT, env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_of_documents_that_are_applied_at_the_same_time_the_last_one_wins_as_a_whole(
    shared: Server, tmp_path: Path
) -> None:
    paths, documents = [], []
    for number in (1, 2, 3):
        tools = "".join(
            f"[tools.new_{name}]\ncapacity = {number}\n[tools.new_{name}.teams.crash]\nquota = {number}\n"
            for name in range(10)
        )
        documents.append(f'{tools}[teams.crash]\ndisplay_name = "{number}"\nmembers = ["ana", "user{number}"]\n')
        paths.append(tmp_path / f"{number}.toml")
        paths[-1].write_text(documents[-1])
    running = [begin(shared, path) for path in paths]
    said = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    # One made everything, and each other one changed all that differs.
    assert sorted("+ tool new_0" in text for text in said) == [False, False, True]
    left = [shared.manage("apply", str(path), "--dry-run") for path in paths]
    assert sorted("Nothing to change." in text for text in left) == [False, False, True]


def borrow_until(
    server: Server, number: int, done: threading.Event, granted: "queue.SimpleQueue[int]", trouble: list[str]
) -> None:
    """Borrow and return until the event. Put each grant in the queue."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        while not done.is_set():
            answer = client.post("/licenses/borrow", json={"tool": "cad_tool", "user": f"user{number}"})
            if answer.status_code == 200:
                granted.put(number)
                client.post("/licenses/return", json={"id": answer.json()["id"]}).raise_for_status()
            elif answer.json()["code"] not in {"exhausted", "busy"}:
                trouble.append(answer.text)


def test_no_seat_too_many_is_granted_while_documents_change_the_capacity(shared: Server, tmp_path: Path) -> None:
    for seats in (FEW, MANY):
        (tmp_path / f"{seats}.toml").write_text(f"[tools.cad_tool]\ncapacity = {seats}\n")
    done, granted, trouble = threading.Event(), queue.SimpleQueue[int](), list[str]()
    threads = [
        threading.Thread(target=borrow_until, args=(shared, number, done, granted, trouble))
        for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    try:
        for seats in (MANY, FEW, MANY, FEW):
            # Without borrows before, during and after each change the run would show nothing.
            for _ in range(2 * CLIENTS):
                granted.get(timeout=120)
            assert shared.manage("apply", str(tmp_path / f"{seats}.toml"))[:1] == "~"
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not trouble
    lines = shared.manage("shell", "--verbosity", "0", "-c", RECORDED).splitlines()
    moments = [(datetime.fromisoformat(at).timestamp(), int(seats)) for at, seats in map(str.split, lines)]
    assert [seats for _, seats in moments] == [MANY, FEW, MANY, FEW]
    rows = ledger(shared)
    steps = sorted([(start, 1) for _, start, _ in rows] + [(end, -1) for _, _, end in rows if end is not None])
    out = 0
    for at, change in steps:
        out += change
        capacity = next((seats for since, seats in reversed(moments) if since <= at), 5)
        assert change < 0 or out <= capacity, (at, out, capacity)
