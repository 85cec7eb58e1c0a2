"""Threads that ask for rows at the same time share one statement."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connections

from licenses import lanes
from licenses.lanes import Entry, Lane, Reading
from licenses.leases import snapshot
from licenses.models import Tool

PATIENCE = 60


class Table:
    """A source of rows. Its first reading waits for ``go``."""

    def __init__(self) -> None:
        self.rows = {"a": 1, "b": 2}
        self.readings: list[list[str]] = []
        self.began = threading.Event()
        self.go = threading.Event()

    def read(self, keys: list[str]) -> dict[str, int]:
        self.readings.append(keys)
        if len(self.readings) == 1:
            self.began.set()
            assert self.go.wait(PATIENCE)
        if "bad" in keys:
            raise LookupError(keys)
        return {key: self.rows[key] for key in keys if key in self.rows}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.any_database
def test_those_who_ask_during_a_reading_share_the_next_one(threads: ThreadPoolExecutor) -> None:
    table = Table()
    reading = Reading(table.read)
    first = threads.submit(reading.of, "a")
    assert table.began.wait(PATIENCE)
    others = [threads.submit(reading.of, key) for key in ("a", "b", "none", "b", "a")]
    wait_until(lambda: len(reading._waiting) == len(others))
    # Who asks now must see what is there now.
    table.rows["b"] = 3
    table.go.set()
    assert first.result(PATIENCE) == 1
    assert [other.result(PATIENCE) for other in others] == [1, 3, None, 3, 1]
    assert [sorted(keys) for keys in table.readings] == [["a"], ["a", "b", "none"]]


@pytest.mark.any_database
def test_a_reading_that_fails_harms_nobody_else(threads: ThreadPoolExecutor) -> None:
    table = Table()
    reading = Reading(table.read)
    first = threads.submit(reading.of, "a")
    assert table.began.wait(PATIENCE)
    bad, good, worse = (threads.submit(reading.of, key) for key in ("bad", "b", "bad"))
    wait_until(lambda: len(reading._waiting) == 3)
    table.go.set()
    assert first.result(PATIENCE) == 1
    assert good.result(PATIENCE) == 2
    errors = [one.exception(PATIENCE) for one in (bad, worse)]
    assert all(isinstance(error, LookupError) for error in errors)
    # Each has its own error: a thread adds its traceback.
    assert errors[0] is not errors[1]
    assert reading.of("a") == 1


class Echo(Lane):
    """Answers what it is asked. Its first batch waits for ``go``."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()
        self.go = threading.Event()

    def apart(self, request: str) -> bytes:
        return request.encode()

    def decide(self, batch: Sequence[Entry]) -> None:
        self.began.set()
        assert self.go.wait(PATIENCE)
        for entry in batch:
            entry.finish(entry.request)

    def decide_alone(self, entry: Entry) -> None:
        entry.finish("alone")


@pytest.mark.any_database
def test_a_request_that_is_no_request_ends_no_lane(threads: ThreadPoolExecutor) -> None:
    lane = Echo()
    first = threads.submit(lane.submit, "a")
    assert lane.began.wait(PATIENCE)
    with pytest.raises(UnicodeEncodeError):
        lane.submit("\ud800")
    second = threads.submit(lane.submit, "b")
    lane.go.set()
    assert [first.result(PATIENCE), second.result(PATIENCE)] == ["a", "b"]
    assert not lane._is_led


@pytest.mark.any_database
def test_a_thread_that_ends_before_its_batch_hands_the_lead_on(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, is_first = Echo(), True
    monkeypatch.setattr(lanes, "PATIENCE", PATIENCE)

    def end(seconds: float) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            lane.began.set()
            assert lane.go.wait(PATIENCE)
            raise SystemExit

    monkeypatch.setattr(lanes, "time", SimpleNamespace(sleep=end, monotonic=time.monotonic))
    first = threads.submit(lane.submit, "a")
    assert lane.began.wait(PATIENCE)
    second = threads.submit(lane.submit, "b")
    wait_until(lambda: len(lane._waiting) == 2)
    lane.go.set()
    with pytest.raises(SystemExit):
        first.result(PATIENCE)
    assert second.result(PATIENCE) == "b"
    assert not lane._is_led


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt. The processes of pytest-xdist ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.any_database
@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="only it gets signals")
def test_a_thread_that_is_interrupted_while_it_waits_never_leads(
    threads: ThreadPoolExecutor, interruptible: None
) -> None:
    lane = Echo()
    main = threading.get_ident()
    first = threads.submit(lane.submit, "a")
    assert lane.began.wait(PATIENCE)

    def interrupt() -> Any:
        wait_until(lambda: bool(lane._waiting))
        signal.pthread_kill(main, signal.SIGINT)

    interrupted = threads.submit(interrupt)
    with pytest.raises(KeyboardInterrupt):
        lane.submit("b")
    interrupted.result(PATIENCE)
    lane.go.set()
    assert first.result(PATIENCE) == "a"
    assert not lane._is_led
    assert lane.submit("c") == "c"


@pytest.mark.django_db(transaction=True)
def test_many_threads_read_the_seats_of_their_tools(
    threads: ThreadPoolExecutor, make_tool: Callable[..., Tool]
) -> None:
    for number in range(1, 5):
        make_tool(f"tool{number}", capacity=number)

    def capacity(name: str) -> int | None:
        try:
            tool = snapshot.tool_with_levels(name)
        finally:
            connections.close_all()
        return tool.capacity if tool is not None else None

    asked = [f"tool{number % 6}" for number in range(200)]
    found = dict(zip(asked, threads.map(capacity, asked), strict=True))
    assert found == {"tool0": None, "tool1": 1, "tool2": 2, "tool3": 3, "tool4": 4, "tool5": None}
