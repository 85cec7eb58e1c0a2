"""What is kept of the past when its rows are gone: use by the hour and by the day.

Written by ``licenses.history.rollups`` alone, one UTC day at a time, when the
day is over; a row never changes after that. Hours and days without any use
have no row.
"""

from django.db import models
from django.db.models import F, Q

from licenses.names import NAME_LENGTH

from .team import Team
from .tool import Tool


class ToolHour(models.Model):
    """The use of a tool within one hour."""

    tool = models.ForeignKey(Tool, on_delete=models.PROTECT, related_name="+", db_index=False)
    hour = models.DateTimeField(help_text="Its beginning, a full hour UTC.")
    peak = models.PositiveIntegerField(help_text="The most seats that were out at once: the high-water mark.")
    seat_time = models.DurationField(help_text="How long seats were out, all of them together.")
    full_for = models.DurationField(help_text="How long as many seats were out as were bought, or more.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tool", "hour"], name="toolhour_once"),
            models.CheckConstraint(condition=Q(peak__gte=1), name="toolhour_was_used"),
        ]
        # All tools at one time.
        indexes = [models.Index(fields=["hour"], name="toolhour_by_hour")]

    def __str__(self) -> str:
        return f"{self.tool} at {self.hour}"


class TeamHour(models.Model):
    """The use of a tool by one team within one hour."""

    tool = models.ForeignKey(Tool, on_delete=models.PROTECT, related_name="+", db_index=False)
    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="+", db_index=False)
    hour = models.DateTimeField(help_text="Its beginning, a full hour UTC.")
    peak = models.PositiveIntegerField(help_text="The most seats that the team had at once.")
    seat_time = models.DurationField(help_text="How long it had seats, all of them together.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["team", "tool", "hour"], name="teamhour_once"),
            models.CheckConstraint(condition=Q(peak__gte=1), name="teamhour_was_used"),
        ]
        # What a rebuild deletes.
        indexes = [models.Index(fields=["hour"], name="teamhour_by_hour")]

    def __str__(self) -> str:
        return f"{self.team} on {self.tool} at {self.hour}"


class UsageDay(models.Model):
    """Who used a tool on one day, for which team and project."""

    tool = models.ForeignKey(Tool, on_delete=models.PROTECT, related_name="+", db_index=False)
    team = models.ForeignKey(Team, null=True, on_delete=models.PROTECT, related_name="+", db_index=False)
    project = models.CharField(max_length=NAME_LENGTH, blank=True)
    user = models.CharField(max_length=NAME_LENGTH, blank=True, help_text="Empty where the name was taken out.")
    day = models.DateField(help_text="UTC.")
    borrows = models.PositiveIntegerField(help_text="Leases that began on that day.")
    seat_time = models.DurationField(help_text="How long seats were out, all of them together.")
    overdraft_time = models.DurationField(help_text="Of that, seats above the capacity.")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(overdraft_time__lte=F("seat_time")), name="usageday_overdraft_is_of_it")
        ]
        indexes = [models.Index(fields=["day"], name="usageday_by_day")]

    def __str__(self) -> str:
        return f"{self.user} on {self.tool}, {self.day}"


class DenialDay(models.Model):
    """The episodes of denials of one kind that ended on one day."""

    tool = models.ForeignKey(Tool, on_delete=models.PROTECT, related_name="+", db_index=False)
    code = models.CharField(max_length=32)
    day = models.DateField(help_text="UTC.")
    episodes = models.PositiveIntegerField()
    true_denials = models.PositiveIntegerField(help_text="Episodes after which there was no seat.")
    attempts = models.PositiveIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["day", "tool", "code"], name="denialday_once"),
            models.CheckConstraint(condition=Q(true_denials__lte=F("episodes")), name="denialday_true_are_episodes"),
        ]

    def __str__(self) -> str:
        return f"{self.tool}: {self.code}, {self.day}"


class HistoryMark(models.Model):
    """One row: up to which day the past is rolled up, and since when its leases
    are still there."""

    rolled_up_until = models.DateField(help_text="The first day that isn't, UTC.")
    kept_since = models.DateField(null=True, help_text="Leases that ended before were deleted; empty = none were.")

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
