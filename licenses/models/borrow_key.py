"""Idempotency keys: the answers of borrows, for repeated calls."""

import uuid
from datetime import datetime, timedelta

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from licenses.names import NAME_LENGTH

from .lease import Lease
from .ticket import Ticket

# The time for which a key is kept after its use and after the end of its lease.
KEPT = timedelta(days=1)


class BorrowKeyQuerySet(models.QuerySet["BorrowKey"]):
    def forget(self, now: datetime, *, at_most: int) -> int:
        """Delete at most ``at_most`` outdated keys and return their number. Simultaneous calls delete
        different keys."""
        rows = self.outdated(now).order_by("created_at").select_for_update(skip_locked=True, of=("self",))
        deleted, _ = self.filter(pk__in=list(rows.values_list("pk", flat=True)[:at_most])).delete()
        return deleted

    def outdated(self, now: datetime) -> "BorrowKeyQuerySet":
        """Return keys that are too old for a retry."""
        long_ago = now - KEPT
        return self.filter(created_at__lt=long_ago).filter(
            Q(refusal__gt="")
            | Q(lease__ended_at__lt=long_ago)
            | Q(ticket__closed_at__lt=long_ago, ticket__lease__isnull=True)
            | Q(ticket__lease__ended_at__lt=long_ago)
        )


class BorrowKey(models.Model):
    """The outcome of one borrow: a lease, a ticket or a refusal.

    The transaction of the decision writes it. Refusals are stored too: otherwise a
    delayed first attempt could take a seat after its retry was refused.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    caller = models.CharField(max_length=NAME_LENGTH)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of the request.")
    created_at = models.DateTimeField(db_default=Now())
    lease = models.ForeignKey(Lease, null=True, on_delete=models.PROTECT, related_name="+", db_index=False)
    # The values at the time of the grant.
    alternative = models.PositiveSmallIntegerField(default=0)
    expires_at = models.DateTimeField(null=True)
    ticket = models.ForeignKey(Ticket, null=True, on_delete=models.PROTECT, related_name="+", db_index=False)
    refusal = models.CharField(max_length=32, blank=True, help_text="The refusal's code.")
    detail = models.TextField(blank=True)
    # JSON as text, because PostgreSQL's JSON type would change the order of the members.
    facts = models.TextField(blank=True)

    objects = BorrowKeyQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["caller", "key"], name="borrowkey_once_a_caller"),
        ]
        indexes = [
            # For the sweeper.
            models.Index(fields=["created_at"], name="borrowkey_by_age"),
            # For the foreign keys, when leases and tickets are deleted.
            models.Index(fields=["lease"], condition=Q(lease__isnull=False), name="borrowkey_by_lease"),
            models.Index(fields=["ticket"], condition=Q(ticket__isnull=False), name="borrowkey_by_ticket"),
        ]

    def __str__(self) -> str:
        return f"{self.caller}: {self.key}"
