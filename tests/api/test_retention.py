"""Delete old rows, or the names in them, and keep the figures."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from licenses.history import reports, rollups
from licenses.history.reports import Period, Span
from licenses.models import BorrowKey, Delivery, Denial, Lease, Notification, Ticket, Tool, UsageDay
from tests.support.api import Api

MakeTool = Callable[..., Tool]
PassTime = Callable[..., None]

SPAN = Span.of_last_days


def forget(*arguments: str) -> str:
    out = StringIO()
    call_command("forget", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def past(api: Api, make_tool: MakeTool, pass_time: PassTime) -> Tool:
    """Of ten days ago: a set, an episode that a lease ended, a wait, a force
    return; and a lease of today."""
    cad = make_tool("cad", capacity=2)
    make_tool("sim", capacity=2)
    both = api.borrow_set(("cad", 2), ("sim", 1), user="ana", host="ws1", key="k1").json()["id"]
    api.borrow("cad", "ben", host="ws2")
    ticket = api.wait("cad", "cleo")
    pass_time(seconds=15)
    api.give_back(both)
    api.give_back(api.poll(ticket).json()["id"])
    api.give_back(api.borrow("cad", "ben", project="p1").json()["id"])
    pass_time(days=10)
    api.borrow("cad", "dora")
    api.borrow("cad", "ben")
    api.borrow("cad", "emil")
    return cad


def figures(tool: Tool) -> list[object]:
    span = SPAN(20)
    return [
        reports.utilization(tools=[tool], span=Span(span.first, span.last - timedelta(days=3)), period=Period.HOUR),
        [
            (row.borrows, row.seat_time)
            for row in reports.usage(by=["tool", "project"], span=Span(span.first, span.last - timedelta(days=3)))
        ],
        # Users are counted by name, so without names their number is unknown.
        [replace(row, people=None) for row in reports.denials(by=["tool", "code", "day"], span=span)],
    ]


def test_deleting_keeps_the_figures_and_newer_rows(past: Tool) -> None:
    call_command("expire_leases", stdout=StringIO())  # which deletes old keys
    before = figures(past)
    assert Lease.objects.count() == 6
    assert (
        forget("--older-than", "5", "--delete") == "4 lease(s), 1 ticket(s), 1 denial(s), 0 notification(s) deleted\n"
    )
    assert sorted(Lease.objects.values_list("user", flat=True)) == ["ben", "dora"]
    assert list(Ticket.objects.all()) == []
    assert [denial.user for denial in Denial.objects.all()] == ["emil"]
    assert figures(past) == before
    rollups.rebuild()
    assert figures(past) == before
    assert (
        forget("--older-than", "5", "--delete") == "0 lease(s), 0 ticket(s), 0 denial(s), 0 notification(s) deleted\n"
    )


def test_rows_that_an_idempotency_key_needs_stay(past: Tool) -> None:
    assert BorrowKey.objects.exists()
    assert (
        forget("--older-than", "5", "--delete") == "2 lease(s), 1 ticket(s), 1 denial(s), 0 notification(s) deleted\n"
    )
    # Both leases of the borrow of two tools.
    assert Lease.objects.filter(user="ana").count() == 2


def test_an_open_lease_is_never_old(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad", default_ttl=None)
    lease = api.borrow().json()["id"]
    pass_time(days=100)
    forget("--older-than", "1", "--delete", "--anonymise")
    assert Lease.objects.get().user == "ana"
    assert api.give_back(lease).status_code == 200


def test_names_are_removed_and_sums_stay(past: Tool) -> None:
    before = figures(past)
    answer = forget("--older-than", "5", "--anonymize")
    assert answer == (
        "names removed from 4 lease(s), 1 ticket(s), 1 denial(s), and from the usage of 1 day(s); "
        "0 notification(s) deleted\n"
    )
    old = Lease.objects.filter(ended_at__isnull=False)
    assert set(old.values_list("user", "host", "end_note")) == {("", "", "")}
    assert set(Lease.objects.filter(ended_at__isnull=True).values_list("user", flat=True)) == {"dora", "ben"}
    assert {row.user for row in UsageDay.objects.all()} == {""}
    assert UsageDay.objects.count() == 3, "one row for each tool and project"
    assert figures(past) == before
    rollups.rebuild()
    assert figures(past) == before
    assert {row.user for row in UsageDay.objects.all()} == {""}
    assert (
        "from 0 lease(s), 0 ticket(s), 0 denial(s), and from the usage of 0 day(s); 0 notification(s) deleted"
        in forget("--older-than", "5", "--anonymise")
    )


@pytest.mark.parametrize(
    "arguments", [["--older-than", "0", "--delete"], ["--older-than", "5"], ["--older-than", "99999", "--delete"]]
)
def test_what_makes_no_sense_is_refused(past: Tool, arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        forget(*arguments)
    assert Lease.objects.count() == 6


@pytest.mark.parametrize("way", ["--delete", "--anonymize"])
def test_old_notifications_are_deleted_and_those_of_use_stay(past: Tool, way: str) -> None:
    now = timezone.now()
    for days in (-10, 10):
        outbox = Notification.objects.create(
            event="license_ends",
            key=str(days),
            created_at=now - timedelta(days=20),
            useful_until=now + timedelta(days=days),
        )
        Delivery.objects.create(notification=outbox, address="root@example.com", due_at=now)
    assert "1 notification(s) deleted" in forget("--older-than", "5", way)
    # Otherwise the next sweep would find the same occasion, and send it again.
    assert Notification.objects.get().key == "10"
    assert Delivery.objects.count() == 1
