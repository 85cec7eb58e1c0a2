"""Let many clients compete for the seats of one tool, and record what they saw."""

import itertools
import queue
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

import httpx

from tests.support.servers import Server

CAPACITY = 5


@dataclass
class History:
    """What the clients saw. A lease is surely out from the moment its borrow
    was answered to the moment its return was sent."""

    held: list[tuple[float, float]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    granted: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def most_at_once(self) -> int:
        # A return at the same instant as a borrow comes first.
        steps = sorted(itertools.chain.from_iterable(((start, 1), (end, -1)) for start, end in self.held))
        return max(itertools.accumulate((change for _, change in steps), initial=0))


def borrow_and_return(server: Server, number: int, turns: "queue.SimpleQueue[int]", history: History) -> None:
    """Borrow and return until all turns are taken."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        while True:
            try:
                turns.get_nowait()
            except queue.Empty:
                return
            answer = client.post("/licenses/borrow", json={"tool": "cad_tool", "user": f"user{number}"})
            start = time.monotonic()
            with history.lock:
                history.statuses[answer.status_code] += 1
            if answer.status_code != 200:
                continue
            lease_id = answer.json()["id"]
            end = time.monotonic()
            returned = client.post("/licenses/return", json={"id": lease_id})
            with history.lock:
                history.held.append((start, end))
                history.granted.append(lease_id)
                history.statuses[returned.status_code] += 1


def ledger(server: Server) -> list[tuple[str, float, float | None]]:
    """Return every lease of the database, read in pages of the API."""
    rows = []
    url: str | None = f"{server.url}/api/v1/leases/?page_size=200"
    while url:
        page = httpx.get(url).json()
        for lease in page["results"]:
            ended = lease["ended_at"] and datetime.fromisoformat(lease["ended_at"]).timestamp()
            rows.append((lease["id"], datetime.fromisoformat(lease["borrowed_at"]).timestamp(), ended))
        url = page["next"]
    return rows
