"""Places in the queue that hold without polls: people take them on the board."""

import itertools
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from licenses.errors import QueueDropped, Refusal
from licenses.leases import expiry, queue, services
from licenses.leases.requests import BorrowRequest, Granted, Waiting
from licenses.models import Lease, Team, Ticket, TicketState, Tool
from licenses.policy import Item
from tests.support.api import Api
from tests.support.quotas import allot

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]
PassTime = Callable[..., None]


def take_place(user: str = "ben", tool: str = "cad", *, seats: int = 1, hours: float = 8, **more: Any) -> Ticket:
    """Wait as a person on the board does."""
    request = BorrowRequest(
        user=user, alternatives=((Item(tool, seats),),), wait=timedelta(hours=hours), kept=True, **more
    )
    place = services.borrow(request)
    assert isinstance(place, Waiting)
    return place.ticket


def is_offered(ticket: Ticket) -> bool:
    ticket.refresh_from_db()
    return ticket.state == TicketState.WAITING and ticket.offered_at is not None


def sweep() -> expiry.Tidied:
    return expiry.tidy()


def test_a_kept_place_holds_without_polls(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    api.borrow()
    ticket = take_place()
    for _ in range(12):
        pass_time(minutes=10)
        assert (sweep().tickets, is_offered(ticket)) == (0, False)
    assert api.borrow(user="late", wait_seconds=60).json()["position"] == 2


def test_a_kept_place_ends_with_the_longest_wait(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool()
    api.borrow()
    ticket = take_place(hours=0.5)
    for _ in range(3):
        pass_time(minutes=10)
        sweep()
    ticket.refresh_from_db()
    assert ticket.state == TicketState.TIMED_OUT


def test_without_a_sweeper_a_kept_place_blocks_no_seat_for_long(
    api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool()
    lease = api.borrow().json()
    take_place()
    api.give_back(lease["id"])
    pass_time(minutes=14)
    assert api.borrow(user="newcomer").status_code == 409
    pass_time(minutes=1)
    assert api.borrow(user="newcomer").status_code == 200


def test_a_seat_is_offered_and_kept_until_the_person_takes_it(
    api: Api, make_tool: MakeTool, pass_time: PassTime, settings: Any
) -> None:
    settings.LICENSE_OFFER_MINUTES = 10
    make_tool()
    lease = api.borrow().json()
    ticket, behind = take_place(), api.wait(user="cleo")
    assert (sweep().offers, is_offered(ticket)) == (0, False)
    api.give_back(lease["id"])
    assert (sweep().offers, is_offered(ticket)) == (1, True)
    assert sweep().offers == 0
    assert api.poll(behind).status_code == 202
    assert api.borrow(user="newcomer").status_code == 409
    pass_time(minutes=9, seconds=50)
    granted = services.poll(ticket_id=ticket.id)
    assert isinstance(granted, Granted)
    assert granted.head.user == "ben"


def test_an_offer_that_nobody_takes_ends_and_the_next_in_the_queue_gets_it(
    api: Api, make_tool: MakeTool, pass_time: PassTime, settings: Any
) -> None:
    settings.LICENSE_OFFER_MINUTES = 3
    make_tool()
    lease = api.borrow().json()
    away, here = take_place("away"), take_place("here")
    api.give_back(lease["id"])
    sweep()
    pass_time(minutes=3)
    swept = sweep()
    assert (swept.tickets, swept.offers, is_offered(here)) == (1, 1, True)
    with pytest.raises(QueueDropped, match="was offered, and nobody took it in time"):
        services.poll(ticket_id=away.id)
    assert isinstance(services.poll(ticket_id=here.id), Granted)


def test_an_offer_lasts_for_its_window_also_at_the_end_of_the_wait(
    api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool()
    lease = api.borrow().json()
    ticket = take_place(hours=0.2)
    pass_time(minutes=11)
    api.give_back(lease["id"])
    assert sweep().offers == 1
    pass_time(minutes=9)
    assert isinstance(services.poll(ticket_id=ticket.id), Granted)


def test_an_offer_whose_seat_is_gone_again_costs_nobody_the_place(
    api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    tool = make_tool()
    lease = api.borrow().json()
    ticket = take_place()
    api.give_back(lease["id"])
    sweep()
    assert is_offered(ticket)
    Tool.objects.filter(pk=tool.pk).update(enabled=False)
    sweep()
    assert not is_offered(ticket)
    pass_time(minutes=12)
    sweep()
    Tool.objects.filter(pk=tool.pk).update(enabled=True)
    assert (sweep().offers, is_offered(ticket)) == (1, True)


def test_a_person_who_comes_too_early_keeps_the_place(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    tool = make_tool()
    lease = api.borrow().json()
    ticket = take_place()
    api.give_back(lease["id"])
    sweep()
    Tool.objects.filter(pk=tool.pk).update(capacity=0)
    answer = services.poll(ticket_id=ticket.id)
    assert isinstance(answer, Waiting)
    assert not is_offered(ticket)
    pass_time(minutes=14)
    assert is_offered(ticket) is False
    assert ticket.state == TicketState.WAITING


def test_seats_are_offered_in_the_order_of_the_queue(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=3)
    leases = [api.borrow().json()["id"] for _ in range(3)]
    program = api.wait(user="program")
    big, small = take_place("big", seats=2), take_place("small")
    api.give_back(leases[0])
    # The seat is for the program, and one of the big request's two is missing.
    assert sweep().offers == 0
    api.give_back(leases[1])
    assert sweep().offers == 0
    api.give_back(leases[2])
    assert (sweep().offers, is_offered(big), is_offered(small)) == (1, True, False)
    assert api.poll(program).status_code == 200
    assert sweep().offers == 0


def test_a_ticket_that_its_quota_holds_back_lets_the_next_have_the_offer(
    api: Api, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    make_tool("cad", capacity=2)
    allot("cad", make_team("crash", "ana", "ben"), quota=1)
    mine, other = api.borrow(user="ana").json(), api.borrow(user="zoe").json()
    held_back, next_one = take_place("ben"), take_place("cleo")
    api.give_back(other["id"])
    assert (sweep().offers, is_offered(held_back), is_offered(next_one)) == (1, False, True)
    api.give_back(mine["id"])
    assert (sweep().offers, is_offered(held_back)) == (1, True)


def test_a_program_s_ticket_is_never_offered_seats(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow().json()
    api.wait()
    api.give_back(lease["id"])
    assert sweep().offers == 0
    assert Ticket.objects.get().offered_at is None


def test_a_sweep_has_as_many_statements_for_many_kept_places_as_for_few(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    api.borrow()
    # The first sweep begins rows of its own.
    sweep()
    counts = []
    for users in (range(1, 3), range(3, 40)):
        for number in users:
            take_place(f"user{number}")
        with CaptureQueriesContext(connection) as queries:
            sweep()
        counts.append(len(queries))
    assert counts[0] == counts[1]


# --- Under load -------------------------------------------------------------

PATIENCE = 120


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no ticket of a slow machine's thread die."""
    monkeypatch.setattr(queue, "PATIENCE", timedelta(hours=1))


@pytest.fixture
def helpers() -> Iterator[Callable[[Callable[[threading.Event], None]], None]]:
    """Runs functions in threads until the test is over: ``helpers(sweep_on)``."""
    over, threads = threading.Event(), []
    errors: list[BaseException] = []

    def run(work: Callable[[threading.Event], None]) -> None:
        try:
            work(over)
        except BaseException as error:  # noqa: BLE001 - the test raises it
            errors.append(error)
            over.set()
        finally:
            connections.close_all()

    def start(work: Callable[[threading.Event], None]) -> None:
        threads.append(threading.Thread(target=run, args=(work,)))
        threads[-1].start()

    yield start
    over.set()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.skipif(connection.vendor != "postgresql", reason="threads share no SQLite database in memory")
@pytest.mark.django_db(transaction=True)
def test_people_and_programs_get_the_seat_in_the_order_of_the_queue(
    make_tool: MakeTool, patient: None, helpers: Callable[[Callable[[threading.Event], None]], None]
) -> None:
    make_tool()
    first = services.borrow(BorrowRequest(user="first", alternatives=((Item("cad"),),)))
    assert isinstance(first, Granted)
    users = [f"user{number}" for number in range(10)]
    tickets = []
    for number, user in enumerate(users):
        if number % 2:
            tickets.append(take_place(user))
        else:
            request = BorrowRequest(user=user, alternatives=((Item("cad"),),), wait=timedelta(hours=8))
            place = services.borrow(request)
            assert isinstance(place, Waiting)
            tickets.append(place.ticket)
    served = threading.Semaphore(0)

    def wait_for_a_seat(ticket: Ticket) -> Callable[[threading.Event], None]:
        def work(over: threading.Event) -> None:
            while not over.wait(0.01):
                # A person does nothing before the offer.
                if ticket.kept and not Ticket.objects.filter(pk=ticket.pk, offered_at__isnull=False).exists():
                    continue
                outcome = services.poll(ticket_id=ticket.id)
                if isinstance(outcome, Granted):
                    services.give_back(lease_id=outcome.head.id)
                    served.release()
                    return

        return work

    def sweep_on(over: threading.Event) -> None:
        while not over.wait(0.01):
            expiry.tidy()

    def push_in(over: threading.Event) -> None:
        while not over.wait(0.01):
            try:
                services.borrow(BorrowRequest(user="pushy", alternatives=((Item("cad"),),)))
            except Refusal:
                continue
            return

    for ticket in tickets:
        helpers(wait_for_a_seat(ticket))
    helpers(sweep_on)
    helpers(sweep_on)
    helpers(push_in)
    services.give_back(lease_id=first.head.id)
    for _ in tickets:
        assert served.acquire(timeout=PATIENCE)
    leases = list(Lease.objects.filter(user__in=users).order_by("fence"))
    assert [lease.user for lease in leases] == users
    held = list(Lease.objects.exclude(user="pushy").order_by("fence"))
    # Never two at once, by the times taken under the lock.
    assert all(before.ended_at and before.ended_at <= after.borrowed_at for before, after in itertools.pairwise(held))
