"""A contract that begins or ends while many clients borrow: no seat too many, and no sweeper."""

import itertools
import threading
import time
from datetime import datetime

import httpx
import pytest

from tests.support.contention import ledger
from tests.support.servers import Server

CLIENTS = 16
FEW, MANY = 2, 7

# The dates of the contracts allow ``after`` seats; the row says that they change in five seconds.
PREPARE = """
from datetime import timedelta
from licenses.auditing import Actor
from licenses.clock import database_now
from licenses.models import Contract, Tool
from licenses.tools import contracts
tool, by = Tool.objects.get(name="cad_tool"), Actor.of_command("test")
contracts.save(contracts=[Contract(tool=tool, seats={after})], by=by)
moment = database_now() + timedelta(seconds=5)
Tool.objects.filter(pk=tool.pk).update(capacity={before}, capacity_changes_at=moment)
print(moment.isoformat())
"""

RECORDED = """
from licenses.models import AuditRecord
for record in AuditRecord.objects.filter(actor_kind="calendar", subject="cad_tool"):
    print(record.after["capacity"], record.after["since"])
"""


def work(server: Server, number: int, until: float, trouble: list[str]) -> None:
    """Borrow and return until a time of ``time.time``."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        while time.time() < until:
            answer = client.post("/licenses/borrow", json={"tool": "cad_tool", "user": f"user{number}"})
            if answer.status_code == 200:
                client.post("/licenses/return", json={"id": answer.json()["id"]}).raise_for_status()
            elif answer.json()["code"] != "exhausted":
                trouble.append(answer.text)


def most_at_once(rows: list[tuple[str, float, float | None]]) -> int:
    """Return the most leases that were out when one of them began."""
    ends = [(end, -1) for _, _, end in rows if end is not None]
    steps = sorted([(start, 1) for _, start, _ in rows] + ends)
    return max(itertools.accumulate((change for _, change in steps), initial=0))


@pytest.mark.parametrize(("before", "after"), [(MANY, FEW), (FEW, MANY)], ids=["it falls", "it rises"])
def test_a_capacity_that_changes_while_16_clients_borrow_is_never_exceeded(
    server: Server, before: int, after: int
) -> None:
    printed = server.manage("shell", "--verbosity", "0", "-c", PREPARE.format(before=before, after=after))
    moment = datetime.fromisoformat(printed.strip().splitlines()[-1]).timestamp()
    trouble: list[str] = []
    threads = [threading.Thread(target=work, args=(server, number, moment + 3, trouble)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not trouble
    rows = ledger(server)
    early, late = [row for row in rows if row[1] < moment], [row for row in rows if row[1] >= moment]
    # Without contention the run would show nothing.
    assert min(len(early), len(late)) > MANY
    assert FEW <= most_at_once(early) <= before
    # Leases from before the moment go on, so these count too when one is granted after it.
    granted_late = {lease for lease, _, _ in late}
    out = 0
    for _, lease, change in sorted(
        [(start, lease, 1) for lease, start, _ in rows]
        + [(end, lease, -1) for lease, _, end in rows if end is not None],
        key=lambda step: (step[0], step[2]),
    ):
        out += change
        assert change < 0 or lease not in granted_late or out <= after
    assert most_at_once(late) == after
    status = httpx.get(f"{server.url}/licenses/cad_tool/status").json()
    assert (status["total"], status["borrowed"]) == (after, 0)
    (recorded,) = server.manage("shell", "--verbosity", "0", "-c", RECORDED).splitlines()
    seats, since = recorded.split()
    assert int(seats) == after
    assert datetime.fromisoformat(since).timestamp() == pytest.approx(moment, abs=0.001)
