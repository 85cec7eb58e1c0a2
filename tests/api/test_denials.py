"""Denials: users, reasons, attempts, and whether the user got a seat later."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from licenses.models import Denial, Tool
from tests.support.api import Api, api_of

MakeTool = Callable[..., Tool]
PassTime = Callable[..., None]


def denials(query: str = "") -> list[dict[str, Any]]:
    """Denials as an administrator sees them."""
    found: list[dict[str, Any]] = api_of(scopes=["admin"]).client.get(f"/api/v1/denials/{query}").json()["results"]
    return found


def test_a_retry_loop_is_one_episode(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    api.borrow("cad", "ana")
    for _ in range(5):
        api.borrow("cad", "ben", host="ws1", seats=1)
        pass_time(minutes=10)
    (episode,) = denials()
    assert (episode["tool"], episode["user"], episode["host"], episode["code"]) == ("cad", "ben", "ws1", "exhausted")
    assert (episode["attempts"], episode["resolved_at"], episode["resolved_by"]) == (5, None, None)
    assert episode["first_at"] < episode["last_at"]


def test_a_longer_pause_begins_a_new_episode(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    api.borrow("cad", "ana")
    api.borrow("cad", "ben")
    pass_time(minutes=16)
    api.borrow("cad", "ben")
    assert [episode["attempts"] for episode in denials()] == [1, 1]


def test_a_time_in_a_query_or_a_body_may_have_any_offset(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    api.borrow("cad", "ana")
    api.borrow("cad", "ben")
    for offset in ("%2B23:59", "-23:59"):
        assert len(denials(f"?after=2001-01-01T00:00:00{offset}")) == 1
        assert denials(f"?before=2001-01-01T00:00:00{offset}") == []
    body = {"capacity": 1, "valid_until": "2199-01-01T00:00:00+23:59"}
    answer = api_of(scopes=["admin"]).client.put("/api/v1/tools/cad/", body, content_type="application/json")
    assert answer.status_code == 200, answer.content
    assert answer.json()["valid_until"] == "2198-12-31T00:01:00Z"


def test_users_tools_and_reasons_have_separate_episodes(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad")
    make_tool("sim", enabled=False)
    api.borrow("cad", "ana")
    for tool, user in (("cad", "ben"), ("cad", "cleo"), ("sim", "ben")):
        api.borrow(tool, user)
    assert {(episode["tool"], episode["user"], episode["code"]) for episode in denials()} == {
        ("cad", "ben", "exhausted"),
        ("cad", "cleo", "exhausted"),
        ("sim", "ben", "disabled"),
    }


def test_a_seat_after_all_ends_the_episode(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    lease = api.borrow("cad", "ana").json()
    for user in ("ben", "cleo"):
        api.borrow("cad", user)
    pass_time(minutes=5)
    api.give_back(lease["id"])
    granted = api.borrow("cad", "ben").json()
    resolved = {episode["user"]: episode["resolved_by"] for episode in denials()}
    assert resolved == {"ben": granted["id"], "cleo": None}
    assert [episode["user"] for episode in denials("?resolved=true")] == ["ben"]
    assert [episode["user"] for episode in denials("?resolved=false")] == ["cleo"]


def test_a_seat_long_after_does_not(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    lease = api.borrow("cad", "ana").json()
    api.borrow("cad", "ben")
    pass_time(minutes=20)
    api.give_back(lease["id"])
    api.borrow("cad", "ben")
    assert [episode["resolved_by"] for episode in denials()] == [None]


def test_a_granted_alternative_ends_the_episode_of_the_preferred_tool(api: Api, make_tool: MakeTool) -> None:
    make_tool("premium")
    make_tool("basic")
    api.borrow("premium", "ana")
    api.borrow("premium", "ben")
    lease = api.borrow_first_of([("premium", 1)], [("basic", 1)], user="ben").json()
    assert [episode["resolved_by"] for episode in denials()] == [lease["id"]]


def test_a_wait_that_ends_in_a_seat_is_no_denial(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow("cad", "ana").json()
    ticket = api.wait("cad", "ben")
    api.give_back(lease["id"])
    assert api.poll(ticket).status_code == 200
    assert denials() == []


def test_a_wait_that_times_out_is_a_denial(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("rare")
    api.borrow("rare", "ana")
    ticket = api.wait("rare", "ben", seconds=15)
    pass_time(seconds=15)
    assert api.poll(ticket).status_code == 410
    (episode,) = denials()
    assert (episode["user"], episode["code"], episode["attempts"]) == ("ben", "queue_timeout", 1)
    metrics = api.client.get("/metrics").content.decode().splitlines()
    assert 'license_borrow_failure_total{reason="queue_timeout",tool="rare"} 1.0' in metrics


@pytest.mark.parametrize("end", ["left", "dropped"])
def test_leaving_the_queue_is_not_a_denial(api: Api, make_tool: MakeTool, pass_time: PassTime, end: str) -> None:
    make_tool()
    api.borrow("cad", "ana")
    ticket = api.wait("cad", "ben")
    if end == "left":
        api.leave(ticket)
    else:
        pass_time(seconds=30)
        assert api.poll(ticket).json()["code"] == "queue_dropped"
    assert denials() == []


def test_nonsense_is_no_denial(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=2)
    api.borrow("nope")
    api.borrow("cad", seats=0)
    api.borrow("cad", ttl_seconds=10**9)
    assert denials() == []


def test_a_replayed_refusal_is_not_counted_again(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    api.borrow("cad", "ana")
    for _ in range(3):
        api.borrow("cad", "ben", key="job-1")
    assert [episode["attempts"] for episode in denials()] == [1]


def test_denials_are_filtered_and_paged(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad")
    api.borrow("cad", "ana")
    for number in range(5):
        api.borrow("cad", f"user{number}")
    assert [episode["user"] for episode in denials("?user=user3&tool=cad&code=exhausted")] == ["user3"]
    assert denials("?tool=other") == []
    admin = api_of(scopes=["admin"]).client
    page = admin.get("/api/v1/denials/?page_size=2").json()
    users = [episode["user"] for episode in page["results"]]
    while page["next"]:
        page = admin.get(page["next"]).json()
        users += [episode["user"] for episode in page["results"]]
    assert users == [f"user{number}" for number in reversed(range(5))]
    number = denials()[0]["id"]
    assert admin.get(f"/api/v1/denials/{number}/").json()["user"] == "user4"


@pytest.mark.parametrize("query", ["?after=yesterday", "?resolved=perhaps", "?user=%00", "?cursor=x"])
def test_a_filter_that_makes_no_sense_is_refused(admin_api: Api, query: str) -> None:
    answer = admin_api.client.get(f"/api/v1/denials/{query}")
    assert answer.status_code in {400, 404}
    assert answer["Content-Type"] == "application/problem+json"


def test_denials_are_facts_in_the_admin(api: Api, make_tool: MakeTool, admin_client: Client) -> None:
    make_tool()
    api.borrow("cad", "ana")
    api.borrow("cad", "ben")
    page = admin_client.get("/admin/licenses/denial/?resolved=no").content.decode()
    assert "ben" in page
    assert "exhausted" in page
    number = Denial.objects.get().pk
    assert admin_client.post(f"/admin/licenses/denial/{number}/change/", {"user": "x"}).status_code == 403
    assert admin_client.get("/admin/licenses/ticket/").status_code == 200
