"""Roll up each UTC day once, after it has ended.

A day is computed outside a transaction from rows that no longer change, and written in
a short transaction that also moves the mark. So any number of programs may try, and
one of them does it.
"""

from datetime import UTC, date, timedelta

from django.db import transaction

from licenses.clock import database_now
from licenses.models import Denial, DenialDay, HistoryMark, Lease, TeamHour, ToolHour, UsageDay

from . import days
from .days import DAY, DayHistory

# Roll up a day this time after midnight. Transactions from before midnight have
# committed by then, because the database ends those that take more than seconds.
SETTLED = timedelta(minutes=5)
# Rows per INSERT.
BATCH = 1000


def mark() -> HistoryMark:
    """Return the mark of the rollups. Without rollups, return an unsaved mark of the first day with
    leases or denials."""
    found = HistoryMark.objects.first()
    return found or HistoryMark(pk=1, rolled_up_until=_first_day())


def _first_day() -> date:
    first = [
        Lease.objects.order_by("borrowed_at").values_list("borrowed_at", flat=True).first(),
        Denial.objects.order_by("last_at").values_list("last_at", flat=True).first(),
    ]
    return min((moment for moment in first if moment), default=database_now()).astimezone(UTC).date()


def roll_up(*, at_most: int | None = None) -> int:
    """Roll up finished days, at most ``at_most``. Return their number. Safe to run in several copies."""
    first = mark().rolled_up_until
    today = days.midnight((database_now() - SETTLED).astimezone(UTC).date())
    done = 0
    for day, history in days.since(first, today):
        if done == at_most or not _write(day, history):
            break
        done += 1
    return done


def _write(day: date, history: DayHistory) -> bool:
    """Write the rows of a day. Return False if another program wrote or removed them."""
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
    """Roll up again every day whose leases exist. Return the number of days.

    Older days stay. Reports stay correct meanwhile.
    """
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
