"""The page for Prometheus, of which only what has changed is written: compared with the library's own."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from licenses.metric_text import Counters, Family, FamilyWriter

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
BOUNDS = ("0.1", "1.0", "+Inf")


def samples(text: str) -> Samples:
    found = [
        ((sample.name, frozenset(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    assert len(found) == len(dict(found)), "a series is there twice"
    return dict(found)


class Worker:
    """A process that counts, as the library has it."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.counters = MmapedDict(str(folder / f"counter_{pid}.db"))  # type: ignore[no-untyped-call]
        self.histograms = MmapedDict(str(folder / f"histogram_{pid}.db"))  # type: ignore[no-untyped-call]

    def borrow(self, tool: str, seconds: float) -> None:
        self._add(self.counters, mmap_key("borrows", "borrows_total", ["tool"], [tool], "Borrows."), 1)
        for bound in BOUNDS:
            key = mmap_key("duration", "duration_bucket", ["tool", "le"], [tool, bound], "Time.")
            self._add(self.histograms, key, 0)
        bucket = next(bound for bound in BOUNDS if seconds <= float(bound))
        self._add(self.histograms, mmap_key("duration", "duration_bucket", ["tool", "le"], [tool, bucket], "Time."), 1)
        self._add(self.histograms, mmap_key("duration", "duration_sum", ["tool"], [tool], "Time."), seconds)

    def _add(self, file: MmapedDict, key: str, amount: float) -> None:
        value, _ = file.read_value(key)  # type: ignore[no-untyped-call]
        file.write_value(key, value + amount, 0)  # type: ignore[no-untyped-call]


def of_the_library(folder: Path) -> Samples:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return samples(generate_latest(registry).decode())


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    found = [Worker(tmp_path, pid) for pid in (11, 12, 13)]
    yield found
    for worker in found:
        worker.counters.close()  # type: ignore[no-untyped-call]
        worker.histograms.close()  # type: ignore[no-untyped-call]


def test_every_scrape_has_what_the_library_reads(tmp_path: Path, workers: list[Worker]) -> None:
    chance = random.Random(5)
    counters = Counters(tmp_path)
    tools = ['with "quotes"', "with \\ and \n lines", *(f"tool{number}" for number in range(500))]
    for scrape in range(12):
        # In some nothing happens; in others there are tools that nobody borrowed before,
        # until the files have to grow.
        for _ in range(scrape % 4 * 200):
            chance.choice(workers).borrow(chance.choice(tools[: 1 + scrape * 50]), chance.choice([0.05, 0.5, 5]))
        assert samples(counters.text()) == of_the_library(tmp_path)


def test_a_worker_that_starts_later_and_one_that_is_gone_count(tmp_path: Path, workers: list[Worker]) -> None:
    counters = Counters(tmp_path)
    workers[0].borrow("cad", 0.5)
    (tmp_path / "counter_99.db").touch()
    before = samples(counters.text())
    late = Worker(tmp_path, 14)
    late.borrow("cad", 0.05)
    late.counters.close()  # type: ignore[no-untyped-call]
    after = samples(counters.text())
    name = ("borrows_total", frozenset({("tool", "cad")}))
    assert (before[name], after[name]) == (1, 2)


def test_series_begin_at_zero_and_go_on_as_counted(tmp_path: Path, workers: list[Worker]) -> None:
    counters = Counters(tmp_path)
    borrows = Counter("borrows", "Borrows.", ["tool"], registry=None)
    duration = Histogram("duration", "Time.", ["tool"], buckets=(0.1, 1), registry=None)
    for metric in (borrows, duration):
        counters.begin(metric, {"tool": "cad"})
    first = samples(counters.text())
    assert set(first.values()) == {0}
    assert {name for name, _ in first} == {"borrows_total", "duration_bucket", "duration_count", "duration_sum"}
    workers[1].borrow("cad", 0.5)
    assert samples(counters.text()) == of_the_library(tmp_path)
    assert samples(counters.text()).keys() == first.keys()


def test_a_sum_of_several_workers_never_shrinks(tmp_path: Path, workers: list[Worker]) -> None:
    chance = random.Random(6)
    counters, before = Counters(tmp_path), 0.0
    for _ in range(300):
        chance.choice(workers).borrow("cad", chance.random() / 3)
        now = samples(counters.text())["duration_sum", frozenset({("tool", "cad")})]
        assert now >= before
        before = now


def test_levels_follow_values_and_series_that_come_and_go() -> None:
    levels = FamilyWriter()

    def shown(**seats: float) -> Samples:
        labels = [f'{{tool="{tool}"}}' for tool in seats]
        families = [
            Family("seats", "gauge", "Seats.", labels, list(seats.values())),
            Family("ends", "counter", "Ends.", labels, list(seats.values())),
            Family("up", "gauge", "Up.", [""], [True]),
        ]
        return samples(levels.text(families))

    def wanted(**seats: float) -> Samples:
        names = ("seats", "ends_total")
        return {(name, frozenset({("tool", tool)})): seats[tool] for name in names for tool in seats} | {
            ("up", frozenset()): 1
        }

    for seats in ({"cad": 0.0, "sim": 3.0}, {"cad": 1.0, "sim": 3.0}, {"sim": 3.0}, {"new": 0.0, "sim": 2.5}, {}):
        assert shown(**seats) == wanted(**seats)
