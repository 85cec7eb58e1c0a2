"""Measure what one caller's flood does to another caller.

``python -m benchmarks.flood``: eve floods each expensive call in turn over 10
connections (wrk); ana, over one connection, asks for a status, a borrow, its return
and an explanation, as a person or a job does. Rounds with and without the flood
alternate, so that a slow minute of the machine meets both. A flood's round begins
once its burst is used up. Ends with an error if a ratio is above the aim.
"""

import argparse
import http.client
import json
import os
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from . import stack
from .ports import free_port

HERE = Path(__file__).resolve().parent
AIM = 2.0
PASSWORD = "a long pass phrase of eve's"  # noqa: S105
FULL = "bench_full"
ACCOUNT = """
import django
django.setup()
from django.contrib.auth.models import User
User.objects.create_superuser("eve", password={password!r})
"""


@dataclass
class Flood:
    """What eve asks for, again and again; the answers, by status."""

    name: str
    method: str
    path: str
    headers: dict[str, str]
    body: str = ""
    statuses: Counter[int] = field(default_factory=Counter)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=__doc__)
    parser.add_argument("--database", action="append", choices=["postgresql", "sqlite"], help="only this (repeatable)")
    parser.add_argument("--flood", action="append", metavar="NAME", help="only this (repeatable)")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind; 3")
    parser.add_argument("--seconds", type=float, default=4, help="a round is measured; 4")
    parser.add_argument("--burst", type=float, default=16, help="seconds of flood before it is measured; 16")
    parser.add_argument("--connections", type=int, default=10, help="of eve; 10")
    parser.add_argument("--workers", type=int, help="gunicorn's processes; the default of this machine and database")
    parser.add_argument("--proxy", action="store_true", help="behind nginx, as compose and the chart have it")
    parser.add_argument("--unlimited", action="store_true", help="with LICENSE_RATE_* off, to see what they change")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("This needs wrk: the load must not need the processor more than the server.")
    worst = 0.0
    for database in options.database or ["postgresql", "sqlite"]:
        with serving(database, options) as (url, ana, eve):
            write = sys.stdout.write
            workers = f"{options.workers} workers" if options.workers else "the default workers"
            write(f"\n{database}, {workers}, {'nginx' if options.proxy else 'no proxy'}\n")
            write(f"{'':<14}{'median ms':>20}{'p99 ms':>20}   answers to the flood, per second\n")
            write(f"{'':<14}{'quiet':>8}{'flood':>7}{'x':>5}{'quiet':>8}{'flood':>7}{'x':>5}\n")
            floods = [flood for flood in floods_of(url, eve) if not options.flood or flood.name in options.flood]
            for flood in floods:
                worst = max(worst, measure(url, ana, flood, options))
    if worst > AIM:
        sys.stdout.write(f"\nABOVE THE AIM: {worst:.1f} x, {AIM} x is the aim\n")
    return 1 if worst > AIM else 0


def measure(url: str, ana: str, flood: Flood, options: argparse.Namespace) -> float:
    """Alternate quiet and flooded rounds; print the row. Return the worse ratio."""
    quiet: list[float] = []
    flooded: list[float] = []
    for _ in range(options.rounds):
        quiet += latencies(url, ana, options.seconds)
        with flooding(url, flood, options.connections, options.burst + options.seconds + 1):
            time.sleep(options.burst)
            flooded += latencies(url, ana, options.seconds)
    row = f"{flood.name:<14}"
    ratios = []
    for quantile in (49, 98):
        before, during = (1000 * statistics.quantiles(found, n=100)[quantile] for found in (quiet, flooded))
        ratios.append(during / before)
        row += f"{before:>8.1f}{during:>7.1f}{during / before:>5.1f}"
    seconds = options.rounds * (options.burst + options.seconds + 1)
    answers = ", ".join(f"{count / seconds:.0f} x {status}" for status, count in sorted(flood.statuses.items()))
    sys.stdout.write(f"{row}   {answers}\n")
    sys.stdout.flush()
    return max(ratios)


def latencies(url: str, token: str, seconds: float) -> list[float]:
    """How long ana's calls take, in seconds. She pauses a little after each."""
    connection = http.client.HTTPConnection(
        urllib.parse.urlsplit(url).netloc, timeout=60, source_address=("127.0.0.2", 0)
    )
    taken: list[float] = []
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    # The machine's own noise, and the warm-up of her connection, are in neither.
    end = time.perf_counter() + seconds

    def ask(method: str, path: str, body: object = None) -> bytes:
        time.sleep(0.01)
        start = time.perf_counter()
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        text = answer.read()
        taken.append(time.perf_counter() - start)
        if answer.status != 200:
            sys.exit(f"ana was answered {answer.status} to {path} {body}: {text[:200]!r}")
        return text

    while time.perf_counter() < end:
        ask("GET", "/licenses/bench1/status")
        lease = json.loads(ask("POST", "/licenses/borrow", {"tool": "bench1"}))
        ask("POST", "/licenses/explain", {"tool": "bench2"})
        ask("POST", "/licenses/return", {"id": lease["id"]})
    connection.close()
    return taken


@contextmanager
def flooding(url: str, flood: Flood, connections: int, seconds: float) -> Iterator[None]:
    """Flood the server meanwhile; count the answers."""
    headers = [f"{name}: {value}" for name, value in flood.headers.items()]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{round(seconds)}s", "-s", str(HERE / "flood.lua"), url, "--"]
    process = subprocess.Popen(
        [*command, flood.method, flood.path, flood.body, *headers], stdout=subprocess.PIPE, text=True
    )
    try:
        yield
    finally:
        output, _ = process.communicate(timeout=seconds + 60)
    flood.statuses.update({int(code): int(count) for code, count in re.findall(r"^status (\d+) (\d+)$", output, re.M)})


def floods_of(url: str, eve: str) -> list[Flood]:
    """The expensive calls."""
    import base64

    bearer = {"Authorization": f"Bearer {eve}"}
    basic = {"Authorization": "Basic " + base64.b64encode(f"eve:{PASSWORD}".encode()).decode()}
    json_body = bearer | {"Content-Type": "application/json"}
    many = json.dumps({"alternatives": [[{"tool": FULL}, {"tool": f"bench{n % 10 + 1}"}] for n in range(16)]})
    cookie, form_token = _form(url)
    form = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": f"csrftoken={cookie}"}
    login = f"csrfmiddlewaretoken={form_token}&username=guess-#&password=wrong&next=/admin/"
    return [
        Flood("basic", "GET", "/licenses/bench1/status", basic),
        Flood("schema", "GET", "/api/schema/", bearer),
        Flood("status", "GET", "/licenses/status", bearer),
        Flood("refused", "POST", "/licenses/borrow", json_body, many),
        Flood("borrow", "POST", "/licenses/borrow", json_body, json.dumps({"tool": "bench3", "ttl_seconds": 30})),
        Flood("queue", "POST", "/licenses/borrow", json_body, json.dumps({"tool": FULL, "wait_seconds": 604800})),
        Flood("explain", "POST", "/licenses/explain", json_body, many),
        Flood("report", "GET", "/api/v1/reports/usage?by=team,project,user,tool", basic),
        Flood("leases", "GET", "/api/v1/leases/?page_size=200", bearer),
        Flood("metrics", "GET", "/metrics", bearer),
        Flood("sign-in page", "GET", "/signin/", {}),
        Flood("admin login", "POST", "/admin/login/", form, login),
        Flood("bad tokens", "GET", "/licenses/status", {"Authorization": "Bearer lic_" + "a" * 43}),
    ]


def _form(url: str) -> tuple[str, str]:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
    connection.request("GET", "/admin/login/")
    answer = connection.getresponse()
    page = answer.read().decode()
    cookie = re.search(r"csrftoken=([^;]+)", answer.headers["Set-Cookie"])
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    if not cookie or not token:
        sys.exit("There is no form at /admin/login/.")
    return cookie[1], token[1]


@contextmanager
def serving(database: str, options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """A server as deployed; its address, and the tokens of ana and eve."""
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="licenseserver-flood-")))
        (folder / "metrics").mkdir(mode=0o700)
        environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        if database == "postgresql":
            environment["DATABASE_URL"] = os.environ.get("DATABASE_URL") or closing.enter_context(
                stack.postgres(folder / "postgres")
            )
        else:
            environment["LICENSE_DB_PATH"] = str(folder / "licenses.db")
        port = free_port()
        environment |= {
            "SECRET_KEY": secrets.token_urlsafe(48),
            "SECURE_SSL": "false",
            "LOG_LEVEL": "WARNING",
            "GUNICORN_CMD_ARGS": "--log-level error",
            "BIND": f"127.0.0.1:{port}",
            "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
            "LICENSE_AUTH": "required",
            "TRUST_PROXY": str(options.proxy).lower(),
            "DJANGO_SETTINGS_MODULE": "licenseserver.settings",
        }
        environment.pop("WEB_CONCURRENCY", None)
        if options.workers:
            environment["WEB_CONCURRENCY"] = str(options.workers)
        if options.unlimited:
            environment |= stack.UNLIMITED
        log = closing.enter_context((folder / "server.log").open("ab"))

        def run(*command: str) -> str:
            command = (sys.executable, *command)
            return subprocess.run(
                command, cwd=stack.ROOT, env=environment, check=True, stdout=subprocess.PIPE, stderr=log, text=True
            ).stdout.strip()

        run("manage.py", "migrate", "--verbosity", "0")
        run("manage.py", "seed", *[f"--tool=bench{number}=1000" for number in range(1, 11)], f"--tool={FULL}=0")
        run("-c", ACCOUNT.format(password=PASSWORD))
        ana, eve = (run("manage.py", "token", "create", "flood", "--user", user) for user in ("ana", "eve"))
        url = f"http://127.0.0.1:{port}"
        server = subprocess.Popen(
            [sys.executable, "-m", "licenseserver"], cwd=stack.ROOT, env=environment, stdout=log, stderr=log
        )
        closing.callback(stack.end, server)
        stack.wait_until_ready(url, server)
        yield (closing.enter_context(proxied(folder, url)) if options.proxy else url), ana, eve


@contextmanager
def proxied(folder: Path, api: str) -> Iterator[str]:
    """The shipped nginx in front of the server; its address."""
    shipped = stack.ROOT / "deploy" / "nginx"
    port = free_port()
    site = (shipped / "site.conf").read_text().replace("http://api:8000", api)
    (folder / "site.conf").write_text(re.sub(r"^resolver .*$", "", site, flags=re.M))
    config = (shipped / "nginx.conf").read_text()
    for old, new in (
        ("/tmp/", f"{folder}/"),  # noqa: S108
        ("/etc/nginx/site.conf", str(folder / "site.conf")),
        ("listen 8080", f"listen 127.0.0.1:{port}"),
        ("/dev/stdout", str(folder / "access.log")),
        ("/dev/stderr", str(folder / "error.log")),
    ):
        if old not in config:
            sys.exit(f"deploy/nginx/nginx.conf has no {old}")
        config = config.replace(old, new)
    (folder / "nginx.conf").write_text(config)
    process = subprocess.Popen(
        ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"], stderr=subprocess.DEVNULL
    )
    try:
        stack.wait_until_ready(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        stack.end(process)


if __name__ == "__main__":
    sys.exit(main())
