"""A contract that begins or ends while many clients borrow: no seat too many, and no sweeper."""

import itertools
import threading
import time
from datetime import datetime

import httpx
import pytest

from tests.support.contention import ledger
from tests.support.servers import Server
from tests.support.waiting import PATIENCE

CLIENTS = 16
FEW, MANY = 2, 7
# The borrows of each client before the moment, and those of all after it.
BEFORE, AFTER = 20, 400

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


class Work:
    """Clients that borrow and return before the moment of a change, during it and after it."""

    def __init__(self, server: Server, moment: float) -> None:
        self.server = server
        self.moment = moment
        self.trouble: list[str] = []
        self.granted_late = 0
        threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self.server.url, timeout=60) as client:
            for _ in range(BEFORE):
                self._borrow_and_return(client, number)
            # Threads that have no work leave the processor to other tests.
            time.sleep(max(self.moment - 0.5 - time.time(), 0))
            while self.granted_late < AFTER and time.time() < self.moment + PATIENCE:
                self._borrow_and_return(client, number)

    def _borrow_and_return(self, client: httpx.Client, number: int) -> None:
        answer = client.post("/licenses/borrow", json={"tool": "cad_tool", "user": f"user{number}"})
        if answer.status_code == 200:
            lease = answer.json()
            self.granted_late += datetime.fromisoformat(lease["borrowed_at"]).timestamp() >= self.moment
            client.post("/licenses/return", json={"id": lease["id"]}).raise_for_status()
        elif answer.json()["code"] != "exhausted":
            self.trouble.append(answer.text)


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
    assert not Work(server, moment).trouble
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
