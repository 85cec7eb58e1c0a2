"""Borrowing and returning seats."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, connection
from django.test.utils import CaptureQueriesContext

from licenses.models import Lease, Tool
from tests.support.api import Api

MakeTool = Callable[..., Tool]


def test_a_borrow_answers_with_the_lease(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=5)
    answer = api.borrow("cad", "ana", host="ws17")
    lease = answer.json()
    assert answer.status_code == 200
    assert uuid.UUID(lease["id"]).version == 4
    assert (lease["tool"], lease["user"], lease["host"], lease["seats"]) == ("cad", "ana", "ws17", 1)
    assert datetime.fromisoformat(lease["borrowed_at"]).utcoffset() == timedelta(0)


def test_a_borrow_after_the_last_seat_gets_a_reason(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=2)
    assert [api.borrow().status_code for _ in range(3)] == [200, 200, 409]
    answer = api.borrow()
    problem = answer.json()
    assert answer["Content-Type"] == "application/problem+json"
    assert answer["Retry-After"]
    assert (problem["status"], problem["code"], problem["total"], problem["available"]) == (409, "exhausted", 2, 0)
    assert "2 of 2 are borrowed" in problem["detail"]


def test_several_seats_are_taken_and_returned_together(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=5)
    lease = api.borrow(seats=4).json()
    assert api.status()["available"] == 1
    assert api.borrow(seats=2).status_code == 409
    api.give_back(lease["id"])
    assert api.status()["available"] == 5


def test_returning_twice_is_harmless(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=2)
    lease, _other = api.borrow().json(), api.borrow().json()
    answers = [api.give_back(lease["id"]) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.json() for answer in answers] == [{"status": "ok", "tool": "cad"}] * 3
    assert api.status()["borrowed"] == 1


def test_an_unknown_tool_and_an_unknown_lease_are_not_found(api: Api) -> None:
    borrow, give_back = api.borrow("nope"), api.give_back(str(uuid.uuid4()))
    assert (borrow.status_code, borrow.json()["code"]) == (404, "unknown_tool")
    assert (give_back.status_code, give_back.json()["code"]) == (404, "unknown_lease")


def test_a_returned_lease_stays_as_history(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow().json()
    api.give_back(lease["id"])
    row = Lease.objects.get(pk=lease["id"])
    assert row.end_reason == "returned"
    assert row.ended_at is not None
    assert row.ended_at >= row.borrowed_at


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"enabled": False}, "disabled"),
        ({"valid_from": datetime.now(UTC) + timedelta(days=1)}, "not_started"),
        ({"valid_until": datetime.now(UTC) - timedelta(days=1)}, "expired"),
    ],
)
def test_a_tool_that_is_off_or_outside_its_dates_grants_nothing(
    api: Api, make_tool: MakeTool, values: dict[str, object], code: str
) -> None:
    make_tool("cad", capacity=5, **values)
    answer = api.borrow()
    assert (answer.status_code, answer.json()["code"]) == (409, code)
    assert api.status()["borrowed"] == 0


def test_a_seat_can_be_returned_after_the_tool_was_switched_off(api: Api, make_tool: MakeTool) -> None:
    tool = make_tool()
    lease = api.borrow().json()
    Tool.objects.filter(pk=tool.pk).update(enabled=False)
    assert api.give_back(lease["id"]).status_code == 200
    assert api.status()["borrowed"] == 0


def test_a_lowered_capacity_takes_no_seat_and_grants_none_until_it_drains(api: Api, make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=3)
    leases = [api.borrow().json() for _ in range(3)]
    Tool.objects.filter(pk=tool.pk).update(capacity=1)
    status = api.status()
    assert (status["total"], status["borrowed"], status["available"]) == (1, 3, 0)
    for lease in leases[:2]:
        api.give_back(lease["id"])
        assert api.borrow().status_code == 409
    api.give_back(leases[2]["id"])
    assert api.borrow().status_code == 200


def test_active_leases_are_listed_newest_first_and_by_user(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=5)
    first, second, third = (api.borrow(user=user).json() for user in ("ana", "ben", "ana"))
    api.give_back(second["id"])
    assert [lease["id"] for lease in api.client.get("/borrows").json()] == [third["id"], first["id"]]
    assert api.client.get("/borrows?user=ben").json() == []
    assert [lease["id"] for lease in api.client.get("/borrows?user=ana").json()] == [third["id"], first["id"]]


def test_active_leases_are_listed_by_a_tool_of_their_set(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=5)
    make_tool("sim", capacity=5)
    both = api.borrow_set(("sim", 1), ("cad", 2)).json()["id"]
    alone = api.borrow("cad", "ben").json()["id"]
    found = {tool: [lease["id"] for lease in api.client.get(f"/borrows?tool={tool}").json()] for tool in ("cad", "sim")}
    assert found == {"cad": [alone, both], "sim": [both]}
    assert [lease["id"] for lease in api.client.get("/borrows?tool=cad&user=ben").json()] == [alone]
    assert api.client.get("/borrows?tool=none").json() == []
    assert api.client.get("/borrows?tool=" + "x" * 65).status_code == 400


def test_a_list_shows_the_last_heartbeat_where_it_is_known(api: Api, make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=5)
    lease = api.borrow(ttl_seconds=600).json()

    def shown() -> datetime | None:
        (listed,) = api.client.get("/borrows").json()
        return datetime.fromisoformat(listed["last_heartbeat_at"]) if listed["last_heartbeat_at"] else None

    assert shown() == datetime.fromisoformat(lease["borrowed_at"])
    renewed = api.renew(lease["id"]).json()
    # A heartbeat moves the end to 600 seconds after it.
    assert shown() == datetime.fromisoformat(renewed["expires_at"]) - timedelta(seconds=600)
    Tool.objects.filter(pk=tool.pk).update(valid_until=renewed["expires_at"])
    assert shown() is None


def test_status_lists_all_tools_by_name(api: Api, make_tool: MakeTool) -> None:
    for name in ("sim", "cad", "fem"):
        make_tool(name)
    assert [status["tool"] for status in api.client.get("/licenses/status").json()] == ["cad", "fem", "sim"]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no row locks")
def test_a_borrow_locks_the_tool_row(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    with CaptureQueriesContext(connection) as queries:
        api.borrow()
    assert any("FOR NO KEY UPDATE" in query["sql"] for query in queries)


def test_the_number_of_statements_does_not_grow_with_the_leases(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=50)
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as borrow:
            lease = api.borrow().json()
        with CaptureQueriesContext(connection) as status:
            api.status()
        with CaptureQueriesContext(connection) as give_back:
            api.give_back(lease["id"])
        counts.append((len(borrow), len(status), len(give_back)))
        for _ in range(20):
            api.borrow()
    # A borrow: tools and teams; the lease, the end of denials and the tool's counters.
    # A status: one. A return: tools and leases; the lease and the tool's counters.
    # PostgreSQL reads the teams with the tools, and writes in one statement.
    # Each transaction here is a savepoint, which adds two.
    to_borrow, to_return = (1 + 1, 2 + 1) if connection.vendor == "postgresql" else (2 + 3, 2 + 2)
    assert counts[0] == counts[1] == (to_borrow + 2, 1, to_return + 2)


@pytest.mark.parametrize("values", [{"borrowed": -1}, {"capacity": -1}, {"capacity": 1_000_001}])
def test_the_database_itself_refuses_impossible_tools(make_tool: MakeTool, values: dict[str, int]) -> None:
    with pytest.raises(IntegrityError):
        make_tool("broken", **values)
