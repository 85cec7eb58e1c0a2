"""Several seats of several tools as one lease, and alternatives."""

import itertools
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import psycopg
import pytest

from licenses.models import Lease, Tool
from tests.support.api import Api
from tests.support.servers import Server

MakeTool = Callable[..., Tool]
PassTime = Callable[..., None]


def out(api: Api) -> dict[str, int]:
    return {status["tool"]: status["borrowed"] for status in api.client.get("/licenses/status").json()}


def test_a_set_is_one_lease(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad", capacity=5)
    make_tool("sim", capacity=3)
    lease = api.borrow_set(("sim", 2), ("cad", 1), ttl_seconds=60).json()
    assert [(item["tool"], item["seats"]) for item in lease["items"]] == [("sim", 2), ("cad", 1)]
    assert (lease["tool"], lease["seats"]) == ("sim", 2)
    assert out(api) == {"cad": 1, "sim": 2}
    pass_time(seconds=50)
    renewed = api.renew(lease["id"]).json()
    assert renewed["items"] == lease["items"]
    pass_time(seconds=50)
    listed = api.client.get("/borrows").json()
    assert [(entry["id"], entry["items"]) for entry in listed] == [(lease["id"], lease["items"])]
    assert api.give_back(lease["id"]).json() == {"status": "ok", "tool": "sim"}
    assert out(api) == {"cad": 0, "sim": 0}
    assert api.give_back(lease["id"]).status_code == 200
    assert out(api) == {"cad": 0, "sim": 0}


def test_a_set_is_granted_as_a_whole_or_not_at_all(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=5)
    make_tool("sim", capacity=1)
    api.borrow("sim")
    answer = api.borrow_set(("cad", 1), ("sim", 1))
    assert (answer.status_code, answer.json()["code"], answer.json()["tool"]) == (409, "exhausted", "sim")
    assert out(api) == {"cad": 0, "sim": 1}
    assert api.borrow_set(("cad", 1), ("nope", 1)).status_code == 404
    assert out(api) == {"cad": 0, "sim": 1}


def test_a_set_expires_as_one(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad", capacity=1, default_ttl=None)
    make_tool("sim", capacity=1)
    lease = api.borrow_set(("cad", 1), ("sim", 1), ttl_seconds=60).json()
    pass_time(seconds=60)
    # One half is closed separately.
    assert api.borrow("cad", "ben").status_code == 200
    assert api.renew(lease["id"]).json()["code"] == "expired"
    assert out(api) == {"cad": 1, "sim": 0}
    assert api.borrow("sim", "ben").status_code == 200


def test_a_set_lasts_as_long_as_its_shortest_tool_says(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", default_ttl=timedelta(minutes=30))
    make_tool("sim", default_ttl=timedelta(minutes=10))
    make_tool("old", default_ttl=None)
    assert api.borrow_set(("cad", 1), ("sim", 1), ("old", 1)).json()["heartbeat_seconds"] == 200


def test_the_parts_of_a_set_have_no_addresses_of_their_own(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad")
    make_tool("sim")
    lease = api.borrow_set(("cad", 1), ("sim", 1)).json()
    part = Lease.objects.get(part_of=lease["id"])
    assert api.give_back(str(part.pk)).status_code == 404
    assert api.renew(str(part.pk)).status_code == 404
    assert api.client.get(f"/api/v1/leases/{part.pk}/").status_code == 404
    assert len(api.client.get("/api/v1/leases/").json()["results"]) == 1
    for tool in ("cad", "sim"):
        assert [entry["id"] for entry in api.client.get(f"/api/v1/leases/?tool={tool}").json()["results"]] == [
            lease["id"]
        ]


def test_the_first_alternative_that_fits_wins_and_the_answer_says_which(api: Api, make_tool: MakeTool) -> None:
    make_tool("premium", capacity=1)
    make_tool("basic", capacity=1)
    make_tool("extra", capacity=1)
    wanted: tuple[list[tuple[str, int]], ...] = ([("premium", 1)], [("basic", 1), ("extra", 1)])
    first, second, third = (api.borrow_first_of(*wanted) for _ in range(3))
    assert (first.json()["alternative"], [item["tool"] for item in first.json()["items"]]) == (0, ["premium"])
    assert (second.json()["alternative"], [item["tool"] for item in second.json()["items"]]) == (1, ["basic", "extra"])
    assert (third.status_code, third.json()["tool"]) == (409, "premium")


def test_an_alternative_that_is_off_is_passed_over(api: Api, make_tool: MakeTool) -> None:
    make_tool("premium", enabled=False)
    make_tool("basic")
    assert api.borrow_first_of([("premium", 1)], [("basic", 1)]).json()["tool"] == "basic"


@pytest.mark.parametrize(
    "wanted",
    [
        {"items": []},
        {"items": "cad"},
        {"items": ["cad"]},
        {"items": [{"tool": "cad"}, {"tool": "cad"}]},
        {"items": [{"tool": "cad", "seats": 0}]},
        {"items": [{"tool": "cad", "user": "ben"}]},
        {"items": [{"seats": 1}]},
        {"items": [{"tool": f"t{number}"} for number in range(33)]},
        {"items": [{"tool": "cad"}], "tool": "cad"},
        {"items": [{"tool": "cad"}], "seats": 2},
        {"items": [{"tool": "cad"}], "alternatives": [[{"tool": "cad"}]]},
        {"alternatives": []},
        {"alternatives": [[]]},
        {"alternatives": [{"tool": "cad"}]},
        {"alternatives": [[{"tool": "cad"}]] * 17},
        {"alternatives": [[[{"tool": "cad"}]]]},
        {},
    ],
)
def test_a_set_that_makes_no_sense_is_refused(api: Api, make_tool: MakeTool, wanted: dict[str, Any]) -> None:
    make_tool("cad", capacity=5)
    answer = api.post("/licenses/borrow", {"user": "ana", **wanted})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert api.status()["borrowed"] == 0


def deadlocks(server: Server) -> int:
    """Return the number of deadlocks in the server's PostgreSQL database."""
    url = server.environment.get("DATABASE_URL")
    if not url:
        return 0
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


def test_sets_named_in_opposite_orders_never_deadlock(server: Server) -> None:
    """Each pair of tools in both orders at once: without one order for all
    locks, PostgreSQL has to end dozens of deadlocks in such a run."""
    tools = ["cad_tool", "simulation", "analysis"]
    statuses: set[int] = set()

    def borrow_and_return(order: tuple[str, ...]) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for _ in range(40):
                answer = client.post(
                    "/licenses/borrow", json={"user": "ci", "items": [{"tool": tool} for tool in order]}
                )
                statuses.add(answer.status_code)
                if answer.status_code == 200:
                    client.post("/licenses/return", json={"id": answer.json()["id"]}).raise_for_status()

    orders = [*itertools.permutations(tools), *itertools.permutations(tools, 2)]
    threads = [threading.Thread(target=borrow_and_return, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {200, 409}
    assert deadlocks(server) == 0
    status = httpx.get(f"{server.url}/licenses/status").json()
    assert {entry["tool"]: entry["borrowed"] for entry in status} == dict.fromkeys(tools, 0)
