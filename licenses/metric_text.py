"""Write Prometheus' text format. A scrape writes only the lines that have changed.

A site of 1,000 tools has about 70,000 lines, and nearly all of them are the same at the
next scrape. To write all of them each time would keep a worker busy for seconds.
"""

import json
import mmap
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.utils import floatToGoString


def number(value: float) -> str:
    """Return the text of a value."""
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


def labels(pairs: dict[str, str]) -> str:
    """Return the text of the labels of a series."""
    if not pairs:
        return ""
    return "{" + ",".join([f'{name}="{_escape(pairs[name])}"' for name in sorted(pairs)]) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _head(name: str, kind: str, documentation: str) -> str:
    documentation = documentation.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {documentation}\n# TYPE {name} {kind}\n"


class _Lines:
    """The lines of a metric that were written last."""

    def __init__(self) -> None:
        self.series: Sequence[str] = ()
        self.values: list[float] = []
        self.lines: list[str] = []
        self.text = ""

    def written(self, series: Sequence[str], values: list[float]) -> str:
        """Return a line for each series with its value."""
        if series != self.series:
            self.series, self.lines = series, [""] * len(series)
        elif values == self.values:
            return self.text
        before = self.values if len(self.values) == len(values) else [0.0] * len(values)
        for at, (value, old) in enumerate(zip(values, before, strict=True)):
            if value != old or not self.lines[at]:
                self.lines[at] = f"{series[at]} {number(value)}\n"
        self.values, self.text = values, "".join(self.lines)
        return self.text


@dataclass(frozen=True, slots=True)
class Family:
    """A metric that is read at each scrape: the labels of its series, and their values."""

    name: str
    type: str
    documentation: str
    labels: Sequence[str] = ()
    values: Sequence[float] = ()


class FamilyWriter:
    """Write families, and keep the lines for the next scrape."""

    def __init__(self) -> None:
        self._lines: dict[str, _Lines] = {}

    def text(self, families: Iterable[Family]) -> str:
        return "".join([self._text(family) for family in families])

    def _text(self, family: Family) -> str:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        lines = self._lines.setdefault(name, _Lines())
        series = [f"{name}{labels}" for labels in family.labels]
        return _head(name, family.type, family.documentation) + lines.written(series, list(family.values))


class _Counted:
    """The series of a counter or histogram, with the index of each value."""

    def __init__(self, kind: str, name: str, documentation: str) -> None:
        self.is_histogram = kind == "histogram"
        self.name = name if self.is_histogram else f"{name}_total"
        self.head = _head(self.name, kind, documentation)
        # By labels: the places of counters and of sums of histograms, and those of buckets by bound.
        self.places: dict[str, int] = {}
        self.buckets: dict[str, dict[float, int]] = {}
        self.is_stale = self.has_grown = True
        self._series: list[str] = []
        self._lines = _Lines()

    def place(self, labels: str, bound: float | None, new: Callable[["_Counted"], int]) -> int:
        """Return the place of the value of a series, or of one of its buckets."""
        places: dict[Any, int] = self.places if bound is None else self.buckets.setdefault(labels, {})
        key = labels if bound is None else bound
        if key not in places:
            places[key] = new(self)
            self.is_stale = self.has_grown = True
        return places[key]

    def text(self, values: list[float]) -> str:
        """Return the metric's part of the page; ``values`` are those of all metrics."""
        if self.has_grown:
            self._series, self.has_grown = list(self._written()), False
        if self.is_stale:
            self.is_stale = False
            shown = self._accumulated(values) if self.is_histogram else [values[at] for at in self.places.values()]
            self._lines.written(self._series, shown)
        return self.head + self._lines.text

    def _accumulated(self, values: list[float]) -> list[float]:
        """Return for each series the cumulative buckets, the count and the sum."""
        found: list[float] = []
        for series, buckets in self.buckets.items():
            counts = list(accumulate([values[buckets[bound]] for bound in sorted(buckets)]))
            found += counts
            found.append(counts[-1])
            found.append(values[self.places[series]] if series in self.places else 0.0)
        return found

    def _written(self) -> Iterator[str]:
        """Yield the text of the series, in the order of their values."""
        if not self.is_histogram:
            yield from (f"{self.name}{labels}" for labels in self.places)
        for labels, buckets in self.buckets.items():
            others = f",{labels[1:]}" if labels else "}"
            yield from (f'{self.name}_bucket{{le="{number(bound)}"{others}' for bound in sorted(buckets))
            yield f"{self.name}_count{labels}"
            yield f"{self.name}_sum{labels}"


class _File:
    """The counters of one process, in a file of prometheus_client.

    The library only adds series, and the place of a value in the file does not change. So
    all values of known series are read at once.
    """

    def __init__(self, path: Path) -> None:
        self.kind = path.name.partition("_")[0]
        with path.open("rb") as file:
            self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.places: list[int] = []
        self.values: tuple[float, ...] = ()
        # The index in ``values`` by place.
        self.at: dict[int, int] = {}
        self._used = 8
        self._format = ["=8x"]
        self._read = struct.Struct("")

    def changed(self, place_of: Callable[[str, bytes], int]) -> list[int]:
        """Read the file and return the places whose values have changed."""
        before = self.values
        self._find_series(place_of)
        self.values = self._read.unpack_from(self.memory)
        if self.values == before:
            return []
        places = [place for place, new, old in zip(self.places, self.values, before) if new != old]  # noqa: B905 - it may have grown
        return places + self.places[len(before) :]

    def _find_series(self, place_of: Callable[[str, bytes], int]) -> None:
        (used,) = struct.unpack_from("i", self.memory, 0)
        if used <= self._used:
            return
        # The library's format: the length of the key, the key, blanks up to a multiple of 8
        # bytes, the value and its time as doubles.
        while self._used < used:
            (length,) = struct.unpack_from("i", self.memory, self._used)
            padded = length + 8 - (length + 4) % 8
            place = place_of(self.kind, self.memory[self._used + 4 : self._used + 4 + length])
            self.at[place] = len(self.places)
            self.places.append(place)
            self._format.append(f"{4 + padded}xd8x")
            self._used += 4 + padded + 16
        self._read = struct.Struct("".join(self._format))


class Counters:
    """The counters and histograms of all workers, read from their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[Path, tuple[tuple[int, int], _File]] = {}
        self._families: dict[str, _Counted] = {}
        self._places: dict[bytes, int] = {}
        # The sum over all files and the metric of each place.
        self._values: list[float] = []
        self._owners: list[_Counted] = []
        self._lock = threading.Lock()

    def begin(self, metric: MetricWrapperBase, pairs: dict[str, str]) -> None:
        """Show a series of a counter or histogram from now on, with the value 0 until its first event."""
        written = labels(pairs)
        with self._lock:
            if isinstance(metric, Histogram):
                family = self._family("histogram", metric._name, metric._documentation)
                for bound in metric._upper_bounds:
                    family.place(written, bound, self._new)
            elif isinstance(metric, Counter):
                family = self._family("counter", metric._name, metric._documentation)
            family.place(written, None, self._new)

    def text(self) -> str:
        """Return their part of the page."""
        with self._lock:
            files = list(self._current())
            changed = {place for file in files for place in file.changed(self._place)}
            for place in changed:
                # Add in the order of the files, so that rounding never makes the sum of growing values smaller.
                self._values[place] = sum(file.values[file.at[place]] for file in files if place in file.at)
                self._owners[place].is_stale = True
            return "".join([family.text(self._values) for family in self._families.values()])

    def _current(self) -> Iterator[_File]:
        """Yield the files that have content. A file is empty between its creation and its first
        byte, and stays empty if the worker dies in between."""
        for path in sorted([*self.folder.glob("counter_*.db"), *self.folder.glob("histogram_*.db")]):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            if not found.st_size:
                continue
            state = found.st_ino, found.st_size
            known = self._files.get(path)
            if known is None or known[0] != state:
                known = self._files[path] = state, _File(path)
            yield known[1]

    def _place(self, kind: str, key: bytes) -> int:
        """Return the place of a series of a file."""
        place = self._places.get(key)
        if place is None:
            name, _, pairs, documentation = json.loads(key)
            bound = float(pairs.pop("le")) if kind == "histogram" and "le" in pairs else None
            place = self._family(kind, name, documentation).place(labels(pairs), bound, self._new)
            self._places[key] = place
        return place

    def _family(self, kind: str, name: str, documentation: str) -> _Counted:
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = _Counted(kind, name, documentation)
        return family

    def _new(self, owner: _Counted) -> int:
        self._values.append(0.0)
        self._owners.append(owner)
        return len(self._values) - 1
