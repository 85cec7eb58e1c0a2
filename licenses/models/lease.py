"""One borrow: who holds how many seats of which tool, since when, until when."""

import uuid
from datetime import datetime, timedelta
from decimal import Decimal

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from licenses.names import NAME_LENGTH

from .team import Team
from .tool import Tool

# Longest reason for a force return.
NOTE_LENGTH = 200
# Longest name of who acts for somebody else, with the kind before it.
ACTOR_LENGTH = 300


class EndReason(models.TextChoices):
    RETURNED = "returned"
    EXPIRED = "expired"  # no heartbeat came in time
    FORCED = "forced"  # an administrator took it back
    REVOKED = "revoked"  # the tool's license ended


class LeaseQuerySet(models.QuerySet["Lease"]):
    # ``now`` is the database's time: a moment that was read there, or Now().

    def active(self, now: datetime | Now) -> "LeaseQuerySet":
        """Leases whose seats are out."""
        return self.open().filter(Q(expires_at__isnull=True) | Q(expires_at__gt=now))

    def ended(self, now: datetime | Now) -> "LeaseQuerySet":
        """Leases whose seats are free, closed or not."""
        return self.filter(Q(ended_at__isnull=False) | Q(expires_at__lte=now))

    def open(self) -> "LeaseQuerySet":
        """Leases that nobody has closed; their time may be over all the same."""
        return self.filter(ended_at__isnull=True)

    def overdue(self, now: datetime | Now) -> "LeaseQuerySet":
        """Open leases whose time is over."""
        return self.open().filter(expires_at__lte=now)

    def heads(self) -> "LeaseQuerySet":
        """One lease a borrow: the one whose id the borrower knows."""
        return self.filter(part_of__isnull=True)

    def borrowed_as(self, lease_id: uuid.UUID) -> "LeaseQuerySet":
        """All leases of the one borrow that this id was given for, its head first."""
        together = Q(pk=lease_id, part_of__isnull=True) | Q(part_of=lease_id)
        return self.filter(together).order_by("place")

    def under_lock(self) -> "LeaseQuerySet":
        """Return these leases with their teams, under row locks, in the one order that
        every caller uses. The tools of all but heartbeats are locked before."""
        return self.select_related("team").select_for_update(no_key=True, of=("self",)).order_by("pk")

    def of_tool(self, name: str) -> "LeaseQuerySet":
        """Heads of the borrows that seats of this tool are part of."""
        parts = Lease.objects.filter(part_of__isnull=False, tool__name=name)
        return self.filter(Q(tool__name=name) | Q(pk__in=parts.values("part_of")))

    def held_by(self, user: str) -> "LeaseQuerySet":
        return self.filter(user=user)

    def newest_first(self) -> "LeaseQuerySet":
        return self.order_by("-borrowed_at", "-pk")

    def with_items(self) -> "LeaseQuerySet":
        """Heads with all that ``items`` needs."""
        return self.select_related("tool", "team").prefetch_related("parts__tool")


class Lease(models.Model):
    """A row is written when seats are borrowed and closed when they come back;
    it is never deleted by the server, so leases are their own history.

    A borrow of several tools writes one row a tool. They live and die
    together, under the id of the first one, their head.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tool = models.ForeignKey(Tool, on_delete=models.PROTECT, related_name="leases", db_index=False)
    user = models.CharField(max_length=NAME_LENGTH)
    team = models.ForeignKey(
        Team, null=True, blank=True, on_delete=models.PROTECT, related_name="leases", db_index=False
    )
    project = models.CharField(max_length=NAME_LENGTH, blank=True, db_default="", help_text="The project that pays.")
    part_of = models.ForeignKey(
        "self", null=True, blank=True, editable=False, on_delete=models.PROTECT, related_name="parts", db_index=False
    )
    place = models.PositiveSmallIntegerField(
        default=0, db_default=0, editable=False, help_text="Which item of its borrow it is, from 0, the head."
    )
    fence = models.PositiveBigIntegerField(
        null=True, editable=False, help_text="Increases with every lease of the tool; the newer holder has the higher."
    )
    host = models.CharField(max_length=NAME_LENGTH, blank=True)
    seats = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    overdraft_seats = models.PositiveIntegerField(
        default=0, db_default=0, editable=False, help_text="Of its seats, those above the capacity when it was granted."
    )
    borrowed_at = models.DateTimeField()
    ttl = models.DurationField(null=True, editable=False, help_text="What a heartbeat extends it by.")
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Free from then on; empty = never.")
    ended_at = models.DateTimeField(null=True, blank=True)
    end_reason = models.CharField(max_length=16, choices=EndReason, blank=True)
    end_note = models.CharField(max_length=NOTE_LENGTH, blank=True, help_text="Why an administrator ended it.")
    borrowed_by = models.CharField(
        max_length=ACTOR_LENGTH,
        blank=True,
        db_default="",
        default="",
        editable=False,
        help_text="The account or token that borrowed it for its user; empty = the user.",
    )
    ended_by = models.CharField(
        max_length=ACTOR_LENGTH,
        blank=True,
        db_default="",
        default="",
        editable=False,
        help_text="The account or token that ended it, if that was not its user.",
    )

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
            # GET /borrows: all active, or one user's, newest first.
            models.Index(
                fields=["user", "-borrowed_at"], condition=Q(ended_at__isnull=True), name="lease_active_by_user"
            ),
            # What is overdue, at each borrow that finds too few seats.
            models.Index(
                fields=["tool", "expires_at"],
                condition=Q(ended_at__isnull=True, expires_at__isnull=False),
                name="lease_open_by_expiry",
            ),
            # Who holds a tool's seats, newest first: the board. The index of all its
            # leases would lead through its history.
            models.Index(
                fields=["tool", "-borrowed_at", "-id"], condition=Q(ended_at__isnull=True), name="lease_open_by_tool"
            ),
            # What each team has, at every scrape.
            models.Index(
                fields=["tool", "team"],
                condition=Q(ended_at__isnull=True, team__isnull=False),
                name="lease_open_by_team",
            ),
            models.Index(fields=["part_of"], condition=Q(part_of__isnull=False), name="lease_parts"),
            models.Index(fields=["-borrowed_at", "-id"], name="lease_newest_first"),
            models.Index(fields=["tool", "-borrowed_at"], name="lease_by_tool"),
            # What a day's history begins with, and what is old enough to go.
            models.Index(fields=["ended_at"], condition=Q(ended_at__isnull=False), name="lease_by_end"),
        ]

    def __str__(self) -> str:
        return f"{self.seats} x {self.tool} for {self.user}"

    @property
    def public_id(self) -> uuid.UUID:
        """The id that the borrower knows."""
        return self.part_of_id or self.pk

    @property
    def items(self) -> list["Lease"]:
        """The leases of the borrow that this one is the head of."""
        return [self, *sorted(self.parts.all(), key=lambda part: part.place)]

    def is_over(self, now: datetime) -> bool:
        """Whether the seats are free for others at ``now``."""
        return self.ended_at is not None or (self.expires_at is not None and self.expires_at <= now)

    def duration(self, now: datetime) -> timedelta:
        """How long the seats were held, or have been by ``now``."""
        return (self.ended_at or now) - self.borrowed_at

    def seat_hours(self, now: datetime) -> float:
        """The hours that its seats were held, or have been by ``now``, together."""
        return self.seats * (self.duration(now) / timedelta(hours=1))

    def cost(self, now: datetime) -> Decimal | None:
        """What its seats cost for as long as they were held, or have been by
        ``now``, at the tool's prices of today; None where it has none."""
        held = self.duration(now)
        return self.tool.cost_of(self.seats * held, overdraft=self.overdraft_seats * held)

    def end_when_over(self, now: datetime) -> None:
        """Fill in the end, unsaved, of a lease whose time is over."""
        if self.ended_at is None and self.expires_at is not None and self.expires_at <= now:
            self.ended_at = self.expires_at
            self.end_reason = self.reason_of_expiry()

    def reason_of_expiry(self) -> EndReason:
        """Why it ends at ``expires_at``. A lease never lasts longer than the
        tool's license; one that lasts as long ends because of that."""
        until = self.tool.valid_until
        return EndReason.REVOKED if until and self.expires_at and self.expires_at >= until else EndReason.EXPIRED
