"""The time of the last sweep."""

from django.db import models
from django.db.models.functions import Now


class SweepManager(models.Manager["Sweep"]):
    def finished(self) -> None:
        """Record that a sweep has finished."""
        self.update_or_create(pk=1, defaults={"finished_at": Now()})


class Sweep(models.Model):
    """The time of the last sweep by any copy of the sweeper. One row."""

    finished_at = models.DateTimeField()

    objects = SweepManager()

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(pk=1), name="sweep_is_one_row")]

    def __str__(self) -> str:
        return f"{self.finished_at}"
