"""One borrow: who holds how many seats of which tool, since when, until when."""

import uuid

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q

from .tool import Tool


class EndReason(models.TextChoices):
    RETURNED = "returned"
    FORCED = "forced"


class LeaseQuerySet(models.QuerySet["Lease"]):
    def active(self) -> "LeaseQuerySet":
        """Leases whose seats are out."""
        return self.filter(ended_at__isnull=True)

    def held_by(self, user: str) -> "LeaseQuerySet":
        return self.filter(user=user)

    def newest_first(self) -> "LeaseQuerySet":
        return self.order_by("-borrowed_at", "-pk")


class Lease(models.Model):
    """A row is written when seats are borrowed and closed when they come back;
    it is never deleted by the server, so leases are their own history."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tool = models.ForeignKey(Tool, on_delete=models.PROTECT, related_name="leases", db_index=False)
    user = models.CharField(max_length=64)
    host = models.CharField(max_length=255, blank=True)
    seats = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    borrowed_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    end_reason = models.CharField(max_length=16, choices=EndReason, blank=True)
    end_note = models.CharField(max_length=200, blank=True, help_text="Why it was taken back.")

    objects = LeaseQuerySet.as_manager()

    class Meta:
        ordering = ["-borrowed_at", "-id"]
        constraints = [
            models.CheckConstraint(condition=Q(seats__gte=1), name="lease_seats_at_least_one"),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True) | Q(ended_at__gte=F("borrowed_at")),
                name="lease_ends_after_it_begins",
            ),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True, end_reason="") | (Q(ended_at__isnull=False) & ~Q(end_reason="")),
                name="lease_end_has_a_reason",
            ),
        ]
        indexes = [
            # GET /borrows: all active, or one user's, newest first.
            models.Index(
                fields=["user", "-borrowed_at"], condition=Q(ended_at__isnull=True), name="lease_active_by_user"
            ),
            models.Index(fields=["-borrowed_at", "-id"], name="lease_newest_first"),
            models.Index(fields=["tool", "-borrowed_at"], name="lease_by_tool"),
        ]

    def __str__(self) -> str:
        return f"{self.seats} x {self.tool_id} for {self.user}"

    @property
    def active(self) -> bool:
        return self.ended_at is None
