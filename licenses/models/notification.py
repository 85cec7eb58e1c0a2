"""Notifications: what people and administrators hear of, and how it reaches them."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import Count, Min, Q
from django.db.models.functions import Now

from licenses.names import NAME_LENGTH

from .team import validate_name

# How long the metrics count a delivery that was given up.
FAILURES_SHOWN = timedelta(days=1)


class Event(models.TextChoices):
    """What a notification is about. Part of the payload of webhooks: add events, do not rename them."""

    SEAT_OFFERED = "seat_offered", "A seat is offered"
    LEASE_ENDING = "lease_ending", "A lease ends soon"
    LEASE_FORCED = "lease_forced", "An administrator ended a lease"
    TOKEN_ENDS = "token_ends", "An API token ends"
    LICENSE_ENDS = "license_ends", "A license ends"
    CONTRACT_ENDS = "contract_ends", "A contract ends"
    TOOL_EXHAUSTED = "tool_exhausted", "A tool has no free seat, and people wait"
    QUEUE_LONG = "queue_long", "A queue is too long"
    MONTH_COSTS = "month_costs", "Monthly costs"
    TEST = "test", "A test"


class WebhookKind(models.TextChoices):
    """The form of the messages that a webhook understands."""

    JSON = "json", "JSON (Standard Webhooks)"
    SLACK = "slack", "Slack"
    TEAMS = "teams", "Microsoft Teams"
    MATTERMOST = "mattermost", "Mattermost"


class WebhookQuerySet(models.QuerySet["Webhook"]):
    def enabled(self) -> "WebhookQuerySet":
        """Return the webhooks that get messages."""
        return self.filter(enabled=True)


class Webhook(models.Model):
    """An address of another program that notifications are posted to.

    The address and the secret are encrypted (``licenses.sealing``), because both give access. They
    can be replaced, and nobody can read them in the admin.
    """

    name = models.CharField(max_length=64, unique=True, validators=[validate_name])
    kind = models.CharField(max_length=16, choices=WebhookKind, default=WebhookKind.JSON)
    host = models.CharField(max_length=255, help_text="The host of the address.")
    sealed_url = models.TextField(editable=False)
    sealed_secret = models.TextField(editable=False)
    events: "models.JSONField[Any, Any]" = models.JSONField(
        default=list, blank=True, help_text="The events that are posted, for all users and tools."
    )
    for_people = models.BooleanField(
        default=False,
        help_text="People can choose it for their own notifications. All readers of its channel see the names.",
    )
    enabled = models.BooleanField(default=True)

    objects = WebhookQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class NotificationPreference(models.Model):
    """Whether a person wants an event by mail, or by a webhook. A missing row is the default.

    As for sessions, the account is no constraint: the previous version deletes accounts without this table.
    """

    account = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", db_constraint=False
    )
    event = models.CharField(max_length=32, choices=[choice for choice in Event.choices if choice[0] != Event.TEST])
    webhook = models.ForeignKey(
        Webhook, null=True, blank=True, on_delete=models.CASCADE, related_name="+", help_text="Empty = mail."
    )
    wanted = models.BooleanField(default=True)

    class Meta:
        ordering = ["account__username", "event", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "event"], condition=Q(webhook__isnull=True), name="preference_one_of_mail"
            ),
            models.UniqueConstraint(
                fields=["account", "event", "webhook"],
                condition=Q(webhook__isnull=False),
                name="preference_one_a_webhook",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account}: {self.get_event_display()}, by {self.webhook or 'mail'}"


class Notification(models.Model):
    """One occasion that somebody hears of: the outbox. ``licenses.notifications.outbox`` writes it.

    The event and the key identify the occasion, so that every sweeper finds it and one records it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    event = models.CharField(max_length=32, choices=Event)
    key = models.CharField(max_length=400)
    user = models.CharField(max_length=NAME_LENGTH, blank=True, help_text="Empty = for administrators.")
    tool = models.CharField(max_length=64, blank=True)
    facts: "models.JSONField[Any, Any]" = models.JSONField(default=dict, encoder=DjangoJSONEncoder)
    created_at = models.DateTimeField()
    useful_until = models.DateTimeField(help_text="It is not sent after this time.")

    class Meta:
        ordering = ["-created_at", "-pk"]
        constraints = [models.UniqueConstraint(fields=["event", "key"], name="notification_once_an_occasion")]
        indexes = [
            # For the last one about a tool.
            models.Index(fields=["event", "tool", "-created_at"], name="notification_of_tool"),
            # For the deletion of old ones.
            models.Index(fields=["useful_until"], name="notification_by_use"),
        ]

    def __str__(self) -> str:
        return f"{self.get_event_display()} ({self.key})"


@dataclass(frozen=True, slots=True)
class ChannelLevels:
    """The deliveries of one channel: those that wait, for how long the oldest has, and those given up lately."""

    channel: str
    waiting: int = 0
    oldest_seconds: float = 0
    failed: int = 0


class DeliveryState(models.TextChoices):
    WAITING = "waiting"
    SENT = "sent"
    FAILED = "failed"  # given up
    WITHDRAWN = "withdrawn"  # the person may not see it or does not want it any more


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    # ``now`` is a time of the database, or Now().

    def waiting(self) -> "DeliveryQuerySet":
        """Return the deliveries that are not sent, given up or withdrawn."""
        return self.filter(state=DeliveryState.WAITING)

    def due(self, now: datetime | Now) -> "DeliveryQuerySet":
        """Return the deliveries whose next attempt is due."""
        return self.waiting().filter(due_at__lte=now)

    def levels(self, now: datetime) -> list[ChannelLevels]:
        """Return the levels of mail and webhooks. Counts failures for ``FAILURES_SHOWN``, but not those of
        webhooks that are disabled. One statement, which reads only these rows."""
        waiting = Q(state=DeliveryState.WAITING)
        failed = Q(state=DeliveryState.FAILED, closed_at__gt=now - FAILURES_SHOWN) & ~Q(webhook__enabled=False)
        rows = (
            self.filter(waiting | failed)
            .order_by()
            .values(by_mail=models.ExpressionWrapper(Q(webhook__isnull=True), models.BooleanField()))
            .annotate(
                number=Count("pk", filter=waiting),
                oldest=Min("notification__created_at", filter=waiting),
                lost=Count("pk", filter=failed),
            )
        )
        found = {}
        for row in rows:
            age = max((now - row["oldest"]).total_seconds(), 0) if row["oldest"] else 0
            found[bool(row["by_mail"])] = row["number"], age, row["lost"]
        return [
            ChannelLevels(channel, *found.get(by_mail, ())) for channel, by_mail in (("mail", True), ("webhook", False))
        ]


class Delivery(models.Model):
    """A notification on its way to one mail address or webhook, and what became of it.

    A sweeper that claims it moves ``due_at`` past the longest attempt. So no other sweeper sends it
    meanwhile, and one does if the first dies.
    """

    notification = models.ForeignKey(Notification, on_delete=models.CASCADE, related_name="deliveries")
    address = models.CharField(max_length=254, blank=True, help_text="The mail address, or empty.")
    webhook = models.ForeignKey(Webhook, null=True, blank=True, on_delete=models.CASCADE, related_name="deliveries")
    state = models.CharField(max_length=16, choices=DeliveryState, default=DeliveryState.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    due_at = models.DateTimeField(help_text="The time of the next attempt.")
    closed_at = models.DateTimeField(null=True, blank=True)
    answer = models.CharField(max_length=300, blank=True, help_text="The answer to the last attempt, or its error.")

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        verbose_name_plural = "deliveries"
        constraints = [
            models.CheckConstraint(
                condition=Q(address="", webhook__isnull=False) | (~Q(address="") & Q(webhook__isnull=True)),
                name="delivery_by_mail_or_webhook",
            ),
            models.CheckConstraint(
                condition=Q(state=DeliveryState.WAITING, closed_at__isnull=True)
                | (~Q(state=DeliveryState.WAITING) & Q(closed_at__isnull=False)),
                name="delivery_is_open_while_waiting",
            ),
            models.UniqueConstraint(
                fields=["notification", "address"], condition=Q(webhook__isnull=True), name="delivery_one_an_address"
            ),
            models.UniqueConstraint(
                fields=["notification", "webhook"], condition=Q(webhook__isnull=False), name="delivery_one_a_webhook"
            ),
        ]
        indexes = [
            # For the sweeper, and for the metrics.
            models.Index(fields=["due_at"], condition=Q(state="waiting"), name="delivery_waiting"),
            # For the metrics.
            models.Index(fields=["closed_at"], condition=Q(state="failed"), name="delivery_failed"),
        ]

    def __str__(self) -> str:
        return f"{self.notification.get_event_display()}, to {self.address or self.webhook}"
