"""Requests to the server: by wrk where it is there, else by threads of our own."""

import http.client
import json
import multiprocessing
import re
import shutil
import statistics
import subprocess
import threading
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .stack import EXHAUSTED, TOOLS

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Workload:
    """What is asked for. ``tools`` are borrowed and returned in turn, unless
    there is a ``path`` to get; ``expected`` are the statuses that are right."""

    name: str
    tools: tuple[str, ...] = ()
    path: str = ""
    expected: tuple[int, ...] = (200,)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("hot", tools=(TOOLS[0],)),
        Workload("many", tools=tuple(TOOLS)),
        Workload("refused", tools=(EXHAUSTED,), expected=(409,)),
        Workload("status", path=f"/licenses/{TOOLS[0]}/status"),
        Workload("status-all", path="/licenses/status"),
    )
}


@dataclass(frozen=True)
class Measured:
    """One round: requests a second, latencies in milliseconds, and how many
    requests got another answer than was right."""

    rate: float
    p50: float
    p99: float
    wrong: int


def run(url: str, workload: Workload, *, connections: int, seconds: float) -> Measured:
    """Load the server for so many seconds."""
    if shutil.which("wrk"):
        return _wrk(url, workload, connections, seconds)
    return _own(url, workload, connections, seconds)


def generator() -> str:
    return "wrk" if shutil.which("wrk") else "threads of Python (slower than wrk: they share the cores)"


def _wrk(url: str, workload: Workload, connections: int, seconds: float) -> Measured:
    # One thread: the server needs the cores more.
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s", "--latency"]
    if workload.path:
        command.append(url + workload.path)
    else:
        command += ["-s", str(HERE / "borrow.lua"), url, "--", ",".join(workload.tools)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])  # type: ignore[index]
    statuses = Counter({int(code): int(count) for code, count in re.findall(r"^status (\d+) (\d+)$", output, re.M)})
    wrong = sum(count for code, count in statuses.items() if code not in workload.expected)
    if workload.path:
        failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
        wrong += int(failed[1]) if failed else 0
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    wrong += sum(int(number) for number in sockets.groups()) if sockets else 0
    return Measured(rate, _latency(output, "50"), _latency(output, "99"), wrong)


def _latency(output: str, percentile: str) -> float:
    match = re.search(rf"^\s+{percentile}%\s+([\d.]+)(us|ms|s|m)$", output, re.M)
    if match is None:
        return float("nan")
    return float(match[1]) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[match[2]]


def _own(url: str, workload: Workload, connections: int, seconds: float) -> Measured:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        latencies, wrong, took = pool.apply(_clients, (url, workload, connections, seconds))
    cuts = statistics.quantiles(latencies, n=100)
    return Measured(len(latencies) / took, 1000 * cuts[49], 1000 * cuts[98], wrong)


def _clients(url: str, workload: Workload, connections: int, seconds: float) -> tuple[list[float], int, float]:
    start = time.perf_counter()
    results: list[tuple[list[float], int]] = []

    def client(number: int) -> None:
        results.append(_client(url, workload, number, start + seconds))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    return [latency for latencies, _ in results for latency in latencies], sum(wrong for _, wrong in results), took


def _client(url: str, workload: Workload, number: int, end: float) -> tuple[list[float], int]:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
    latencies: list[float] = []
    wrong = turn = 0

    def ask(method: str, path: str, body: object = None) -> tuple[int, bytes]:
        before = time.perf_counter()
        data = json.dumps(body) if body is not None else None
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        answer = connection.getresponse()
        text = answer.read()
        latencies.append(time.perf_counter() - before)
        return answer.status, text

    while time.perf_counter() < end:
        turn += 1
        if workload.path:
            status, _ = ask("GET", workload.path)
        else:
            tool = workload.tools[(number + turn) % len(workload.tools)]
            status, text = ask("POST", "/licenses/borrow", {"tool": tool, "user": "bench"})
            if status == 200:
                returned, _ = ask("POST", "/licenses/return", {"id": json.loads(text)["id"]})
                wrong += returned != 200
        wrong += status not in workload.expected
    connection.close()
    return latencies, wrong
