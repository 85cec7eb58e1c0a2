"""Prometheus metrics of the domain.

Events are counters that the processes keep and gunicorn's workers share by
files (``PROMETHEUS_MULTIPROC_DIR``). Levels are never counted up and down in a
process, which would drift with every crash: they are read from the database
when Prometheus asks.
"""

import os
import platform
from collections.abc import Callable, Iterable, Iterator

from django.db import DatabaseError, InterfaceError
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from .errors import BORROW_FAILURE_REASONS, UnknownTool
from .models import EndReason, Tool
from .models.tool import UNKNOWN_TOOL_LABEL

BORROW_ATTEMPTS = Counter("license_borrow_attempts_total", "Borrows asked for.", ["tool"])
BORROW_SUCCESS = Counter("license_borrow_success_total", "Borrows granted and committed.", ["tool"])
BORROW_FAILURE = Counter("license_borrow_failure_total", "Borrows not granted, by reason.", ["tool", "reason"])
BORROW_DURATION = Histogram(
    "license_borrow_duration_seconds",
    "Time to decide a borrow, with its transaction.",
    ["tool"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
RETURNS = Counter("license_returns_total", "Leases ended, by reason.", ["tool", "reason"])

# Names that were once found in the table. A name from a client is a label only
# if it is here, so that nobody can add series by asking for tools that don't exist.
_known: set[str] = set()


def know(tool: str) -> None:
    """Remember that a tool of this name exists or existed."""
    _known.add(tool)


def label(tool: str) -> str:
    """The label for a name that a client sent."""
    return tool if tool in _known else UNKNOWN_TOOL_LABEL


def borrow_granted(name: str, seconds: float) -> None:
    """Count a committed borrow that took ``seconds``."""
    tool = label(name)
    BORROW_ATTEMPTS.labels(tool).inc()
    BORROW_SUCCESS.labels(tool).inc()
    BORROW_DURATION.labels(tool).observe(seconds)


def borrow_failed(name: str, reason: str, seconds: float) -> None:
    """Count a borrow that wasn't granted, after ``seconds``."""
    tool = label(name)
    BORROW_ATTEMPTS.labels(tool).inc()
    BORROW_FAILURE.labels(tool, reason).inc()
    BORROW_DURATION.labels(tool).observe(seconds)


def returned(tool: str, reason: str) -> None:
    """Count a lease that really ended; a repeated return is none."""
    RETURNS.labels(tool, reason).inc()


class Levels(Collector):
    """The state of the tools now, from one query a scrape; None is a database
    that doesn't answer, and gives no levels rather than old ones."""

    def __init__(self, tools: list[Tool] | None, version: str) -> None:
        self.tools = tools
        self.version = version

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "licenseserver_database_up", "1 if the database answered this scrape.", value=self.tools is not None
        )
        yield from self._seats(self.tools or [])
        build = GaugeMetricFamily(
            "licenseserver_build_info", "What is running; always 1.", labels=["version", "python"]
        )
        build.add_metric([self.version, platform.python_version()], 1)
        yield build

    def _seats(self, tools: list[Tool]) -> Iterator[Metric]:
        levels: list[tuple[str, str, Callable[[Tool], int]]] = [
            ("licenses_total", "Seats bought.", lambda tool: tool.capacity),
            ("licenses_borrowed", "Seats that are out.", lambda tool: tool.in_use),
            ("licenses_available", "Seats that are free.", lambda tool: tool.available),
        ]
        for name, documentation, level in levels:
            family = GaugeMetricFamily(name, documentation, labels=["tool"])
            for tool in tools:
                family.add_metric([tool.name], level(tool))
            yield family


def start_at_zero(tools: Iterable[Tool]) -> None:
    """Make every series of every tool exist, so that the first event is an
    increase from 0 that ``rate()`` sees."""
    for tool in tools:
        know(tool.name)
        BORROW_ATTEMPTS.labels(tool.name)
        BORROW_SUCCESS.labels(tool.name)
        BORROW_DURATION.labels(tool.name)
        for reason in BORROW_FAILURE_REASONS:
            BORROW_FAILURE.labels(tool.name, reason)
        for reason in EndReason.values:
            RETURNS.labels(tool.name, reason)
    BORROW_ATTEMPTS.labels(UNKNOWN_TOOL_LABEL)
    BORROW_FAILURE.labels(UNKNOWN_TOOL_LABEL, UnknownTool.code)


def exposition(version: str) -> bytes:
    """The page for Prometheus: all workers' counters and the levels.

    django-prometheus' own view leaves out custom collectors in multiprocess
    mode, hence this one.
    """
    try:
        tools = list(Tool.objects.order_by("name"))
    except (DatabaseError, InterfaceError):
        # The counters are wanted most while the database is away.
        tools = None
    start_at_zero(tools or [])
    levels = CollectorRegistry()
    levels.register(Levels(tools, version))
    counters: CollectorRegistry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        counters = CollectorRegistry()
        MultiProcessCollector(counters)  # type: ignore[no-untyped-call]
    return generate_latest(counters) + generate_latest(levels)
