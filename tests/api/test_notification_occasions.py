"""What the sweeper finds for people and administrators, without a row or a query in a borrow."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from licenses.leases import expiry, services
from licenses.leases.requests import BorrowRequest
from licenses.models import ApiToken, Contract, Event, Lease, Notification, Sweep, Ticket, Tool, Webhook
from licenses.notifications import messages, occasions, outbox
from licenses.policy import Item
from licenses.tools import contracts
from licenses.tools import services as tools
from tests.support.api import Api, make_token
from tests.support.quotas import SOMEBODY

pytestmark = pytest.mark.django_db

MakeTool = Callable[..., Tool]
PassTime = Callable[..., None]


@pytest.fixture(autouse=True)
def people(settings: Any, db: None) -> None:
    settings.EMAIL_HOST = "mail.example.com"
    settings.LICENSE_PUBLIC_URL = "https://licenses.example.com"
    User.objects.create_user("ana", "ana@example.com")
    User.objects.create_user("root", "root@example.com", is_superuser=True)
    Webhook.objects.create(name="all", host="h", sealed_url="", sealed_secret="", events=list(Event))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the sweeper's clock go on, while what is in the database keeps its times: ``later(hours=8)``."""
    passed = timedelta(0)

    def later(**span: float) -> None:
        nonlocal passed
        passed += timedelta(**span)
        for module in (occasions, outbox):
            monkeypatch.setattr(module, "database_now", lambda: timezone.now() + passed)

    return later


def found() -> list[Notification]:
    """Look, and return what is new."""
    before = set(Notification.objects.values_list("pk", flat=True))
    occasions.look()
    return list(Notification.objects.exclude(pk__in=before).order_by("event", "key"))


def titles() -> list[str]:
    return [messages.write(notification).title for notification in found()]


def expect(*events: Event) -> list[Notification]:
    new = found()
    assert [notification.event for notification in new] == [*events]
    assert found() == []
    return new


# --- Leases -----------------------------------------------------------------


def test_the_holder_hears_of_a_lease_that_ends_soon(api: Api, make_tool: MakeTool, later: PassTime) -> None:
    make_tool("cad", capacity=2)
    lease = api.borrow("cad", ttl_seconds=8 * 3600, host="ws1").json()
    later(hours=7, minutes=29)
    expect()
    later(minutes=2)
    (notification,) = expect(Event.LEASE_ENDING)
    assert (notification.user, notification.tool) == ("ana", "cad")
    message = messages.write(notification)
    ends = Lease.objects.get().expires_at
    assert ends is not None
    assert (
        message.title
        == f"Renew or return: your lease of 1 seat of cad ends at {ends.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    )
    assert ("Lease", lease["id"]) in message.facts
    assert ("Host", "ws1") in message.facts
    assert message.url == "https://licenses.example.com/yours/"
    later(minutes=10)
    expect()


def test_a_lease_that_was_renewed_and_ends_again_is_news_again(api: Api, make_tool: MakeTool, later: PassTime) -> None:
    make_tool()
    lease = api.borrow(ttl_seconds=4 * 3600).json()
    later(hours=3, minutes=45)
    expect(Event.LEASE_ENDING)
    later(hours=-3, minutes=-45)
    assert api.renew(lease["id"]).status_code == 200
    expect()
    later(hours=3, minutes=46)
    expect(Event.LEASE_ENDING)


def test_every_holder_hears_of_the_end_however_many_leases_end_at_once(
    api: Api, make_tool: MakeTool, later: PassTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occasions, "AT_ONCE", 2)
    make_tool(capacity=5)
    leases = [api.borrow(ttl_seconds=4 * 3600).json()["id"] for _ in range(5)]
    later(hours=3, minutes=50)
    assert sorted(notification.facts["lease"] for notification in found()) == sorted(leases)
    assert found() == []


def test_a_lease_with_heartbeats_is_no_news(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool(capacity=3)
    short, long = (api.borrow(user="ana", ttl_seconds=seconds).json()["id"] for seconds in (300, 3600))
    for _ in range(4):
        pass_time(minutes=4)
        api.renew(short)
    expect()
    api.renew(long)
    # As late as a client is that sends one in half of the time.
    pass_time(minutes=30)
    expect()
    pass_time(minutes=16)
    assert [notification.facts["lease"] for notification in found()] == [long]


def test_a_lease_that_ends_with_the_license_cannot_be_renewed(
    api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool(valid_until=timezone.now() + timedelta(hours=2))
    api.borrow(ttl_seconds=8 * 3600)
    pass_time(hours=1, minutes=45)
    ending = [notification for notification in found() if notification.event == Event.LEASE_ENDING]
    assert "cannot be renewed" in messages.write(ending[0]).text


def test_a_borrow_of_several_tools_is_one_message(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad", capacity=5)
    make_tool("sim", capacity=5)
    api.borrow_set(("cad", 2), ("sim", 1), ttl_seconds=8 * 3600)
    pass_time(hours=7, minutes=45)
    (notification,) = expect(Event.LEASE_ENDING)
    assert "2 seats of cad, 1 seat of sim" in messages.write(notification).title


@pytest.mark.parametrize("way", ["api", "admin", "account"])
def test_the_holder_hears_of_a_forced_return_whoever_does_it(
    way: str, api: Api, admin_api: Api, make_tool: MakeTool, admin_client: Any
) -> None:
    make_tool()
    lease = api.borrow(host="ws1").json()["id"]
    expect()
    if way == "api":
        assert admin_api.post(f"/api/v1/leases/{lease}/force-return/", {"reason": "maintenance"}).status_code == 200
    elif way == "admin":
        form = {"action": "force_return", "_selected_action": [lease], "reason": "maintenance", "confirmed": "yes"}
        admin_client.post("/admin/licenses/lease/", form)
    else:
        services.end_all_of(user="ana", by=SOMEBODY, force_note="maintenance")
    (notification,) = expect(Event.LEASE_FORCED)
    message = messages.write(notification)
    assert notification.user == "ana"
    assert ("Reason", "maintenance") in message.facts
    assert message.title.startswith("Save your work: your lease of 1 seat of cad was ended by ")


def test_a_forced_return_is_found_after_a_time_without_a_sweeper(
    api: Api, admin_api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool(capacity=2)
    old, new = (api.borrow(ttl_seconds=48 * 3600).json()["id"] for _ in range(2))
    expect()
    admin_api.post(f"/api/v1/leases/{old}/force-return/", {"reason": "too old to be news"})
    pass_time(hours=20)
    admin_api.post(f"/api/v1/leases/{new}/force-return/", {"reason": "maintenance"})
    pass_time(hours=5)
    assert [notification.facts["reason"] for notification in expect(Event.LEASE_FORCED)] == ["maintenance"]


def test_a_normal_end_is_no_news(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool(capacity=2)
    api.give_back(api.borrow().json()["id"])
    api.borrow(ttl_seconds=60)
    pass_time(minutes=2)
    call_command("expire_leases")
    expect()


def test_a_person_hears_of_the_seats_that_are_offered(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=2)
    lease = api.borrow("cad", "ben", seats=2).json()["id"]
    wait = timedelta(hours=8)
    items = (Item("cad", 2),)
    services.borrow(BorrowRequest(user="ana", alternatives=(items,), wait=wait, kept=True))
    expiry.tidy()
    expect()
    api.give_back(lease)
    expiry.tidy()
    (notification,) = expect(Event.SEAT_OFFERED)
    ticket = Ticket.objects.get()
    assert (notification.user, notification.useful_until) == ("ana", ticket.alive_until)
    message = messages.write(notification)
    assert message.title.startswith("Take 2 seats of cad before ")
    assert message.url == "https://licenses.example.com/tools/cad/"
    expiry.tidy()
    expect()


# --- Ends of licenses, contracts and tokens -----------------------------------


def test_administrators_hear_of_the_end_of_a_license_in_stages(make_tool: MakeTool, later: PassTime) -> None:
    make_tool("cad", capacity=7, vendor="ACME", valid_until=timezone.now() + timedelta(days=61))
    expect()
    stages = []
    for days in (2, 28, 2, 1, 14, 7, 6, 2):
        later(days=days)
        stages += [(notification.user, notification.key.split()[-1]) for notification in found()]
    assert stages == [("", "60d"), ("", "30d"), ("", "14d"), ("", "7d"), ("", "1d"), ("", "0d")]
    ended = Notification.objects.get(key__endswith=" 0d")
    assert messages.write(ended).title == "Renew the license of cad: it has ended"
    later(days=-62)
    tools.change(name="cad", values={"valid_until": timezone.now() + timedelta(days=20)}, by=SOMEBODY)
    assert [notification.key.split()[-1] for notification in found()] == ["30d"]
    tools.change(name="cad", values={"enabled": False}, by=SOMEBODY)
    later(days=10)
    expect()


def test_the_first_look_reports_only_the_latest_stage(make_tool: MakeTool) -> None:
    make_tool("soon", valid_until=timezone.now() + timedelta(days=3))
    make_tool("long_ago", valid_until=timezone.now() - timedelta(days=8))
    (notification,) = expect(Event.LICENSE_ENDS)
    assert (notification.tool, notification.key.split()[-1]) == ("soon", "7d")


def contract(tool: Tool, seats: int, first: int, last: int) -> Contract:
    today = timezone.now().astimezone(UTC).date()
    made = Contract(
        tool=tool,
        seats=seats,
        first_day=today + timedelta(days=first),
        last_day=today + timedelta(days=last),
        reference="PO-7",
    )
    contracts.save(contracts=[made], by=SOMEBODY)
    return made


def test_administrators_hear_of_a_contract_whose_end_takes_seats(make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=0)
    contract(tool, 3, -100, 10)
    contract(tool, 2, -100, 400)
    (notification,) = expect(Event.CONTRACT_ENDS)
    message = messages.write(notification)
    assert "Then cad has 2 seats instead of 5." in message.text
    assert ("Reference", "PO-7") in message.facts
    assert message.url.startswith("https://licenses.example.com/admin/licenses/contract/")


def test_a_contract_that_another_one_follows_is_no_news(make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=0)
    contract(tool, 3, -100, 10)
    contract(tool, 3, 11, 400)
    expect()


def test_a_contract_that_begins_earlier_hides_no_end(make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=0)
    contract(tool, 3, -100, 10)
    contract(tool, 4, 5, 400)
    (notification,) = expect(Event.CONTRACT_ENDS)
    assert "Then cad has 4 seats instead of 7." in messages.write(notification).text


def test_a_contract_that_only_begins_later_is_news_at_its_end(make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=0)
    contract(tool, 3, -100, 400)
    contract(tool, 4, 5, 10)
    (notification,) = expect(Event.CONTRACT_ENDS)
    assert "Then cad has 3 seats instead of 7." in messages.write(notification).text


def test_the_earlier_loss_of_another_contract_is_not_that_of_one_that_is_followed(make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=0)
    first = contract(tool, 2, -100, 5)
    contract(tool, 3, -100, 10)
    contract(tool, 3, 11, 400)
    (notification,) = expect(Event.CONTRACT_ENDS)
    assert notification.facts["contract"] == first.pk


def test_the_owner_of_a_token_hears_of_its_end_and_of_a_teams_token_the_administrators() -> None:
    in_10_days = timezone.now() + timedelta(days=10)
    created = timezone.now() - timedelta(days=80)
    make_token(user="ana", expires_at=in_10_days, created_at=created)
    make_token(team="crash", expires_at=in_10_days, created_at=created)
    new = expect(Event.TOKEN_ENDS, Event.TOKEN_ENDS)
    assert sorted((notification.user, notification.facts["team"]) for notification in new) == [
        ("", "crash"),
        ("ana", ""),
    ]
    assert {delivery.address for notification in new for delivery in notification.deliveries.all()} == {
        "",
        "ana@example.com",
        "root@example.com",
    }
    for notification in new:
        assert "lic_" in messages.write(notification).title
        assert ApiToken.objects.get(pk=notification.facts["token"]).hash not in str(notification.facts)


def test_a_token_for_a_few_days_needs_no_early_warning(later: PassTime) -> None:
    make_token(user="ana", expires_at=timezone.now() + timedelta(days=5))
    make_token(user="ana", expires_at=timezone.now() + timedelta(hours=12))
    expect()
    later(days=4, hours=1)
    assert [notification.key.split()[-1] for notification in expect(Event.TOKEN_ENDS)] == ["1d"]


# --- Queues -----------------------------------------------------------------


def keep_waiting(now: datetime | None = None) -> None:
    """Keep all tickets alive, as polls of their clients do."""
    later = timezone.now() + timedelta(hours=12)
    Ticket.objects.waiting().update(alive_until=later, deadline=later)


def test_administrators_hear_of_a_tool_without_seats_for_which_people_wait(
    api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool("cad", capacity=1)
    make_tool("free", capacity=1)
    api.borrow("cad")
    api.wait("cad", "ben", 3600)
    expect()
    pass_time(minutes=6)
    keep_waiting()
    (notification,) = expect(Event.TOOL_EXHAUSTED)
    assert messages.write(notification).title == "cad has no free seat, and 1 request waits"
    assert notification.facts["borrowed"] == 1


def test_it_is_not_reported_again_within_four_hours(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad", capacity=1)
    api.borrow("cad", ttl_seconds=24 * 3600)
    api.wait("cad", "ben", 3600)
    reported = []
    for minutes in (6, 30, 180, 40):
        pass_time(minutes=minutes)
        keep_waiting()
        reported += [(minutes, notification.event) for notification in found()]
    assert reported == [
        (6, Event.TOOL_EXHAUSTED),
        (30, Event.QUEUE_LONG),
        (40, Event.TOOL_EXHAUSTED),
    ]


def test_administrators_hear_of_a_long_queue(api: Api, make_tool: MakeTool, settings: Any) -> None:
    settings.LICENSE_NOTICE_QUEUE_LENGTH = 3
    make_tool("cad", capacity=1)
    api.borrow("cad")
    for number in range(3):
        expect()
        api.wait("cad", f"user{number}")
    (notification,) = expect(Event.QUEUE_LONG)
    assert messages.write(notification).title == "The queue for cad is long: 3 requests wait"


# --- All --------------------------------------------------------------------


def test_nothing_is_looked_for_where_nothing_can_be_sent(
    api: Api, make_tool: MakeTool, settings: Any, django_assert_num_queries: Callable[..., Any]
) -> None:
    settings.EMAIL_HOST = ""
    Webhook.objects.update(enabled=False)
    make_tool(valid_until=timezone.now() + timedelta(days=1))
    with django_assert_num_queries(2 if connection.vendor == "postgresql" else 1):
        assert occasions.look() == 0
    assert not Sweep.objects.exists()


def test_a_look_costs_the_same_for_few_and_for_many(api: Api, make_tool: MakeTool, later: PassTime) -> None:
    occasions.look()
    costs = []
    for number in (1, 6):
        for count in range(number):
            name = f"tool{number}_{count}"
            make_tool(name, valid_until=timezone.now() + timedelta(days=3))
            api.borrow(name, ttl_seconds=4 * 3600)
            api.wait(name, "ben", 24 * 3600)
        later(hours=3, minutes=50)
        keep_waiting()
        with CaptureQueriesContext(connection) as queries:
            # The lease, the license, the queue, and the seats that are missing.
            assert occasions.look() == 4 * number
        costs.append(len(queries))
        later(hours=-3, minutes=-50)
    assert costs[0] == costs[1]


def test_every_event_has_a_text() -> None:
    assert messages.WRITERS.keys() == set(Event)


def test_times_are_in_the_zone_of_the_site(settings: Any) -> None:
    settings.LICENSE_TIME_ZONE = "Europe/Berlin"
    assert messages.moment(datetime(2026, 7, 1, 22, 30, tzinfo=UTC)) == "2026-07-02 00:30 CEST"
    assert messages.moment("2026-01-01T12:00:00Z") == "2026-01-01 13:00 CET"


def test_messages_have_the_names_of_tools_for_people(make_tool: MakeTool) -> None:
    make_tool("cfd_9", display_name="Fluid Dynamics")
    now = timezone.now().isoformat()
    facts = {
        "items": [{"tool": "cfd_9", "seats": 2}],
        **dict.fromkeys(("until", "ends_at", "ended_at", "borrowed_at", "last_used_at", "at"), now),
        **dict.fromkeys(("seats", "seats_before", "seats_left", "queued", "wanted", "borrowed", "capacity"), 5),
        **{"oldest_wait_seconds": 300, "contract": 1, "ticket": "t", "lease": "l"},
    }
    without_a_tool = {Event.TOKEN_ENDS, Event.MONTH_COSTS, Event.TEST}
    for event in set(Event) - without_a_tool:
        message = messages.write(Notification(event=event, tool="cfd_9", facts=facts))
        texts = [message.title, message.text, *(value for _, value in message.facts)]
        assert "Fluid Dynamics" in message.title
        assert not [text for text in texts if "cfd_9" in text]
