"""The licensable thing: a pool of seats with a capacity."""

from collections.abc import Iterable

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q

from licenses.policy import Pool

# The first character may be neither a dot (clients fold "/../" out of a path)
# nor a dash (a command line would take it for an option).
TOOL_NAME_PATTERN = r"[a-z0-9_][a-z0-9_.-]{0,63}"
MAX_CAPACITY = 1_000_000
# The metrics' label for every name that isn't in the table.
UNKNOWN_TOOL_LABEL = "unknown"


def reject_reserved_name(name: str) -> None:
    """Raise ValidationError for a name that means something else in metrics."""
    if name == UNKNOWN_TOOL_LABEL:
        raise ValidationError(f"'{UNKNOWN_TOOL_LABEL}' is what metrics call a tool that doesn't exist.")


class ToolQuerySet(models.QuerySet["Tool"]):
    def locked(self, names: Iterable[str]) -> "ToolQuerySet":
        """The named tools under a row lock, in the one order that every
        caller uses, so that two of them can't deadlock.

        NO KEY UPDATE is enough to keep others from changing seats, and lets
        inserts that only refer to the row go on. SQLite has no row locks: its
        transaction holds the one write lock from the start (IMMEDIATE).
        """
        return self.select_for_update(no_key=True).filter(name__in=list(names)).order_by("pk")


class Tool(models.Model):
    """A pool of seats. ``in_use`` is changed by ``licenses.leasing`` alone,
    under this row's lock, and always equals the seats of the tool's leases
    that haven't ended."""

    name = models.CharField(
        max_length=64,
        unique=True,
        validators=[
            RegexValidator(
                rf"^{TOOL_NAME_PATTERN}\Z", "1 to 64 of a-z 0-9 _ . -, beginning with a letter, digit or _."
            ),
            reject_reserved_name,
        ],
        help_text="What clients ask for; lower case.",
    )
    display_name = models.CharField(max_length=128, blank=True)
    vendor = models.CharField(max_length=128, blank=True)
    capacity = models.PositiveIntegerField(
        validators=[MaxValueValidator(MAX_CAPACITY)],
        help_text="Seats bought. Lowering it takes no seat from anyone; nothing is granted until it drains.",
    )
    in_use = models.PositiveIntegerField(default=0, editable=False)
    enabled = models.BooleanField(default=True, help_text="A disabled tool grants nothing.")
    valid_from = models.DateTimeField(null=True, blank=True, help_text="UTC. Nothing is granted before.")
    valid_until = models.DateTimeField(null=True, blank=True, help_text="UTC. Nothing is granted from then on.")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ToolQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(capacity__gte=0, capacity__lte=MAX_CAPACITY), name="tool_capacity_in_range"
            ),
            models.CheckConstraint(condition=Q(in_use__gte=0), name="tool_in_use_not_negative"),
            models.CheckConstraint(
                condition=Q(valid_from__isnull=True) | Q(valid_until__isnull=True) | Q(valid_until__gt=F("valid_from")),
                name="tool_validity_ends_after_start",
                violation_error_message="The licence must end after it starts.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def available(self) -> int:
        """Seats that are free now; 0 while more are out than were bought."""
        return max(self.capacity - self.in_use, 0)

    def pool(self) -> Pool:
        """What the policy needs to know; call it on a locked row."""
        return Pool(
            tool=self.name,
            capacity=self.capacity,
            in_use=self.in_use,
            enabled=self.enabled,
            valid_from=self.valid_from,
            valid_until=self.valid_until,
        )
