"""Compute the plots of admin pages: coordinates for SVG, which needs no script and no network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from licenses.history.catalog import WEEKDAYS
from licenses.history.reports import HourOfWeek, Utilization

WIDTH, HEIGHT = 1000, 260
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 12, 28
HEATS = 10
SPARK_WIDTH, SPARK_HEIGHT = 150, 32


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across the plot, or a label below it."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One period: its high-water mark and mean. ``full`` if no seat was free for some time."""

    x: float
    width: float
    y: float
    height: float
    mean_y: float
    mean_height: float
    full: bool
    title: str


@dataclass(frozen=True, slots=True)
class Plot:
    """Bars, and the line of the capacity."""

    bars: Sequence[Bar]
    capacity: str
    levels: Sequence[Mark]
    names: Sequence[Mark]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    base: int = HEIGHT - BOTTOM


def plot(found: Sequence[Utilization]) -> Plot:
    """Plot the use of one tool by period."""
    top = max([1, *(max(row.capacity, row.peak) for row in found)])
    step = (WIDTH - LEFT - RIGHT) / max(len(found), 1)

    def height(value: float) -> float:
        return round(value / top * (HEIGHT - TOP - BOTTOM), 2)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - height(value), 2)

    bars, line, names = [], [], []
    label_every = -(-len(found) // 12) or 1
    for number, row in enumerate(found):
        x = LEFT + number * step
        full = bool(row.full_for)
        bars.append(
            Bar(
                x=round(x + step * 0.1, 2),
                width=round(step * 0.8, 2),
                y=y(row.peak),
                height=height(row.peak),
                mean_y=y(row.mean),
                mean_height=height(row.mean),
                full=full,
                title=f"{_name(row.start)}: at most {row.peak} of {row.capacity}, {row.mean:.2f} on average"
                + (f", none free for {row.full_for}" if full else ""),
            )
        )
        line += [f"{x:.2f},{y(row.capacity)}", f"{x + step:.2f},{y(row.capacity)}"]
        if number % label_every == 0:
            names.append(Mark(round(x + step / 2, 2), _name(row.start)))
    levels = [Mark(y(value), str(value)) for value in _round_levels(top)]
    return Plot(bars, " ".join(line), levels, names)


@dataclass(frozen=True, slots=True)
class Spark:
    """A small plot: the high-water marks as an area, the means as a line, and the capacity as steps."""

    peaks: str
    means: str
    capacity: str
    title: str
    width: int = SPARK_WIDTH
    height: int = SPARK_HEIGHT


def spark(found: Sequence[Utilization]) -> Spark:
    """Plot the use of one tool by period, small enough for a row of a table."""
    top = max([1, *(max(row.capacity, row.peak) for row in found)])
    step = SPARK_WIDTH / max(len(found), 1)

    def steps(values: Sequence[float]) -> list[str]:
        levels = [round(SPARK_HEIGHT - 1 - value / top * (SPARK_HEIGHT - 2), 1) for value in values]
        return [f"{round(x * step, 1)},{y}" for number, y in enumerate(levels) for x in (number, number + 1)]

    peaks = steps([row.peak for row in found])
    highest = max((row.peak for row in found), default=0)
    owned = max((row.capacity for row in found), default=0)
    return Spark(
        peaks=" ".join([f"0,{SPARK_HEIGHT}", *peaks, f"{SPARK_WIDTH},{SPARK_HEIGHT}"]),
        means=" ".join(steps([row.mean for row in found])),
        capacity=" ".join(steps([row.capacity for row in found])),
        title=f"at most {highest} of {owned} seats",
    )


def _name(start: datetime | date) -> str:
    return start.strftime("%m-%d %H:%M") if isinstance(start, datetime) else start.isoformat()


def _round_levels(top: int) -> Iterator[int]:
    """Yield at most six whole numbers from 0 to the top."""
    step = 1
    for step in (factor * 10**power for power in range(8) for factor in (1, 2, 5)):
        if top / step <= 5:
            break
    return iter(range(0, top + 1, step))


@dataclass(frozen=True, slots=True)
class Cell:
    """One hour of the week. ``heat`` is from 0, no seats, to 10, all seats."""

    p95: int
    heat: int
    title: str


def heat_map(hours: Sequence[HourOfWeek], capacity: int) -> list[tuple[str, list[Cell]]]:
    """Return the use in each hour as a share of the capacity, one row per weekday."""
    return [
        (
            weekday,
            [
                Cell(
                    p95=hour.p95,
                    heat=min(round(hour.p95 / capacity * HEATS), HEATS) if capacity else (HEATS if hour.p95 else 0),
                    title=f"{weekday} {hour.hour}:00: 95 % of {hour.hours} hours at most {hour.p95}, "
                    f"the highest {hour.highest}, {hour.mean:.1f} on average",
                )
                for hour in hours[number * 24 : number * 24 + 24]
            ],
        )
        for number, weekday in enumerate(WEEKDAYS)
    ]
