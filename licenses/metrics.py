"""Prometheus metrics of the domain.

Events are counters that the processes keep and gunicorn's workers share by
files (``PROMETHEUS_MULTIPROC_DIR``), but for the ends of leases, which also
other programs bring about: those the database counts. Levels of seats are never
counted up and down in a process, which would drift with every crash: they are
read from the database when Prometheus asks. What a worker is busy with is a
level of the worker's own, and goes with it.
"""

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path

from django.db import DatabaseError, InterfaceError
from django.utils import timezone
from django_prometheus.middleware import Metrics as HttpMetrics
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from .errors import BORROW_FAILURE_REASONS, UnknownTool
from .leases import snapshot, sql
from .leases.snapshot import TeamSeats
from .models import EndReason, Sweep, Ticket, TicketState, Tool
from .names import UNKNOWN_TOOL_LABEL
from .policy import State

BORROW_ATTEMPTS = Counter("license_borrow_attempts_total", "Borrows asked for.", ["tool"])
BORROW_SUCCESS = Counter("license_borrow_success_total", "Borrows granted and committed.", ["tool"])
BORROW_FAILURE = Counter("license_borrow_failure_total", "Borrows not granted, by reason.", ["tool", "reason"])
BORROW_DURATION = Histogram(
    "license_borrow_duration_seconds",
    "Time to decide a borrow, with its transaction.",
    ["tool"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
BORROW_REPLAYS = Counter("license_borrow_replays_total", "Borrows sent again under the same key.", ["tool"])
WAITS = Counter("license_queue_waits_total", "Waits in the queue that ended, by outcome.", ["tool", "outcome"])
WAIT_DURATION = Histogram(
    "license_queue_wait_seconds",
    "Time from the place in the queue to the seat.",
    ["tool"],
    buckets=(1, 5, 15, 60, 300, 900, 1800, 3600, 4 * 3600, 12 * 3600),
)

RATE_LIMITED = Counter("licenseserver_rate_limited_total", "Calls refused as too many of one caller.", ["limit"])
RATE_LIMITS = ("credential", "address", "heartbeats")

# Sums over the workers that live: gunicorn.conf.py drops those of one that is gone.
WORKERS = Gauge("licenseserver_workers", "Processes that answer requests.", multiprocess_mode="livesum")
THREADS = Gauge("licenseserver_threads", "Requests that they can answer at once.", multiprocess_mode="livesum")
REQUESTS_IN_FLIGHT = Gauge(
    "licenseserver_requests_in_flight",
    "Requests that are being answered, the one for these metrics among them.",
    multiprocess_mode="livesum",
)

# The calls that the objective of availability is about, and how they can fail
# by the server's fault (monitoring/prometheus/rules/slo.yml).
VIEWS_WITH_AN_OBJECTIVE = ("borrow", "return")
SERVER_FAILURES = ("500", "503")

# Names that were once found in the table. A name from a client is a label only
# if it is here, so that nobody can add series by asking for tools that don't exist.
_known: set[str] = set()


def know(tool: str) -> None:
    """Remember that a tool of this name exists or existed."""
    _known.add(tool)


def label(tool: str) -> str:
    """The label for a name that a client sent."""
    return tool if tool in _known else UNKNOWN_TOOL_LABEL


def worker_started(threads: int) -> None:
    """Count this process as a worker that answers so many requests at once."""
    WORKERS.set(1)
    THREADS.set(threads)


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


def borrow_replayed(name: str) -> None:
    """Count a call that was answered from its idempotency key."""
    BORROW_REPLAYS.labels(label(name)).inc()


def wait_ended(name: str, ticket: Ticket) -> None:
    """Count a wait that is over."""
    tool = label(name)
    WAITS.labels(tool, ticket.state).inc()
    if ticket.state == TicketState.GRANTED and ticket.closed_at is not None:
        WAIT_DURATION.labels(tool).observe((ticket.closed_at - ticket.created_at).total_seconds())


class SharedCounters(MultiProcessCollector):
    """What all workers count, read from their files.

    A file is empty between its creation and its first byte, and stays so if the
    worker dies there; the library would fail on it, at every scrape.
    """

    def collect(self) -> Iterable[Metric]:
        files = [str(path) for path in Path(self._path).glob("*.db") if _size(path)]
        metrics: Iterable[Metric] = self.merge(files, accumulate=True)  # type: ignore[no-untyped-call]
        return metrics


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        # Its worker is gone meanwhile.
        return 0


class Levels(Collector):
    """The state of the tools now, as read for this scrape; None is a database
    that doesn't answer, and gives no levels rather than old ones."""

    def __init__(
        self, tools: list[Tool] | None, teams: list[TeamSeats], swept_at: datetime | None, version: str
    ) -> None:
        self.tools = tools
        self.teams = teams
        self.swept_at = swept_at
        self.version = version

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "licenseserver_database_up", "1 if the database answered this scrape.", value=self.tools is not None
        )
        yield from self._seats(self.tools or [])
        yield from self._teams()
        if self.swept_at is not None:
            yield GaugeMetricFamily(
                "licenseserver_sweeper_last_run_timestamp_seconds",
                "When expire_leases was last done.",
                value=self.swept_at.timestamp(),
            )
        build = GaugeMetricFamily(
            "licenseserver_build_info", "What is running; always 1.", labels=["version", "python"]
        )
        build.add_metric([self.version, platform.python_version()], 1)
        yield build

    def _seats(self, tools: list[Tool]) -> Iterator[Metric]:
        now = timezone.now()
        levels: list[tuple[str, str, Callable[[Tool], float]]] = [
            ("licenses_total", "Seats bought.", lambda tool: tool.capacity),
            ("licenses_borrowed", "Seats that are out.", lambda tool: tool.borrowed),
            (
                "licenses_available",
                "Seats that anybody can have; 0 while the tool grants none.",
                lambda tool: tool.levels.available,
            ),
            ("licenses_set_aside", "Seats that are free, but for those who wait.", lambda tool: tool.levels.set_aside),
            (
                "licenses_reserved_idle",
                "Seats that are free, but reserved for teams.",
                lambda tool: tool.levels.reserved_idle,
            ),
            ("licenses_overdraft", "Seats that are out above those bought.", lambda tool: tool.overdrawn),
            ("license_queue_length", "Requests that wait.", lambda tool: tool.queued),
            (
                "license_queue_oldest_seconds",
                "For how long the first of them waits.",
                lambda tool: tool.oldest_wait_seconds(now),
            ),
        ]
        for name, documentation, level in levels:
            family = GaugeMetricFamily(name, documentation, labels=["tool"])
            for tool in tools:
                family.add_metric([tool.name], level(tool))
            yield family
        states = GaugeMetricFamily(
            "license_state", "1 for the state that a tool is in, 0 for the others.", labels=["tool", "state"]
        )
        for tool in tools:
            for state in State:
                states.add_metric([tool.name, state], tool.state == state)
        yield states
        ends = GaugeMetricFamily(
            "license_valid_until_timestamp_seconds",
            "When the license ends, for tools whose license does.",
            labels=["tool"],
        )
        for tool in tools:
            if tool.valid_until is not None:
                ends.add_metric([tool.name], tool.valid_until.timestamp())
        yield ends
        returns = CounterMetricFamily("license_returns", "Leases ended, by reason.", labels=["tool", "reason"])
        for tool in tools:
            for reason in EndReason.values:
                returns.add_metric([tool.name, reason], getattr(tool, f"{reason}_total"))
        yield returns
        overdrafts = CounterMetricFamily(
            "license_overdraft_leases", "Leases granted with seats above those bought.", labels=["tool"]
        )
        for tool in tools:
            overdrafts.add_metric([tool.name], tool.overdraft_total)
        yield overdrafts

    def _teams(self) -> Iterator[Metric]:
        families = {
            "borrowed": GaugeMetricFamily(
                "license_team_borrowed", "Seats that a team's people have.", labels=["tool", "team"]
            ),
            "quota": GaugeMetricFamily("license_team_quota", "The most that they may have.", labels=["tool", "team"]),
            "reservation": GaugeMetricFamily(
                "license_team_reservation", "Seats that nobody else can have.", labels=["tool", "team"]
            ),
        }
        for seats in self.teams:
            for name, family in families.items():
                level = getattr(seats, name)
                if level is not None:
                    family.add_metric([seats.tool, seats.team], level)
        yield from families.values()


def start_at_zero(tools: Iterable[Tool]) -> None:
    """Make every series of every tool exist, and those of the objectives, so that
    the first event is an increase from 0 that ``rate()`` sees."""
    for tool in tools:
        know(tool.name)
        BORROW_ATTEMPTS.labels(tool.name)
        BORROW_SUCCESS.labels(tool.name)
        BORROW_DURATION.labels(tool.name)
        for reason in BORROW_FAILURE_REASONS:
            BORROW_FAILURE.labels(tool.name, reason)
        BORROW_REPLAYS.labels(tool.name)
        WAIT_DURATION.labels(tool.name)
        for outcome in TicketState.values:
            if outcome != TicketState.WAITING:
                WAITS.labels(tool.name, outcome)
    for limit in RATE_LIMITS:
        RATE_LIMITED.labels(limit)
    BORROW_ATTEMPTS.labels(UNKNOWN_TOOL_LABEL)
    BORROW_FAILURE.labels(UNKNOWN_TOOL_LABEL, UnknownTool.code)
    responses = HttpMetrics.get_instance().responses_by_status_view_method
    for view in VIEWS_WITH_AN_OBJECTIVE:
        for status in ("200", *SERVER_FAILURES):
            responses.labels(status=status, view=view, method="POST")


def exposition(version: str) -> bytes:
    """The page for Prometheus: all workers' counters and the levels.

    django-prometheus' own view leaves out custom collectors in multiprocess
    mode, hence this one.
    """
    try:
        tools: list[Tool] | None = snapshot.with_levels(sql.tools_with_levels())
        teams = snapshot.team_seats()
        swept_at = Sweep.objects.values_list("finished_at", flat=True).first()
    except (DatabaseError, InterfaceError):
        # The counters are wanted most while the database is away.
        tools, teams, swept_at = None, [], None
    start_at_zero(tools or [])
    levels = CollectorRegistry()
    levels.register(Levels(tools, teams, swept_at, version))
    counters: CollectorRegistry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        counters = CollectorRegistry()
        SharedCounters(counters)  # type: ignore[no-untyped-call]
    return generate_latest(counters) + generate_latest(levels)
