"""Seats above the capacity are limited, shown, counted and charged."""

from collections.abc import Callable

from licenses.models import Lease, Tool
from tests.support.api import Api

MakeTool = Callable[..., Tool]
PassTime = Callable[..., None]


def test_an_overdraft_is_bounded_and_flagged(api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=2, overdraft=2)
    assert [api.borrow(seats=2).json()["overdraft_seats"], api.borrow().json()["overdraft_seats"]] == [0, 1]
    status = api.status()
    assert (status["total"], status["borrowed"], status["available"], status["overdrawn"]) == (2, 3, 0, 1)
    assert api.status(user="ana")["available_to_you"] == 1
    assert api.borrow().json()["overdraft_seats"] == 1
    refused = api.borrow()
    assert (refused.status_code, refused.json()["code"]) == (409, "exhausted")


def test_a_lease_is_flagged_by_its_place_at_that_time(api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=2, overdraft=2)
    first = api.borrow().json()
    above = api.borrow(seats=3).json()
    assert (above["overdraft_seats"], above["items"][0]["overdraft_seats"]) == (2, 2)
    api.give_back(first["id"])
    assert Lease.objects.get(pk=above["id"]).overdraft_seats == 2
    assert api.status()["overdrawn"] == 1


def test_an_overdraft_is_counted(api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=1, overdraft=1)
    page = api.client.get("/metrics").content.decode()
    assert 'license_overdraft_leases_total{tool="cad"} 0.0' in page
    api.borrow()
    api.borrow()
    page = api.client.get("/metrics").content.decode()
    assert 'license_overdraft_leases_total{tool="cad"} 1.0' in page
    assert 'licenses_overdraft{tool="cad"} 1.0' in page
    assert 'licenses_available{tool="cad"} 0.0' in page


def test_seat_hours_are_charged(api: Api, admin_api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool(capacity=1, overdraft=1, seat_hour_price="2.5", overdraft_hour_price="10")
    lease = api.borrow(seats=2).json()
    pass_time(hours=2)
    api.give_back(lease["id"])
    record = admin_api.client.get(f"/api/v1/leases/{lease['id']}/").json()
    assert (record["seat_hours"], record["cost"]) == (4.0, "25.00")


def test_without_a_price_nothing_is_charged(api: Api, admin_api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad", capacity=2)
    make_tool("sim", capacity=2, seat_hour_price="1")
    lease = api.borrow().json()
    both = api.borrow_set(("cad", 1), ("sim", 2)).json()
    pass_time(hours=1)
    assert admin_api.client.get(f"/api/v1/leases/{lease['id']}/").json()["cost"] is None
    # Of a set, only the tools with a price.
    record = admin_api.client.get(f"/api/v1/leases/{both['id']}/").json()
    assert (record["seat_hours"], record["cost"]) == (3.0, "2.00")
