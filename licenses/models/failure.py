"""Credentials that failed, counted for every worker together."""

from collections.abc import Collection
from datetime import datetime, timedelta

from django.db import connection, models
from django.db.models import F

# Rows are few: each address is stopped after some failures, and what is older
# than the window is deleted. This is for an attacker with very many addresses.
MAX_ROWS = 10_000

# One statement: two attempts at once take two places. No row comes back where
# there is no place left.
RESERVE = """
    INSERT INTO licenses_failurecount AS kept (key, failures, pending, since) VALUES (%s, 0, 1, %s)
    ON CONFLICT (key) DO UPDATE SET
        failures = CASE WHEN kept.since <= %s THEN 0 ELSE kept.failures END,
        pending = CASE WHEN kept.since <= %s THEN 1 ELSE kept.pending + 1 END,
        since = CASE WHEN kept.since <= %s THEN EXCLUDED.since ELSE kept.since END
    WHERE kept.since <= %s OR kept.failures + kept.pending < %s
    RETURNING failures, pending
"""


class FailureCountQuerySet(models.QuerySet["FailureCount"]):
    def reserve(self, key: str, *, limit: int, now: datetime, window: timedelta) -> bool:
        """Take one of the ``limit`` places for failures that a key has in the
        window that began with its first attempt; False if there is none left."""
        moment, long_ago = (connection.ops.adapt_datetimefield_value(at) for at in (now, now - window))
        with connection.cursor() as cursor:
            cursor.execute(RESERVE, [key, moment, *[long_ago] * 4, limit])
            row = cursor.fetchone()
        if row == (0, 1):
            self._make_room(now - window)
        return row is not None

    def failed(self, keys: Collection[str]) -> None:
        """Turn a reserved place of each key into a failure."""
        self._reserved(keys).update(failures=F("failures") + 1, pending=F("pending") - 1)

    def release(self, keys: Collection[str]) -> None:
        """Give a reserved place of each key back."""
        self._reserved(keys).update(pending=F("pending") - 1)
        self.filter(key__in=keys, failures=0, pending=0).delete()

    def forget(self, key: str) -> None:
        """Forget the failures of a key; attempts under way keep their places."""
        self.filter(key=key).update(failures=0)
        self.filter(key=key, pending=0).delete()

    def _reserved(self, keys: Collection[str]) -> "FailureCountQuerySet":
        # A place is gone if its window has ended meanwhile.
        return self.filter(key__in=keys, pending__gt=0)

    def _make_room(self, long_ago: datetime) -> None:
        self.filter(since__lte=long_ago).delete()
        if self.count() > MAX_ROWS:
            oldest = self.order_by("since").values("pk")[: MAX_ROWS // 10]
            self.filter(pk__in=list(oldest.values_list("pk", flat=True))).delete()


class FailureCount(models.Model):
    """How often credentials failed within a window, from one address or for one
    account, and how many are being checked."""

    key = models.CharField(max_length=255, primary_key=True)
    failures = models.PositiveIntegerField()
    pending = models.PositiveIntegerField(default=0, db_default=0)
    since = models.DateTimeField(db_index=True)

    objects = FailureCountQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.key}: {self.failures}"
