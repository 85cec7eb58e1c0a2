"""Credentials that failed, counted for every worker together."""

from datetime import datetime, timedelta

from django.db import connection, models

# Rows are few: each address is stopped after some failures, and what is older
# than the window is deleted. This is for an attacker with very many addresses.
MAX_ROWS = 10_000

COUNT_FAILURE = """
    INSERT INTO licenses_failurecount AS kept (key, failures, since) VALUES (%s, 1, %s)
    ON CONFLICT (key) DO UPDATE SET
        failures = CASE WHEN kept.since <= %s THEN 1 ELSE kept.failures + 1 END,
        since = CASE WHEN kept.since <= %s THEN EXCLUDED.since ELSE kept.since END
    RETURNING failures
"""


class FailureCountQuerySet(models.QuerySet["FailureCount"]):
    def add(self, key: str, *, now: datetime, window: timedelta) -> int:
        """Count one failure; how many there are now in the window that began
        with the first of them. One statement: two at once are two."""
        moment, long_ago = (connection.ops.adapt_datetimefield_value(at) for at in (now, now - window))
        with connection.cursor() as cursor:
            cursor.execute(COUNT_FAILURE, [key, moment, long_ago, long_ago])
            failures: int = cursor.fetchone()[0]
        if failures == 1:
            self._make_room(now - window)
        return failures

    def _make_room(self, long_ago: datetime) -> None:
        self.filter(since__lte=long_ago).delete()
        if self.count() > MAX_ROWS:
            oldest = self.order_by("since").values("pk")[: MAX_ROWS // 10]
            self.filter(pk__in=list(oldest.values_list("pk", flat=True))).delete()


class FailureCount(models.Model):
    """How often credentials failed of late, from one address or for one account."""

    key = models.CharField(max_length=255, primary_key=True)
    failures = models.PositiveIntegerField()
    since = models.DateTimeField(db_index=True)

    objects = FailureCountQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.key}: {self.failures}"
