"""Denials: refused borrows, their reasons, and whether the user got a seat later."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import models
from django.db.models import F, Q

from licenses.names import NAME_LENGTH

from .lease import Lease
from .team import Team
from .tool import Tool

# Refusals closer together than this are one episode, and a grant within it ends the
# episode. Clients retry every few seconds or minutes.
EPISODE_WINDOW = timedelta(minutes=15)


class DenialQuerySet(models.QuerySet["Denial"]):
    def going_on(self, *, user: str, now: datetime) -> "DenialQuerySet":
        """Return the user's episodes to which a refusal or a grant at ``now`` belongs."""
        return self.filter(user=user, resolved_at__isnull=True, last_at__gt=now - EPISODE_WINDOW)

    def record(
        self, *, tool: Tool, user: str, team: Team | None, host: str, code: str, seats: int, now: datetime
    ) -> None:
        """Add a refusal to its episode, or begin one. Call it under the tool's lock, so that two refusals
        do not begin the same episode twice."""
        episode = self.going_on(user=user, now=now).filter(tool=tool, code=code)
        if not episode.update(attempts=F("attempts") + 1, last_at=now):
            self.create(tool=tool, user=user, team=team, host=host, code=code, seats=seats, first_at=now, last_at=now)

    def resolve(self, *, tools: Iterable[Tool], user: str, lease: Lease, now: datetime) -> int:
        """End the user's episodes for these tools, because the user got a seat."""
        return self.going_on(user=user, now=now).filter(tool__in=list(tools)).update(resolved_at=now, resolved_by=lease)


class Denial(models.Model):
    """One episode of refusals of a user.

    It lasts until a lease ends it, or until there is no refusal of the same kind for
    ``EPISODE_WINDOW``. In the second case it is a *true denial*: the user got no seat.
    """

    tool = models.ForeignKey(Tool, on_delete=models.PROTECT, related_name="denials", db_index=False)
    user = models.CharField(max_length=NAME_LENGTH)
    host = models.CharField(max_length=NAME_LENGTH, blank=True)
    team = models.ForeignKey(
        Team,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,
        help_text="The team of the borrow.",
    )
    code = models.CharField(max_length=32, help_text="The code of the refusal.")
    seats = models.PositiveIntegerField(default=1)
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()
    attempts = models.PositiveIntegerField(default=1)
    resolved_at = models.DateTimeField(null=True, blank=True)
    resolved_by = models.ForeignKey(
        Lease, null=True, blank=True, on_delete=models.PROTECT, related_name="+", db_index=False
    )

    objects = DenialQuerySet.as_manager()

    class Meta:
        ordering = ["-last_at", "-pk"]
        constraints = [
            models.CheckConstraint(condition=Q(last_at__gte=F("first_at")), name="denial_ends_after_it_begins"),
            models.CheckConstraint(condition=Q(attempts__gte=1), name="denial_has_an_attempt"),
            models.CheckConstraint(
                condition=Q(resolved_at__isnull=True, resolved_by__isnull=True)
                | Q(resolved_at__isnull=False, resolved_by__isnull=False),
                name="denial_resolved_by_a_lease",
            ),
        ]
        indexes = [
            # For the episode of a refusal or a grant.
            models.Index(fields=["user", "tool", "last_at"], name="denial_episodes"),
            models.Index(fields=["-last_at", "-id"], name="denial_newest_first"),
            # For the foreign key, when leases are deleted.
            models.Index(fields=["resolved_by"], condition=Q(resolved_by__isnull=False), name="denial_by_lease"),
        ]

    def __str__(self) -> str:
        return f"{self.tool} refused to {self.user}: {self.code}"
