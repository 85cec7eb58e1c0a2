"""The front page of the admin: what needs attention, for those who may see it."""

import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from licenses.history import rollups
from licenses.leases import expiry
from licenses.models import ApiToken, Contract, Denial, Lease, Tool
from tests.support.api import Api, make_token

pytestmark = pytest.mark.django_db

MakeTool = Callable[..., Tool]


def cards(client: Client) -> dict[str, tuple[int, str, str]]:
    """Return the number, the link and the text of each card, by its title."""
    html = re.sub(r"\s+", " ", client.get("/admin/").content.decode())
    found = re.findall(r'<h2 id="card-\d+"><a href="([^"]+)">(.*?) <b>(\d+)</b></a></h2>(.*?)</section>', html)
    return {
        title: (int(total), unescape(link), " ".join(re.sub(r"<[^>]+>", " ", text).split()))
        for link, title, total, text in found
    }


def links(client: Client) -> list[str]:
    html = client.get("/admin/").content.decode().partition('class="cockpit"')[2].partition("below-cockpit")[0]
    return [unescape(link) for link in re.findall(r'href="([^"]+)"', html)]


@pytest.fixture
def busy(api: Api, make_tool: MakeTool, make_team: Callable[..., Any]) -> None:
    """Fill each card."""
    now = timezone.now()
    make_team("crash", "ana")
    make_tool("cad", capacity=2, display_name="The CAD", valid_until=now + timedelta(days=20))
    make_tool("sim", capacity=5)
    make_tool("empty", capacity=0)
    api.borrow("cad", "ana", seats=2)
    Lease.objects.update(borrowed_at=now - timedelta(hours=40))
    api.borrow("cad", "ben")
    api.borrow("cad", "ben")
    api.borrow("cad", "cleo", wait_seconds=600)
    today = now.date()
    for days in (-1, 0, 59, 61):
        Contract.objects.create(tool=Tool.objects.get(name="sim"), seats=1, last_day=today + timedelta(days=days))
    make_token(team="crash")
    ApiToken.objects.update(name="nightly", expires_at=now + timedelta(days=5))
    expiry.tidy()
    rollups.roll_up()


def test_the_front_page_shows_what_needs_attention(admin_client: Client, busy: None) -> None:
    found = cards(admin_client)
    assert found["Tools without a free seat"][::2] == (1, "The CAD 2 of 2 seats, 1 waiting")
    assert found["Queues"][0] == 1
    assert found["Queues"][2].startswith("The CAD 1 waiting, the first for ")
    assert found["Refusals today"][::2] == (1, "The CAD 1 person refused, 1 got no seat")
    assert found["Longest holders"][::2] == (1, "ana 2 of The CAD for 1 d 16 h")
    assert found["Licenses that end within 60 days"][0] == 1
    assert found["Contracts that end within 60 days"][0] == 2
    assert found["API tokens that end within 60 days"][2].startswith("nightly team crash, until ")
    assert found["Health: problems"][0] == 0
    assert "Sweeper ran " in found["Health: problems"][2]


def test_a_link_leads_to_the_rows_that_its_card_counts(admin_client: Client, busy: None) -> None:
    for title, (total, link, _) in cards(admin_client).items():
        if title.startswith(("Health", "Queues")):
            continue
        answer = admin_client.get(link)
        assert answer.status_code == 200, title
        assert len(answer.context["cl"].result_list) == total, title
    (waiting,) = [link for link in links(admin_client) if "ticket" in link]
    assert [ticket.user for ticket in admin_client.get(waiting).context["cl"].result_list] == ["cleo"]
    for link in links(admin_client):
        assert admin_client.get(link).status_code == 200, link


def test_an_empty_site_has_nothing_to_show_but_its_health(admin_client: Client) -> None:
    found = cards(admin_client)
    health = found.pop("Health: problems")
    assert {total for total, _, _ in found.values()} == {0}
    assert health[0] == 1
    assert "Sweeper never ran: start manage.py expire_leases --loop" in health[2]


def test_a_seat_that_came_free_by_time_is_free(admin_client: Client, api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=1)
    api.borrow("cad")
    assert cards(admin_client)["Tools without a free seat"][0] == 1
    past = timezone.now() - timedelta(hours=1)
    Lease.objects.update(borrowed_at=past - timedelta(hours=1), expires_at=past)
    assert cards(admin_client)["Tools without a free seat"][0] == 0
    assert admin_client.get("/admin/licenses/tool/?seats=full").context["cl"].result_count == 0


@pytest.mark.parametrize(
    ("permissions", "shown"),
    [
        ([], set()),
        (["view_denial"], {"Refusals today"}),
        (["view_lease"], {"Longest holders"}),
        (["view_contract"], {"Contracts that end within 60 days"}),
        (["view_apitoken"], {"API tokens that end within 60 days"}),
        (["view_ticket"], set()),
        (
            ["view_tool", "view_ticket"],
            {"Tools without a free seat", "Queues", "Licenses that end within 60 days", "Health: problems"},
        ),
    ],
)
def test_a_card_is_for_those_who_may_see_its_rows(
    client: Client, busy: None, permissions: list[str], shown: set[str]
) -> None:
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client.force_login(clerk)
    assert set(cards(client)) == shown


def test_the_front_page_of_a_large_site_asks_the_database_as_little(admin_client: Client) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert admin_client.get("/admin/").status_code == 200
        return len(captured)

    now = timezone.now()
    statements()
    before = statements()
    soon = now + timedelta(hours=1)
    # A few rows at a time, because PostgreSQL ends a transaction that is idle for 10 seconds.
    for first in range(0, 1000, 100):
        tools = Tool.objects.bulk_create(
            Tool(name=f"tool{number}", capacity=10, borrowed=10, valid_until=now + timedelta(days=number % 90 + 1))
            for number in range(first, first + 100)
        )
        for seat in range(10):
            Lease.objects.bulk_create(
                Lease(
                    tool=tool,
                    user=f"user{first + number}",
                    borrowed_at=now - timedelta(minutes=10 * (first + number) + seat),
                    ttl=timedelta(hours=1),
                    expires_at=soon,
                )
                for number, tool in enumerate(tools)
            )
        Denial.objects.bulk_create(
            Denial(tool=tool, user="ana", code="exhausted", first_at=now, last_at=now) for tool in tools
        )
        last = now.date() + timedelta(days=9)
        Contract.objects.bulk_create(Contract(tool=tool, seats=10, last_day=last) for tool in tools)
    assert statements() == before <= 25
    found = cards(admin_client)
    assert found["Tools without a free seat"][0] == 1000
    assert found["Longest holders"][0] == 10_000
    assert found["Longest holders"][2].startswith("user999 1 of tool999 for 6 d")
    assert found["Refusals today"][0] == 1000
    assert found["Contracts that end within 60 days"][0] == 1000


# --- Lists that look forward ------------------------------------------------


@pytest.mark.parametrize("page", ["tool", "contract", "apitoken"])
def test_lists_filter_by_what_ends_soon(admin_client: Client, make_tool: MakeTool, page: str) -> None:
    now = timezone.now()
    for days in (-2, 0, 6, 29, 59, 89, 200):
        end = now + timedelta(days=days, minutes=5)
        tool = make_tool(f"t{days}" if days >= 0 else "past", valid_until=end)
        Contract.objects.create(tool=tool, seats=1, last_day=end.date())
        make_token(user="ana")
        token = ApiToken.objects.latest("pk")
        ApiToken.objects.filter(pk=token.pk).update(created_at=now - timedelta(days=9), expires_at=end)

    def listed(ends: str) -> int:
        number: int = admin_client.get(f"/admin/licenses/{page}/?ends={ends}").context["cl"].result_count
        return number

    assert [listed(ends) for ends in ("7", "30", "60", "90", "ended", "", "nonsense")] == [2, 3, 4, 5, 1, 7, 7]
    if page != "apitoken":
        assert listed("never") == 0
        Contract.objects.update(last_day=None)
        Tool.objects.update(valid_until=None)
        assert listed("never") == 7
