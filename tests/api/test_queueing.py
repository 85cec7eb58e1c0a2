"""The queue for seats."""

from collections.abc import Callable
from datetime import datetime, timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db.models.functions import Now

from licenses.leases import queue
from licenses.models import Lease, Ticket, TicketClaim, Tool
from tests.support.api import Api

MakeTool = Callable[..., Tool]
PassTime = Callable[..., None]


def test_a_borrow_that_can_wait_gets_a_ticket(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    api.borrow()
    answer = api.borrow(user="ben", wait_seconds=600)
    place = answer.json()
    assert answer.status_code == 202
    assert (place["position"], place["poll_after"]) == (1, 1)
    assert answer["Location"] == f"/licenses/queue/{place['ticket']}"
    assert answer["Retry-After"] == "1"
    assert datetime.fromisoformat(place["deadline"]).utcoffset() == timedelta(0)
    status = api.status()
    assert (status["queued"], status["borrowed"], status["available"]) == (1, 1, 0)


def test_a_free_seat_is_granted_without_a_wait(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    assert api.borrow(wait_seconds=600).status_code == 200
    assert api.status()["queued"] == 0


def test_a_returned_seat_goes_to_the_queue(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow().json()
    ticket = api.wait(user="ben", host="ws1", ttl_seconds=60)
    assert api.poll(ticket).status_code == 202
    api.give_back(lease["id"])
    first, again = api.poll(ticket), api.poll(ticket)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json()["id"] == again.json()["id"]
    granted = first.json()
    assert (granted["user"], granted["host"], granted["heartbeat_seconds"]) == ("ben", "ws1", 20)
    assert (api.status()["queued"], api.status()["borrowed"]) == (0, 1)


def test_an_expired_seat_goes_to_the_queue(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    api.borrow(ttl_seconds=15)
    ticket = api.wait()
    pass_time(seconds=15)
    assert api.poll(ticket).status_code == 200


def test_first_come_first_served(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow().json()
    tickets = [api.wait(user=f"user{number}") for number in range(3)]
    assert [api.poll(ticket).json()["position"] for ticket in tickets] == [1, 2, 3]
    api.give_back(lease["id"])
    # The later tickets poll first and more often.
    assert [api.poll(ticket).status_code for ticket in reversed(tickets)] == [202, 202, 200]
    assert [api.poll(ticket).json()["position"] for ticket in tickets[1:]] == [1, 2]


def test_a_newcomer_never_overtakes(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow().json()
    ticket = api.wait()
    api.give_back(lease["id"])
    status = api.status()
    assert (status["borrowed"], status["set_aside"], status["available"]) == (0, 1, 0)
    refused = api.borrow(user="newcomer")
    assert (refused.status_code, refused.json()["code"]) == (409, "exhausted")
    assert "and 1 is set aside for the queue" in refused.json()["detail"]
    assert api.borrow(user="newcomer", wait_seconds=60).json()["position"] == 2
    assert api.poll(ticket).status_code == 200


def test_a_refusal_counts_only_free_seats_as_set_aside(api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=2)
    leases = [api.borrow().json() for _ in range(2)]
    for user in ("ben", "cleo", "dora"):
        api.wait(user=user)
    assert "2 of 2 are borrowed. Try" in api.borrow(user="newcomer").json()["detail"]
    api.give_back(leases[0]["id"])
    assert "1 of 2 are borrowed, and 1 is set aside" in api.borrow(user="newcomer").json()["detail"]


def test_a_big_request_is_not_starved_by_small_ones(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=3)
    leases = [api.borrow().json() for _ in range(3)]
    big = api.wait(user="big", seats=3)
    small = api.wait(user="small")
    for lease in leases[:2]:
        api.give_back(lease["id"])
        assert (api.poll(small).status_code, api.poll(big).status_code) == (202, 202)
        assert api.borrow(user="newcomer").status_code == 409
    api.give_back(leases[2]["id"])
    assert (api.poll(small).status_code, api.poll(big).status_code) == (202, 200)


def test_seats_that_the_first_ticket_does_not_need_go_to_the_next(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=3)
    leases = [api.borrow().json() for _ in range(3)]
    first, second = api.wait(user="first"), api.wait(user="second", seats=2)
    for lease in leases:
        api.give_back(lease["id"])
    assert api.poll(second).status_code == 200
    assert api.poll(first).status_code == 200


def test_a_ticket_without_polls_is_dropped_and_the_next_moves_up(
    api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool()
    lease = api.borrow().json()
    gone, next_one = api.wait(user="gone"), api.wait(user="next")
    api.give_back(lease["id"])
    pass_time(seconds=19)
    assert api.poll(next_one).status_code == 202
    pass_time(seconds=1)
    assert api.poll(next_one).status_code == 200
    dropped = api.poll(gone)
    assert (dropped.status_code, dropped.json()["code"]) == (410, "queue_dropped")
    assert api.poll(gone).status_code == 410
    assert api.status()["queued"] == 0


def test_asking_keeps_the_place(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    api.borrow()
    ticket = api.wait()
    for _ in range(5):
        pass_time(seconds=19)
        assert api.poll(ticket).json()["position"] == 1


def test_a_wait_has_an_end(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    api.borrow()
    ticket = api.wait(seconds=25)
    pass_time(seconds=15)
    place = api.poll(ticket).json()
    assert place["poll_after"] <= 10
    pass_time(seconds=10)
    for _ in range(2):
        over = api.poll(ticket)
        assert (over.status_code, over.json()["code"]) == (410, "queue_timeout")


def test_a_place_can_be_given_up(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    api.borrow()
    first, second = api.wait(user="first"), api.wait(user="second")
    assert [api.leave(first).status_code for _ in range(2)] == [204, 204]
    assert api.poll(first).json()["code"] == "queue_left"
    assert api.poll(second).json()["position"] == 1


def test_a_ticket_that_became_a_lease_cannot_be_left(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow().json()
    ticket = api.wait()
    api.give_back(lease["id"])
    granted = api.poll(ticket).json()
    answer = api.leave(ticket)
    assert (answer.status_code, answer.json()["code"], answer.json()["lease"]) == (409, "granted", granted["id"])


@pytest.mark.parametrize("ticket", ["9d9068b1-393f-490f-a837-fd5b784aa321", "1", "x", "0" * 100, "%00"])
def test_a_ticket_that_is_none_is_not_found(api: Api, ticket: str) -> None:
    for answer in (api.poll(ticket), api.leave(ticket)):
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_ticket")


def test_more_than_there_will_ever_be_is_refused_at_once(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=2)
    answer = api.borrow(seats=3, wait_seconds=600)
    assert (answer.status_code, answer.json()["code"]) == (409, "exhausted")
    assert "Waiting does not help" in answer.json()["detail"]
    make_tool("off", enabled=False)
    assert api.borrow("off", wait_seconds=600).json()["code"] == "disabled"
    assert Ticket.objects.count() == 0


def test_a_set_waits_for_all_its_tools(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad")
    make_tool("sim")
    cad, sim = api.borrow("cad").json(), api.borrow("sim").json()
    answer = api.borrow_set(("cad", 1), ("sim", 1), user="set", wait_seconds=60)
    ticket = answer.json()["ticket"]
    api.give_back(cad["id"])
    assert api.poll(ticket).status_code == 202
    assert api.borrow("cad", "newcomer").status_code == 409
    api.give_back(sim["id"])
    assert len(api.poll(ticket).json()["items"]) == 2


def test_a_ticket_with_alternatives_gets_the_one_that_is_free_first(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad")
    make_tool("sim")
    api.borrow("cad")
    sim = api.borrow("sim").json()
    answer = api.borrow_first_of([("cad", 1)], [("sim", 1)], user="either", wait_seconds=60)
    assert answer.status_code == 202
    api.give_back(sim["id"])
    granted = api.poll(answer.json()["ticket"]).json()
    assert (granted["tool"], granted["alternative"]) == ("sim", 1)
    assert (api.status("cad")["queued"], api.status("sim")["queued"]) == (0, 0)


def test_the_answer_has_the_number_of_the_requested_alternative(api: Api, make_tool: MakeTool) -> None:
    make_tool("off", enabled=False)
    make_tool("cad")
    lease = api.borrow("cad").json()
    answer = api.borrow_first_of([("off", 1)], [("cad", 1)], user="ben", wait_seconds=60)
    api.give_back(lease["id"])
    assert api.poll(answer.json()["ticket"]).json()["alternative"] == 1


def test_nothing_is_known_of_a_tool_that_nobody_has_used(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    api.borrow()
    assert api.borrow(user="ben", wait_seconds=60).json()["eta_seconds"] is None


def test_the_expected_wait_follows_from_how_long_seats_were_held(
    api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool("cad", capacity=2, default_ttl=None)
    for _ in range(2):
        lease = api.borrow().json()
        pass_time(seconds=600)
        api.give_back(lease["id"])
    api.borrow(seats=2)
    # With a holding time of 600 s, one of two seats comes back in 300 s, two in 600 s.
    etas = [api.borrow(user=f"user{number}", wait_seconds=60).json()["eta_seconds"] for number in range(3)]
    assert etas == pytest.approx([300, 600, 900], abs=5)


def test_the_dead_do_not_pile_up(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    api.borrow()
    for number in range(3):
        api.wait(user=f"user{number}")
        pass_time(seconds=20)
    assert Ticket.objects.waiting().count() == 1
    out = StringIO()
    call_command("expire_leases", stdout=out)
    assert out.getvalue() == "0 lease(s), 1 ticket(s), 0 key(s), 0 session(s), 0 day(s) rolled up\n"
    assert TicketClaim.objects.count() == 0
    assert Tool.objects.get().waiting == 0


def test_the_queue_is_seen_in_metrics(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("busy")
    lease = api.borrow("busy").json()
    first, second = api.wait("busy", "first"), api.wait("busy", "second")
    pass_time(seconds=15)

    def metrics() -> dict[str, float]:
        lines = api.client.get("/metrics").content.decode().splitlines()
        return {key: float(value) for key, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}

    assert metrics()['license_queue_length{tool="busy"}'] == 2
    assert 15 <= metrics()['license_queue_oldest_seconds{tool="busy"}'] < 60
    assert 15 <= api.status("busy")["oldest_wait_seconds"] < 60
    api.give_back(lease["id"])
    api.poll(first)
    api.leave(second)
    found = metrics()
    assert found['license_queue_length{tool="busy"}'] == found['license_queue_oldest_seconds{tool="busy"}'] == 0
    assert found['license_queue_waits_total{outcome="granted",tool="busy"}'] == 1
    assert found['license_queue_waits_total{outcome="left",tool="busy"}'] == 1
    assert found['license_queue_wait_seconds_count{tool="busy"}'] == 1
    # One borrow at once, one after a wait. A ticket that left counts as no decision.
    assert found['license_borrow_attempts_total{tool="busy"}'] == 2
    assert found['license_borrow_success_total{tool="busy"}'] == 2


@pytest.mark.parametrize("wait", [-1, 7 * 24 * 3600 + 1, "60", 0.5, True])
def test_a_wait_that_makes_no_sense_is_refused(api: Api, make_tool: MakeTool, wait: object) -> None:
    make_tool()
    assert api.borrow(wait_seconds=wait).status_code == 400


def test_a_wait_costs_no_more_the_longer_history_is(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    for _ in range(30):
        api.give_back(api.borrow().json()["id"])
    assert Lease.objects.count() == 30
    api.borrow()
    assert api.borrow(user="ben", wait_seconds=60).json()["eta_seconds"] == 0


# --- When to ask again --------------------------------------------------------

SECOND = timedelta(seconds=1)


def told(position: int, eta: float | None, waited: float) -> timedelta:
    return queue.poll_after(
        position=position, eta=None if eta is None else eta * SECOND, waited=timedelta(seconds=waited)
    )


def test_the_first_and_those_whose_seats_come_soon_ask_soon() -> None:
    assert told(1, None, 0) == told(1, 3600, 0) == SECOND
    assert told(40, 4, 0) == 2 * SECOND
    assert told(40, 0, 0) == SECOND
    # After a long wait another 10 s matter little.
    assert told(1, 3600, 1200) == 10 * SECOND
    assert told(1, 3, 1200) == 1.5 * SECOND
    assert told(1000, None, 0) == 90 * SECOND


@pytest.mark.parametrize("waited", [0, 60, 24 * 3600])
@pytest.mark.parametrize(
    ("seats", "held"), [(3, None), (3, 4), (3, 60), (20, 600), (100, 4 * 3600), (2, 20)], ids=lambda value: str(value)
)
def test_a_thousand_waiters_cost_less_than_20_requests_a_second(seats: int, held: float | None, waited: float) -> None:
    """A seat comes back every held / seats seconds, for the next in the queue."""
    rate = 0.0
    for position in range(1, 1001):
        eta = held * position / seats if held is not None else None
        # As in answers: in whole seconds.
        rate += 1 / max(round(told(position, eta, waited).total_seconds()), 1)
    assert rate < 20


def test_a_ticket_far_behind_lives_for_twice_its_poll_interval(
    api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool()
    api.borrow()
    for number in range(29):
        api.wait(user=f"user{number}")
    place = api.borrow(user="last", wait_seconds=3600).json()
    assert (place["position"], place["poll_after"]) == (30, 30)
    pass_time(seconds=59)
    assert api.poll(place["ticket"]).json()["position"] == 1
    pass_time(seconds=61)
    assert api.poll(place["ticket"]).json()["code"] == "queue_dropped"


def test_the_places_of_a_user_are_listed_as_their_polls_say(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad", capacity=2)
    make_tool("sim", capacity=1)
    lease = api.borrow("cad", seats=2).json()
    pass_time(minutes=10)
    api.give_back(lease["id"])
    api.borrow("cad", seats=2)
    api.borrow("sim")
    others = api.wait("cad", "ana", seats=2)
    mine = api.wait("cad", "ben", host="ws1", project="hood")
    both = api.borrow_set(("cad", 1), ("sim", 1), user="ben", wait_seconds=60).json()["ticket"]
    listed = api.client.get("/licenses/queue?user=ben").json()
    assert [entry["ticket"] for entry in listed] == [mine, both]
    for entry in listed:
        polled = api.poll(entry["ticket"]).json()
        assert {name: entry[name] for name in ("position", "eta_seconds", "deadline")} == {
            name: polled[name] for name in ("position", "eta_seconds", "deadline")
        }
    assert [entry["position"] for entry in listed] == [2, 3]
    # Three seats are short of two that come back in ten minutes; nothing is known of sim.
    assert [entry["eta_seconds"] for entry in listed] == [pytest.approx(900, abs=5), None]
    assert listed[0]["alternatives"] == [[{"tool": "cad", "seats": 1}]]
    assert (listed[0]["host"], listed[0]["project"], listed[0]["team"]) == ("ws1", "hood", None)
    assert listed[0]["waiting_since"] < listed[0]["deadline"]
    assert [entry["ticket"] for entry in api.client.get("/licenses/queue?user=ana").json()] == [others]
    api.leave(mine)
    assert [entry["position"] for entry in api.client.get("/licenses/queue?user=ben").json()] == [2]
    assert api.client.get("/licenses/queue").status_code == 400
    assert api.client.get("/licenses/queue?user=ben&tool=cad").status_code == 400


def test_a_list_of_places_shows_until_when_seats_are_offered(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    api.borrow()
    ticket = api.wait(user="ben")
    (entry,) = api.client.get("/licenses/queue?user=ben").json()
    assert entry["offered_until"] is None
    Ticket.objects.filter(id=ticket).update(offered_at=Now())
    (entry,) = api.client.get("/licenses/queue?user=ben").json()
    assert datetime.fromisoformat(entry["offered_until"]) == Ticket.objects.get(id=ticket).alive_until


def test_a_ticket_whose_client_is_gone_is_not_listed(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    api.borrow()
    api.wait(user="ben")
    pass_time(minutes=5)
    assert api.client.get("/licenses/queue?user=ben").json() == []
