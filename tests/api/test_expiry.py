"""Leases expire, and heartbeats extend them."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from licenses.models import Lease, Tool
from tests.support.api import Api

MakeTool = Callable[..., Tool]
PassTime = Callable[..., None]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_borrow_says_when_it_ends_and_how_often_to_renew(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow(ttl_seconds=300).json()
    assert moment(lease["expires_at"]) - moment(lease["borrowed_at"]) == timedelta(seconds=300)
    assert lease["heartbeat_seconds"] == 100
    assert lease["server_time"] == lease["borrowed_at"]


def test_a_plain_borrow_lasts_as_long_as_the_tool_says(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad")
    make_tool("short", default_ttl=timedelta(minutes=5))
    make_tool("old", default_ttl=None)
    lease = api.borrow("cad").json()
    assert moment(lease["expires_at"]) - moment(lease["borrowed_at"]) == timedelta(hours=8)
    lease = api.borrow("short").json()
    assert moment(lease["expires_at"]) - moment(lease["borrowed_at"]) == timedelta(minutes=5)
    lease = api.borrow("old").json()
    assert (lease["expires_at"], lease["heartbeat_seconds"]) == (None, None)


def test_more_than_the_tools_maximum_is_refused(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", max_ttl=timedelta(hours=10))
    answer = api.borrow(ttl_seconds=36_001)
    assert (answer.status_code, answer.json()["code"]) == (400, "ttl_too_long")
    assert answer.json()["max_ttl_seconds"] == 36_000
    assert api.borrow(ttl_seconds=36_000).status_code == 200


def test_an_expired_seat_is_free_at_once_with_nobody_tidying(
    api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool()
    dead = api.borrow(user="dead", ttl_seconds=60).json()
    pass_time(seconds=59)
    assert api.borrow().status_code == 409
    pass_time(seconds=1)
    assert (api.status()["borrowed"], api.status()["available"]) == (0, 1)
    assert [lease["user"] for lease in api.client.get("/borrows").json()] == []
    assert api.borrow().status_code == 200
    row = Lease.objects.get(pk=dead["id"])
    assert (row.end_reason, row.ended_at) == ("expired", row.expires_at)
    assert api.status()["borrowed"] == 1


def test_a_lease_without_an_end_stays(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad", default_ttl=None)
    lease = api.borrow().json()
    pass_time(days=400)
    assert api.status()["borrowed"] == 1
    assert api.renew(lease["id"]).json()["expires_at"] is None


def test_a_heartbeat_extends_the_lease_by_its_ttl(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    lease = api.borrow(ttl_seconds=60).json()
    for _ in range(3):
        pass_time(seconds=50)
        renewed = api.renew(lease["id"])
        assert renewed.status_code == 200
        body = renewed.json()
        assert body["id"] == lease["id"]
        assert moment(body["expires_at"]) - moment(body["server_time"]) == timedelta(seconds=60)
    assert api.status()["borrowed"] == 1


def test_a_lease_can_be_renewed_at_its_own_address_too(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    lease = api.borrow(ttl_seconds=60).json()
    pass_time(seconds=50)
    answer = api.post(f"/api/v1/leases/{lease['id']}/renew/", {})
    assert moment(answer.json()["expires_at"]) > moment(answer.json()["server_time"]) + timedelta(seconds=59)


def test_an_expired_lease_is_never_revived(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    lease = api.borrow(ttl_seconds=60).json()
    pass_time(seconds=60)
    for _ in range(2):
        answer = api.renew(lease["id"])
        assert (answer.status_code, answer.json()["code"], answer.json()["end_reason"]) == (410, "expired", "expired")
        # Closed or not.
        call_command("expire_leases", stdout=StringIO())
    assert api.status()["available"] == 1


def test_a_returned_lease_is_never_revived(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow().json()
    api.give_back(lease["id"])
    answer = api.renew(lease["id"])
    assert (answer.status_code, answer.json()["code"]) == (410, "returned")


def test_an_unknown_lease_cannot_be_renewed(api: Api) -> None:
    answer = api.renew(str(uuid.uuid4()))
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_lease")


def test_returning_an_expired_lease_is_harmless_and_changes_no_fact(
    api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool()
    lease = api.borrow(ttl_seconds=60).json()
    pass_time(minutes=5)
    assert api.give_back(lease["id"]).json() == {"status": "ok", "tool": "cad"}
    row = Lease.objects.get(pk=lease["id"])
    assert (row.end_reason, row.ended_at) == ("expired", row.expires_at)
    other = api.borrow().json()
    assert api.give_back(lease["id"]).status_code == 200
    assert api.status()["borrowed"] == 1
    assert api.renew(other["id"]).status_code == 200


def test_a_heartbeat_locks_no_tool(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow().json()
    with CaptureQueriesContext(connection) as queries:
        api.renew(lease["id"])
    locks = [query["sql"] for query in queries if "FOR NO KEY UPDATE" in query["sql"]]
    assert all('FOR NO KEY UPDATE OF "licenses_lease"' in sql for sql in locks)
    assert not [query["sql"] for query in queries if "UPDATE licenses_tool" in query["sql"]]


def test_fence_numbers_increase_with_every_lease_of_a_tool(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad", capacity=2)
    make_tool("sim", capacity=2)
    fences = []
    for _ in range(4):
        lease = api.borrow("cad", ttl_seconds=10).json()
        fences.append(lease["fence"])
        pass_time(seconds=10)
    assert fences == sorted(set(fences))
    assert api.borrow("sim").json()["fence"] == 1


def test_a_lease_ends_with_the_tools_license(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    make_tool("cad", valid_until=until)
    lease = api.borrow().json()
    assert moment(lease["expires_at"]) == until
    pass_time(minutes=50)
    assert moment(api.renew(lease["id"]).json()["expires_at"]) == until - timedelta(minutes=50)
    pass_time(minutes=10)
    answer = api.renew(lease["id"])
    assert (answer.status_code, answer.json()["code"]) == (410, "revoked")
    assert api.client.get("/borrows").json() == []


def test_changing_the_date_in_the_admin_moves_the_end_of_leases(
    api: Api, make_tool: MakeTool, admin_client: Client
) -> None:
    tool = make_tool("cad", capacity=3)
    Tool.objects.filter(pk=tool.pk).update(default_ttl=None)
    endless = api.borrow().json()
    timed = api.borrow(ttl_seconds=7200).json()

    def set_date(date: str, time: str) -> None:
        form: dict[str, Any] = {"capacity": 3, "enabled": "on", "valid_until_0": date, "valid_until_1": time}
        answer = admin_client.post(f"/admin/licenses/tool/{tool.pk}/change/", form)
        assert answer.status_code == 302, answer.content

    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    set_date(f"{soon:%Y-%m-%d}", f"{soon:%H:%M:%S}")
    assert {lease["expires_at"] for lease in api.client.get("/borrows").json()} == {
        soon.isoformat().replace("+00:00", "Z")
    }
    set_date("", "")
    assert api.client.get(f"/api/v1/leases/{endless['id']}/").json()["expires_at"] is None
    assert moment(api.renew(timed["id"]).json()["expires_at"]) > soon
    set_date("2020-01-01", "00:00:00")
    assert api.client.get("/borrows").json() == []
    assert api.renew(endless["id"]).json()["code"] == "revoked"


@pytest.mark.parametrize("more", [{}, {"ttl_seconds": 7200}])
def test_a_lease_that_the_license_ended_keeps_its_reason_when_the_license_is_extended(
    api: Api, make_tool: MakeTool, admin_client: Client, pass_time: PassTime, more: dict[str, Any]
) -> None:
    until = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    tool = make_tool("cad", capacity=3, valid_until=until)
    lease = api.borrow("cad", **more).json()
    pass_time(hours=2)
    later = datetime.now(UTC) + timedelta(days=30)
    form = {"capacity": 3, "enabled": "on", "valid_until_0": f"{later:%Y-%m-%d}", "valid_until_1": "00:00:00"}
    page = admin_client.post(f"/admin/licenses/tool/{tool.pk}/change/", form)
    assert page.status_code == 302, page.content
    row = Lease.objects.get(pk=lease["id"])
    assert (row.end_reason, row.ended_at) == ("revoked", row.expires_at)
    assert api.status("cad")["available"] == 3


def test_closing_many_leases_costs_no_more_statements_than_closing_one(
    api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool("cad", capacity=40)
    counts = []
    for number in (1, 30):
        for _ in range(number):
            api.borrow("cad", ttl_seconds=10)
        pass_time(minutes=1)
        with CaptureQueriesContext(connection) as queries:
            assert api.borrow("cad", seats=40, ttl_seconds=10).status_code == 200
        counts.append(len(queries))
        pass_time(minutes=1)
    assert counts[0] == counts[1]


def test_a_sweep_closes_only_expired_rows(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad", capacity=3)
    make_tool("sim", capacity=3)
    for tool in ("cad", "cad", "sim"):
        api.borrow(tool, ttl_seconds=60)
    pass_time(seconds=60)
    live = api.borrow("cad").json()
    out = StringIO()
    call_command("expire_leases", stdout=out)
    assert out.getvalue() == "3 lease(s), 0 ticket(s), 0 key(s), 0 session(s), 0 day(s) rolled up\n"
    assert [str(pk) for pk in Lease.objects.open().values_list("pk", flat=True)] == [live["id"]]
    assert dict(Tool.objects.values_list("name", "borrowed")) == {"cad": 1, "sim": 0}
    assert (api.status("cad")["borrowed"], api.status("sim")["borrowed"]) == (1, 0)
    metrics = api.client.get("/metrics").content.decode().splitlines()
    assert 'license_returns_total{reason="expired",tool="cad"} 2.0' in metrics


def test_an_overdue_lease_is_shown_as_ended(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    lease = api.borrow(ttl_seconds=60).json()
    pass_time(minutes=2)
    shown = api.client.get(f"/api/v1/leases/{lease['id']}/").json()
    assert (shown["end_reason"], shown["ended_at"]) == ("expired", shown["expires_at"])
    assert api.client.get("/api/v1/leases/?state=active").json()["results"] == []
    assert len(api.client.get("/api/v1/leases/?state=ended").json()["results"]) == 1


@pytest.mark.parametrize("ttl", [0, -1, 366 * 24 * 3600 + 1, "60", 1.5, True])
def test_a_ttl_that_makes_no_sense_is_refused(api: Api, make_tool: MakeTool, ttl: object) -> None:
    make_tool()
    assert api.borrow(ttl_seconds=ttl).status_code == 400
    assert api.status()["borrowed"] == 0


@pytest.mark.parametrize(
    "values",
    [
        {"default_ttl": timedelta(0)},
        {"max_ttl": timedelta(milliseconds=999)},
        {"default_ttl": timedelta(hours=2), "max_ttl": timedelta(hours=1)},
    ],
)
def test_the_database_itself_refuses_impossible_times(make_tool: MakeTool, values: dict[str, timedelta]) -> None:
    with pytest.raises(IntegrityError):
        make_tool("broken", **values)
