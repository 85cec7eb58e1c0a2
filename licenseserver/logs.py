"""Logs: one event a line, as JSON for programs or as text for people.

The standard library's logging with two formatters. Who logs structured facts
gives them as ``extra={"facts": {...}}``; other extras of a record, such as
Django's whole request, are never written.
"""

import json
import logging
import os
import re
import sys
import time
from contextvars import ContextVar
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

# An id that comes with a request is kept if it is one. No dot, no underscore, and
# longer than a UUID in hexadecimal only: a JWT or an API token, with or without its
# prefix, must not become an id.
REQUEST_ID = re.compile(r"(?:[A-Za-z0-9-]{1,36}|[0-9a-f-]{37,64})")

# An API token, or a JWT. Nobody logs one on purpose; but they end up in
# addresses and error messages.
SECRETS = re.compile(r"(?i:lic)(?:_[A-Za-z0-9]{20,}|-[A-Za-z0-9]{40,})|eyJ[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)


class Event:
    """The request that is being answered, for as long as its ``with`` lasts.
    ``ids`` are on every line that is written meanwhile, ``facts`` on the one at
    its end."""

    __slots__ = ("_token", "facts", "ids", "request_id")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.ids = {"request_id": request_id}
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


_current: ContextVar[Event | None] = ContextVar("event", default=None)


def current() -> Event | None:
    """The request that is being answered, if one is."""
    return _current.get()


def note(**facts: Any) -> None:
    """Put facts on the line that the request being answered will get: text,
    numbers, ids. Harmless where no request is."""
    if event := _current.get():
        event.facts.update(facts)


def redacted(line: str) -> str:
    """The line without the credentials that are known by their form."""
    lower = line.lower()
    return SECRETS.sub("[redacted]", line) if "lic_" in lower or "lic-" in lower or "eyj" in lower else line


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _utc(seconds: float) -> str:
    """A time in UTC, to the microsecond."""
    whole = int(seconds)
    return f"{_second(whole)}.{int(1_000_000 * (seconds - whole)):06d}Z"


class JsonFormatter(logging.Formatter):
    """A JSON object a line. ASCII alone, so that nothing in it can end the line
    or confuse a terminal."""

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
    """A line for people, with colours on a terminal. Only what is ours begins a
    line: tracebacks are indented, and control characters written out."""

    COLOURS = {logging.WARNING: "\033[33m", logging.ERROR: "\033[31m", logging.CRITICAL: "\033[31m"}

    def __init__(self) -> None:
        super().__init__()
        self.coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")

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
        if self.coloured:
            level = f"{self.COLOURS.get(record.levelno, '')}{level}\033[0m"
        pairs = "".join(f"  {name}={_printable(str(value))}" for name, value in facts.items())
        line = f"{_utc(record.created)[11:23]} {level} {said}{pairs}"
        if record.exc_info:
            for part in self.formatException(record.exc_info).splitlines():
                line += f"\n    {_printable(part)}"
        return redacted(line)


def _printable(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode()


FORMATTERS: dict[str, type[logging.Formatter]] = {"json": JsonFormatter, "text": TextFormatter}


class WithTraceback(logging.Filter):
    """Lets defects pass alone: that a request was answered with an error stands
    on the request's own line."""

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(record.exc_info)


def configuration(form: str, level: str) -> dict[str, Any]:
    """For ``logging.config.dictConfig``: all to stderr, since stdout is where
    commands answer.

    DEBUG is for the server's own loggers, whose lines have no secrets. Others
    stay at INFO: what libraries write beyond that is SQL with its values, the
    variables of templates, addresses with their queries.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"with_traceback": {"()": WithTraceback}},
        "formatters": {"line": {"()": FORMATTERS[form]}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "INFO" if level == "DEBUG" else level},
        "loggers": {
            "licenses": {"level": level},
            "licenseserver": {"level": level},
            # Without the handlers that Django gives it.
            "django": {"handlers": [], "level": "NOTSET"},
            "django.request": {"level": "ERROR", "filters": ["with_traceback"]},
            # Anybody can send a wrong Host header; that is a 400 like others.
            "django.security.DisallowedHost": {"level": "CRITICAL"},
        },
    }


def uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """For ``sys.excepthook``: what ends the process is an event too. At a
    terminal a person reads it, as usual."""
    if sys.stderr.isatty() or issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        logging.getLogger(__name__).critical("uncaught exception", exc_info=(kind, error, traceback))
