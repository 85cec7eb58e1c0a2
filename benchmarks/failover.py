"""What clients see while a primary dies and its standby takes over, and what is lost.

    python -m benchmarks.failover                   with synchronous replication
    python -m benchmarks.failover --asynchronous    without
    python -m benchmarks.failover --outage 10       the standby is promoted so many seconds later
    python -m benchmarks.failover --patroni         three nodes, and Patroni promotes one
    python -m benchmarks.failover --patroni --haproxy --switchover

A primary and a standby of PostgreSQL, and a server whose DATABASE_URL names both.
Clients borrow and return; the primary is killed, and the standby promoted by hand, or
by Patroni. Then the leases in the new primary are compared with what the clients were
told. Ends with an error if a lease or a return was acknowledged and is lost, or a
lease is there that nobody knows of, but for ``--asynchronous``, which is there to see
just that.
"""

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from . import patroni, rows, stack
from .clusters import Cluster, url_of_any, wait_for

CLIENTS = 16
# The name by which the standby is known to the primary.
STANDBY = "standby"


@dataclass
class Told:
    """What the clients were told, and when, in seconds of the monotonic clock."""

    borrowed: set[str] = field(default_factory=set)
    returned: set[str] = field(default_factory=set)
    # When each call was answered or cut, after how long, and with what.
    outcomes: list[tuple[float, float, str]] = field(default_factory=list)
    granted_at: list[float] = field(default_factory=list)
    # Borrows that were sent anew with their key, and got the first one's answer.
    replayed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Client(threading.Thread):
    """Borrows and returns until told to stop, as a good client does: whatever isn't
    decided is sent again with the same key."""

    def __init__(self, url: str, number: int, told: Told, stop: threading.Event) -> None:
        super().__init__()
        self.address, self.number, self.told, self.stop = urllib.parse.urlsplit(url).netloc, number, told, stop

    def run(self) -> None:
        tool = stack.TOOLS[self.number]
        while not self.stop.is_set():
            key = str(uuid.uuid4())
            lease = self._until_decided("/licenses/borrow", {"tool": tool, "user": "bench"}, key)
            if lease is None:
                return
            with self.told.lock:
                self.told.borrowed.add(lease["id"])
                self.told.granted_at.append(time.monotonic())
            # A part is kept, so that there are open leases to lose.
            if uuid.UUID(lease["id"]).int % 10 == 0:
                continue
            if self._until_decided("/licenses/return", {"id": lease["id"]}, None) is None:
                return
            with self.told.lock:
                self.told.returned.add(lease["id"])

    def _until_decided(self, path: str, body: dict[str, str], key: str | None) -> dict[str, str] | None:
        while True:
            start = time.monotonic()
            status, answer, replayed = self._ask(path, body, key)
            end = time.monotonic()
            with self.told.lock:
                self.told.outcomes.append((end, end - start, status))
                self.told.replayed += replayed
            if status == "200":
                return answer
            if self.stop.is_set():
                return None
            self.stop.wait(0.1)

    def _ask(self, path: str, body: dict[str, str], key: str | None) -> tuple[str, dict[str, str], bool]:
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__, {}, False
        finally:
            connection.close()
        status = str(answer.status) if answer.status == 200 else f"{answer.status} {content.get('code')}"
        return status, content, "Idempotent-Replayed" in answer.headers


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.failover",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--asynchronous", action="store_true", help="the primary waits for no standby")
    parser.add_argument("--outage", type=float, default=5, metavar="SECONDS", help="from the death to the promotion; 5")
    parser.add_argument("--seconds", type=float, default=5, help="of load before the death, and after; 5")
    parser.add_argument("--patroni", action="store_true", help="Patroni notices the death, and promotes")
    parser.add_argument(
        "--ttl", type=int, default=30, help="of Patroni's leader without a sign of life; 30, its default"
    )
    parser.add_argument("--haproxy", action="store_true", help="DATABASE_URL leads to an HAProxy that asks Patroni")
    parser.add_argument("--switchover", action="store_true", help="nobody dies: Patroni is told to hand over")
    options = parser.parse_args()
    if options.patroni and (absent := patroni.missing()):
        parser.error(f"--patroni needs {', '.join(absent)}")
    told, stop = Told(), threading.Event()
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="licenseserver-failover-")))
        scene = _under_patroni(folder, closing, options) if options.patroni else _by_hand(folder, closing, options)
        stack.prepare(scene.url)
        running = closing.enter_context(stack.serving(scene.url, folder, log=folder / "log"))
        clients = [Client(running.url, number, told, stop) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        closing.callback(stop.set)
        time.sleep(options.seconds)
        scene.prepare()
        died = time.monotonic()
        scene.die()
        scene.take_over()
        promoted = time.monotonic()
        wait_for(lambda: any(moment > promoted for moment in list(told.granted_at)), "the server")
        time.sleep(options.seconds)
        scene.come_back()
        stop.set()
        for client in clients:
            client.join()
        database = scene.database()
        lost = list(_lost(database, told))
        lost += [f"counter: {leak}" for leak in rows.disagreements(database)]
    _print(told, died, promoted, lost)
    return 1 if lost and not options.asynchronous else 0


@dataclass
class Scene:
    """What is played: how the server gets to the database, how that dies, how it is
    replaced, what becomes of the dead, and where the new one is."""

    url: str
    die: Callable[[], None]
    # Returns when there is a new primary.
    take_over: Callable[[], None]
    database: Callable[[], str]
    prepare: Callable[[], None] = lambda: None
    come_back: Callable[[], None] = lambda: None


def _by_hand(folder: Path, closing: ExitStack, options: argparse.Namespace) -> Scene:
    primary, standby = _pair(folder, closing, synchronous=not options.asynchronous)

    def prepare() -> None:
        if options.asynchronous:
            # On one machine a standby is hardly ever behind; this one lacks a second.
            standby.cut_off()
            time.sleep(1)

    def take_over() -> None:
        time.sleep(options.outage)
        standby.promote()

    return Scene(url_of_any(primary, standby), primary.kill, take_over, lambda: standby.url, prepare)


def _under_patroni(folder: Path, closing: ExitStack, options: argparse.Namespace) -> Scene:
    # Patroni wants loop_wait + 2 * retry_timeout within the TTL.
    pause = options.ttl // 3
    cluster = closing.enter_context(
        patroni.managed(folder / "patroni", ttl=options.ttl, loop_wait=pause, retry_timeout=pause)
    )
    url = closing.enter_context(patroni.balanced(folder, cluster)) if options.haproxy else cluster.url
    old, heir = cluster.primary(), cluster.heir()

    def die() -> None:
        if options.switchover:
            old.hand_over(heir)
        else:
            old.kill()

    def come_back() -> None:
        if not options.switchover:
            old.start()
        wait_for(lambda: old.says("replica"), "the old primary, as a standby", 120)

    return Scene(
        url,
        die,
        lambda: wait_for(lambda: heir.says("primary"), "a new primary", 120),
        lambda: heir.url,
        come_back=come_back,
    )


def _pair(folder: Path, closing: ExitStack, *, synchronous: bool) -> tuple[Cluster, Cluster]:
    """A primary, and its standby that has all it has."""
    primary = Cluster.created(folder / "primary", "log_min_messages = fatal")
    closing.callback(primary.stop)
    standby = primary.standby(folder / "standby", STANDBY)
    closing.callback(standby.stop)
    if synchronous:
        primary.configure(f"synchronous_standby_names = 'FIRST 1 ({STANDBY})'")
        primary.reload()
    wanted = "sync" if synchronous else "async"

    def follows() -> bool:
        with psycopg.connect(primary.url) as connection:
            row = connection.execute("SELECT sync_state FROM pg_stat_replication").fetchone()
        return row is not None and row[0] == wanted

    wait_for(follows, "the standby")
    return primary, standby


def _lost(database: str, told: Told) -> Iterator[str]:
    """What was acknowledged and isn't so in the database, or is there unknown to all."""
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT id::text, ended_at IS NOT NULL FROM licenses_lease").fetchall()
    found = {lease for lease, _ in rows}
    ended = {lease for lease, over in rows if over}
    if gone := told.borrowed - found:
        yield f"{len(gone)} of {len(told.borrowed)} acknowledged leases"
    if untold := found - told.borrowed:
        yield f"{len(untold)} leases that nobody was told of"
    if undone := (told.returned & found) - ended:
        yield f"{len(undone)} of {len(told.returned)} acknowledged returns"


def _print(told: Told, died: float, promoted: float, lost: list[str]) -> None:
    say = sys.stdout.write
    before = [outcome for outcome in told.outcomes if outcome[0] < died]
    during = [outcome for outcome in told.outcomes if outcome[0] >= died]
    failed = [(moment, took, status) for moment, took, status in during if status != "200"]
    say(f"before the death: {dict(Counter(status for _, _, status in before))}\n")
    say(f"from then on:     {dict(Counter(status for _, _, status in during))}\n")
    if failed:
        say(f"slowest failure:  {max(took for _, took, _ in failed):.2f} s\n")
        say(f"last failure:     {max(moment for moment, _, _ in failed) - promoted:+.2f} s from the promotion\n")
    first = min(moment for moment in told.granted_at if moment > promoted)
    say(f"promoted after    {promoted - died:.2f} s\n")
    say(f"next grant after  {first - promoted:.2f} s from the promotion\n")
    say(f"retries that got the first call's lease: {told.replayed}\n")
    say(f"acknowledged: {len(told.borrowed)} leases, {len(told.returned)} returns\n")
    say("".join(f"LOST {line}\n" for line in lost) or "lost: nothing\n")


if __name__ == "__main__":
    sys.exit(main())
