"""Rows of one caller have a limit, and old rows are deleted in small batches."""

import json
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from licenses import errors
from licenses.access.buckets import Buckets
from licenses.leases import decisions, expiry, queue, services, sql
from licenses.models import BorrowKey, Denial, EndReason, Lease, Team, Ticket, Tool, UserLimit
from tests.support.api import Api
from tests.support.paths import ROOT
from tests.support.quotas import allot
from tests.support.servers import Server

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]
PassTime = Callable[..., None]
ONE_TRANSACTION = sql.OVERDUE_AT_ONCE


@pytest.fixture
def make_overdue(make_tool: MakeTool) -> Callable[..., None]:
    """Gives out seats of a tool whose leases are all overdue: ``make_overdue(500, user="eve")``."""

    def make(number: int, *, tool: str = "cad", user: str = "eve", team: Team | None = None) -> None:
        now = timezone.now()
        row = Tool.objects.get(name=tool)
        Lease.objects.bulk_create(
            Lease(
                tool=row,
                user=user,
                team=team,
                borrowed_at=now - timedelta(hours=2),
                ttl=timedelta(hours=1),
                expires_at=now - timedelta(hours=1),
                fence=row.last_fence + count + 1,
            )
            for count in range(number)
        )
        row.borrowed += number
        row.last_fence += number
        row.save(update_fields=["borrowed", "last_fence"])

    return make


def overdue() -> int:
    return Lease.objects.overdue(timezone.now()).count()


def consistent(tool: str = "cad") -> bool:
    row = Tool.objects.get(name=tool)
    return row.borrowed == sum(Lease.objects.open().filter(tool=row).values_list("seats", flat=True))


# --- Overdue leases ---------------------------------------------------------


def test_a_borrow_closes_only_some_of_many_overdue_leases(api: Api, make_tool: MakeTool, make_overdue: Any) -> None:
    make_tool(capacity=1000)
    make_overdue(1000)
    assert api.borrow().status_code == 200
    assert overdue() == 1000 - ONE_TRANSACTION
    assert consistent()


def test_seats_that_are_free_can_be_had_however_many_leases_are_overdue(
    api: Api, make_tool: MakeTool, make_overdue: Any
) -> None:
    make_tool(capacity=1000)
    make_overdue(1000)
    assert api.borrow(seats=700).status_code == 200
    assert 0 < overdue() <= 300
    assert api.borrow(seats=300).status_code == 200
    assert api.borrow().json()["code"] == "exhausted"
    assert consistent()


def test_a_user_whose_own_leases_are_overdue_is_below_their_limit(
    api: Api, make_tool: MakeTool, make_overdue: Any
) -> None:
    tool = make_tool(capacity=5000)
    UserLimit.objects.create(tool=tool, user="ana", seats=1)
    tool.has_rules = True
    tool.save()
    for user in ("eve", "ana", "ben"):
        make_overdue(1 if user == "ana" else 2 * ONE_TRANSACTION, user=user)
    assert api.borrow(user="ana").status_code == 200
    assert api.borrow(user="ana").json()["code"] == "user_limit"
    assert consistent()


def test_a_reserved_seat_that_came_back_is_kept_and_a_shared_one_is_found(
    api: Api, make_tool: MakeTool, make_team: MakeTeam, make_overdue: Any
) -> None:
    make_tool(capacity=700)
    make_team("crash", "ana")
    allot("cad", Team.objects.get(name="crash"), reservation=100)
    make_overdue(600)
    assert api.borrow(user="ben", seats=600).status_code == 200
    assert api.borrow(user="ben").json()["code"] == "reserved"
    assert api.borrow(user="ana", seats=100).status_code == 200
    assert consistent()


def test_no_transaction_closes_more_than_its_share(api: Api, make_tool: MakeTool, make_overdue: Any) -> None:
    make_tool(capacity=1000)
    make_overdue(1000)
    closed: list[int] = []

    def watch(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "UPDATE licenses_lease" in sql:
            # PostgreSQL gets all rows at once, in an array for each column: "{first,second}".
            closed.append(len(params) if many else max(column.count(",") + 1 for column in params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch):
        assert api.borrow(seats=1000).status_code == 200
    assert len(closed) == 5
    assert max(closed) <= ONE_TRANSACTION


def test_the_sweeper_closes_all_of_them_some_at_a_time(make_tool: MakeTool, make_overdue: Any) -> None:
    make_tool(capacity=1000)
    make_overdue(2 * ONE_TRANSACTION + 50)
    assert expiry.tidy().leases == 2 * ONE_TRANSACTION + 50
    assert overdue() == 0
    assert Lease.objects.filter(end_reason=EndReason.EXPIRED).count() == 2 * ONE_TRANSACTION + 50
    assert consistent()


def test_a_waiter_gets_a_seat_behind_a_pile_of_overdue_leases(api: Api, make_tool: MakeTool, make_overdue: Any) -> None:
    make_tool(capacity=3 * ONE_TRANSACTION)
    for number in range(3):
        api.borrow(user=f"user-{number}", seats=ONE_TRANSACTION)
    ticket = api.wait(user="ben", seats=2 * ONE_TRANSACTION)
    Lease.objects.all().delete()
    Tool.objects.update(borrowed=0)
    make_overdue(3 * ONE_TRANSACTION)
    assert api.poll(ticket).status_code == 200
    assert consistent()


# --- Dead tickets -----------------------------------------------------------


def test_a_borrow_closes_only_some_of_many_dead_tickets(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool(capacity=1, default_ttl=None)
    api.borrow(user="ana")
    for number in range(3 * queue.DEAD_AT_ONCE):
        api.wait(user=f"eve-{number}", seconds=604_800)
    pass_time(minutes=10)
    with CaptureQueriesContext(connection) as queries:
        api.wait(user="ben")
    left = Ticket.objects.dead(timezone.now()).count()
    assert left == 2 * queue.DEAD_AT_ONCE
    # Dead tickets do not count, closed or not.
    assert api.status()["queued"] == 1
    assert len(queries) < 100
    for number in range(2):
        api.wait(user=f"next-{number}")
    assert Ticket.objects.dead(timezone.now()).count() == 0


# --- Tickets ----------------------------------------------------------------


def test_one_user_has_a_limit_of_tickets_for_a_tool(api: Api, make_tool: MakeTool, settings: Any) -> None:
    settings.LICENSE_QUEUE_PER_USER = 3
    for name in ("cad", "sim"):
        make_tool(name)
        api.borrow(name, "ana")
    tickets = [api.wait(user="eve") for _ in range(3)]
    refused = api.borrow(user="eve", wait_seconds=600)
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_tickets")
    assert refused.json()["limit"] == 3
    assert refused["Retry-After"]
    # Others may wait. Eve may wait for another tool, or when one ticket is gone.
    api.wait(user="ben")
    api.wait("sim", "eve")
    api.leave(tickets[0])
    api.wait(user="eve")
    assert Denial.objects.get(user="eve", code="too_many_tickets").tool.name == "cad"


def test_a_tool_has_a_limit_of_tickets(api: Api, make_tool: MakeTool, settings: Any) -> None:
    settings.LICENSE_QUEUE_PER_TOOL = 3
    make_tool()
    api.borrow(user="ana")
    for number in range(3):
        api.wait(user=f"user-{number}")
    refused = api.borrow(user="ben", wait_seconds=600)
    assert (refused.status_code, refused.json()["code"]) == (409, "queue_full")
    assert api.status()["queued"] == 3


def test_dead_tickets_count_for_no_cap(api: Api, make_tool: MakeTool, settings: Any, pass_time: PassTime) -> None:
    settings.LICENSE_QUEUE_PER_USER = settings.LICENSE_QUEUE_PER_TOOL = 20
    make_tool(capacity=1, default_ttl=None)
    api.borrow(user="ana")
    for _ in range(20):
        api.wait(user="eve")
    pass_time(minutes=10)
    for _ in range(20):
        api.wait(user="eve")
    assert api.borrow(user="eve", wait_seconds=600).status_code == 409


def test_a_set_counts_for_each_of_its_tools(api: Api, make_tool: MakeTool, settings: Any) -> None:
    settings.LICENSE_QUEUE_PER_USER = 1
    for name in ("cad", "sim"):
        make_tool(name)
        api.borrow(name, "ana")
    api.wait("sim", "eve")
    refused = api.borrow_set(("cad", 1), ("sim", 1), user="eve", wait_seconds=600)
    assert (refused.json()["code"], refused.json()["tool"]) == ("too_many_tickets", "sim")


def test_many_tickets_of_a_tool_with_rules_cost_no_more_statements(api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=1, user_limit=1)
    api.borrow(user="ana")

    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert api.borrow(user="ben").status_code == 409
        return len(queries)

    api.borrow(user="ben")
    api.wait(user="eve")
    one = cost()
    for _ in range(30):
        api.wait(user="eve")
    assert cost() == one


# --- Idempotency keys -------------------------------------------------------


@pytest.fixture
def no_keys_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "_new_keys", Buckets())


def test_a_caller_has_a_limit_of_new_keys_per_day(
    api: Api, make_tool: MakeTool, settings: Any, no_keys_yet: None
) -> None:
    settings.LICENSE_KEYS_PER_DAY = 3
    make_tool("cad", capacity=10)
    leases = [api.borrow(key=f"key-{number}").json() for number in range(3)]
    refused = api.borrow(key="one-too-many")
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_keys")
    assert 0 < int(refused["Retry-After"]) <= 86_400 / 3
    # It stored nothing and took nothing.
    assert not BorrowKey.objects.filter(key="one-too-many").exists()
    assert api.status()["borrowed"] == 3
    # Retries, other callers and borrows without a key still work.
    assert api.borrow(key="key-1").json() == leases[1]
    assert api.borrow(user="ben", key="one-too-many").status_code == 200
    assert api.borrow().status_code == 200


def test_a_stored_refusal_has_a_size_limit(api: Api, make_tool: MakeTool) -> None:
    for number in range(32):
        make_tool(f"tool-{number:02}-with-a-name-of-some-length", capacity=0)
    tools = list(Tool.objects.values_list("name", flat=True))
    sets = [[(name, 1) for name in tools] for _ in range(16)]
    body = {"user": "ana", "alternatives": [[{"tool": name} for name, _ in items] for items in sets]}
    first = api.post("/licenses/borrow", body, **{"Idempotency-Key": "huge"})
    assert first.status_code == 409
    assert len(first.json()["reasons"]) == decisions.MAX_REASONS
    assert first.json()["reasons_omitted"] == 16 * 32 - decisions.MAX_REASONS
    kept = BorrowKey.objects.get(key="huge")
    assert len(kept.facts) <= decisions.KEPT_BYTES
    assert len(kept.detail) < 1000
    again = api.post("/licenses/borrow", body, **{"Idempotency-Key": "huge"})
    assert again.status_code == 409
    short = again.json()
    assert {name: short[name] for name in ("code", "detail", "tool", "total")} == {
        name: first.json()[name] for name in ("code", "detail", "tool", "total")
    }
    assert 0 < len(short["reasons"]) < decisions.MAX_REASONS
    assert len(short["reasons"]) + short["reasons_omitted"] == 16 * 32


def test_an_explanation_has_a_limit_of_reasons(api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=0)
    answer = api.post("/licenses/explain", {"user": "ana", "alternatives": [[{"tool": "cad"}]] * 16}).json()
    assert (len(answer["reasons"]), answer["reasons_omitted"]) == (16, 0)
    make_tool("sim", capacity=0)
    sets = [[{"tool": "cad"}, {"tool": "sim"}]] * 16
    answer = api.post("/licenses/explain", {"user": "ana", "alternatives": sets}).json()
    assert (len(answer["reasons"]), answer["reasons_omitted"]) == (16, 16)


def test_old_keys_go_where_no_sweeper_runs(
    api: Api, make_tool: MakeTool, pass_time: PassTime, no_keys_yet: None
) -> None:
    make_tool(capacity=0)
    BorrowKey.objects.bulk_create(
        BorrowKey(caller="eve", key=f"{number}", fingerprint="", refusal="exhausted") for number in range(1000)
    )
    pass_time(days=2)
    for number in range(3 * services.NEW_KEYS_A_TIDYING):
        api.borrow(key=f"new-{number}")
    assert BorrowKey.objects.filter(caller="eve").count() == 1000 - 3 * expiry.KEYS_AT_ONCE
    assert BorrowKey.objects.exclude(caller="eve").count() == 3 * services.NEW_KEYS_A_TIDYING


def test_the_sweeper_deletes_all_old_keys_some_at_a_time(make_tool: MakeTool, pass_time: PassTime) -> None:
    BorrowKey.objects.bulk_create(
        BorrowKey(caller="eve", key=f"{number}", fingerprint="", refusal="exhausted") for number in range(450)
    )
    pass_time(days=2)
    with CaptureQueriesContext(connection) as queries:
        out = StringIO()
        call_command("expire_leases", stdout=out)
    assert "450 key(s)" in out.getvalue()
    deletes = [query for query in queries if query["sql"].startswith('DELETE FROM "licenses_borrowkey"')]
    assert len(deletes) == 3


# --- Leases -----------------------------------------------------------------


def test_a_user_has_as_many_leases_as_they_like_unless_the_site_says_otherwise(api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=100)
    assert [api.borrow().status_code for _ in range(50)] == [200] * 50


def test_a_user_has_a_limit_of_leases_of_all_tools(
    api: Api, make_tool: MakeTool, settings: Any, pass_time: PassTime
) -> None:
    settings.LICENSE_LEASES_PER_USER = 3
    make_tool("cad", capacity=10)
    make_tool("sim", capacity=1)
    lease = api.borrow().json()["id"]
    api.borrow_set(("cad", 1), ("sim", 1))
    ticket = api.wait("sim", "ana")
    refused = api.borrow()
    assert (refused.status_code, refused.json()["code"]) == (409, "lease_limit")
    assert (refused.json()["borrowed"], refused.json()["waiting"]) == (2, 1)
    assert api.borrow(wait_seconds=60).status_code == 409
    assert [reason["code"] for reason in api.explain()["reasons"]] == ["lease_limit"]
    assert api.status(user="ana")["available_to_you"] == 0
    assert api.borrow(user="ben").status_code == 200
    api.give_back(lease)
    assert api.borrow().status_code == 200
    api.leave(ticket)
    assert api.borrow().status_code == 200
    pass_time(days=1)
    assert api.borrow().status_code == 200


def test_the_limit_of_leases_holds_for_borrows_of_different_tools_at_once(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import httpx

    monkeypatch.setenv("LICENSE_LEASES_PER_USER", "2")
    server: Server = request.getfixturevalue("server")
    server.manage("seed", *[f"--tool=t{number}=1" for number in range(16)])

    def borrow(number: int) -> int:
        body = {"tool": f"t{number}", "user": "ana"}
        return httpx.post(f"{server.url}/licenses/borrow", json=body, timeout=60).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = sorted(pool.map(borrow, range(16)))
    assert statuses == [200] * 2 + [409] * 14


def test_each_cap_has_a_code_that_is_documented() -> None:
    refusals = [
        errors.QueueFull(tool="cad", limit=1000),
        errors.TooManyTickets(tool="cad", user="ana", limit=100),
        errors.TooManyKeys(user="ana", limit=10_000, wait=9),
        errors.LeaseLimitReached(tool="cad", user="ana", limit=3, borrowed=2, waiting=1),
        errors.RateLimited(wait=2),
    ]
    documented = (ROOT / "docs" / "reference" / "errors.md").read_text()
    for refusal in refusals:
        assert f"`{refusal.code}`" in documented
        assert refusal.title
        assert json.dumps(refusal.facts)
