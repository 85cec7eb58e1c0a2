"""A stand-in for the demo that this server replaced, whose code is not ours.

It does what that demo did for each request, and no more: open the SQLite file, read,
check in Python, write, commit, close; in one process, with SQLite's default settings
(a rollback journal, synchronous=FULL). The demo ran on FastAPI, which gives such calls
to 40 threads; this is a bare WSGI application under gunicorn with as many, which costs
less than FastAPI's validation. Returned borrows are deleted, so its table stays small.
"""

import json
import os
import sqlite3
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from . import stack
from .ports import free_port

THREADS = 40


@contextmanager
def serving(folder: Path, tool: str, capacity: int) -> Iterator[stack.Stack]:
    """The stand-in with one tool, ready."""
    folder.mkdir(parents=True, exist_ok=True)
    path, port = folder / "demo.db", free_port()
    with closing(sqlite3.connect(path)) as database:
        prepare(database, tool, capacity)
    environment = stack.environment_of(str(path))
    environment.pop("GUNICORN_CMD_ARGS", None)
    command = [sys.executable, "-m", "gunicorn", "--workers", "1", "--threads", str(THREADS), "--no-control-socket"]
    listen = ["--bind", f"127.0.0.1:{port}", "--keep-alive", "5", "--access-logfile", str(folder / "access.log")]
    with stack.running([*command, *listen, "benchmarks.demo:application"], environment, folder / "demo.log") as server:
        url = f"http://127.0.0.1:{port}"
        stack.wait_until_ready(url, server, f"/licenses/{tool}/status")
        yield stack.Stack(url, str(path), server.pid)


def prepare(database: sqlite3.Connection, tool: str, capacity: int) -> None:
    """Make its tables, with one tool."""
    database.execute("CREATE TABLE licenses (tool TEXT PRIMARY KEY, total INTEGER NOT NULL)")
    database.execute("CREATE TABLE borrows (id TEXT PRIMARY KEY, tool TEXT NOT NULL, user TEXT NOT NULL)")
    database.execute("INSERT INTO licenses VALUES (?, ?)", [tool, capacity])
    database.commit()


def forget(path: str) -> None:
    """Delete the borrows that the load left behind."""
    with closing(sqlite3.connect(path, timeout=60)) as database:
        database.execute("DELETE FROM borrows")
        database.commit()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    status, answer = _answer(environ)
    text = json.dumps(answer).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]


def _answer(environ: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    path: str = environ["PATH_INFO"]
    if environ["REQUEST_METHOD"] == "GET":
        return _status(path.split("/")[2])
    body = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    return _borrow(body) if path == "/licenses/borrow" else _return(body)


def _borrow(body: dict[str, str]) -> tuple[str, dict[str, Any]]:
    with closing(_opened()) as database:
        total, borrowed = _seats(database, body["tool"])
        if total is None:
            return "404 Not Found", {"detail": "unknown tool"}
        if borrowed >= total:
            return "409 Conflict", {"detail": "no license available"}
        lease = str(uuid.uuid4())
        database.execute("INSERT INTO borrows VALUES (?, ?, ?)", [lease, body["tool"], body["user"]])
        database.commit()
    return "200 OK", {"id": lease, "tool": body["tool"], "user": body["user"]}


def _return(body: dict[str, str]) -> tuple[str, dict[str, Any]]:
    with closing(_opened()) as database:
        found = database.execute("SELECT tool FROM borrows WHERE id = ?", [body["id"]]).fetchone()
        if found is None:
            return "404 Not Found", {"detail": "unknown borrow"}
        database.execute("DELETE FROM borrows WHERE id = ?", [body["id"]])
        database.commit()
    return "200 OK", {"status": "ok", "tool": found[0]}


def _status(tool: str) -> tuple[str, dict[str, Any]]:
    with closing(_opened()) as database:
        total, borrowed = _seats(database, tool)
    if total is None:
        return "404 Not Found", {"detail": "unknown tool"}
    return "200 OK", {"tool": tool, "total": total, "borrowed": borrowed, "available": total - borrowed}


def _opened() -> sqlite3.Connection:
    return sqlite3.connect(os.environ["LICENSE_DB_PATH"])


def _seats(database: sqlite3.Connection, tool: str) -> tuple[int | None, int]:
    found = database.execute("SELECT total FROM licenses WHERE tool = ?", [tool]).fetchone()
    (borrowed,) = database.execute("SELECT count(*) FROM borrows WHERE tool = ?", [tool]).fetchone()
    return (found[0] if found else None), borrowed
