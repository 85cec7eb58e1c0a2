"""Tools: pools of seats with a capacity."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models
from django.db.models import Count, F, Min, OuterRef, Q, Subquery, Sum
from django.db.models.functions import Coalesce, Now

from licenses.names import CALLS, TOOL_NAME_PATTERN, UNKNOWN_TOOL_LABEL, distinguished
from licenses.policy import Levels, State

MAX_CAPACITY = 1_000_000
DEFAULT_TTL = timedelta(hours=8)
MIN_TTL = timedelta(seconds=1)
MAX_TTL = timedelta(days=366)


def reject_reserved_name(name: str) -> None:
    """Raise ValidationError for a name with another meaning in metrics or in the API.

    An existing tool with such a name keeps it and works.
    """
    if name in CALLS:
        raise ValidationError(f"'{name}' is a call of the API: /licenses/{name}. Choose another name.")
    if name == UNKNOWN_TOOL_LABEL:
        raise ValidationError(f"'{UNKNOWN_TOOL_LABEL}' is the name of unknown tools in metrics. Choose another name.")


class ToolQuerySet(models.QuerySet["Tool"]):
    def locked(self, names: Iterable[str]) -> "ToolQuerySet":
        """Return the named tools under a row lock (``under_lock``)."""
        return self.filter(name__in=list(names)).under_lock()

    def display_names(self) -> dict[str, str]:
        """Return the names for people of those of these tools that have one, by name; no two are alike."""
        return distinguished(dict(self.exclude(display_name="").order_by().values_list("name", "display_name")))

    def under_lock(self, *, skip_locked: bool = False) -> "ToolQuerySet":
        """Return these tools under a row lock, in the one order that every caller uses,
        so that two callers can't deadlock. With ``skip_locked``, without the tools that
        another transaction has locked.

        NO KEY UPDATE keeps others from changing seats, and allows inserts that only refer
        to the row. SQLite has no row locks: its transaction holds the only write lock from
        the start (IMMEDIATE).
        """
        return self.select_for_update(no_key=True, skip_locked=skip_locked).order_by("pk")

    def full(self) -> "ToolQuerySet":
        """Return the enabled tools with seats, but without a free one, as of now."""
        from .lease import Lease

        overdue = Lease.objects.overdue(Now()).filter(tool=OuterRef("pk")).order_by().values("tool")
        late = Coalesce(Subquery(overdue.annotate(level=Sum("seats")).values("level")), 0)
        # Compare the columns first, so that only few tools need the sum.
        crowded = self.filter(enabled=True, capacity__gt=0, borrowed__gte=F("capacity"))
        return crowded.alias(late=late).filter(borrowed__gte=F("capacity") + F("late"))

    def with_current_counts(self) -> "ToolQuerySet":
        """Add values that other rows determine, as of now.

        ``overdue``: seats of expired leases that are not closed. ``queued``: the number of
        tickets. ``wanted``: their seats. ``oldest_wait``: the start of the oldest wait.
        ``reserved_idle_now``: reserved seats that their teams do not use. ``read_at``: the
        database's time.
        """
        from .allotment import Allotment
        from .lease import Lease
        from .ticket import TicketClaim

        allotments = Allotment.objects.with_current_counts(Now()).filter(tool=OuterRef("pk")).order_by().values("tool")

        overdue = Lease.objects.overdue(Now()).filter(tool=OuterRef("pk")).order_by().values("tool")
        claims = TicketClaim.objects.live(Now()).filter(tool=OuterRef("pk")).order_by().values("tool")
        return self.annotate(  # type: ignore[no-redef]
            overdue=Coalesce(Subquery(overdue.annotate(level=Sum("seats")).values("level")), 0),
            queued=Coalesce(Subquery(claims.annotate(level=Count("pk")).values("level")), 0),
            wanted=Coalesce(Subquery(claims.annotate(level=Sum("seats")).values("level")), 0),
            oldest_wait=Subquery(claims.annotate(level=Min("ticket__created_at")).values("level")),
            reserved_idle_now=Coalesce(
                Subquery(allotments.annotate(level=Sum("reserved_idle_now")).values("level")), 0
            ),
            read_at=Now(),
        )


class Tool(models.Model):
    """A pool of seats.

    ``borrowed`` and the fields down to ``revoked_total`` change only in
    ``licenses.leases.ledger``, under this row's lock. ``borrowed`` is always the sum of
    seats of the tool's open leases, ``waiting`` the number of its open tickets. ``reserved_idle`` are
    the reserved seats that their teams do not use.
    """

    name = models.CharField(
        max_length=64,
        unique=True,
        validators=[
            RegexValidator(
                rf"^{TOOL_NAME_PATTERN}\Z", "1 to 64 of a-z 0-9 _ . -, beginning with a letter, digit or _."
            ),
            reject_reserved_name,
        ],
        help_text="The name that clients send, in lower case.",
    )
    display_name = models.CharField(max_length=128, blank=True)
    vendor = models.CharField(max_length=128, blank=True)
    capacity = models.PositiveIntegerField(
        validators=[MaxValueValidator(MAX_CAPACITY)],
        help_text="Seats bought. If you lower it, leases go on, and nothing is granted until enough seats come back. "
        "Contracts set it, if the tool has any.",
    )
    overdraft = models.PositiveIntegerField(
        default=0,
        db_default=0,
        blank=True,
        validators=[MaxValueValidator(MAX_CAPACITY)],
        help_text="Seats that may be borrowed above the capacity. Leases and reports show them.",
    )
    user_limit = models.PositiveIntegerField(
        null=True, blank=True, help_text="The most seats that one user can have. A limit of the user overrides it."
    )
    ignores_case = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Ignore the case of user and host names in access rules and limits.",
    )
    seat_hour_price = models.DecimalField(
        max_digits=12,
        decimal_places=4,
        null=True,
        blank=True,
        help_text="The cost of one seat for one hour, for reports.",
    )
    overdraft_hour_price = models.DecimalField(
        max_digits=12,
        decimal_places=4,
        null=True,
        blank=True,
        help_text="The cost of one seat above the capacity for one hour; empty = the same.",
    )
    # The next moment at which a contract changes the capacity (``leases.capacity``).
    capacity_changes_at = models.DateTimeField(null=True, editable=False)
    borrowed = models.PositiveIntegerField(default=0, editable=False, db_column="in_use")
    # From the tool's allotments: the reserved seats, those that their teams do not use,
    # and whether other rules than the tool's own exist.
    reserved = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    reserved_idle = models.PositiveIntegerField(default=0, db_default=0, editable=False, db_column="kept_back")
    has_rules = models.BooleanField(default=False, db_default=False, editable=False)
    last_fence = models.PositiveBigIntegerField(default=0, db_default=0, editable=False)
    waiting = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    # Written by the previous version only.
    denied_at = models.DateTimeField(null=True, editable=False)
    # Ended leases by reason. Counted here, because other processes than the server end leases too.
    returned_total = models.PositiveBigIntegerField(default=0, db_default=0, editable=False)
    expired_total = models.PositiveBigIntegerField(default=0, db_default=0, editable=False)
    forced_total = models.PositiveBigIntegerField(default=0, db_default=0, editable=False)
    revoked_total = models.PositiveBigIntegerField(default=0, db_default=0, editable=False)
    overdraft_total = models.PositiveBigIntegerField(default=0, db_default=0, editable=False)
    # The moving average of the time for which its seats are held.
    holding_time = models.DurationField(null=True, editable=False)
    default_ttl = models.DurationField(
        null=True,
        blank=True,
        default=DEFAULT_TTL,
        db_default=DEFAULT_TTL,
        help_text="Free the seat this time after the last heartbeat, unless the borrow sets another; empty = never.",
    )
    max_ttl = models.DurationField(
        null=True, blank=True, help_text="The longest lease that a borrow can ask for; empty = 366 days."
    )
    enabled = models.BooleanField(default=True, help_text="A disabled tool grants nothing.")
    valid_from = models.DateTimeField(null=True, blank=True, help_text="UTC. The server grants nothing before it.")
    valid_until = models.DateTimeField(null=True, blank=True, help_text="UTC. From then on the server grants nothing.")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ToolQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(capacity__gte=0, capacity__lte=MAX_CAPACITY), name="tool_capacity_in_range"
            ),
            models.CheckConstraint(
                condition=(Q(default_ttl__isnull=True) | Q(default_ttl__gte=MIN_TTL))
                & (Q(max_ttl__isnull=True) | Q(max_ttl__gte=MIN_TTL)),
                name="tool_ttl_at_least_a_second",
                violation_error_message="A lease must last at least one second.",
            ),
            models.CheckConstraint(
                condition=Q(default_ttl__isnull=True) | Q(max_ttl__isnull=True) | Q(max_ttl__gte=F("default_ttl")),
                name="tool_default_ttl_within_maximum",
                violation_error_message="The default must not be longer than the longest.",
            ),
            models.CheckConstraint(condition=Q(borrowed__gte=0), name="tool_in_use_not_negative"),
            models.CheckConstraint(condition=Q(overdraft__lte=MAX_CAPACITY), name="tool_overdraft_in_range"),
            models.CheckConstraint(
                condition=Q(reserved_idle__gte=0, reserved_idle__lte=F("reserved")), name="tool_kept_back_is_reserved"
            ),
            models.CheckConstraint(
                condition=Q(valid_from__isnull=True) | Q(valid_until__isnull=True) | Q(valid_until__gt=F("valid_from")),
                name="tool_validity_ends_after_start",
                violation_error_message="The license must end after it starts.",
            ),
        ]

    def __str__(self) -> str:
        """Return its name for people."""
        return self.display_name or self.name

    # with_current_counts() adds these.
    overdue: int
    reserved_idle_now: int
    queued: int
    wanted: int
    oldest_wait: datetime | None
    read_at: datetime
    # leases.snapshot.with_levels() adds these.
    levels: Levels
    state: State

    @property
    def borrowed_now(self) -> int:
        """Return the borrowed seats without those of leases that have expired."""
        return self.borrowed - self.overdue

    @property
    def overdrawn(self) -> int:
        """Return the borrowed seats above the capacity."""
        return max(self.borrowed_now - self.capacity, 0)

    def oldest_wait_seconds(self, now: datetime) -> float:
        """Return the wait of the oldest ticket in seconds; 0 without tickets."""
        return max((now - self.oldest_wait).total_seconds(), 0) if self.oldest_wait else 0

    @property
    def is_restricted(self) -> bool:
        """Return whether a borrow depends on more than the number of free seats."""
        return self.has_rules or self.user_limit is not None

    def cost_of(self, seat_time: timedelta, *, overdraft: timedelta) -> Decimal | None:
        """Return the cost of seat time at current prices, or None without a price.

        ``seat_time`` is the sum over all seats; ``overdraft`` is its part above the capacity.
        """
        price = self.seat_hour_price
        if price is None:
            return None
        above = price if self.overdraft_hour_price is None else self.overdraft_hour_price
        hour = timedelta(hours=1)
        return Decimal((seat_time - overdraft) / hour) * price + Decimal(overdraft / hour) * above

    def held_for(self, span: timedelta) -> None:
        """Update the average holding time with an ended lease, without saving it."""
        self.holding_time = span if self.holding_time is None else self.holding_time + (span - self.holding_time) / 8
