"""The arithmetic and the form of the tables."""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FORMATS = {"x": "{:.2f}", "ms": "{:.1f} ms", "MB": "{:.0f} MB", "s": "{:.2f} s", "/s": "{:,.0f}"}


@dataclass(frozen=True)
class Goal:
    """What is measured, and the bound that its median has to keep: a ratio ("x"), or
    milliseconds, seconds, megabytes. A note has no bound."""

    what: str
    sign: Literal[">=", "<=", ""] = ""
    bound: float = 0
    unit: str = "x"

    def reached_by(self, value: float) -> bool | None:
        """Whether a value keeps the bound; None without one. What could not be
        measured, which is not a number, keeps none."""
        if not self.sign:
            return None
        return value >= self.bound if self.sign == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.sign} {written(self.bound, self.unit)}" if self.sign else ""


@dataclass(frozen=True)
class Row:
    """A goal with the values of its rounds."""

    goal: Goal
    values: tuple[float, ...]

    @property
    def measured(self) -> float:
        """The median."""
        return statistics.median(self.values) if self.values else float("nan")

    @property
    def reached(self) -> bool | None:
        return self.goal.reached_by(self.measured)

    def cells(self) -> list[str]:
        """What is measured, the goal, the median, its rounds' spread, reached or not."""
        unit = self.goal.unit
        spread = f"{written(min(self.values), unit)} to {written(max(self.values), unit)}" if self.values else ""
        median = written(self.measured, unit) if self.values else "not measured"
        return [self.goal.what, str(self.goal), median, spread, {True: "yes", False: "NO", None: ""}[self.reached]]


HEAD = ("", "goal", "measured", "rounds", "reached")


def written(value: float, unit: str) -> str:
    """A value as people read it."""
    return FORMATS[unit].format(value)


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> tuple[float, ...]:
    """Round by round, since a slow minute of the machine met both of a round."""
    return tuple(mine / other for mine, other in zip(ours, theirs, strict=True))


def text(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns for a terminal: the first to the left, the others to the right."""
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, *lines]
    )


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The same for a page."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def put(page: Path, name: str, content: str) -> None:
    """Replace what stands between a page's two marks of this name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    found = page.read_text(encoding="utf-8")
    if found.count(begin) != 1 or found.count(end) != 1:
        raise ValueError(f"{page} needs {begin} and {end}, once each.")
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    page.write_text(pattern.sub(lambda _: f"{begin}\n\n{content}\n\n{end}", found), encoding="utf-8")
