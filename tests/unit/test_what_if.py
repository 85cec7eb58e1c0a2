"""Replay the demand with other capacities."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licenses.history import whatif
from licenses.history.reports import Span
from licenses.history.whatif import Demand, outcome
from licenses.models import Denial, EndReason, Lease, Tool
from tests.support.api import Api

MakeTool = Callable[..., Tool]
PassTime = Callable[..., None]

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LATER = NOON + timedelta(days=1)

demands = st.lists(
    st.builds(
        lambda minute, seats, held, decided: Demand(NOON + minute * MINUTE, seats, held * MINUTE, decided),
        st.integers(0, 60),
        st.integers(1, 4),
        st.integers(1, 30),
        st.booleans(),
    ),
    max_size=15,
)


def wanted(minute: int, held: int = 60, seats: int = 1) -> Demand:
    return Demand(NOON + minute * MINUTE, seats, held * MINUTE)


def by_the_minute(demands: Sequence[Demand], capacity: int) -> tuple[int, dict[int, timedelta]]:
    """Simulate minute by minute. Return the number of refusals and the waits."""
    in_order = sorted(demands, key=lambda demand: demand.at)
    refused = 0
    out: list[tuple[datetime, int]] = []
    for demand in in_order:
        out = [(end, seats) for end, seats in out if end > demand.at]
        if demand.decided and sum(seats for _, seats in out) + demand.seats > capacity:
            refused += 1
        else:
            out.append((demand.at + demand.held, demand.seats))
    waits: dict[int, timedelta] = {}
    line: list[int] = []
    held: list[tuple[datetime, int]] = []
    for step in range(60 * 24):
        now = NOON + step * MINUTE
        held = [(end, seats) for end, seats in held if end > now]
        came = [number for number, demand in enumerate(in_order) if demand.at == now]
        # Demands are served in order. Leases from before the span take their seats at once.
        for number in [None, *came]:
            if number is not None:
                demand = in_order[number]
                if not demand.decided:
                    held.append((now + demand.held, demand.seats))
                elif demand.seats <= capacity:
                    line.append(number)
            while line and sum(seats for _, seats in held) + in_order[line[0]].seats <= capacity:
                first = line.pop(0)
                held.append((now + in_order[first].held, in_order[first].seats))
                waits[first] = now - in_order[first].at
    assert not line
    return refused, waits


@given(demands, st.integers(0, 6))
def test_the_replay_is_what_looking_every_minute_shows(found: list[Demand], capacity: int) -> None:
    refused, waits = by_the_minute(found, capacity)
    told = outcome(found, capacity, LATER)
    waited = sorted(wait for wait in waits.values() if wait)
    assert told.refused == refused
    assert told.decided == sum(demand.decided for demand in found)
    assert told.too_big == sum(demand.decided and demand.seats > capacity for demand in found)
    assert (told.waited, told.unserved) == (len(waited), 0)
    assert told.longest_wait == (waited[-1] if waited else timedelta(0))


def test_a_seat_more_spares_waits() -> None:
    rush = [wanted(0), wanted(10), wanted(20)]
    one, two, three = (outcome(rush, capacity, LATER) for capacity in (1, 2, 3))
    assert (one.refused, one.waited, one.median_wait, one.longest_wait) == (2, 2, 50 * MINUTE, 100 * MINUTE)
    assert (two.refused, two.waited, two.longest_wait, two.longest_queue) == (1, 1, 40 * MINUTE, 1)
    assert (three.refused, three.waited, three.longest_wait) == (0, 0, timedelta(0))


def test_tickets_that_still_wait_at_the_end_are_counted() -> None:
    told = outcome([wanted(0, held=600), wanted(30)], 1, NOON + 60 * MINUTE)
    assert (told.waited, told.unserved, told.longest_wait) == (1, 1, 30 * MINUTE)


# --- What was recorded ------------------------------------------------------


def held(tool: Tool, start: datetime, minutes: int, **values: object) -> Lease:
    end = {"ended_at": start + minutes * MINUTE, "end_reason": EndReason.RETURNED}
    return Lease.objects.create(**({"tool": tool, "user": "ana", "borrowed_at": start} | end | values))


SPAN = Span(NOON.date(), NOON.date())


def test_the_demand_is_borrows_and_refusals(make_tool: MakeTool) -> None:
    cad, sim = make_tool("cad", capacity=1), make_tool("sim")
    held(cad, NOON - timedelta(days=1), 24 * 60 + 30)
    got_it = held(cad, NOON + 30 * MINUTE, 60, user="ben")
    held(cad, NOON + 120 * MINUTE, 30, user="cleo")
    held(sim, NOON, 30)
    for user, minute, lease in (("ben", 10, got_it), ("dora", 20, None)):
        Denial.objects.create(
            tool=cad,
            user=user,
            code="exhausted",
            first_at=NOON + minute * MINUTE,
            last_at=NOON + (minute + 5) * MINUTE,
            resolved_at=lease.borrowed_at if lease else None,
            resolved_by=lease,
        )
    Denial.objects.create(tool=cad, user="emil", code="quota", first_at=NOON, last_at=NOON)
    recorded, (one, two) = whatif.replay(tool=cad, capacities=[1, 2], span=SPAN)
    # Ben wanted a seat at ten past. Dora holds one for the average time of the others.
    assert sorted(recorded.demands, key=lambda demand: demand.at) == [
        Demand(NOON - timedelta(days=1), 1, timedelta(days=1, minutes=30), decided=False),
        Demand(NOON + 10 * MINUTE, 1, 60 * MINUTE),
        Demand(NOON + 20 * MINUTE, 1, 45 * MINUTE),
        Demand(NOON + 120 * MINUTE, 1, 30 * MINUTE),
    ]
    assert (recorded.decided, recorded.unmet, recorded.assumed) == (3, 1, 45 * MINUTE)
    assert (one.refused, one.waited, one.longest_wait) == (2, 3, 70 * MINUTE)
    assert (two.refused, two.waited) == (1, 1)


def test_a_wait_in_the_queue_counts_from_its_beginning(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    cad = make_tool("cad")
    lease = api.borrow(user="ana").json()["id"]
    ticket = api.wait(user="ben")
    gave_up = api.wait(user="cleo", seconds=5)
    pass_time(seconds=10)
    api.give_back(lease)
    granted = Lease.objects.get(pk=api.poll(ticket).json()["id"])
    assert api.poll(gave_up).json()["code"] == "queue_timeout"
    recorded, _ = whatif.replay(tool=cad, capacities=[], span=Span.of_last_days(2))
    assert (recorded.decided, recorded.unmet) == (3, 1)
    waits = sorted(granted.borrowed_at - demand.at for demand in recorded.demands)
    # The demands of ben and cleo, which began while ana had the seat.
    assert waits[0] > timedelta(seconds=9)


def test_active_leases_are_held_at_least_until_now(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    cad = make_tool("cad", capacity=2)
    api.borrow(user="ana", ttl_seconds=7200)
    pass_time(hours=1)
    api.borrow(user="ben", ttl_seconds=7200)
    _, (one,) = whatif.replay(tool=cad, capacities=[1], span=Span.of_last_days(2))
    assert (one.decided, one.refused, one.unserved) == (2, 1, 1)


def test_too_much_is_refused_before_it_is_replayed(make_tool: MakeTool) -> None:
    cad = make_tool("cad", capacity=3)
    for number in range(3):
        held(cad, NOON + number * MINUTE, 1)
    assert len(whatif.replay(tool=cad, capacities=[1], span=SPAN, at_most=3)[1]) == 1
    with pytest.raises(whatif.TooMuch):
        whatif.replay(tool=cad, capacities=[1], span=SPAN, at_most=2)
