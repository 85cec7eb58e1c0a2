"""History by hour and by day, which remains when the leases are deleted.

Only ``licenses.history.rollups`` writes it, one UTC day at a time, after the day has
ended. Rows do not change after that. Hours and days without use have no row.
"""

from django.db import models
from django.db.models import F, Q

from licenses.names import NAME_LENGTH

from .team import Team
from .tool import Tool


class ToolHour(models.Model):
    """The use of a tool in one hour."""

    tool = models.ForeignKey(Tool, on_delete=models.PROTECT, related_name="+", db_index=False)
    hour = models.DateTimeField(help_text="The start of the hour, in UTC.")
    peak = models.PositiveIntegerField(help_text="The high-water mark: the most seats that were out at once.")
    seat_time = models.DurationField(help_text="The time that seats were out, summed over all seats.")
    full_for = models.DurationField(help_text="The time without a free seat: the capacity or more was out.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tool", "hour"], name="toolhour_once"),
            models.CheckConstraint(condition=Q(peak__gte=1), name="toolhour_was_used"),
        ]
        # For all tools at one time.
        indexes = [models.Index(fields=["hour"], name="toolhour_by_hour")]

    def __str__(self) -> str:
        return f"{self.tool} at {self.hour}"


class TeamHour(models.Model):
    """The use of a tool by one team in one hour."""

    tool = models.ForeignKey(Tool, on_delete=models.PROTECT, related_name="+", db_index=False)
    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="+", db_index=False)
    hour = models.DateTimeField(help_text="The start of the hour, in UTC.")
    peak = models.PositiveIntegerField(help_text="The most seats that the team had at once.")
    seat_time = models.DurationField(help_text="The time that the team had seats, summed over all seats.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["team", "tool", "hour"], name="teamhour_once"),
            models.CheckConstraint(condition=Q(peak__gte=1), name="teamhour_was_used"),
        ]
        # For the deletion by a rebuild.
        indexes = [models.Index(fields=["hour"], name="teamhour_by_hour")]

    def __str__(self) -> str:
        return f"{self.team} on {self.tool} at {self.hour}"


class UsageDay(models.Model):
    """The use of a tool on one day, by user, team and project."""

    tool = models.ForeignKey(Tool, on_delete=models.PROTECT, related_name="+", db_index=False)
    team = models.ForeignKey(Team, null=True, on_delete=models.PROTECT, related_name="+", db_index=False)
    project = models.CharField(max_length=NAME_LENGTH, blank=True)
    user = models.CharField(max_length=NAME_LENGTH, blank=True, help_text="Empty if the name was removed.")
    day = models.DateField(help_text="UTC.")
    borrows = models.PositiveIntegerField(help_text="Leases that began on that day.")
    seat_time = models.DurationField(help_text="The time that seats were out, summed over all seats.")
    overdraft_time = models.DurationField(help_text="The part of it above the capacity.")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(overdraft_time__lte=F("seat_time")), name="usageday_overdraft_is_of_it")
        ]
        indexes = [models.Index(fields=["day"], name="usageday_by_day")]
        permissions = [("view_reports", "Can view reports of use and cost")]

    def __str__(self) -> str:
        return f"{self.user} on {self.tool}, {self.day}"


class DenialDay(models.Model):
    """The denials of one kind that ended on one day."""

    tool = models.ForeignKey(Tool, on_delete=models.PROTECT, related_name="+", db_index=False)
    code = models.CharField(max_length=32)
    day = models.DateField(help_text="UTC.")
    episodes = models.PositiveIntegerField()
    true_denials = models.PositiveIntegerField(help_text="Episodes that ended without a seat.")
    attempts = models.PositiveIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["day", "tool", "code"], name="denialday_once"),
            models.CheckConstraint(condition=Q(true_denials__lte=F("episodes")), name="denialday_true_are_episodes"),
        ]

    def __str__(self) -> str:
        return f"{self.tool}: {self.code}, {self.day}"


class HistoryMark(models.Model):
    """The last day of the rollups, and the first day with leases. One row."""

    rolled_up_until = models.DateField(help_text="The first UTC day without rollups.")
    kept_since = models.DateField(null=True, help_text="Leases that ended before this day were deleted; empty = none.")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(pk=1), name="historymark_is_one_row"),
            models.CheckConstraint(
                condition=Q(kept_since__isnull=True) | Q(kept_since__lte=F("rolled_up_until")),
                name="historymark_forgets_what_is_rolled_up",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.rolled_up_until}"
