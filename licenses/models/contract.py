"""Contracts: seats of a tool that were bought for some days."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import accumulate

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q

from .tool import MAX_CAPACITY, Tool

FIRST_DAY, LAST_DAY = date(1900, 1, 1), date(2999, 12, 31)
DAYS = [MinValueValidator(FIRST_DAY), MaxValueValidator(LAST_DAY)]


class ContractSource(models.TextChoices):
    """Who keeps a contract up to date."""

    MANUAL = "manual", "By hand"
    IMPORT = "import", "License file"


class ContractQuerySet(models.QuerySet["Contract"]):
    def not_ended(self, now: datetime) -> "ContractQuerySet":
        """Return the contracts that are valid now or later."""
        return self.filter(Q(last_day__isnull=True) | Q(last_day__gte=now.astimezone(UTC).date()))


class Contract(models.Model):
    """Seats of a tool that were bought for some days.

    Days are days in UTC, as the dates of tools. Only ``licenses.tools.contracts`` changes contracts.
    """

    tool = models.ForeignKey(Tool, on_delete=models.CASCADE, related_name="contracts")
    seats = models.PositiveIntegerField(validators=[MinValueValidator(1), MaxValueValidator(MAX_CAPACITY)])
    first_day = models.DateField(
        null=True, blank=True, validators=DAYS, help_text="UTC. The first valid day; empty = valid already."
    )
    last_day = models.DateField(
        null=True, blank=True, validators=DAYS, help_text="UTC. The last valid day; empty = no end."
    )
    price = models.DecimalField(
        max_digits=14,
        decimal_places=2,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="The cost of the whole contract, for reports.",
    )
    reference = models.CharField(
        max_length=128, blank=True, help_text="The vendor's reference, for example the number of the order."
    )
    note = models.CharField(max_length=255, blank=True)
    source = models.CharField(max_length=16, choices=ContractSource, default=ContractSource.MANUAL, editable=False)

    objects = ContractQuerySet.as_manager()

    class Meta:
        ordering = ["tool__name", F("first_day").asc(nulls_first=True), "pk"]
        constraints = [
            models.CheckConstraint(condition=Q(seats__gte=1, seats__lte=MAX_CAPACITY), name="contract_seats_in_range"),
            models.CheckConstraint(
                condition=Q(first_day__isnull=True) | Q(last_day__isnull=True) | Q(last_day__gte=F("first_day")),
                name="contract_ends_after_start",
                violation_error_message="The last day must not be before the first.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tool}: {self.terms}"

    @property
    def terms(self) -> str:
        """Return the seats, the days and the reference."""
        match self.first_day, self.last_day:
            case None, None:
                days = "without end"
            case None, last:
                days = f"until {last}"
            case first, None:
                days = f"from {first}"
            case first, last:
                days = f"{first} to {last}"
        seats = f"{self.seats} seat{'' if self.seats == 1 else 's'}"
        return ", ".join(filter(None, (seats, days, self.reference)))

    @property
    def starts_at(self) -> datetime | None:
        """Return the moment from which it is valid, or None."""
        return _midnight(self.first_day) if self.first_day else None

    @property
    def ends_at(self) -> datetime | None:
        """Return the first moment after it, or None."""
        return _midnight(self.last_day + timedelta(days=1)) if self.last_day else None

    def cost_between(self, start: datetime, end: datetime) -> Decimal | None:
        """Return the part of the price for a time, spread evenly over the days of the contract. None without
        a price, a first or a last day."""
        if self.price is None or self.starts_at is None or self.ends_at is None:
            return None
        within = max(min(end, self.ends_at) - max(start, self.starts_at), timedelta(0))
        return (
            self.price
            * Decimal(within / timedelta(seconds=1))
            / Decimal((self.ends_at - self.starts_at) / timedelta(seconds=1))
        )


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The seats of some contracts over time: ``before`` all their dates, and after each change, in order."""

    before: int
    changes: tuple[tuple[datetime, int], ...]

    @classmethod
    def of(cls, contracts: Iterable[Contract]) -> "Schedule":
        """Return the schedule of these contracts of one tool."""
        before, steps = 0, dict[datetime, int]()
        for contract in contracts:
            if contract.starts_at is None:
                before += contract.seats
            else:
                steps[contract.starts_at] = steps.get(contract.starts_at, 0) + contract.seats
            if contract.ends_at is not None:
                steps[contract.ends_at] = steps.get(contract.ends_at, 0) - contract.seats
        moments = sorted(moment for moment, step in steps.items() if step)
        seats = list(accumulate((steps[moment] for moment in moments), initial=before))[1:]
        return cls(before, tuple(zip(moments, seats, strict=True)))

    def at(self, moment: datetime) -> int:
        """Return the seats that are valid at a moment."""
        return next((seats for at, seats in reversed(self.changes) if at <= moment), self.before)

    def just_before(self, moment: datetime) -> int:
        """Return the seats that are valid until a moment."""
        return next((seats for at, seats in reversed(self.changes) if at < moment), self.before)

    def next_change(self, moment: datetime) -> datetime | None:
        """Return the first moment after this one at which the seats change, or None."""
        return next((at for at, _ in self.changes if at > moment), None)

    def between(self, start: datetime, end: datetime) -> list[tuple[datetime, int]]:
        """Return the changes from ``start`` to ``end``, both included."""
        return [(at, seats) for at, seats in self.changes if start <= at <= end]

    @property
    def most(self) -> int:
        """Return the most seats that are valid at once."""
        return max([self.before, *(seats for _, seats in self.changes)])
