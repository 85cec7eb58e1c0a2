"""Compute the seats that were out over time, exactly, with pure functions."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Use:
    """Seats that were out from ``start``, included, to ``end``, excluded."""

    start: datetime
    end: datetime
    seats: int

    def within(self, start: datetime, end: datetime) -> timedelta:
        """Return its time between two moments."""
        return max(min(self.end, end) - max(self.start, start), timedelta(0))


def _time(start: datetime, end: datetime) -> timedelta:
    return end - start


def _moment(change: tuple[datetime, int]) -> datetime:
    return change[0]


@dataclass(frozen=True, slots=True)
class Steps:
    """A number that changed at ascending moments. It was ``before`` before the first."""

    before: int
    changes: Sequence[tuple[datetime, int]] = ()

    def at(self, moment: datetime) -> int:
        passed = bisect_right(self.changes, moment, key=_moment)
        return self.changes[passed - 1][1] if passed else self.before

    def moments(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Yield the moments of changes after ``start`` and before ``end``."""
        for moment, _ in self.changes[bisect_right(self.changes, start, key=_moment) :]:
            if moment >= end:
                return
            yield moment

    def total(
        self, start: datetime, end: datetime, within: Callable[[datetime, datetime], timedelta] = _time
    ) -> timedelta:
        """Return the time from ``start`` to ``end``, summed over the number; 0 if ``start`` is not before ``end``.
        ``within`` counts the time between two moments, such as that in working hours."""
        if start >= end:
            return timedelta(0)
        moments = [start, *self.moments(start, end), end]
        spans = pairwise(moments)
        return sum((self.at(moment) * within(moment, following) for moment, following in spans), timedelta(0))

    def most(self, start: datetime, end: datetime) -> int:
        """Return its highest value from ``start``, included, to ``end``, excluded."""
        return max([self.at(start), *(self.at(moment) for moment in self.moments(start, end))])


@dataclass(slots=True)
class Hour:
    """The use in one hour: the high-water mark, the time summed over seats, and the time without a free
    seat."""

    start: datetime
    peak: int = 0
    seat_time: timedelta = field(default_factory=timedelta)
    full_for: timedelta = field(default_factory=timedelta)


def by_hour(uses: Iterable[Use], start: datetime, end: datetime, capacity: Steps | None = None) -> list[Hour]:
    """Return the hours with use from ``start``, a full hour, to ``end``.

    A use that ends at the moment when another begins does not overlap it.
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
    """Return the smallest value that this share of the values does not exceed (nearest rank); 0 without
    values."""
    ranked = sorted(values)
    rank = -int(-share * len(ranked) // 1)
    return ranked[max(rank, 1) - 1] if ranked else 0
