"""More calls than the server can answer, and clients that stall: ``python -m tests.faults.overload``.

First it measures what the server can do, then it asks for five times as much
for some seconds. The server must shed load with 503 and ``Retry-After``, go on
answering ``/livez`` and heartbeats, and recover within five seconds. Then 100
connections stall in front of the shipped proxy, and a good request must not
notice. Exits with 1 where one of that does not hold.
"""

import argparse
import asyncio
import contextlib
import json
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.ports import free_port

from . import template
from .stack import ROOT, Api, environment

MEASURED_SECONDS = 4.0
# So many that batches are full.
MEASURED_CONNECTIONS = 256
OVERLOAD_SECONDS = 10.0
FACTOR = 5
# Seconds that a request may wait for its turn.
LONGEST_WAIT = 1
# Open connections of the overload, for each call a second that the server can answer. Each has one call under
# way, so calls wait about this many seconds: longer than they may, however fast the machine is.
CONNECTIONS = 2.5
RECOVERY_SECONDS = 5.0
STALLED = 100


@dataclass
class Load:
    """What came of the calls of one phase."""

    statuses: Counter[str] = field(default_factory=Counter)
    without_advice: int = 0
    unsent: int = 0


@dataclass
class Beats:
    """What those saw meanwhile who must always be answered."""

    statuses: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def add(self, kind: str, status: int | None, seconds: float) -> None:
        self.statuses[f"{kind} {status}"] += 1
        self.slowest = max(self.slowest, seconds)


async def press(port: int, token: str, seconds: float, *, rate: float | None, connections: int) -> Load:
    """Borrow what is not there; ``rate`` calls a second, or as fast as the answers come."""
    load = Load()
    body = json.dumps({"tool": "cad", "user": "user0", "seats": 900}).encode()
    call = (
        f"POST /licenses/borrow HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    start = time.monotonic()
    sent = 0

    async def one() -> None:
        nonlocal sent
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while (now := time.monotonic() - start) < seconds:
            if rate is not None and sent > rate * now:
                await asyncio.sleep(0.002)
                continue
            sent += 1
            try:
                if streams is None:
                    streams = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 30)
                reader, writer = streams
                writer.write(call)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
                fields = head.decode("latin-1").lower()
                length = int(fields.partition("content-length: ")[2].partition("\r\n")[0])
                await reader.readexactly(length)
                status = fields[9:12]
                load.statuses[status] += 1
                load.without_advice += status == "503" and "retry-after" not in fields
                if "connection: close" in fields:
                    writer.close()
                    streams = None
            except asyncio.IncompleteReadError as cut:
                # The server closed an idle connection just before the call: it goes again.
                if cut.partial or streams is None:
                    load.statuses["cut answer"] += 1
                streams = None
            except (TimeoutError, OSError, ValueError) as error:
                load.statuses[f"no answer: {type(error).__name__}"] += 1
                if streams is not None:
                    streams[1].close()
                streams = None
        if streams is not None:
            streams[1].close()

    await asyncio.gather(*(one() for _ in range(connections)))
    if rate is not None:
        load.unsent = max(int(rate * seconds) - sent, 0)
    return load


def beat(http: httpx.Client, lease: str, beats: Beats, stopping: threading.Event) -> None:
    """Hold a seat with heartbeats, and look at ``/livez``, until told to stop."""
    while not stopping.wait(0.2):
        for method, path, body in (("POST", "/licenses/renew", {"id": lease}), ("GET", "/livez", None)):
            start = time.monotonic()
            status: int | None = None
            with contextlib.suppress(httpx.TransportError):
                status = http.request(method, path, json=body).status_code
            beats.add(path, status, time.monotonic() - start)


def recovery(port: int, token: str) -> float:
    """Seconds until a borrow is decided again."""
    start = time.monotonic()
    headers = {"Authorization": f"Bearer {token}"}
    while time.monotonic() - start < 6 * RECOVERY_SECONDS:
        with contextlib.suppress(httpx.TransportError):
            body = {"tool": "cad", "user": "user0", "seats": 900}
            answer = httpx.post(f"http://127.0.0.1:{port}/licenses/borrow", json=body, headers=headers, timeout=30)
            if answer.status_code == 409:
                break
        time.sleep(0.05)
    return time.monotonic() - start


@contextmanager
def proxied(folder: Path, upstream: int) -> Iterator[int]:
    """The port of nginx with the shipped configuration."""
    port = free_port()
    folder.mkdir()
    (folder / "site.conf").write_text(
        f"map $host $api {{ default http://127.0.0.1:{upstream}; }}\n"
        "map $scheme $forwarded_proto { default $scheme; }\n"
        "map $uri $not_for_callers { default 0; }\n"
    )
    config = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
    for shipped, here in (
        ("/tmp/", f"{folder}/"),
        ("listen 8080", f"listen 127.0.0.1:{port}"),
        ("/etc/nginx/site.conf", str(folder / "site.conf")),
        ("/dev/stdout", str(folder / "access.log")),
        ("/dev/stderr", str(folder / "error.log")),
    ):
        config = config.replace(shipped, here)
    (folder / "nginx.conf").write_text(config)
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"])
    try:
        deadline = time.monotonic() + 30
        while not (folder / "nginx.pid").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def stalled(port: int, token: str) -> float:
    """The slowest of ten good requests beside 100 half requests of another address."""
    with ExitStack() as closing:
        for _ in range(STALLED):
            connection = closing.enter_context(
                socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.3", 0))
            )
            connection.sendall(b"POST /licenses/borrow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
        slowest = 0.0
        for _ in range(10):
            start = time.monotonic()
            httpx.get(
                f"http://127.0.0.1:{port}/licenses/cad/status", headers={"Authorization": f"Bearer {token}"}, timeout=30
            ).raise_for_status()
            slowest = max(slowest, time.monotonic() - start)
    return slowest


def main() -> None:
    """Run both, print what was seen, and exit 1 where it is not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.overload", description=__doc__)
    parser.add_argument("--database", choices=["postgres", "sqlite"], default="postgres")
    options = parser.parse_args()
    bad: list[str] = []
    # Each connection takes a file of both sides.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as closing:
        folder = Path(
            closing.enter_context(tempfile.TemporaryDirectory(prefix="overload-", ignore_cleanup_errors=True))
        )
        (folder / "template").mkdir()
        made = template.make(options.database, folder / "template")
        database = closing.enter_context(made.copied(folder))
        site, port = made.site, free_port()
        variables = environment(database, port) | {
            "LICENSE_LONGEST_WAIT": str(LONGEST_WAIT),
            # gunicorn would leave connections above 1,000 to the kernel, where nobody sees them wait.
            "GUNICORN_CMD_ARGS": "--worker-connections 10000",
        }
        api = Api(ROOT, folder, variables, port)
        closing.callback(api.stop)
        api.start()
        token = site.tokens["user0"]
        quiet = asyncio.run(press(port, token, MEASURED_SECONDS, rate=None, connections=MEASURED_CONNECTIONS))
        capacity = quiet.statuses["409"] / MEASURED_SECONDS
        print(f"capacity: {capacity:.0f} calls a second")
        beats, stopping = Beats(), threading.Event()
        headers = {"Authorization": f"Bearer {site.tokens['user1']}"}
        http = closing.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30))
        lease = http.post("/licenses/borrow", json={"tool": "spare", "user": "user1", "ttl_seconds": 60}).json()["id"]
        thread = threading.Thread(target=beat, args=(http, lease, beats, stopping))
        thread.start()
        connections = int(CONNECTIONS * capacity)
        load = asyncio.run(press(port, token, OVERLOAD_SECONDS, rate=FACTOR * capacity, connections=connections))
        seconds = recovery(port, token)
        stopping.set()
        thread.join()
        print(f"asked for {FACTOR} times that: {dict(load.statuses)}, {load.unsent} could not be sent")
        print(f"meanwhile: {dict(beats.statuses)}, the slowest took {beats.slowest:.2f} s")
        print(f"recovered after {seconds:.2f} s")
        if not load.statuses["503"] or load.without_advice:
            bad.append("it shed no load, or without Retry-After")
        if set(load.statuses) - {"409", "503"}:
            bad.append("some calls had no answer, or a wrong one")
        if any(not kind.endswith(" 200") for kind in beats.statuses):
            bad.append("a heartbeat or a probe was not answered")
        if seconds > RECOVERY_SECONDS:
            bad.append("it did not recover in time")
        if shutil.which("nginx"):
            slowest = stalled(closing.enter_context(proxied(folder / "nginx", port)), token)
            print(f"{STALLED} stalled connections at the proxy: the slowest good request took {slowest:.2f} s")
            if slowest > 1:
                bad.append("stalled connections held a good request up")
        else:
            print("nginx is not installed: stalled connections were not tried")
    for sentence in bad:
        print(f"VIOLATION {sentence}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
