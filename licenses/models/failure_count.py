"""Failed credentials, counted for all workers together."""

from collections.abc import Collection
from datetime import datetime, timedelta

from django.db import connection, models
from django.db.models import F

# Rows are usually few, because they are deleted after the window. This limits an
# attacker with very many addresses.
MAX_ROWS = 10_000

# One statement, so that simultaneous attempts count separately. It returns no row at the limit.
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
        """Reserve one of the ``limit`` failures of a key in a window that began with its first attempt.

        Return False if none is left.
        """
        moment, long_ago = (connection.ops.adapt_datetimefield_value(at) for at in (now, now - window))
        with connection.cursor() as cursor:
            cursor.execute(RESERVE, [key, moment, *[long_ago] * 4, limit])
            row = cursor.fetchone()
        if row == (0, 1):
            self._make_room(now - window)
        return row is not None

    def failed(self, keys: Collection[str]) -> None:
        """Count a reserved attempt of each key as a failure."""
        self._reserved(keys).update(failures=F("failures") + 1, pending=F("pending") - 1)

    def release(self, keys: Collection[str]) -> None:
        """Release a reserved attempt of each key."""
        self._reserved(keys).update(pending=F("pending") - 1)
        self.filter(key__in=keys, failures=0, pending=0).delete()

    def forget(self, key: str) -> None:
        """Forget the failures of a key. Pending attempts stay reserved."""
        self.filter(key=key).update(failures=0)
        self.filter(key=key, pending=0).delete()

    def _reserved(self, keys: Collection[str]) -> "FailureCountQuerySet":
        # The reservation is gone if its window has ended.
        return self.filter(key__in=keys, pending__gt=0)

    def _make_room(self, long_ago: datetime) -> None:
        self.filter(since__lte=long_ago).delete()
        if self.count() > MAX_ROWS:
            oldest = self.order_by("since").values("pk")[: MAX_ROWS // 10]
            self.filter(pk__in=list(oldest.values_list("pk", flat=True))).delete()


class FailureCount(models.Model):
    """The failed credentials of an address or an account in a window, and the pending ones."""

    key = models.CharField(max_length=255, primary_key=True)
    failures = models.PositiveIntegerField()
    pending = models.PositiveIntegerField(default=0, db_default=0)
    since = models.DateTimeField(db_index=True)

    objects = FailureCountQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.key}: {self.failures}"
