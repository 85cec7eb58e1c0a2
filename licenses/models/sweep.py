"""The time of the last sweep."""

from datetime import datetime

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class SweepManager(models.Manager["Sweep"]):
    def finished(self) -> None:
        """Record that a sweep has finished."""
        self.update_or_create(pk=1, defaults={"finished_at": Now()})

    def looked_at(self, moment: datetime) -> None:
        """Record that notifications were looked for at this moment."""
        earlier = Q(looked_at__isnull=True) | Q(looked_at__lt=moment)
        if not self.filter(earlier, pk=1).update(looked_at=moment):
            row = Sweep(pk=1, finished_at=moment, looked_at=moment)
            self.bulk_create([row], ignore_conflicts=True)

    def last_look(self) -> datetime | None:
        """Return the moment of the last look for notifications, or None."""
        return self.values_list("looked_at", flat=True).filter(pk=1).first()


class Sweep(models.Model):
    """The time of the last sweep by any copy of the sweeper. One row."""

    finished_at = models.DateTimeField()
    looked_at = models.DateTimeField(null=True)

    objects = SweepManager()

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(pk=1), name="sweep_is_one_row")]

    def __str__(self) -> str:
        return f"{self.finished_at}"
