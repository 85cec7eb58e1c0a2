"""Labels of metrics have closed sets of values, and a full metrics folder stops no worker."""

import contextlib
import http.client
import json
import os
import random
import re
import string
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.api import Api
from tests.support.paths import ROOT
from tests.support.servers import Server, running_server

pytestmark = pytest.mark.any_database

Series = set[tuple[str, frozenset[tuple[str, str]]]]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def series(page: str) -> Series:
    """Return the series of a page of metrics, without their values."""
    return {
        (sample.name, frozenset(sample.labels.items()))
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def invented(letters: str = string.ascii_lowercase) -> str:
    """Return a new word."""
    return "".join(random.choices(letters, k=12))


def hostile_requests() -> Iterator[tuple[str, str, dict[str, str], bytes]]:
    """Method, path, headers and body of requests that differ in every part that a client can invent."""
    word = invented()
    for method in [f"Q{invented(string.ascii_uppercase)}", "TRACE", "CONNECT", "PROPFIND", *METHODS]:
        for path in ("/borrows", "/licenses/borrow", f"/{word}", "/admin/login/", "/static/x", "/livez", "/metrics"):
            yield method, path, {}, b""
    for path in (
        f"/licenses/{word}/status",
        f"/licenses/cad_tool/status?user={word}&team={word}",
        f"/licenses/queue/{word}",
        f"/borrows?user={word}",
        f"/api/v1/tools/{word}/",
        f"/api/v1/leases/?tool={word}&team={word}",
        f"/api/v1/denials/?code={word}",
        f"/api/v1/reports/{word}",
        f"/api/v1/reports/usage?by={word}",
        f"/admin/{word}/{word}/",
        f"/admin/login/?next=/{word}",
        f"/tools/{word}/",
        f"/%{word}",
        f"/{word * 200}",
    ):
        yield "GET", path, {}, b""
    for name, value in (
        ("Host", f"{word}.example"),
        ("Accept", f"application/json; charset={word}"),
        ("Accept", f"text/html; charset={word}"),
        ("Accept", f"{word}/{word}"),
        ("Accept-Charset", word),
        ("Accept-Language", word),
        ("Content-Type", f"application/json; charset={word}"),
        ("Content-Type", f"{word}/{word}"),
        ("Authorization", f"{word} {word}"),
        ("Authorization", "Basic " + b64encode(f"{word}:{word}".encode()).decode()),
        ("Authorization", f"Bearer lic_{word}"),
        ("Cookie", f"sessionid={word}; csrftoken={word}"),
        ("X-Requested-With", word),
        ("X-Request-ID", word),
        ("X-HTTP-Method-Override", word),
        ("X-Forwarded-For", word),
        ("X-Forwarded-Proto", word),
        ("X-Forwarded-Host", word),
        ("Idempotency-Key", word),
        ("User-Agent", word),
        ("Referer", f"http://{word}/"),
        ("Origin", f"http://{word}"),
        ("traceparent", word),
        (word, word),
    ):
        for path in ("/borrows", "/admin/login/", "/licenses/cad_tool/status"):
            yield "GET", path, {name: value}, b""
        yield "POST", "/licenses/borrow", {name: value}, b"{}"
    for body in (
        {"tool": word, "user": word},
        {"tool": "cad_tool", "user": word, "team": word},
        {"tool": "cad_tool", "user": word, "project": word, "host": word},
        {"items": [{"tool": word}, {"tool": "cad_tool"}], "user": word},
        {"tool": word, "user": word, "wait_seconds": 60},
        {"tool": "cad_tool", "user": word, "reason": word},
        {word: word},
    ):
        for path in ("/licenses/borrow", "/licenses/explain", "/licenses/return", "/licenses/renew"):
            yield "POST", path, {"Content-Type": "application/json"}, json.dumps(body).encode()


def attack(server: Server) -> None:
    """Send all of them, each on a connection of its own."""
    url = httpx.URL(server.url)
    for method, path, headers, body in hostile_requests():
        connection = http.client.HTTPConnection(str(url.host), url.port, timeout=30)
        with contextlib.suppress(http.client.HTTPException, ConnectionError):
            connection.request(method, path, body or None, headers)
            connection.getresponse().read()
        connection.close()


@pytest.mark.parametrize("auth", ["open", "required"])
def test_no_request_can_add_a_series(tmp_path: Path, auth: str) -> None:
    variables = {"LICENSE_AUTH": auth, "LICENSE_METRICS_PUBLIC": "true", "WEB_CONCURRENCY": "2"}
    with running_server(tmp_path, **variables) as server:
        # Repeat the requests with other words: a client must not be able to add series without an end.
        attack(server)
        before = series(httpx.get(f"{server.url}/metrics").text)
        attack(server)
        after = series(httpx.get(f"{server.url}/metrics").text)
    assert after - before == set()
    labels: dict[str, set[str]] = {}
    for _, pairs in after:
        for name, value in pairs:
            labels.setdefault(name, set()).add(value)
    assert labels["method"] <= {*METHODS, "other"}
    assert labels["transport"] <= {"http", "https"}
    assert labels["tool"] == {"cad_tool", "simulation", "analysis", "unknown"}
    assert all(re.fullmatch(r"[1-5]\d\d", status) for status in labels["status"])


@pytest.mark.parametrize("method", ["QWXYZ", "TRACE", "CONNECT", "PROPFIND", "G" * 20])
def test_a_method_that_no_call_has_is_refused_before_it_is_counted(api: Api, method: str) -> None:
    before = series(api.client.get("/metrics").content.decode())
    for path in ("/borrows", "/licenses/borrow", "/", "/admin/", "/livez", "/readyz", "/metrics", "/x"):
        answer = api.client.generic(method, path)
        assert answer.status_code == 405, path
        assert answer["Content-Type"] == "application/problem+json", path
        assert answer.json()["code"] == "method_not_allowed", path
        assert answer["Allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", path
    assert series(api.client.get("/metrics").content.decode()) == before


@pytest.fixture
def small_folder(tmp_path: Path) -> Iterator[Path]:
    """Provide a folder on a file system of 192 KiB."""
    folder = tmp_path / "small"
    folder.mkdir(mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=192k,mode=0700", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"No tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_folder_of_metrics_stops_no_worker(tmp_path: Path, small_folder: Path) -> None:
    variables = {"PROMETHEUS_MULTIPROC_DIR": str(small_folder), "WEB_CONCURRENCY": "2", "LICENSE_AUTH": "open"}
    with running_server(tmp_path, **variables) as server:
        attack(server)
        assert os.statvfs(small_folder).f_bavail * os.statvfs(small_folder).f_frsize < 64 * 1024
        for _ in range(20):
            assert httpx.get(f"{server.url}/livez").status_code == 200
            body = {"tool": "cad_tool", "user": "ana"}
            lease = httpx.post(f"{server.url}/licenses/borrow", json=body).raise_for_status().json()
            httpx.post(f"{server.url}/licenses/return", json={"id": lease["id"]}).raise_for_status()
            assert httpx.get(f"{server.url}/metrics").status_code == 200
        log = server.log.read_text()
    assert "SIGBUS" not in log
    assert "terminated by signal" not in log
    assert "was sent SIG" not in log
    # Once for each process: two workers and their master.
    assert 1 <= log.count("No space for metrics") <= 3


def test_a_worker_counts_again_when_there_is_space_again(tmp_path: Path, small_folder: Path) -> None:
    """Run in a new process without a pause between tries."""
    program = """
import os, pathlib
folder = pathlib.Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
(folder / "filler").write_bytes(bytes(190 * 1024))
from licenseserver import metric_files
metric_files.PAUSE = 0
metric_files.install()
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
counter = Counter("events_total", "Events.", ["name"])
for _ in range(3):
    counter.labels("early").inc()
registry = CollectorRegistry()
MultiProcessCollector(registry)
print("full", "events_total" in generate_latest(registry).decode())
(folder / "filler").unlink()
counter.labels("early").inc()
print(generate_latest(registry).decode())
"""
    output = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(small_folder)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "full False" in output
    assert 'events_total{name="early"} 4.0' in output
