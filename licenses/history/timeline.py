"""Seats in time: what was out when, exactly, from the moments at which it changed.

Pure: nothing here asks a database.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Use:
    """Seats that were out from ``start`` until just before ``end``."""

    start: datetime
    end: datetime
    seats: int

    def within(self, start: datetime, end: datetime) -> timedelta:
        """How much of its time lies between two moments."""
        return max(min(self.end, end) - max(self.start, start), timedelta(0))


@dataclass(frozen=True, slots=True)
class Steps:
    """A number that changed at moments, ascending; before the first it was ``before``."""

    before: int
    changes: Sequence[tuple[datetime, int]] = ()

    def at(self, moment: datetime) -> int:
        passed = bisect_right(self.changes, moment, key=lambda change: change[0])
        return self.changes[passed - 1][1] if passed else self.before

    def moments(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """When it changed after ``start`` and before ``end``."""
        return (moment for moment, _ in self.changes if start < moment < end)

    def most(self, start: datetime, end: datetime) -> int:
        """The highest that it was from ``start`` until just before ``end``."""
        return max([self.at(start), *(self.at(moment) for moment in self.moments(start, end))])


@dataclass(slots=True)
class Hour:
    """What was out within one hour: the high-water mark, the time of all seats
    together, and for how long at least the capacity was out."""

    start: datetime
    peak: int = 0
    seat_time: timedelta = field(default_factory=timedelta)
    full_for: timedelta = field(default_factory=timedelta)


def by_hour(uses: Iterable[Use], start: datetime, end: datetime, capacity: Steps | None = None) -> list[Hour]:
    """The hours from ``start``, a full hour, to ``end`` in which there was any use.

    Where one use ends at the very moment at which another begins, the two were
    never out together.
    """
    changes: defaultdict[datetime, int] = defaultdict(int)
    for use in uses:
        if use.start < end and use.end > start and use.end > use.start:
            changes[max(use.start, start)] += use.seats
            changes[min(use.end, end)] -= use.seats
    if not changes:
        return []
    moments = set(changes)
    if capacity is not None:
        moments.update(capacity.moments(start, end))
    moment = start
    while moment < end:
        moments.add(moment)
        moment += HOUR
    moments.add(end)
    hours: list[Hour] = []
    level = 0
    next_hour = start
    for moment, following in pairwise(sorted(moments)):
        level += changes.get(moment, 0)
        if moment == next_hour:
            hours.append(Hour(moment))
            next_hour += HOUR
        if not level:
            continue
        hour = hours[-1]
        hour.peak = max(hour.peak, level)
        hour.seat_time += level * (following - moment)
        if capacity is not None and level >= capacity.at(moment):
            hour.full_for += following - moment
    return [hour for hour in hours if hour.peak]


def percentile(values: Iterable[int], share: float) -> int:
    """The smallest of the values that so great a share of them don't exceed
    (nearest rank); 0 if there are none."""
    ranked = sorted(values)
    rank = -int(-share * len(ranked) // 1)
    return ranked[max(rank, 1) - 1] if ranked else 0
