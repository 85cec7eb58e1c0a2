"""Read and store which notifications a person gets, and how."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction

from licenses.models import Event, NotificationPreference, Webhook

from . import month_costs, outbox

# An event and a channel: the id of a webhook, or None for mail.
Choice = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class Choices:
    """What a person can choose: events, and mail or webhooks; and what they have chosen."""

    events: Sequence[Event]
    mail: bool
    webhooks: Sequence[Webhook]
    wanted: Collection[Choice]

    @property
    def all(self) -> list[Choice]:
        """Return every choice that the person has."""
        return [(event, channel) for event in self.events for channel in self.channels_of(event)]

    def channels_of(self, event: Event) -> list[int | None]:
        """Return the channels that an event can come by."""
        webhooks = [] if event in outbox.BY_MAIL_ONLY else [webhook.pk for webhook in self.webhooks]
        return [*([None] if self.mail else []), *webhooks]


def choices_of(account: User) -> Choices:
    """Return the choices of an account."""
    events = [*outbox.PERSONAL]
    if account.is_superuser:
        events += [event for event in outbox.FOR_ADMINISTRATORS if event not in outbox.PERSONAL]
    if outbox.can_mail() and month_costs.views_of(account):
        events.append(Event.MONTH_COSTS)
    webhooks = list(Webhook.objects.enabled().filter(for_people=True))
    chosen = NotificationPreference.objects.filter(account=account).order_by()
    stored = {(row.event, row.webhook_id): row.wanted for row in chosen}
    wanted = {
        (str(event), webhook.pk if webhook else None)
        for event in events
        for webhook in (None, *webhooks)
        if stored.get((event, webhook.pk if webhook else None), outbox.is_wanted_by_default(event, webhook))
    }
    return Choices(events, outbox.can_mail(), webhooks, wanted)


@transaction.atomic
def choose(account: User, *, wanted: Collection[Choice]) -> None:
    """Store what a person wants of what they can choose. Their own defaults are not stored."""
    # One at a time for each person, because two pages may be saved at once.
    User.objects.select_for_update(no_key=True).get(pk=account.pk)
    choices = choices_of(account)
    webhooks = {webhook.pk: webhook for webhook in choices.webhooks}
    for event, channel in choices.all:
        webhook = webhooks[channel] if channel is not None else None
        row: dict[str, Any] = {"account": account, "event": event, "webhook": webhook}
        is_wanted = (event, channel) in wanted
        if is_wanted == outbox.is_wanted_by_default(Event(event), webhook):
            NotificationPreference.objects.filter(**row).delete()
        else:
            NotificationPreference.objects.update_or_create(**row, defaults={"wanted": is_wanted})
