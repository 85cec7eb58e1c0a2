"""Rolling up the past: each UTC day once, when it is over.

A day is computed from rows that change no more, outside of any transaction, and
written in a short one, which also moves the mark; so any number of programs may
try, and one of them does it.
"""

from datetime import UTC, date, timedelta

from django.db import transaction

from licenses.clock import database_now
from licenses.models import Denial, DenialDay, HistoryMark, Lease, TeamHour, ToolHour, UsageDay

from . import days
from .days import DAY, DayHistory

# How long after midnight a day is rolled up. What a transaction writes down as
# before midnight is committed by then: the database ends those that take longer
# than seconds.
SETTLED = timedelta(minutes=5)
# Rows of one INSERT.
BATCH = 1000


def mark() -> HistoryMark:
    """Up to where the past is rolled up; where nothing is yet, the unsaved mark
    of the first day that something happened."""
    found = HistoryMark.objects.first()
    return found or HistoryMark(pk=1, rolled_up_until=_first_day())


def _first_day() -> date:
    first = [
        Lease.objects.order_by("borrowed_at").values_list("borrowed_at", flat=True).first(),
        Denial.objects.order_by("last_at").values_list("last_at", flat=True).first(),
    ]
    return min((moment for moment in first if moment), default=database_now()).astimezone(UTC).date()


def roll_up(*, at_most: int | None = None) -> int:
    """Roll up the days that are over, or the first ``at_most`` of them; how many
    these were. Safe to run in many copies at once, and at any time."""
    first = mark().rolled_up_until
    today = days.midnight((database_now() - SETTLED).astimezone(UTC).date())
    done = 0
    for day, history in days.since(first, today):
        if done == at_most or not _write(day, history):
            break
        done += 1
    return done


def _write(day: date, history: DayHistory) -> bool:
    """Write a day's rows; False if another program has, or took it back."""
    with transaction.atomic():
        HistoryMark.objects.get_or_create(pk=1, defaults={"rolled_up_until": day})
        kept = HistoryMark.objects.select_for_update(no_key=True).get(pk=1)
        if kept.rolled_up_until != day:
            return False
        ToolHour.objects.bulk_create(history.tools, batch_size=BATCH)
        TeamHour.objects.bulk_create(history.teams, batch_size=BATCH)
        UsageDay.objects.bulk_create(history.usage, batch_size=BATCH)
        DenialDay.objects.bulk_create(history.denials, batch_size=BATCH)
        kept.rolled_up_until = day + DAY
        kept.save(update_fields=["rolled_up_until"])
    return True


def rebuild() -> int:
    """Roll up anew every day whose leases are still there; how many days. What
    is older stays as it is. Reports are right at any time meanwhile."""
    with transaction.atomic():
        HistoryMark.objects.get_or_create(pk=1, defaults={"rolled_up_until": _first_day()})
        kept = HistoryMark.objects.select_for_update(no_key=True).get(pk=1)
        first = kept.kept_since or _first_day()
        for hours in (ToolHour, TeamHour):
            hours.objects.filter(hour__gte=days.midnight(first)).delete()
        for rows in (UsageDay, DenialDay):
            rows.objects.filter(day__gte=first).delete()
        kept.rolled_up_until = first
        kept.save(update_fields=["rolled_up_until"])
    return roll_up()
