"""Record what somebody should hear of, and where it goes. The sweeper sends it (``delivery``).

No borrow, heartbeat or return comes here.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet

from licenses.clock import database_now
from licenses.models import Delivery, DeliveryState, Event, Notification, NotificationPreference, Webhook

# Events about a user's own seats and tokens; the others are for administrators.
PERSONAL = (Event.SEAT_OFFERED, Event.LEASE_ENDING, Event.LEASE_FORCED, Event.TOKEN_ENDS)
FOR_ADMINISTRATORS = (
    Event.LICENSE_ENDS,
    Event.CONTRACT_ENDS,
    Event.TOKEN_ENDS,
    Event.TOOL_EXHAUSTED,
    Event.QUEUE_LONG,
)
# Confidential: each in a mail of its own, and in no channel that others read.
BY_MAIL_ONLY = frozenset({Event.MONTH_COSTS})
TEST_KEPT = timedelta(hours=1)
# Mailed unless the person says otherwise. Crowded tools can come several times a day.
MAILED_BY_DEFAULT = frozenset(Event) - {Event.TOOL_EXHAUSTED, Event.QUEUE_LONG, Event.MONTH_COSTS}


@dataclass(frozen=True, slots=True)
class Occasion:
    """Something that happened or is about to.

    The ``event`` with the ``key`` identifies it: an occasion is recorded once. ``user`` is the
    person it is for; the administrators if empty. It is of no use after ``useful_until``.
    ``facts`` are JSON, with times as datetime.
    """

    event: Event
    key: str
    useful_until: datetime
    user: str = ""
    tool: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def record(
    event: Event,
    *,
    key: str,
    useful_until: datetime,
    user: str = "",
    tool: str = "",
    facts: Mapping[str, Any] | None = None,
) -> bool:
    """Record one occasion (``Occasion`` has the arguments), and return whether it is new and goes somewhere.

    Part of the caller's transaction, if there is one. A few statements, so never call it while a tool is locked
    for a borrow.
    """
    return record_all([Occasion(event, key, useful_until, user, tool, facts or {})]) == 1


def record_all(occasions: Iterable[Occasion]) -> int:
    """Record these occasions, and return how many are new and go somewhere.

    One that nobody wants, or that came too late, is not recorded. Several processes can record the same ones.
    """
    now = database_now()
    wanted = [occasion for occasion in occasions if occasion.useful_until > now]
    if not wanted:
        return 0
    routes = Routes.of(wanted)
    rows = {}
    for occasion in wanted:
        if deliveries := routes.deliveries(occasion):
            notification = Notification(
                event=occasion.event,
                key=occasion.key,
                user=occasion.user,
                tool=occasion.tool,
                facts=dict(occasion.facts),
                created_at=now,
                useful_until=occasion.useful_until,
            )
            rows[notification.pk] = notification, deliveries
    if not rows:
        return 0
    with transaction.atomic():
        Notification.objects.bulk_create([notification for notification, _ in rows.values()], ignore_conflicts=True)
        # Those of others have other ids.
        mine = set(Notification.objects.filter(pk__in=rows).order_by().values_list("pk", flat=True))
        due = [(pk, delivery) for pk in mine for delivery in rows[pk][1]]
        for pk, delivery in due:
            delivery.notification_id, delivery.due_at = pk, now
        Delivery.objects.bulk_create(delivery for _, delivery in due)
    return len(mine)


@transaction.atomic
def record_test(webhook: Webhook, *, by: str) -> None:
    """Record a test for one webhook, which the sweeper sends as everything else; ``by`` asked for it."""
    now = database_now()
    test = Notification.objects.create(
        event=Event.TEST, key=str(uuid.uuid4()), facts={"by": by}, created_at=now, useful_until=now + TEST_KEPT
    )
    Delivery.objects.create(notification=test, webhook=webhook, due_at=now)


@transaction.atomic
def send_again(deliveries: QuerySet[Delivery]) -> int:
    """Let the sweeper send again what was given up and is still of use; return the number."""
    now = database_now()
    failed = Delivery.objects.filter(pk__in=list(deliveries.values_list("pk", flat=True)), state=DeliveryState.FAILED)
    useful = list(failed.filter(notification__useful_until__gt=now).values_list("pk", flat=True))
    return failed.filter(pk__in=useful).update(state=DeliveryState.WAITING, closed_at=None, due_at=now, attempts=0)


def can_mail() -> bool:
    """Return whether a mail server is configured."""
    return bool(settings.EMAIL_HOST)


def is_in_use() -> bool:
    """Return whether anything can be sent: without a mail server and webhooks nothing needs to be looked for."""
    return can_mail() or Webhook.objects.enabled().exists()


def is_wanted_by_default(event: Event, webhook: Webhook | None) -> bool:
    """Return whether a person without a preference gets the event by mail, or by a webhook for people."""
    return webhook is None and event in MAILED_BY_DEFAULT


@dataclass(frozen=True, slots=True)
class Routes:
    """Where notifications go: the accounts with what they want, and the webhooks."""

    people: Mapping[str, User]
    administrators: Sequence[User]
    webhooks: Sequence[Webhook]
    # By account and event: whether a channel is wanted; None is mail.
    preferences: Mapping[tuple[int, str], Mapping[int | None, bool]]

    @classmethod
    def of(cls, occasions: Sequence[Occasion]) -> "Routes":
        """Read the routes for these occasions: at most four statements."""
        users = {occasion.user for occasion in occasions if occasion.user}
        active = User.objects.filter(is_active=True)
        people = {account.username: account for account in active.filter(username__in=users)} if users else {}
        administrators = list(active.filter(is_superuser=True)) if any(not occ.user for occ in occasions) else []
        preferences: defaultdict[tuple[int, str], dict[int | None, bool]] = defaultdict(dict)
        for row in NotificationPreference.objects.filter(account__in=[*people.values(), *administrators]).order_by():
            preferences[row.account_id, row.event][row.webhook_id] = row.wanted
        return cls(people, administrators, list(Webhook.objects.enabled()), preferences)

    def deliveries(self, occasion: Occasion) -> list[Delivery]:
        """Return the unsaved deliveries of an occasion, each address and webhook once."""
        person = self.people.get(occasion.user)
        accounts = self.administrators if not occasion.user else [person] if person else []
        addresses = [account.email for account in accounts if self._wants(account, occasion.event, None)]
        posted = [
            webhook
            for webhook in (self.webhooks if occasion.event not in BY_MAIL_ONLY else ())
            if occasion.event in webhook.events
            or (webhook.for_people and any(self._wants(account, occasion.event, webhook) for account in accounts))
        ]
        mails = [Delivery(address=address) for address in dict.fromkeys(filter(None, addresses))] if can_mail() else []
        return [*mails, *(Delivery(webhook=webhook) for webhook in posted)]

    def _wants(self, account: User, event: Event, webhook: Webhook | None) -> bool:
        chosen = self.preferences.get((account.pk, event), {})
        return chosen.get(webhook.pk if webhook else None, is_wanted_by_default(event, webhook))
