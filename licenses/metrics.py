"""Prometheus metrics of the domain.

Each process counts events, and gunicorn's workers share their counters in files
(``PROMETHEUS_MULTIPROC_DIR``). The database counts the ends of leases, because other
programs end leases too. Levels of seats are read from the database at each scrape: a
level that a process counts up and down would drift with every crash. The requests in
flight are a level of each worker, and disappear with it.
"""

import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from django.db import DatabaseError, InterfaceError
from django.utils import timezone
from django_prometheus.conf import NAMESPACE, PROMETHEUS_LATENCY_BUCKETS
from django_prometheus.middleware import Metrics
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector

from . import metric_text
from .errors import DatabaseRefusal, UnknownTool, kinds
from .leases import snapshot, sql
from .leases.snapshot import AllotmentLevels
from .metric_text import Counters, Family, labels
from .models import ApiToken, ChannelLevels, Contract, Delivery, EndReason, Sweep, Ticket, TicketState, Tool
from .models.contract import Schedule
from .names import UNKNOWN_TOOL_LABEL
from .policy import BORROW_REFUSALS, State

BORROW_ATTEMPTS = Counter("license_borrow_attempts_total", "Borrow requests.", ["tool"])
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
    "Time from joining the queue to the seat.",
    ["tool"],
    buckets=(1, 5, 15, 60, 300, 900, 1800, 3600, 4 * 3600, 12 * 3600),
)

RATE_LIMITED = Counter("licenseserver_rate_limited_total", "Calls refused by a rate limit, by limit.", ["limit"])
RATE_LIMITS = ("credential", "address", "heartbeats")

# Sums over live workers: gunicorn.conf.py removes the values of a worker that has stopped.
WORKERS = Gauge("licenseserver_workers", "Processes that answer requests.", multiprocess_mode="livesum")
THREADS = Gauge(
    "licenseserver_threads", "Their threads, which answer requests or decide batches.", multiprocess_mode="livesum"
)
REQUESTS_IN_FLIGHT = Gauge(
    "licenseserver_requests_in_flight",
    "Requests that are being answered, including the one for these metrics.",
    multiprocess_mode="livesum",
)

# The metrics of one kind of answer: requests, answers, answers of this status, seconds.
Counts = tuple[Counter, Counter, Counter, Histogram]


class HttpMetrics(Metrics):
    """The metrics of django-prometheus that a dashboard, an alert or a page of the docs uses.

    Each of its other metrics would cost every request a microsecond or two.
    """

    def register(self) -> None:
        """Create the metrics under the library's names."""

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            made: Counter = self.register_metric(Counter, name, documentation, labels, namespace=NAMESPACE)
            return made

        self.requests_by_view_transport_method = counter(
            "django_http_requests_total_by_view_transport_method",
            "Count of requests by view, transport, method.",
            "view",
            "transport",
            "method",
        )
        self.responses_by_status = counter(
            "django_http_responses_total_by_status", "Count of responses by status.", "status"
        )
        self.responses_by_status_view_method = counter(
            "django_http_responses_total_by_status_view_method",
            "Count of responses by status, view, method.",
            "status",
            "view",
            "method",
        )
        self.exceptions_by_type = counter(
            "django_http_exceptions_total_by_type", "Count of exceptions by object type.", "type"
        )
        self.exceptions_by_view = counter(
            "django_http_exceptions_total_by_view", "Count of exceptions by view.", "view"
        )
        self.requests_latency_by_view_method: Histogram = self.register_metric(
            Histogram,
            "django_http_requests_latency_seconds_by_view_method",
            "Histogram of request processing time labelled by view.",
            ["view", "method"],
            buckets=PROMETHEUS_LATENCY_BUCKETS,
            namespace=NAMESPACE,
        )
        # By transport, status, view and method, which all come from closed sets.
        self._counts: dict[tuple[str, int, str, str], Counts] = {}

    def answered(self, *, transport: str, status: int, view: str, method: str, seconds: float) -> None:
        """Count an answer that took ``seconds``. The labels come from closed sets."""
        kind = (transport, status, view, method)
        counts = self._counts.get(kind) or self._of_kind(*kind)
        for counter in counts[:3]:
            counter.inc()
        counts[3].observe(seconds)

    def _of_kind(self, transport: str, status: int, view: str, method: str) -> Counts:
        counts = self._counts[transport, status, view, method] = (
            self.requests_by_view_transport_method.labels(view, transport, method),
            self.responses_by_status_view_method.labels(str(status), view, method),
            self.responses_by_status.labels(str(status)),
            self.requests_latency_by_view_method.labels(view, method),
        )
        return counts

    def failed(self, *, view: str, error: Exception) -> None:
        """Count a defect that a view raised."""
        self.exceptions_by_type.labels(type(error).__name__).inc()
        self.exceptions_by_view.labels(view).inc()


# The calls of the availability objective, and the statuses that are the server's fault
# (monitoring/prometheus/rules/slo.yml).
VIEWS_WITH_AN_OBJECTIVE = ("borrow", "return")
SERVER_FAILURES = ("500", "503")
STATES = [str(state) for state in State]
# The reasons for which a borrow of a known tool can fail.
BORROW_FAILURE_REASONS = (
    *(code for code in BORROW_REFUSALS if code != UnknownTool.code),
    *(kind.code for kind in kinds(DatabaseRefusal)),
    "error",
)
# The tool's counters of ended leases, by reason.
RETURNS = [f"{reason}_total" for reason in EndReason.values]

# Names that were once found in the table. A name from a client is a label only
# if it is here, so that nobody can add series by asking for tools that don't exist.
_known: set[str] = set()


def know(tool: str) -> None:
    """Remember that a tool of this name exists or existed."""
    _known.add(tool)


def label(tool: str) -> str:
    """Return the label for a name that a client sent."""
    return tool if tool in _known else UNKNOWN_TOOL_LABEL


def worker_started(threads: int) -> None:
    """Count this process as a worker that answers this many requests at once."""
    WORKERS.set(1)
    THREADS.set(threads)


class _OfTool(NamedTuple):
    attempts: Counter
    granted: Counter
    seconds: Histogram


@cache
def _of_tool(label: str) -> _OfTool:
    """Return the metrics of a tool. The library would look each up by its label at each event."""
    return _OfTool(BORROW_ATTEMPTS.labels(label), BORROW_SUCCESS.labels(label), BORROW_DURATION.labels(label))


def borrow_granted(name: str, seconds: float) -> None:
    """Count a committed borrow that took ``seconds``."""
    tool = _of_tool(label(name))
    tool.attempts.inc()
    tool.granted.inc()
    tool.seconds.observe(seconds)


def borrow_failed(name: str, reason: str, seconds: float) -> None:
    """Count a borrow that wasn't granted, after ``seconds``."""
    tool = _of_tool(label(name))
    tool.attempts.inc()
    BORROW_FAILURE.labels(label(name), reason).inc()
    tool.seconds.observe(seconds)


def borrow_replayed(name: str) -> None:
    """Count a call that was answered from its idempotency key."""
    BORROW_REPLAYS.labels(label(name)).inc()


def wait_ended(name: str, ticket: Ticket) -> None:
    """Count a wait that is over."""
    tool = label(name)
    WAITS.labels(tool, ticket.state).inc()
    if ticket.state == TicketState.GRANTED and ticket.closed_at is not None:
        WAIT_DURATION.labels(tool).observe((ticket.closed_at - ticket.created_at).total_seconds())


class SharedGauges(MultiProcessCollector):
    """The gauges of all workers, read from their files.

    A file is empty between its creation and its first byte, and stays so if the
    worker dies there; the library would fail on it, at every scrape.
    """

    def collect(self) -> Iterable[Metric]:
        files = [str(path) for path in Path(self._path).glob("gauge_*.db") if _size(path)]
        metrics: Iterable[Metric] = self.merge(files, accumulate=True)  # type: ignore[no-untyped-call]
        return metrics


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        # Its worker has stopped since the folder was read.
        return 0


# The most tokens with a series.
TOKENS_AT_MOST = 20


class DatabaseMetrics:
    """The metrics that are read from the database for a scrape.

    ``tools`` None means that the database does not answer: then there are no levels,
    because old ones would be wrong.
    """

    def __init__(
        self,
        tools: list[Tool] | None,
        teams: list[AllotmentLevels],
        swept_at: datetime | None,
        version: str,
        *,
        contracts: Sequence[Contract] = (),
        tokens: Sequence[ApiToken] = (),
        channels: Sequence[ChannelLevels] = (),
    ) -> None:
        self.tools = tools
        self.teams = teams
        self.contracts = contracts
        self.tokens = tokens
        self.channels = channels
        self.swept_at = swept_at
        self.version = version

    def collect(self) -> Iterator[Family]:
        """Yield the metrics. Without tools they have no series."""
        yield _single("licenseserver_database_up", "1 if the database answered this scrape.", self.tools is not None)
        yield from self._seats(self.tools or [])
        yield from self._teams()
        yield from self._contracts()
        yield from self._tokens()
        yield from self._notifications()
        if self.swept_at is not None:
            yield _single(
                "licenseserver_sweeper_last_run_timestamp_seconds",
                "Time of the last finished run of expire_leases.",
                self.swept_at.timestamp(),
            )
        build = {"version": self.version, "python": platform.python_version()}
        yield _single("licenseserver_build_info", "Version of the server and of Python; always 1.", 1, build)

    def _seats(self, tools: list[Tool]) -> Iterator[Family]:
        now = timezone.now()
        levels: list[tuple[str, str, Callable[[Tool], float]]] = [
            ("licenses_total", "Capacity: seats that are owned and valid now.", lambda tool: tool.capacity),
            ("licenses_borrowed", "Borrowed seats.", lambda tool: tool.borrowed_now),
            (
                "licenses_available",
                "Seats that anybody can borrow; 0 while the tool grants none.",
                lambda tool: tool.levels.available,
            ),
            ("licenses_set_aside", "Free seats that are set aside for the queue.", lambda tool: tool.levels.set_aside),
            (
                "licenses_reserved_idle",
                "Free seats that are reserved for teams.",
                lambda tool: tool.levels.reserved_idle,
            ),
            ("licenses_overdraft", "Borrowed seats above the capacity.", lambda tool: tool.overdrawn),
            ("license_queue_length", "Requests in the queue.", lambda tool: tool.queued),
            (
                "license_queue_oldest_seconds",
                "Time for which the oldest request waits.",
                lambda tool: tool.oldest_wait_seconds(now),
            ),
        ]
        written = [_labels_of(tool.name) for tool in tools]
        plain = [of_tool.plain for of_tool in written]
        for name, documentation, level in levels:
            yield Family(name, "gauge", documentation, plain, [level(tool) for tool in tools])
        yield Family(
            "license_state",
            "gauge",
            "1 for the current state of a tool, 0 for the others.",
            [state for of_tool in written for state in of_tool.states],
            [state == tool.state for tool in tools for state in STATES],
        )
        ending = [(of_tool, until) for of_tool, tool in zip(plain, tools, strict=True) if (until := tool.valid_until)]
        yield Family(
            "license_valid_until_timestamp_seconds",
            "gauge",
            "When the license ends, for tools whose license does.",
            [of_tool for of_tool, _ in ending],
            [until.timestamp() for _, until in ending],
        )
        yield Family(
            "license_returns",
            "counter",
            "Leases ended, by reason.",
            [reason for of_tool in written for reason in of_tool.reasons],
            [getattr(tool, total) for tool in tools for total in RETURNS],
        )
        yield Family(
            "license_overdraft_leases",
            "counter",
            "Leases granted with seats above the capacity.",
            plain,
            [tool.overdraft_total for tool in tools],
        )

    def _teams(self) -> Iterator[Family]:
        for name, documentation in (
            ("borrowed", "Seats that the members of a team have borrowed."),
            ("quota", "The quota of a team: the most seats that it can have."),
            ("reservation", "Seats that only the team can borrow."),
        ):
            levels = [(seats, level) for seats in self.teams if (level := getattr(seats, name)) is not None]
            yield Family(
                f"license_team_{name}",
                "gauge",
                documentation,
                [labels({"tool": seats.tool, "team": seats.team}) for seats, _ in levels],
                [level for _, level in levels],
            )

    def _contracts(self) -> Iterator[Family]:
        """Yield the metrics of contracts that have not ended."""
        written = [
            labels({"tool": contract.tool.name, "contract": str(contract.pk), "reference": contract.reference})
            for contract in self.contracts
        ]
        yield Family(
            "license_contract_seats",
            "gauge",
            "Seats of a contract that is valid now or later.",
            written,
            [contract.seats for contract in self.contracts],
        )
        of_tool: defaultdict[int, list[Contract]] = defaultdict(list)
        for contract in self.contracts:
            of_tool[contract.tool_id].append(contract)
        schedules = {tool: Schedule.of(contracts) for tool, contracts in of_tool.items()}
        ending = [
            (of_one, max(schedules[contract.tool_id].just_before(ends) - schedules[contract.tool_id].at(ends), 0))
            for of_one, contract in zip(written, self.contracts, strict=True)
            if (ends := contract.ends_at) is not None
        ]
        yield Family(
            "license_contract_lost_seats",
            "gauge",
            "Seats that the tool loses when a contract ends, for contracts with an end.",
            [of_one for of_one, _ in ending],
            [seats for _, seats in ending],
        )
        for what, documentation in (("valid_from", "starts"), ("valid_until", "ends")):
            moments = [contract.starts_at if what == "valid_from" else contract.ends_at for contract in self.contracts]
            dated = [(of_one, moment) for of_one, moment in zip(written, moments, strict=True) if moment is not None]
            yield Family(
                f"license_contract_{what}_timestamp_seconds",
                "gauge",
                f"When a contract {documentation}, for contracts with that date.",
                [of_one for of_one, _ in dated],
                [moment.timestamp() for _, moment in dated],
            )

    def _tokens(self) -> Iterator[Family]:
        """Yield the ends of tokens."""
        yield Family(
            "license_token_expires_timestamp_seconds",
            "gauge",
            f"When a token of a program ends, for the {TOKENS_AT_MOST} that are in use and end first, within 30 days.",
            [labels({"token": str(token.pk), "team": token.team.name if token.team else ""}) for token in self.tokens],
            [token.expires_at.timestamp() for token in self.tokens],
        )

    def _notifications(self) -> Iterator[Family]:
        written = [labels({"channel": levels.channel}) for levels in self.channels]
        for name, documentation in (
            ("waiting", "Notifications that wait to be sent."),
            ("oldest_seconds", "For how long the oldest of them waits."),
            ("failed", "Notifications that were given up in the last 24 hours."),
        ):
            values = [getattr(levels, name) for levels in self.channels]
            yield Family(f"licenseserver_notifications_{name}", "gauge", documentation, written, values)


def _single(name: str, documentation: str, value: float, pairs: dict[str, str] | None = None) -> Family:
    return Family(name, "gauge", documentation, [labels(pairs or {})], [value])


class ToolLabels(NamedTuple):
    """The labels of a tool's series, as they are written."""

    plain: str
    states: list[str]
    reasons: list[str]


@cache
def _labels_of(tool: str) -> ToolLabels:
    return ToolLabels(
        labels({"tool": tool}),
        [labels({"tool": tool, "state": state}) for state in STATES],
        [labels({"tool": tool, "reason": reason}) for reason in EndReason.values],
    )


def beginnings(tools: Iterable[Tool]) -> Iterator[tuple[MetricWrapperBase, dict[str, str]]]:
    """Yield every series of these tools and of the objectives.

    A series must exist before its first event, so that ``rate()`` sees an increase from 0.
    """
    for tool in tools:
        of_tool = {"tool": tool.name}
        for metric in (BORROW_ATTEMPTS, BORROW_SUCCESS, BORROW_DURATION, BORROW_REPLAYS, WAIT_DURATION):
            yield metric, of_tool
        for reason in BORROW_FAILURE_REASONS:
            yield BORROW_FAILURE, of_tool | {"reason": reason}
        for outcome in TicketState.values:
            if outcome != TicketState.WAITING:
                yield WAITS, of_tool | {"outcome": outcome}
    for limit in RATE_LIMITS:
        yield RATE_LIMITED, {"limit": limit}
    yield BORROW_ATTEMPTS, {"tool": UNKNOWN_TOOL_LABEL}
    yield BORROW_FAILURE, {"tool": UNKNOWN_TOOL_LABEL, "reason": UnknownTool.code}
    responses = HttpMetrics.get_instance().responses_by_status_view_method
    for view in VIEWS_WITH_AN_OBJECTIVE:
        for status in ("200", *SERVER_FAILURES):
            yield responses, {"status": status, "view": view, "method": "POST"}


class Page:
    """The page for Prometheus in one process, with the lines of the last scrape."""

    def __init__(self) -> None:
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        self.counters = Counters(Path(folder)) if folder else None
        self.levels = metric_text.FamilyWriter()
        self.begun: set[str] = set()

    def begin(self, tools: list[Tool]) -> None:
        """Create the series of tools that are new since the last scrape."""
        new = [tool for tool in tools if tool.name not in self.begun]
        if not new and self.begun:
            return
        for metric, pairs in beginnings(new):
            if self.counters is None:
                metric.labels(**pairs)
            else:
                # Not in the file of this process: each worker would write all of them.
                self.counters.begin(metric, pairs)
        for tool in new:
            know(tool.name)
        self.begun.update(tool.name for tool in new)

    def text(self, levels: DatabaseMetrics) -> bytes:
        """Return the counters of all workers, and the levels."""
        self.begin(levels.tools or [])
        if self.counters is None:
            return generate_latest(REGISTRY) + self.levels.text(levels.collect()).encode()
        gauges = CollectorRegistry()
        SharedGauges(gauges)  # type: ignore[no-untyped-call]
        return generate_latest(gauges) + (self.counters.text() + self.levels.text(levels.collect())).encode()


@cache
def _page() -> Page:
    """Return the page of this process. It is created at the first scrape, after the fork."""
    return Page()


def exposition(version: str) -> bytes:
    """Return the page for Prometheus: all workers' counters and the levels.

    The view of django-prometheus leaves out custom collectors in multiprocess mode.
    """
    try:
        tools: list[Tool] | None = snapshot.with_levels(sql.tools_with_current_counts())
        teams = snapshot.allotment_levels()
        contracts = list(Contract.objects.not_ended(timezone.now()).select_related("tool").order_by("pk"))
        ending = ApiToken.objects.in_use_and_ending(timezone.now()).select_related("team")[:TOKENS_AT_MOST]
        tokens = list(ending)
        channels = Delivery.objects.levels(timezone.now())
        swept_at = Sweep.objects.values_list("finished_at", flat=True).first()
    except (DatabaseError, InterfaceError):
        # Counters are most important while the database does not answer.
        tools, teams, contracts, tokens, channels, swept_at = None, [], [], [], [], None
    levels = DatabaseMetrics(tools, teams, swept_at, version, contracts=contracts, tokens=tokens, channels=channels)
    return _page().text(levels)
