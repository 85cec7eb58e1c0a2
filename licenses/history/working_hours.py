"""Compute the site's working hours: the same hours on some days of the week, in its time zone."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import accumulate
from zoneinfo import ZoneInfo

from django.conf import settings

DAY = timedelta(days=1)
MINUTES_PER_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class WorkingHours:
    """Days of the week, 0 is Monday, and the first and the last minute of the day, the last excluded."""

    weekdays: frozenset[int]
    start: int
    end: int
    zone: ZoneInfo

    @classmethod
    def of_site(cls) -> "WorkingHours":
        """Return the working hours of the settings."""
        start, end = settings.LICENSE_WORKING_HOURS
        return cls(frozenset(settings.LICENSE_WORKING_DAYS), start, end, ZoneInfo(settings.LICENSE_TIME_ZONE))

    def between(self, start: datetime, end: datetime) -> "Windows":
        """Return the working hours from ``start`` to ``end``, cut to them."""
        return Windows([(max(begin, start), min(finish, end)) for begin, finish in self._days(start, end)])

    def _days(self, start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
        day, last = start.astimezone(self.zone).date(), end.astimezone(self.zone).date()
        while day <= last:
            if day.weekday() in self.weekdays:
                begin, finish = self._moment(day, self.start), self._moment(day, self.end)
                if begin < end and finish > start and begin < finish:
                    yield begin, finish
            day += DAY

    def _moment(self, day: date, minutes: int) -> datetime:
        """Return the moment when the clocks show this time; if they show it twice, the first."""
        days, minutes = divmod(minutes, MINUTES_PER_DAY)
        local = datetime.combine(day + days * DAY, time(minutes // 60, minutes % 60), self.zone)
        return local.astimezone(UTC)

    def __str__(self) -> str:
        names = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
        days = ", ".join(
            names[first] if first == last else f"{names[first]} to {names[last]}" for first, last in self._runs()
        )
        first, last = (f"{minutes // 60:02}:{minutes % 60:02}" for minutes in (self.start, self.end))
        return f"{days} {first} to {last}, {self.zone.key}"

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Yield the first and the last of the days of the week that follow each other."""
        for first in sorted(self.weekdays):
            if first - 1 not in self.weekdays:
                yield first, next(day for day in range(first, 7) if day + 1 not in self.weekdays)


class Windows:
    """Spans of time in order that do not overlap."""

    def __init__(self, spans: Sequence[tuple[datetime, datetime]]) -> None:
        self.spans = spans
        self._starts = [start for start, _ in spans]
        self._before = list(accumulate((end - start for start, end in spans), initial=timedelta(0)))

    def until(self, moment: datetime) -> timedelta:
        """Return the time in the windows before a moment."""
        number = bisect_right(self._starts, moment)
        if not number:
            return timedelta(0)
        start, end = self.spans[number - 1]
        return self._before[number - 1] + min(moment, end) - start

    def within(self, start: datetime, end: datetime) -> timedelta:
        """Return the time in the windows between two moments."""
        return self.until(end) - self.until(start) if start < end else timedelta(0)

    @property
    def are_full_hours(self) -> bool:
        """Return whether every window begins and ends at a full hour in UTC."""
        return not any(moment.minute or moment.second or moment.microsecond for span in self.spans for moment in span)
