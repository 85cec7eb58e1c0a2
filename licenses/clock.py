"""The database's time, which alone decides what has expired."""

from datetime import UTC, datetime

from django.db import connection
from django.utils import timezone


def database_now() -> datetime:
    """The time at the database, now.

    Asked for under a lock it is not stale by the wait for the lock, as
    ``now()``, the time at which the transaction began, would be. SQLite runs
    in the server's own process: its clock is ours.
    """
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


def is_in_calendar(moment: datetime) -> bool:
    """Return whether the moment is in the years 1 to 9999 in UTC too, and not only where it was written."""
    try:
        moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except OverflowError:
        return False
    return True
