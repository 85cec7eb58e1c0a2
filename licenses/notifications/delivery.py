"""Send what is in the outbox: at least once, and by one sweeper at a time.

A sweeper claims deliveries by moving their ``due_at`` past the longest attempt (``CLAIM``), and commits. Then it
sends them, and marks them. If it dies in between, another one sends them again after ``CLAIM``, with the same id:
the receiver drops a repeated message by that id. Nothing is locked while a message is on its way.
"""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q

from licenses import auditing
from licenses.auditing import Actor
from licenses.clock import database_now
from licenses.models import Delivery, DeliveryState, Webhook, WebhookKind

from . import mail, outbox, webhooks
from .attempts import Attempt

logger = logging.getLogger(__name__)

# Longer than any attempt.
CLAIM = timedelta(minutes=5)
# Deliveries that one message of mail or chat joins at most.
TOGETHER = 100
# The pause before the second attempt, which doubles with each, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)
# Given up after this time, or when the notification is of no use any more.
GIVEN_UP_AFTER = timedelta(days=3)
NOT_IN_TIME = "Not sent in time"


@dataclass(frozen=True, slots=True)
class Delivered:
    """The numbers of deliveries that were sent, will be tried again, and were given up."""

    sent: int = 0
    postponed: int = 0
    given_up: int = 0

    def __add__(self, other: "Delivered") -> "Delivered":
        return Delivered(self.sent + other.sent, self.postponed + other.postponed, self.given_up + other.given_up)


def deliver(*, stopped: Callable[[], bool] = lambda: False) -> Delivered:
    """Send all that is due, until nothing is or ``stopped`` says so, and return what became of it.

    Safe to run in many copies at once.
    """
    done = Delivered(given_up=_give_up())
    while not stopped() and (claimed := _claim()):
        done += _send(claimed)
    return done


def pause_after(attempts: int) -> timedelta:
    """Return the pause after this number of attempts: exponential, up to ``LONGEST_PAUSE``, with jitter, so that
    not all messages come back at once after an outage."""
    full: timedelta = min(FIRST_PAUSE * 2 ** min(attempts - 1, 20), LONGEST_PAUSE)
    return full * random.uniform(0.5, 1)  # noqa: S311


def _give_up() -> int:
    """Give up what is too old, and return how many deliveries that were."""
    now = database_now()
    # Without an attempt it was just sent again by hand.
    tried_for_long = Q(notification__created_at__lte=now - GIVEN_UP_AFTER, attempts__gt=0)
    useless = Q(notification__useful_until__lte=now) | tried_for_long
    old = list(Delivery.objects.due(now).filter(useless).values_list("pk", flat=True))
    rows = Delivery.objects.due(now).filter(pk__in=old)
    rows.filter(answer="").update(answer=NOT_IN_TIME)
    return rows.update(state=DeliveryState.FAILED, closed_at=now)


@transaction.atomic
def _claim() -> list[Delivery]:
    """Claim a delivery that is due, with others of its kind that go into the same message.

    The one with the fewest attempts comes first: a message on which a receiver fails keeps back no other.
    """
    now = database_now()
    free = Delivery.objects.due(now).select_for_update(no_key=True, skip_locked=True, of=("self",))
    first = free.select_related("notification", "webhook").order_by("attempts", "due_at", "pk").first()
    if first is None:
        return []
    claimed = [first]
    is_alone = first.notification.event in outbox.BY_MAIL_ONLY or (
        first.webhook is not None and first.webhook.kind == WebhookKind.JSON
    )
    if not is_alone:
        alike = free.filter(
            address=first.address, webhook=first.webhook, notification__event=first.notification.event
        ).exclude(pk=first.pk)
        claimed += alike.select_related("notification", "webhook").order_by("due_at", "pk")[: TOGETHER - 1]
    rows = Delivery.objects.filter(pk__in=[delivery.pk for delivery in claimed])
    rows.update(due_at=now + CLAIM, attempts=F("attempts") + 1)
    for delivery in claimed:
        delivery.due_at, delivery.attempts = now + CLAIM, delivery.attempts + 1
    return claimed


def _send(claimed: Sequence[Delivery]) -> Delivered:
    """Send claimed deliveries as one message, and mark them."""
    first = claimed[0]
    notifications = [delivery.notification for delivery in claimed]
    message_id = str(first.notification_id)
    try:
        if first.webhook is None:
            # Several addresses can get the same notification, each in its own message.
            attempt = mail.send(first.address, notifications, message_id=f"{message_id}.{first.pk}")
        elif not first.webhook.enabled:
            attempt = Attempt(False, "The webhook is disabled", is_final=True)
        else:
            attempt = webhooks.send(first.webhook, notifications, message_id=message_id)
    except Exception:
        # A defect in one message must not keep back the others.
        logger.exception("Notification %s failed", message_id)
        attempt = Attempt(False, "A defect of the server; its log has the details")
    if not attempt.succeeded:
        level = logging.INFO if attempt.is_withdrawn else logging.WARNING
        logger.log(level, "Not delivered by %s: %s", first.webhook or "mail", attempt.answer)
    return _mark(claimed, attempt)


@transaction.atomic
def _mark(claimed: Sequence[Delivery], attempt: Attempt) -> Delivered:
    """Write the outcome, unless another sweeper has claimed them since."""
    now = database_now()
    first, answer = claimed[0], attempt.answer[:300]
    rows = Delivery.objects.waiting().filter(pk__in=[delivery.pk for delivery in claimed], due_at=first.due_at)
    if attempt.succeeded:
        return Delivered(sent=rows.update(state=DeliveryState.SENT, closed_at=now, answer=answer))
    if attempt.is_withdrawn:
        rows.update(state=DeliveryState.WITHDRAWN, closed_at=now, answer=answer)
        return Delivered()
    if attempt.is_gone and first.webhook is not None:
        _disable(first.webhook)
    if attempt.is_final:
        return Delivered(given_up=rows.update(state=DeliveryState.FAILED, closed_at=now, answer=answer))
    asked = attempt.retry_after or timedelta(0)
    pause = max(pause_after(max(delivery.attempts for delivery in claimed)), asked)
    postponed = rows.update(due_at=now + pause, answer=answer)
    if attempt.is_of_channel:
        _hold_back(first, now, now + max(pause_after(1), asked))
    return Delivered(postponed=postponed)


def _hold_back(failed: Delivery, now: datetime, until: datetime) -> None:
    """Postpone the other messages for a receiver that does not answer, so that each does not wait for it too.

    Only by a first pause: the receiver may fail on this one message.
    """
    others = Delivery.objects.due(now).filter(webhook=failed.webhook)
    others.update(due_at=until)


def _disable(webhook: Webhook) -> None:
    with auditing.changing(webhook, by=Actor.of_command("expire_leases")):
        Webhook.objects.filter(pk=webhook.pk).update(enabled=False)
