"""Write logs: one event per line, as JSON for programs or as text for people.

This uses the standard library's logging with two formatters. Pass structured facts as
``extra={"facts": {...}}``. Other extras of a record, such as Django's request, are not
written.
"""

import atexit
import json
import logging
import os
import re
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

# A valid id of a request is kept. It has no dot or underscore, and is longer than a UUID
# only in hexadecimal: a JWT or an API token, with or without its prefix, must not be an id.
REQUEST_ID = re.compile(r"(?:[A-Za-z0-9-]{1,36}|[0-9a-f-]{37,64})")

# An API token or a JWT. They can appear in addresses and error messages.
SECRETS = re.compile(r"(?i:lic)(?:_[A-Za-z0-9]{20,}|-[A-Za-z0-9]{40,})|eyJ[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)


class Event:
    """The current request, inside its ``with`` block. ``ids`` are on every line of the block, ``facts`` on
    the line at its end."""

    __slots__ = ("_token", "facts", "ids", "request_id")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.ids = {"request_id": request_id}
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        _under_way.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        _under_way.discard(self)
        _current.reset(self._token)


_current: ContextVar[Event | None] = ContextVar("event", default=None)
# The requests of this process.
_under_way: set[Event] = set()


def current() -> Event | None:
    """Return the current request, or None."""
    return _current.get()


def note(**facts: Any) -> None:
    """Add facts to the line of the current request: texts, numbers, ids. Without a request do nothing."""
    if event := _current.get():
        event.facts.update(facts)


def redacted(line: str) -> str:
    """Return the line without credentials of a known form."""
    lower = line.lower()
    return SECRETS.sub("[redacted]", line) if "lic_" in lower or "lic-" in lower or "eyj" in lower else line


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _utc(seconds: float) -> str:
    """Return a time in UTC with microseconds."""
    whole = int(seconds)
    return f"{_second(whole)}.{int(1_000_000 * (seconds - whole)):06d}Z"


class JsonFormatter(logging.Formatter):
    """Write one JSON object per line, in ASCII, so that no text can end the line or control a terminal."""

    encode = json.JSONEncoder(default=str, separators=(",", ":")).encode

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if event := _current.get():
            line |= event.ids
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redacted(self.encode(line))


class TextFormatter(logging.Formatter):
    """Write a line for people, with colors on a terminal. Tracebacks are indented and control characters
    escaped, so that only events begin a line."""

    COLORS = {logging.WARNING: "\033[33m", logging.ERROR: "\033[31m", logging.CRITICAL: "\033[31m"}

    def __init__(self) -> None:
        super().__init__()
        self.colored = sys.stderr.isatty() and not os.environ.get("NO_COLOR")

    def format(self, record: logging.LogRecord) -> str:
        facts = dict(getattr(record, "facts", {}))
        said = _printable(record.getMessage())
        if "status" in facts:
            said = "{status} {milliseconds:>8.1f} ms  {method:<6} {path}".format(
                status=facts.pop("status"),
                milliseconds=1000 * facts.pop("duration_seconds"),
                method=facts.pop("method"),
                path=_printable(facts.pop("path")),
            )
        if event := _current.get():
            facts |= event.ids
        level = f"{record.levelname:<8}"
        if self.colored:
            level = f"{self.COLORS.get(record.levelno, '')}{level}\033[0m"
        pairs = "".join(f"  {name}={_printable(str(value))}" for name, value in facts.items())
        line = f"{_utc(record.created)[11:23]} {level} {said}{pairs}"
        if record.exc_info:
            for part in self.formatException(record.exc_info).splitlines():
                line += f"\n    {_printable(part)}"
        return redacted(line)


def _printable(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode()


FORMATTERS: dict[str, type[logging.Formatter]] = {"json": JsonFormatter, "text": TextFormatter}


class StderrHandler(logging.Handler):
    """Write lines to stderr. While several requests are under way, one thread writes the lines of all.

    A thread that writes gives the interpreter away for each line and then waits for it,
    which costs more than the line. A warning, and a line of the only request, is written at once.
    """

    # In seconds: how long a line waits for others at most.
    PAUSE = 0.005

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque()
        # A handler of a signal may log while its own thread writes.
        self._writing = threading.RLock()
        self._there_are_lines = threading.Event()
        self._has_thread = False

    def createLock(self) -> None:
        """Do without logging's own lock: threads would wait for it at each line."""
        self.lock = None

    def start_thread(self) -> None:
        """Start the thread, in a process that answers requests."""
        self._has_thread = True
        atexit.register(self.flush)
        threading.Thread(target=self._write_at_times, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
        except Exception:  # noqa: BLE001 - as logging's handlers do
            self.handleError(record)
        if not self._has_thread or len(_under_way) < 2 or record.levelno >= logging.WARNING:
            self.flush()
        elif not self._there_are_lines.is_set():
            self._there_are_lines.set()

    def flush(self) -> None:
        """Write all lines."""
        with self._writing:
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            # If stderr is broken, nothing can report it.
            with suppress(OSError, ValueError):
                if lines:
                    sys.stderr.write("\n".join(lines) + "\n")
                    sys.stderr.flush()

    def _write_at_times(self) -> None:
        while True:
            self._there_are_lines.wait()
            self._there_are_lines.clear()
            self.flush()
            time.sleep(self.PAUSE)


def start_thread() -> None:
    """Let one thread write the lines of this process. Call it after a fork."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, StderrHandler):
            handler.start_thread()


class WithTraceback(logging.Filter):
    """Keep only records with a traceback. The request's own line has its status."""

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(record.exc_info)


def configuration(form: str, level: str) -> dict[str, Any]:
    """Return the configuration for ``logging.config.dictConfig``.

    All lines go to stderr, because commands use stdout. Only the server's own loggers may
    log DEBUG; their lines have no secrets. Other loggers stay at INFO, because libraries
    log SQL with values, variables of templates, and queries at DEBUG.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"with_traceback": {"()": WithTraceback}},
        "formatters": {"line": {"()": FORMATTERS[form]}},
        "handlers": {"stderr": {"()": StderrHandler, "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "INFO" if level == "DEBUG" else level},
        "loggers": {
            "licenses": {"level": level},
            "licenseserver": {"level": level},
            # Remove Django's handlers.
            "django": {"handlers": [], "level": "NOTSET"},
            "django.request": {"level": "ERROR", "filters": ["with_traceback"]},
            # Anybody can send a wrong Host header. The request's line has the 400.
            "django.security.DisallowedHost": {"level": "CRITICAL"},
            # It warns of a pipeline that ends with an error, which is raised too.
            "psycopg": {"level": "ERROR"},
        },
    }


def uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Log an exception that ends the process, for ``sys.excepthook``. On a terminal print it as usual."""
    if sys.stderr.isatty() or issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        logging.getLogger(__name__).critical("uncaught exception", exc_info=(kind, error, traceback))
