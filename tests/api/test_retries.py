"""The same borrow sent twice: one seat, one answer."""

import queue
import threading
from collections.abc import Callable
from io import StringIO

import httpx
import pytest
from django.core.management import call_command

from licenses.models import BorrowKey, Lease, Tool
from tests.support.api import Api
from tests.support.servers import Server

MakeTool = Callable[..., Tool]
PassTime = Callable[..., None]


def test_the_same_key_gives_the_same_lease_and_takes_no_second_seat(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=5)
    first, second = api.borrow(key="job-1"), api.borrow(key="job-1")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    assert second["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first
    assert api.status()["borrowed"] == 1


def test_the_answer_stays_the_same_after_renewals_and_the_end(
    api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool("cad", capacity=5)
    first = api.borrow(key="job-1").json()
    api.renew(first["id"])
    assert api.borrow(key="job-1").json() == first
    api.give_back(first["id"])
    assert api.borrow(key="job-1").json() == first
    assert api.status()["borrowed"] == 0


def test_a_refusal_is_kept_too(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow(user="ben").json()
    refused = api.borrow(key="job-1")
    api.give_back(lease["id"])
    again = api.borrow(key="job-1")
    assert (again.status_code, again.json()) == (409, refused.json())
    assert again["Retry-After"] == refused["Retry-After"]
    assert api.borrow(key="job-2").status_code == 200


def test_an_unknown_tool_is_kept_too(api: Api, make_tool: MakeTool) -> None:
    refused = api.borrow("new", key="job-1")
    make_tool("new")
    assert (refused.status_code, api.borrow("new", key="job-1").json()) == (404, refused.json())


def test_the_same_key_with_another_request_is_refused(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=5)
    api.borrow(key="job-1")
    for other in ({"seats": 2}, {"host": "ws1"}, {"ttl_seconds": 60}, {"wait_seconds": 60}):
        answer = api.borrow(key="job-1", **other)
        assert (answer.status_code, answer.json()["code"]) == (422, "key_reused")
    assert api.status()["borrowed"] == 1


def test_the_same_request_written_otherwise_is_the_same(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=5)
    first = api.borrow(key="job-1").json()
    again = api.post(
        "/licenses/borrow", {"user": "ana", "items": [{"tool": "cad", "seats": 1}]}, **{"Idempotency-Key": "job-1"}
    )
    assert again.json() == first


def test_a_key_belongs_to_its_caller(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=5)
    assert api.borrow(user="ana", key="1").json()["id"] != api.borrow(user="ben", key="1").json()["id"]
    assert api.status()["borrowed"] == 2


def test_a_retry_of_a_waiting_borrow_gives_the_same_ticket(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow(user="ana").json()
    first, again = (api.borrow(user="ben", key="job-1", wait_seconds=60) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["ticket"] == again.json()["ticket"]
    assert api.status()["queued"] == 1
    api.give_back(lease["id"])
    assert api.borrow(user="ben", key="job-1", wait_seconds=60).status_code == 200
    assert api.status()["borrowed"] == 1


@pytest.mark.parametrize("key", ["", " ", "a b", "\u00e4", "x" * 256, "a\tb"])
def test_a_key_that_is_none_is_refused(api: Api, make_tool: MakeTool, key: str) -> None:
    make_tool()
    answer = api.borrow(key=key)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert api.status()["borrowed"] == 0


def test_a_bad_body_uses_no_key_up(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    assert api.borrow(key="job-1", seats=0).status_code == 400
    assert api.borrow(key="job-1").status_code == 200


def test_keys_live_a_day_longer_than_their_lease(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad", capacity=1, default_ttl=None)
    lease = api.borrow(key="granted").json()
    api.borrow(key="refused")

    def keys_left() -> set[str]:
        call_command("expire_leases", stdout=StringIO())
        return set(BorrowKey.objects.values_list("key", flat=True))

    pass_time(hours=23)
    assert keys_left() == {"granted", "refused"}
    pass_time(hours=2)
    assert keys_left() == {"granted"}
    api.give_back(lease["id"])
    pass_time(hours=23)
    assert keys_left() == {"granted"}
    pass_time(hours=2)
    assert keys_left() == set()


def test_a_lost_client_finds_its_leases_again(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=5)
    mine = api.borrow(user="ci", host="runner-7").json()
    api.borrow(user="ci", host="runner-8")
    api.borrow(user="ana", host="runner-7")
    found = api.client.get("/borrows?user=ci&host=runner-7").json()
    assert [lease["id"] for lease in found] == [mine["id"]]
    assert found[0]["server_time"]


def test_the_same_key_at_the_same_moment_takes_one_seat(server: Server) -> None:
    rounds, at_once = 20, 8
    answers: queue.SimpleQueue[tuple[int, str, str]] = queue.SimpleQueue()

    def send(key: str, start: threading.Barrier) -> None:
        start.wait()
        answer = httpx.post(
            f"{server.url}/licenses/borrow",
            json={"tool": "cad_tool", "user": "ci"},
            headers={"Idempotency-Key": key},
            timeout=60,
        )
        answers.put((answer.status_code, key, answer.text))

    for number in range(rounds):
        start = threading.Barrier(at_once)
        threads = [threading.Thread(target=send, args=(f"job-{number}", start)) for _ in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    told: dict[str, set[tuple[int, str]]] = {}
    while not answers.empty():
        status, key, body = answers.get()
        told.setdefault(key, set()).add((status, body))
    assert len(told) == rounds
    assert all(len(answers) == 1 for answers in told.values())
    statuses = [status for ((status, _),) in told.values()]
    assert sorted(set(statuses)) == [200, 409]
    # Five keys have all five seats.
    assert statuses.count(200) == httpx.get(f"{server.url}/licenses/cad_tool/status").json()["borrowed"] == 5


def test_every_decision_is_counted_once(api: Api, make_tool: MakeTool) -> None:
    make_tool("counted")
    for _ in range(3):
        api.borrow("counted", key="a")
        api.borrow("counted", key="b")
    metrics = api.client.get("/metrics").content.decode().splitlines()
    assert 'license_borrow_attempts_total{tool="counted"} 2.0' in metrics
    assert 'license_borrow_replays_total{tool="counted"} 4.0' in metrics
    assert Lease.objects.count() == 1
