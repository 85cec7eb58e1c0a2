"""The queue: tickets in the order of their numbers."""

import uuid
from datetime import datetime
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from licenses.names import NAME_LENGTH

from .fields import actor_field
from .lease import Lease
from .team import Team
from .tool import Tool


class TicketState(models.TextChoices):
    WAITING = "waiting", "Waiting"
    GRANTED = "granted", "Granted"
    TIMED_OUT = "timed_out", "Timed out"  # reached its deadline
    DROPPED = "dropped", "Dropped"  # the client stopped polling, or did not take an offered seat
    LEFT = "left", "Left"  # the client left the queue


class TicketQuerySet(models.QuerySet["Ticket"]):
    # ``now`` is a time of the database, or Now().

    def waiting(self) -> "TicketQuerySet":
        """Return tickets that are not closed. They may be dead."""
        return self.filter(state=TicketState.WAITING)

    def live(self, now: datetime | Now) -> "TicketQuerySet":
        """Return tickets that have a place in the queue."""
        return self.waiting().filter(alive_until__gt=now)

    def dead(self, now: datetime | Now) -> "TicketQuerySet":
        """Return open tickets whose time is over."""
        return self.waiting().filter(alive_until__lte=now)


class Ticket(models.Model):
    """One waiting borrow.

    It lives until ``alive_until``. Each poll extends that, at most to the ``deadline``. A
    dead ticket blocks no seats, even before it is closed.

    Nobody polls a ticket that is ``kept``: the sweeper extends it, and offers it the seats
    when they are there. From ``offered_at`` on it lives for the offer window.
    """

    # The order in the queue. Created under the locks of the ticket's tools, so that the
    # numbers of tickets for one tool follow the order of arrival.
    number = models.BigAutoField(primary_key=True)
    id = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    user = models.CharField(max_length=NAME_LENGTH)
    team = models.ForeignKey(Team, null=True, on_delete=models.PROTECT, related_name="+", db_index=False)
    project = models.CharField(max_length=NAME_LENGTH, blank=True, db_default="")
    host = models.CharField(max_length=NAME_LENGTH, blank=True)
    ttl = models.DurationField(null=True)
    # [{"number": 0, "items": [{"tool": ..., "seats": ...}, ...]}, ...], the preferred one first.
    alternatives: "models.JSONField[Any, Any]" = models.JSONField(encoder=DjangoJSONEncoder)
    state = models.CharField(max_length=16, choices=TicketState, default=TicketState.WAITING)
    created_at = models.DateTimeField()
    alive_until = models.DateTimeField()
    deadline = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)
    lease = models.ForeignKey(Lease, null=True, on_delete=models.PROTECT, related_name="+", db_index=False)
    alternative = models.PositiveSmallIntegerField(default=0)
    kept = models.BooleanField(
        default=False,
        db_default=False,
        editable=False,
        help_text="The server keeps its place without polls, because a person took it on a page.",
    )
    offered_at = models.DateTimeField(
        null=True, editable=False, help_text="The time at which seats were offered to it; empty = not yet."
    )
    borrowed_by = actor_field("The account or token that joined the queue for the user; empty = the user.")

    objects = TicketQuerySet.as_manager()

    class Meta:
        ordering = ["number"]
        constraints = [
            models.CheckConstraint(
                condition=Q(alive_until__lte=F("deadline")), name="ticket_lives_to_its_deadline_at_most"
            ),
            models.CheckConstraint(
                condition=Q(state=TicketState.WAITING, closed_at__isnull=True)
                | (~Q(state=TicketState.WAITING) & Q(closed_at__isnull=False)),
                name="ticket_is_open_while_waiting",
            ),
            models.CheckConstraint(
                condition=Q(state=TicketState.GRANTED, lease__isnull=False)
                | (~Q(state=TicketState.GRANTED) & Q(lease__isnull=True)),
                name="ticket_granted_has_a_lease",
            ),
        ]
        indexes = [
            # For the sweeper.
            models.Index(fields=["alive_until"], condition=Q(state="waiting"), name="ticket_open_by_life"),
            # For reports on waits, and for the deletion of old tickets.
            models.Index(fields=["closed_at"], condition=Q(closed_at__isnull=False), name="ticket_by_close"),
            # For the foreign key, when leases are deleted.
            models.Index(fields=["lease"], condition=Q(lease__isnull=False), name="ticket_by_lease"),
        ]

    def __str__(self) -> str:
        return f"{self.user}, number {self.number}"


class TicketClaimQuerySet(models.QuerySet["TicketClaim"]):
    def live(self, now: datetime | Now) -> "TicketClaimQuerySet":
        """Return claims of tickets that still wait at ``now``, the database's time."""
        return self.filter(ticket__state=TicketState.WAITING, ticket__alive_until__gt=now)


class TicketClaim(models.Model):
    """The seats of one tool that an open ticket wants. Deleted when the ticket closes, so that the
    table is as long as the queue."""

    ticket = models.ForeignKey(Ticket, on_delete=models.CASCADE, related_name="claims", db_index=False)
    tool = models.ForeignKey(Tool, on_delete=models.PROTECT, related_name="+", db_index=False)
    seats = models.PositiveIntegerField(validators=[MinValueValidator(1)])

    objects = TicketClaimQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["ticket", "tool"], name="ticketclaim_one_a_tool"),
            models.CheckConstraint(condition=Q(seats__gte=1), name="ticketclaim_seats_at_least_one"),
        ]
        indexes = [
            # For the tickets ahead in a tool's queue.
            models.Index(fields=["tool", "ticket"], name="ticketclaim_queue"),
        ]

    def __str__(self) -> str:
        return f"{self.seats} x {self.tool} for {self.ticket}"
