"""What a lease, a heartbeat, a refusal and a scrape cost: bytes on the disk, bytes of WAL, time.

    python -m benchmarks.footprint [--leases 20000]

On a PostgreSQL of its own, or DATABASE_URL's. docs/howto/scaling.md calculates with these.
"""

import argparse
import http.client
import json
import statistics
import sys
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg

from . import rows, stack

CLIENTS = 8
TABLES = ("licenses_lease", "licenses_borrowkey", "licenses_denial", "licenses_tool")


class Client:
    """One connection; answers must be of the status that is right."""

    def __init__(self, url: str) -> None:
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)

    def ask(self, method: str, path: str, body: object = None, *, expected: int = 200, key: str = "") -> bytes:
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        self.connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != expected:
            raise RuntimeError(f"{method} {path}: {answer.status} {text!r}")
        return text


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.footprint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--leases", type=int, default=20_000)
    options = parser.parse_args()
    with stack.started(None) as running, psycopg.connect(running.database, autocommit=True) as database:
        clients = [Client(running.url) for _ in range(CLIENTS)]

        def size() -> int:
            database.execute("VACUUM FREEZE licenses_lease, licenses_borrowkey, licenses_denial")
            row = database.execute(
                "SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest(%s::text[]) name", [list(TABLES)]
            ).fetchone()
            return int(row[0]) if row else 0

        def wal() -> int:
            row = database.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
            return int(row[0]) if row else 0

        def measured(name: str, times: int, call: Callable[[Client, int], object]) -> None:
            # Full pages after a checkpoint are a part of what WAL costs; one to begin with.
            database.execute("CHECKPOINT")
            before, written, start = size(), wal(), time.perf_counter()
            with ThreadPoolExecutor(CLIENTS) as pool:
                for share in [pool.submit(_share, clients[n], range(n, times, CLIENTS), call) for n in range(CLIENTS)]:
                    share.result()
            took, written = time.perf_counter() - start, wal() - written
            _say(f"{name:<44}{(size() - before) / times:>10.0f}{written / times:>10.0f}{times / took:>12.0f}")

        _say(f"{'':<44}{'bytes':>10}{'WAL':>10}{'a second':>12}")
        leases: dict[int, str] = {}

        def borrow(client: Client, number: int, key: str = "") -> None:
            leases[number] = json.loads(client.ask("POST", "/licenses/borrow", _asked(number), key=key))["id"]

        def give_back(client: Client, number: int) -> None:
            client.ask("POST", "/licenses/return", {"id": leases[number]})

        measured("borrow", options.leases, borrow)
        measured("heartbeat", options.leases, lambda c, n: c.ask("POST", "/licenses/renew", {"id": leases[n]}))
        measured("return", options.leases, give_back)

        measured(
            "borrow with an Idempotency-Key",
            options.leases // 4,
            lambda c, n: borrow(c, n, key=f"pipeline-{n:010d}-attempt-1"),
        )
        refused = {"tool": stack.EXHAUSTED}
        measured(
            "refusal, each of another user",
            options.leases // 4,
            lambda c, n: c.ask("POST", "/licenses/borrow", {**refused, "user": f"user{n}"}, expected=409),
        )
        measured(
            "status of a tool",
            options.leases // 4,
            lambda c, n: c.ask("GET", f"/licenses/{stack.TOOLS[n % len(stack.TOOLS)]}/status"),
        )
        scrapes = [_timed(lambda: clients[0].ask("GET", "/metrics")) for _ in range(20)]
        _say(f"a scrape with 51 tools: {1000 * statistics.median(scrapes):.0f} ms")
        for line in rows.disagreements(running.database):
            _say(f"WRONG {line}")
    return 0


def _asked(number: int) -> dict[str, str]:
    """A borrow as a CI job makes it."""
    return {
        "tool": stack.TOOLS[number % len(stack.TOOLS)],
        "user": f"engineer{number % 997:04d}",
        "host": f"runner-{number % 211:03d}.build.example.com",
        "project": f"programme-{number % 23}",
    }


def _share(client: Client, numbers: range, call: Callable[[Client, int], object]) -> None:
    for number in numbers:
        call(client, number)


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
