"""Requests to the server: by wrk where it is there, else by threads of our own."""

import http.client
import itertools
import json
import multiprocessing
import re
import secrets
import shutil
import statistics
import subprocess
import threading
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Workload:
    """What is asked for, in turn: tools to borrow and return, leases to renew, or paths to get.

    ``callers`` are users and their tokens; ``keyed`` gives each borrow an
    Idempotency-Key of its own; ``expected`` are the statuses that are right.
    """

    what: Literal["borrow", "renew", "get"]
    things: tuple[str, ...]
    callers: tuple[tuple[str, str], ...] = (("bench", ""),)
    keyed: bool = False
    expected: tuple[int, ...] = (200,)


@dataclass(frozen=True)
class Measured:
    """One round: requests a second, latencies in milliseconds, how many requests there
    were, and what went wrong: how many got which status that is not right, or none."""

    rate: float
    p50: float
    p99: float
    requests: int
    wrong: dict[str, int]


def run(url: str, workload: Workload, *, connections: int, seconds: float) -> Measured:
    """Load the server for so many seconds."""
    if shutil.which("wrk"):
        return _wrk(url, workload, connections, seconds)
    return _own(url, workload, connections, seconds)


def generator() -> str:
    return "wrk" if shutil.which("wrk") else "threads of Python (slower than wrk: they share the cores)"


def borrowed(url: str, tool: str, number: int) -> tuple[str, ...]:
    """Borrow a tool so many times; return the ids of the leases."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
    leases = []
    for _ in range(number):
        body = json.dumps({"tool": tool, "user": "bench"})
        connection.request("POST", "/licenses/borrow", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"borrow: {answer.status} {text!r}")
        leases.append(str(json.loads(text)["id"]))
    connection.close()
    return tuple(leases)


def _wrk(url: str, workload: Workload, connections: int, seconds: float) -> Measured:
    # One thread: the server needs the cores more.
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s", "--timeout", "60s", "--latency"]
    callers = ",".join(f"{user}={token}" for user, token in workload.callers)
    key = f"bench-{secrets.token_hex(8)}-" if workload.keyed else ""
    script = ["-s", str(HERE / "load.lua"), url, "--", workload.what, ",".join(workload.things), callers, key]
    return read(subprocess.run([*command, *script], check=True, capture_output=True, text=True).stdout, workload)


def read(output: str, workload: Workload) -> Measured:
    """What wrk with our script prints."""
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    total = re.search(r"(\d+) requests in ", output)
    if rate is None or total is None:
        raise RuntimeError(f"wrk: {output}")
    statuses = Counter({int(code): int(count) for code, count in re.findall(r"^status (\d+) (\d+)$", output, re.M)})
    wrong = {str(code): count for code, count in statuses.items() if code not in workload.expected}
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    if sockets:
        wrong["no answer"] = sum(int(number) for number in sockets.groups())
    return Measured(float(rate[1]), _latency(output, "50"), _latency(output, "99"), int(total[1]), wrong)


def _latency(output: str, percentile: str) -> float:
    match = re.search(rf"^\s+{percentile}%\s+([\d.]+)(us|ms|s|m) *$", output, re.M)
    if match is None:
        return float("nan")
    return float(match[1]) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[match[2]]


def _own(url: str, workload: Workload, connections: int, seconds: float) -> Measured:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        latencies, wrong, took = pool.apply(_clients, (url, workload, connections, seconds))
    cuts = statistics.quantiles(latencies, n=100)
    return Measured(len(latencies) / took, 1000 * cuts[49], 1000 * cuts[98], len(latencies), dict(wrong))


def _clients(url: str, workload: Workload, connections: int, seconds: float) -> tuple[list[float], Counter[str], float]:
    start = time.perf_counter()
    results: list[tuple[list[float], Counter[str]]] = []

    def client(number: int) -> None:
        results.append(_client(url, workload, number, start + seconds))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    wrong = sum((wrong for _, wrong in results), Counter[str]())
    return [latency for latencies, _ in results for latency in latencies], wrong, took


def _client(url: str, workload: Workload, number: int, end: float) -> tuple[list[float], Counter[str]]:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
    latencies: list[float] = []
    wrong = Counter[str]()
    key = f"bench-{secrets.token_hex(8)}-"

    def ask(method: str, path: str, token: str, body: object = None, **headers: str) -> tuple[int, bytes]:
        before = time.perf_counter()
        data = json.dumps(body) if body is not None else None
        headers |= {"Content-Type": "application/json"} if data else {}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        text = answer.read()
        latencies.append(time.perf_counter() - before)
        return answer.status, text

    for turn in itertools.count(number):
        if time.perf_counter() >= end:
            break
        thing = workload.things[turn % len(workload.things)]
        user, token = workload.callers[turn % len(workload.callers)]
        if workload.what == "get":
            status, _ = ask("GET", thing, token)
        elif workload.what == "renew":
            status, _ = ask("POST", "/licenses/renew", token, {"id": thing})
        else:
            more = {"Idempotency-Key": f"{key}{turn:08d}"} if workload.keyed else {}
            status, text = ask("POST", "/licenses/borrow", token, {"tool": thing, "user": user}, **more)
            if status == 200:
                returned, _ = ask("POST", "/licenses/return", token, {"id": json.loads(text)["id"]})
                if returned != 200:
                    wrong[str(returned)] += 1
        if status not in workload.expected:
            wrong[str(status)] += 1
    connection.close()
    return latencies, wrong
