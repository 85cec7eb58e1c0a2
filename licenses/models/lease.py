"""Leases: borrowed seats, now and in the past."""

import uuid
from datetime import datetime, timedelta
from decimal import Decimal

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Now

from licenses.names import NAME_LENGTH

from .fields import actor_field
from .team import Team
from .tool import Tool

# Longest reason for a force return.
NOTE_LENGTH = 200


class EndReason(models.TextChoices):
    RETURNED = "returned"
    EXPIRED = "expired"  # no heartbeat arrived in time
    FORCED = "forced"  # an administrator ended it
    REVOKED = "revoked"  # the tool's license ended


class LeaseQuerySet(models.QuerySet["Lease"]):
    # ``now`` is a time of the database, or Now().

    def active(self, now: datetime | Now) -> "LeaseQuerySet":
        """Return leases whose seats are out."""
        return self.open().filter(Q(expires_at__isnull=True) | Q(expires_at__gt=now))

    def ended(self, now: datetime | Now) -> "LeaseQuerySet":
        """Return leases that have ended, closed or not."""
        return self.filter(Q(ended_at__isnull=False) | Q(expires_at__lte=now))

    def open(self) -> "LeaseQuerySet":
        """Return leases that are not closed. They may have expired."""
        return self.filter(ended_at__isnull=True)

    def overdue(self, now: datetime | Now) -> "LeaseQuerySet":
        """Return open leases that have expired."""
        return self.open().filter(expires_at__lte=now)

    def heads(self) -> "LeaseQuerySet":
        """Return one lease per borrow: the one whose id the client has."""
        return self.filter(part_of__isnull=True)

    def borrowed_as(self, lease_id: uuid.UUID) -> "LeaseQuerySet":
        """Return all leases of the borrow with this id, the head first."""
        together = Q(pk=lease_id, part_of__isnull=True) | Q(part_of=lease_id)
        return self.filter(together).order_by("place")

    def under_lock(self) -> "LeaseQuerySet":
        """Return these leases with their teams, under row locks, in the one order that
        every caller uses. The tools of all but heartbeats are locked before."""
        return self.select_related("team").select_for_update(no_key=True, of=("self",)).order_by("pk")

    def of_tool(self, name: str) -> "LeaseQuerySet":
        """Return the heads of borrows with seats of this tool."""
        parts = Lease.objects.filter(part_of__isnull=False, tool__name=name)
        return self.filter(Q(tool__name=name) | Q(pk__in=parts.values("part_of")))

    def with_seats_of(self, tool: str) -> "LeaseQuerySet":
        """Return the heads of borrows with seats of this tool. Asks each borrow for its parts: use it where they
        are few, as the active ones are."""
        parts = Lease.objects.filter(part_of=OuterRef("pk"), tool__name=tool)
        return self.filter(Q(tool__name=tool) | Exists(parts))

    def held_by(self, user: str) -> "LeaseQuerySet":
        return self.filter(user=user)

    def newest_first(self) -> "LeaseQuerySet":
        return self.order_by("-borrowed_at", "-pk")

    def with_items(self) -> "LeaseQuerySet":
        """Return heads with the rows that ``items`` needs."""
        return self.select_related("tool", "team").prefetch_related("parts__tool")


class Lease(models.Model):
    """The borrowed seats of one tool.

    A borrow creates the row, and a return closes it. The server never deletes it, so
    leases are their own history. A borrow of several tools creates one row per tool.
    These rows end together and have the id of the first one, the head.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tool = models.ForeignKey(Tool, on_delete=models.PROTECT, related_name="leases", db_index=False)
    user = models.CharField(max_length=NAME_LENGTH)
    team = models.ForeignKey(
        Team, null=True, blank=True, on_delete=models.PROTECT, related_name="leases", db_index=False
    )
    project = models.CharField(max_length=NAME_LENGTH, blank=True, db_default="", help_text="The project.")
    part_of = models.ForeignKey(
        "self", null=True, blank=True, editable=False, on_delete=models.PROTECT, related_name="parts", db_index=False
    )
    place = models.PositiveSmallIntegerField(
        default=0, db_default=0, editable=False, help_text="The number of the item in the borrow; 0 is the head."
    )
    fence = models.PositiveBigIntegerField(
        null=True, editable=False, help_text="Increases with every lease of the tool."
    )
    host = models.CharField(max_length=NAME_LENGTH, blank=True)
    seats = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    overdraft_seats = models.PositiveIntegerField(
        default=0, db_default=0, editable=False, help_text="Seats above the capacity at the time of the grant."
    )
    borrowed_at = models.DateTimeField()
    ttl = models.DurationField(null=True, editable=False, help_text="The time by which a heartbeat extends it.")
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text="The seats are free from this time; empty = never."
    )
    ended_at = models.DateTimeField(null=True, blank=True)
    end_reason = models.CharField(max_length=16, choices=EndReason, blank=True)
    end_note = models.CharField(
        max_length=NOTE_LENGTH, blank=True, help_text="The administrator's reason for a force return."
    )
    borrowed_by = actor_field("The account or token that borrowed it for the user; empty = the user.")
    ended_by = actor_field("The account or token that ended it, if not the user.")

    objects = LeaseQuerySet.as_manager()

    class Meta:
        ordering = ["-borrowed_at", "-id"]
        constraints = [
            models.CheckConstraint(condition=Q(seats__gte=1), name="lease_seats_at_least_one"),
            models.CheckConstraint(
                condition=Q(overdraft_seats__lte=F("seats")), name="lease_overdraft_is_of_its_seats"
            ),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True) | Q(ended_at__gte=F("borrowed_at")),
                name="lease_ends_after_it_begins",
            ),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True, end_reason="") | (Q(ended_at__isnull=False) & ~Q(end_reason="")),
                name="lease_end_has_a_reason",
            ),
            models.CheckConstraint(
                condition=Q(expires_at__isnull=True) | Q(expires_at__gt=F("borrowed_at")),
                name="lease_expires_after_it_begins",
            ),
            models.UniqueConstraint(fields=["tool", "fence"], name="lease_fence_is_unique"),
        ]
        indexes = [
            # For GET /borrows: all active leases, or one user's, newest first.
            models.Index(
                fields=["user", "-borrowed_at"], condition=Q(ended_at__isnull=True), name="lease_active_by_user"
            ),
            # For overdue leases, at each borrow that finds too few seats.
            models.Index(
                fields=["tool", "expires_at"],
                condition=Q(ended_at__isnull=True, expires_at__isnull=False),
                name="lease_open_by_expiry",
            ),
            # For the board: the active leases of a tool, newest first, without its history.
            models.Index(
                fields=["tool", "-borrowed_at", "-id"], condition=Q(ended_at__isnull=True), name="lease_open_by_tool"
            ),
            # For the seats of each team, at every scrape.
            models.Index(
                fields=["tool", "team"],
                condition=Q(ended_at__isnull=True, team__isnull=False),
                name="lease_open_by_team",
            ),
            models.Index(fields=["part_of"], condition=Q(part_of__isnull=False), name="lease_parts"),
            models.Index(fields=["-borrowed_at", "-id"], name="lease_newest_first"),
            models.Index(fields=["tool", "-borrowed_at"], name="lease_by_tool"),
            # For the rollup of a day, and for the deletion of old leases.
            models.Index(fields=["ended_at"], condition=Q(ended_at__isnull=False), name="lease_by_end"),
        ]

    def __str__(self) -> str:
        return f"{self.seats} x {self.tool} for {self.user}"

    @property
    def public_id(self) -> uuid.UUID:
        """Return the id that the client has."""
        return self.part_of_id or self.pk

    @property
    def items(self) -> list["Lease"]:
        """Return the leases of the borrow, if this is its head."""
        return [self, *sorted(self.parts.all(), key=lambda part: part.place)]

    @property
    def last_heartbeat(self) -> datetime | None:
        """Return when the client showed last that it works; None if the lease needs no heartbeats, or if its end
        is the end of its tool's license, which hides it. Counted back from the end: a heartbeat writes one column."""
        until = self.tool.valid_until
        if self.ttl is None or self.expires_at is None or (until is not None and self.expires_at >= until):
            return None
        return max(self.expires_at - self.ttl, self.borrowed_at)

    @property
    def last_heartbeat_at(self) -> datetime | None:
        """Return ``last_heartbeat`` for the head of a borrow; None if the license of any of its tools hides it."""
        found = [item.last_heartbeat for item in self.items]
        return None if None in found else found[0]

    @property
    def has_program(self) -> bool:
        """Return whether a program extends the lease."""
        last = self.last_heartbeat
        return last is not None and last > self.borrowed_at

    def is_over(self, now: datetime) -> bool:
        """Return whether the lease has ended at ``now``."""
        return self.ended_at is not None or (self.expires_at is not None and self.expires_at <= now)

    def duration(self, now: datetime) -> timedelta:
        """Return the time that the seats were held until ``now``."""
        return (self.ended_at or now) - self.borrowed_at

    def seat_hours(self, now: datetime) -> float:
        """Return the seat-hours until ``now``."""
        return self.seats * (self.duration(now) / timedelta(hours=1))

    def cost(self, now: datetime) -> Decimal | None:
        """Return the cost until ``now`` at the tool's current prices, or None without a price."""
        held = self.duration(now)
        return self.tool.cost_of(self.seats * held, overdraft=self.overdraft_seats * held)

    def end_when_over(self, now: datetime) -> None:
        """Set the end of an expired lease, without saving it."""
        if self.ended_at is None and self.expires_at is not None and self.expires_at <= now:
            self.ended_at = self.expires_at
            self.end_reason = self.reason_of_expiry()

    def reason_of_expiry(self) -> EndReason:
        """Return why it ends at ``expires_at``. A lease ends with the tool's license at the latest."""
        until = self.tool.valid_until
        return EndReason.REVOKED if until and self.expires_at and self.expires_at >= until else EndReason.EXPIRED
