"""Read the database's clock. Only this clock decides what has expired."""

from datetime import UTC, datetime

from django.db import connection
from django.utils import timezone


def database_now() -> datetime:
    """Return the current time of the database.

    This is not the start of the transaction, as ``now()`` is, so that after a wait for
    a lock it is not stale. For SQLite it is this machine's clock.
    """
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


def is_in_calendar(moment: datetime) -> bool:
    """Return whether the moment is in the years 1 to 9999 in UTC."""
    try:
        moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except OverflowError:
        return False
    return True
