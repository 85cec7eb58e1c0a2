"""What is recorded for people and administrators, once for each occasion, and where it goes."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone

from licenses.models import Delivery, Event, Notification, NotificationPreference, Webhook
from licenses.notifications import outbox
from licenses.sealing import Unreadable, seal, unseal

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def mail_server(settings: Any) -> None:
    settings.EMAIL_HOST = "mail.example.com"


def account(name: str = "ana", **values: Any) -> User:
    return User.objects.create_user(name, f"{name}@example.com", **values)


def webhook(name: str = "chat", **values: Any) -> Webhook:
    given: dict[str, Any] = {"host": "chat.example.com", "sealed_url": "", "sealed_secret": ""} | values
    return Webhook.objects.create(name=name, **given)


def soon() -> datetime:
    return timezone.now() + timedelta(minutes=10)


def offer(user: str = "ana", key: str = "1") -> bool:
    return outbox.record(Event.SEAT_OFFERED, key=key, user=user, tool="cad", useful_until=soon())


def addressees() -> set[str]:
    return {delivery.address or str(delivery.webhook) for delivery in Delivery.objects.select_related("webhook")}


def test_an_occasion_is_recorded_once() -> None:
    account()
    assert [offer(), offer(), offer(key="2")] == [True, False, True]
    assert (Notification.objects.count(), Delivery.objects.count()) == (2, 2)


def test_a_person_hears_of_their_own_seats_and_administrators_of_the_server() -> None:
    account("ana")
    account("root", is_superuser=True)
    account("gone", is_superuser=True, is_active=False)
    offer("ana")
    assert addressees() == {"ana@example.com"}
    outbox.record(Event.LICENSE_ENDS, key="cad", tool="cad", useful_until=soon())
    assert addressees() == {"ana@example.com", "root@example.com"}


def test_what_reaches_nobody_is_not_recorded(settings: Any) -> None:
    User.objects.create_user("without")
    account("locked", is_active=False)
    assert not any([offer("without"), offer("locked"), offer("unknown")])
    account("ana")
    settings.EMAIL_HOST = ""
    assert not offer()
    assert not Notification.objects.exists()


def test_what_came_too_late_is_not_recorded() -> None:
    account()
    assert not outbox.record(Event.SEAT_OFFERED, key="1", user="ana", useful_until=timezone.now())


def test_a_person_chooses_what_comes_by_mail() -> None:
    ana = account("ana")
    NotificationPreference.objects.create(account=ana, event=Event.SEAT_OFFERED, wanted=False)
    assert not offer()
    root = account("root", is_superuser=True)
    crowded: dict[str, Any] = {"tool": "cad", "useful_until": soon()}
    assert not outbox.record(Event.QUEUE_LONG, key="1", **crowded)
    NotificationPreference.objects.create(account=root, event=Event.QUEUE_LONG)
    assert outbox.record(Event.QUEUE_LONG, key="1", **crowded)
    assert addressees() == {"root@example.com"}


def test_a_webhook_gets_the_events_of_its_list() -> None:
    webhook("chat", events=[Event.SEAT_OFFERED])
    webhook("off", events=[Event.SEAT_OFFERED], enabled=False)
    webhook("other", events=[Event.LEASE_FORCED])
    assert offer("somebody without an account")
    assert addressees() == {"chat"}


def test_a_person_chooses_a_webhook_that_is_for_people() -> None:
    chat, private = webhook("chat", for_people=True), webhook("private")
    ana = account()
    offer()
    assert addressees() == {"ana@example.com"}
    for chosen in (chat, private):
        NotificationPreference.objects.create(account=ana, event=Event.SEAT_OFFERED, webhook=chosen)
    offer(key="2")
    assert addressees() == {"ana@example.com", "chat"}


def test_recording_costs_the_same_for_one_and_for_many(
    django_assert_num_queries: Callable[..., Any],
) -> None:
    names = [account(f"user{number}").username for number in range(20)]
    webhook("chat", events=[Event.LEASE_ENDING])
    occasions = [outbox.Occasion(Event.LEASE_ENDING, name, soon(), user=name) for name in names]
    clock = 1 if connection.vendor == "postgresql" else 0
    # The routes, the transaction, and its rows.
    with django_assert_num_queries(clock + 3 + 2 + 3):
        assert outbox.record_all(occasions) == 20
    assert Delivery.objects.count() == 40


def test_a_sealed_text_is_read_with_the_key_and_its_former_ones(settings: Any) -> None:
    sealed = seal("https://hooks.example.com/T0/secret")
    assert "secret" not in sealed
    former, settings.SECRET_KEY = settings.SECRET_KEY, "another key of more than thirty-two characters"
    with pytest.raises(Unreadable):
        unseal(sealed)
    settings.SECRET_KEY_FALLBACKS = [former]
    assert unseal(sealed) == "https://hooks.example.com/T0/secret"
