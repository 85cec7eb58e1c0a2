"""The pages of notifications: what people choose, and what administrators set up and see."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from licenses.models import AuditRecord, Delivery, Event, Notification, NotificationPreference, Tool, Webhook
from licenses.notifications import outbox, preferences, webhooks
from licenses.sealing import unseal
from tests.support.quotas import SOMEBODY

pytestmark = pytest.mark.django_db

PAGE = "/notifications/"
SLACK = "https://hooks.slack.com/services/T0/B0/s3cr3t-path"
WEBHOOKS = "/admin/licenses/webhook/"


@pytest.fixture
def ana(settings: Any, client: Client) -> User:
    """Provide a person who has signed in, on a server that sends mail."""
    settings.EMAIL_HOST = "mail.example.com"
    ana = User.objects.create_user("ana", "ana@example.com")
    client.force_login(ana)
    return ana


def make_webhook(name: str = "chat", **values: Any) -> Webhook:
    webhook = Webhook(name=name, **values)
    webhooks.save(webhook, url=SLACK, by=SOMEBODY)
    return webhook


def boxes(client: Client) -> dict[str, bool]:
    """Return the boxes of the page, and whether they are ticked."""
    page = client.get(PAGE).content.decode()
    return {
        name: "checked" in rest for name, rest in re.findall(r'<input type="checkbox" name="([^"]+)"([^>]*)>', page)
    }


# --- People -----------------------------------------------------------------


def test_a_person_chooses_what_comes_and_how(ana: User, client: Client) -> None:
    chat = make_webhook(for_people=True)
    make_webhook("private")
    make_webhook("off", for_people=True, enabled=False)
    assert "ana@example.com" in client.get(PAGE).content.decode()
    personal = ("seat_offered", "lease_ending", "lease_forced", "token_ends")
    assert boxes(client) == {f"{event}.mail": True for event in personal} | {
        f"{event}.{chat.pk}": False for event in personal
    }
    answer = client.post(f"{PAGE}save/", {"seat_offered.mail": "on", f"lease_ending.{chat.pk}": "on"})
    assert (answer.status_code, answer["Location"]) == (302, PAGE)
    assert {name for name, ticked in boxes(client).items() if ticked} == {
        "seat_offered.mail",
        f"lease_ending.{chat.pk}",
    }
    # Only what differs from the default is stored.
    assert NotificationPreference.objects.count() == 4
    client.post(f"{PAGE}save/", {f"{event}.mail": "on" for event in personal})
    assert not NotificationPreference.objects.exists()


def test_a_person_chooses_nothing_for_others_and_nothing_that_is_not_offered(ana: User, client: Client) -> None:
    private = make_webhook("private")
    ben = User.objects.create_user("ben")
    client.post(f"{PAGE}save/", {f"seat_offered.{private.pk}": "on", "queue_long.mail": "on", "account": str(ben.pk)})
    stored = list(NotificationPreference.objects.all())
    assert {(row.account, row.webhook, row.wanted) for row in stored} == {(ana, None, False)}
    assert len(stored) == 4


def test_only_administrators_choose_what_is_for_administrators(ana: User, client: Client) -> None:
    assert "license_ends.mail" not in boxes(client)
    User.objects.update(is_superuser=True)
    ticked = boxes(client)
    assert ticked["license_ends.mail"]
    assert ticked["contract_ends.mail"]
    assert not ticked["queue_long.mail"]


@pytest.mark.parametrize("path", [PAGE, f"{PAGE}save/"])
def test_a_stranger_has_no_choices(path: str, client: Client, required: None) -> None:
    answer = client.post(path) if path.endswith("save/") else client.get(path)
    assert answer.status_code == 302
    assert answer["Location"].startswith("/signin")


def test_the_page_says_why_nothing_comes(client: Client, settings: Any) -> None:
    settings.EMAIL_HOST = ""
    client.force_login(User.objects.create_user("ben"))
    assert "This server sends no messages yet" in client.get(PAGE).content.decode()
    settings.EMAIL_HOST = "mail.example.com"
    assert "Your account has no mail address" in client.get(PAGE).content.decode()


def test_the_choices_of_a_person_go_with_the_account(ana: User, client: Client, admin_client: Client) -> None:
    preferences.choose(ana, wanted=())
    assert NotificationPreference.objects.exists()
    admin_client.post(f"/admin/auth/user/{ana.pk}/delete/", {"post": "yes"})
    assert not User.objects.filter(username="ana").exists()
    assert not NotificationPreference.objects.exists()


# --- Webhooks in the admin ----------------------------------------------------


def add(admin: Client, **values: Any) -> Any:
    form = {"name": "chat", "kind": "slack", "address": SLACK, "events": ["license_ends"], "enabled": "on"} | values
    return admin.post(f"{WEBHOOKS}add/", form)


def secret_on(page: str) -> str:
    secret: str
    (secret,) = re.findall(r"whsec_[A-Za-z0-9+/=]+", page)
    return secret


def test_an_administrator_makes_a_webhook_whose_secret_is_shown_once(admin_client: Client) -> None:
    answer = add(admin_client)
    assert answer.status_code == 200
    secret = secret_on(answer.content.decode())
    webhook = Webhook.objects.get()
    assert (webhook.host, webhook.events, webhook.kind) == ("hooks.slack.com", ["license_ends"], "slack")
    assert (unseal(webhook.sealed_url), unseal(webhook.sealed_secret)) == (SLACK, secret)
    for page in (WEBHOOKS, f"{WEBHOOKS}{webhook.pk}/change/", f"{WEBHOOKS}{webhook.pk}/history/"):
        text = admin_client.get(page).content.decode()
        assert "hooks.slack.com" in text or "history" in page
        assert "s3cr3t-path" not in text
        assert "whsec_" not in text
    rows = str(list(AuditRecord.objects.values()))
    assert "hooks.slack.com" in rows
    assert "s3cr3t-path" not in rows
    assert "whsec_" not in rows


@pytest.mark.parametrize("url", ["", "http://10.0.0.1/x", "file:///etc/passwd", "https://user:pw@chat.example.com/"])
def test_an_address_that_is_not_allowed_makes_no_webhook(admin_client: Client, url: str) -> None:
    answer = add(admin_client, address=url)
    assert answer.status_code == 200
    assert "errorlist" in answer.content.decode()
    assert not Webhook.objects.exists()


def test_an_address_stays_until_another_is_entered(admin_client: Client) -> None:
    webhook = make_webhook(kind="slack")
    page = f"{WEBHOOKS}{webhook.pk}/change/"
    form = {"name": "chat", "kind": "slack", "address": "", "events": ["queue_long"], "enabled": "on"}
    assert admin_client.post(page, form).status_code == 302
    webhook.refresh_from_db()
    assert (unseal(webhook.sealed_url), webhook.events) == (SLACK, ["queue_long"])
    assert admin_client.post(page, form | {"address": "https://chat.example.com/other"}).status_code == 302
    webhook.refresh_from_db()
    assert (unseal(webhook.sealed_url), webhook.host) == ("https://chat.example.com/other", "chat.example.com")
    assert {"address": "changed"} in AuditRecord.objects.values_list("after", flat=True)


def test_a_new_secret_replaces_the_former_one(admin_client: Client) -> None:
    webhook = make_webhook()
    before = unseal(webhook.sealed_secret)
    form = {"action": "make_new_secret", "_selected_action": [webhook.pk]}
    secret = secret_on(admin_client.post(WEBHOOKS, form).content.decode())
    webhook.refresh_from_db()
    assert unseal(webhook.sealed_secret) == secret != before
    assert {"secret": "changed"} in AuditRecord.objects.values_list("after", flat=True)
    other = make_webhook("other")
    admin_client.post(WEBHOOKS, form | {"_selected_action": [webhook.pk, other.pk]})
    webhook.refresh_from_db()
    assert unseal(webhook.sealed_secret) == secret


def test_a_test_goes_the_way_of_all_messages(admin_client: Client) -> None:
    webhook, off = make_webhook(), make_webhook("off", enabled=False)
    admin_client.post(WEBHOOKS, {"action": "send_a_test", "_selected_action": [webhook.pk, off.pk]})
    delivery = Delivery.objects.select_related("notification").get()
    assert (delivery.webhook_id, delivery.state, delivery.notification.event) == (webhook.pk, "waiting", Event.TEST)


def test_operators_see_webhooks_and_change_none(client: Client) -> None:
    webhook = make_webhook()
    operator = User.objects.create_user("operator", is_staff=True)
    operator.user_permissions.set(Permission.objects.filter(codename__endswith="webhook"))
    client.force_login(operator)
    assert client.get(WEBHOOKS).status_code == 200
    page = client.get(f"{WEBHOOKS}{webhook.pk}/change/")
    assert page.status_code == 200
    assert 'name="address"' not in page.content.decode()
    assert add(client).status_code == 403
    for action in ("send_a_test", "make_new_secret"):
        client.post(WEBHOOKS, {"action": action, "_selected_action": [webhook.pk]})
    after = Webhook.objects.get()
    assert after.sealed_secret == webhook.sealed_secret
    assert not Delivery.objects.exists()


def test_a_webhook_is_deleted_with_its_deliveries_and_choices(admin_client: Client, ana: User) -> None:
    webhook = make_webhook(for_people=True)
    admin_client.post(WEBHOOKS, {"action": "send_a_test", "_selected_action": [webhook.pk]})
    NotificationPreference.objects.create(account=ana, event="seat_offered", webhook=webhook)
    assert admin_client.post(f"{WEBHOOKS}{webhook.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not any(model._default_manager.exists() for model in (Webhook, Delivery, NotificationPreference))
    gone = AuditRecord.objects.filter(action="deleted").values_list("subject_kind", flat=True)
    assert set(gone) == {"webhook", "preference"}


def test_whoever_may_delete_an_account_may_delete_its_choices(client: Client, ana: User) -> None:
    preferences.choose(ana, wanted=())
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=["view_user", "delete_user"]))
    client.force_login(clerk)
    assert client.post(f"/admin/auth/user/{ana.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not NotificationPreference.objects.exists()


# --- The log of deliveries ----------------------------------------------------


def test_the_log_shows_each_message_and_the_answer_and_sends_again(admin_client: Client) -> None:
    webhook = make_webhook()
    admin_client.post(WEBHOOKS, {"action": "send_a_test", "_selected_action": [webhook.pk]})
    row = Delivery.objects.get()
    Delivery.objects.update(state="failed", closed_at=timezone.now(), attempts=7, answer="HTTP 404: no_service")
    log = "/admin/licenses/delivery/"
    assert "HTTP 404: no_service" in admin_client.get(f"{log}?state__exact=failed&channel=webhook").content.decode()
    assert "A test of the license server" in admin_client.get(f"{log}{row.pk}/change/").content.decode()
    again = {"action": "send_again", "_selected_action": [row.pk]}
    admin_client.post(log, again)
    row.refresh_from_db()
    assert (row.state, row.attempts, row.closed_at) == ("waiting", 0, None)
    Delivery.objects.update(state="failed", closed_at=timezone.now())
    Notification.objects.update(useful_until=timezone.now())
    admin_client.post(log, again)
    row.refresh_from_db()
    assert row.state == "failed"


@pytest.mark.any_database
def test_the_log_shows_the_name_of_a_tool_for_people(admin_client: Client, make_tool: Callable[..., Tool]) -> None:
    make_webhook(events=[Event.TOOL_EXHAUSTED])
    now = timezone.now()
    for name, display_name in (("zz_cad", "Body Builder"), ("aero", ""), ("gone", "")):
        if name != "gone":
            make_tool(name, display_name=display_name)
        outbox.record(Event.TOOL_EXHAUSTED, key=name, tool=name, useful_until=now + timedelta(hours=1), facts={})
    log = "/admin/licenses/delivery/"
    content = admin_client.get(log, {"o": "10"}).content.decode()
    shown = re.findall(r'class="field-tool">(.*?)</td>', content)
    assert shown == ["aero", 'Body Builder <small class="quiet">zz_cad</small>', "gone"]
    assert "gone" not in admin_client.get(log, {"q": "builder"}).content.decode().partition('id="changelist"')[2]


def test_a_preference_that_an_administrator_enters_is_on_record(admin_client: Client, ana: User) -> None:
    private = make_webhook("private")
    form = {"account": ana.pk, "event": "seat_offered", "webhook": private.pk, "wanted": "on"}
    page = "/admin/licenses/notificationpreference/add/"
    assert admin_client.post(page, form).status_code == 200
    assert admin_client.post(page, form | {"webhook": "", "wanted": ""}).status_code == 302
    assert NotificationPreference.objects.get().wanted is False
    record = AuditRecord.objects.get(subject_kind="preference")
    assert (record.subject, record.action) == ("ana: seat_offered by mail", "created")
