"""Group commit: requests of many threads in one transaction, and none harms another."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from licenses import lanes
from licenses.auditing import Actor
from licenses.clock import database_now
from licenses.errors import Busy, LeaseEnded, LeaseLimitReached, Refusal
from licenses.lanes import Entry
from licenses.leases import batch, decisions, ledger, services, sql
from licenses.leases.requests import (
    Borrow,
    BorrowRequest,
    CloseOverdue,
    IdempotencyKey,
    Renew,
    Request,
    Return,
    Waiting,
)
from licenses.leases.snapshot import read_locked
from licenses.models import AuditRecord, EndReason, Lease, Team, TeamMember, Ticket, Tool
from licenses.policy import Item
from licenses.policy.rules import Exhausted
from licenses.tools import services as tools
from tests.support.databases import LOCK_WAITS

MakeTool = Callable[..., Tool]

pytestmark = pytest.mark.django_db(transaction=True)
PATIENCE = 60


def borrow(user: str, tool: str = "cad", *, seats: int = 1, key: str = "") -> Borrow:
    request = BorrowRequest(user=user, alternatives=((Item(tool, seats),),))
    return Borrow(request, IdempotencyKey(user, key) if key else None)


def decided(*requests: Request) -> list[Entry]:
    """Decide requests as one batch."""
    entries = [Entry(request) for request in requests]
    batch.GroupCommit().decide(entries)
    return entries


def holders() -> list[str]:
    return list(Lease.objects.open().order_by("fence").values_list("user", flat=True))


def consistent() -> bool:
    return all(
        tool.borrowed == sum(lease.seats for lease in Lease.objects.open().filter(tool=tool))
        for tool in Tool.objects.all()
    )


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Another transaction that has a tool's lock."""
    with changing(lambda: list(Tool.objects.locked([name]))):
        yield


@contextmanager
def changing(change: Callable[[], Any]) -> Iterator[None]:
    """Another transaction that has changed something, and commits at the end."""
    has_it, go = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            change()
            has_it.set()
            go.wait(PATIENCE)
        connections.close_all()

    holder = threading.Thread(target=hold)
    holder.start()
    assert has_it.wait(PATIENCE)
    try:
        yield
    finally:
        go.set()
        holder.join()


class People:
    """Threads that ask one lane."""

    def __init__(self, lane: batch.GroupCommit) -> None:
        self.lane = lane
        self.pool = ThreadPoolExecutor(32)

    def ask(self, request: Request) -> "Future[Any]":
        return self.pool.submit(self._ask, request)

    def _ask(self, request: Request) -> Any:
        return self._do(self.lane.submit, request)

    def do(self, act: Callable[..., Any], *what: Any) -> "Future[Any]":
        """Do something in a thread of its own."""
        return self.pool.submit(self._do, act, *what)

    def _do(self, act: Callable[..., Any], *what: Any) -> Any:
        try:
            return act(*what)
        finally:
            connections.close_all()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.005)


@pytest.fixture
def people() -> Iterator[People]:
    people = People(batch.GroupCommit())
    yield people
    people.pool.shutdown()


@dataclass
class Watch:
    """The transactions of batches: how many requests each decided. The first waits for ``go``."""

    sizes: list[int] = field(default_factory=list)
    began: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    decide = batch._decide_together

    def decide_later(entries: Any, **options: Any) -> None:
        watch.sizes.append(len(entries))
        if len(watch.sizes) == 1:
            watch.began.set()
            assert watch.go.wait(PATIENCE)
        decide(entries, **options)

    monkeypatch.setattr(batch, "_decide_together", decide_later)
    monkeypatch.setattr(lanes, "PATIENCE", PATIENCE)
    return watch


def test_those_who_come_while_a_batch_is_under_way_are_the_next_batch(
    make_tool: MakeTool, people: People, watch: Watch
) -> None:
    make_tool(capacity=30)
    first = people.ask(borrow("first"))
    assert watch.began.wait(PATIENCE)
    others = [people.ask(borrow(f"user{number}")) for number in range(20)]
    people.wait_until(lambda: len(people.lane._waiting) == 20)
    watch.go.set()
    outcomes = [answer.result(PATIENCE)[0] for answer in [first, *others]]
    assert watch.sizes == [1, 20]
    assert [outcome.head.user for outcome in outcomes] == ["first", *(f"user{number}" for number in range(20))]
    assert len({outcome.head.pk for outcome in outcomes}) == 21
    assert sorted(holders()) == sorted(outcome.head.user for outcome in outcomes)
    assert consistent()


def test_no_transaction_decides_more_than_its_share(make_tool: MakeTool, people: People, watch: Watch) -> None:
    make_tool(capacity=200)
    people.pool = ThreadPoolExecutor(lanes.AT_ONCE + 10)
    first = people.ask(borrow("first"))
    assert watch.began.wait(PATIENCE)
    others = [people.ask(borrow(f"user{number}")) for number in range(lanes.AT_ONCE + 5)]
    people.wait_until(lambda: len(people.lane._waiting) == lanes.AT_ONCE + 5)
    watch.go.set()
    for answer in [first, *others]:
        answer.result(PATIENCE)
    assert watch.sizes == [1, lanes.AT_ONCE, 5]


def test_each_decision_sees_the_ones_before_it(make_tool: MakeTool) -> None:
    make_tool(capacity=2)
    lease = services.borrow(borrow("ana").request).head  # type: ignore[union-attr]
    ben, eve, gone, max_ = decided(borrow("ben"), borrow("eve"), Return(lease.pk), borrow("max"))
    assert ben.result()[0].head.user == "ben"
    assert isinstance(eve.result()[0], Exhausted)
    assert [lease.user for lease in gone.result()] == ["ana"]
    assert max_.result()[0].head.user == "max"
    assert holders() == ["ben", "max"]
    times = [lease.borrowed_at for lease in Lease.objects.order_by("fence")]
    assert times == sorted(set(times))
    assert consistent()


def test_a_batch_costs_no_more_statements_than_one_request(make_tool: MakeTool) -> None:
    make_tool(capacity=50)
    counts = []
    for number in (1, 10, 40):
        with CaptureQueriesContext(connection) as queries:
            decided(*(borrow(f"user{person}") for person in range(number)))
        counts.append(len(queries))
        leases = list(Lease.objects.open().values_list("pk", flat=True))
        with CaptureQueriesContext(connection) as queries:
            decided(*(Return(lease) for lease in leases))
        counts.append(len(queries))
    assert counts[0] == counts[2] == counts[4]
    assert counts[1] == counts[3] == counts[5]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no network")
def test_a_batch_takes_two_round_trips(make_tool: MakeTool, tmp_path: Path) -> None:
    make_tool(capacity=5)
    (ana,) = decided(borrow("ana", key="first of all batches"))

    def round_trips(*requests: Request) -> int:
        connection.ensure_connection()
        session = connection.connection.pgconn
        with (tmp_path / "trace").open("w+") as trace:
            session.trace(trace.fileno())
            try:
                entries = decided(*requests)
            finally:
                session.untrace()
            # The server answers what it was sent up to a Sync, or a Query.
            trace.seek(0)
            messages = [line.split()[2:5] for line in trace.read().splitlines()]
        assert all(entry.error is None for entry in entries)
        return sum(message[0] == "F" and message[2] in ("Sync", "Query") for message in messages)

    assert round_trips(borrow("ben", key="two"), borrow("cem", key="three"), Return(ana.answer[0].head.pk)) == 2
    assert round_trips(borrow("ben")) == 2
    (lease,) = Lease.objects.open().held_by("cem")
    assert round_trips(Renew(lease.pk)) == 2
    assert round_trips(Return(lease.pk)) == 2


def test_a_decision_that_fails_harms_nobody_else(make_tool: MakeTool, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tool(capacity=5)
    decide = decisions.decide

    def fail(request: Any, snapshot: Any, ledger: Any) -> Any:
        answer = decide(request, snapshot, ledger)
        if request.request.user == "bad":
            raise RuntimeError("after it changed something")
        return answer

    monkeypatch.setattr(batch, "decide", fail)
    ana, bad, ben = decided(borrow("ana"), borrow("bad"), borrow("ben"))
    assert [entry.result()[0].head.user for entry in (ana, ben)] == ["ana", "ben"]
    with pytest.raises(RuntimeError, match="after it changed something"):
        bad.result()
    assert holders() == ["ana", "ben"]
    assert consistent()


def test_a_write_that_fails_harms_nobody_else(make_tool: MakeTool) -> None:
    make_tool(capacity=5)
    # No caller can ask for no seats; the table refuses it too.
    ana, bad, ben = decided(borrow("ana"), borrow("bad", seats=0), borrow("ben"))
    assert [entry.result()[0].head.user for entry in (ana, ben)] == ["ana", "ben"]
    with pytest.raises(IntegrityError):
        bad.result()
    assert holders() == ["ana", "ben"]
    assert consistent()


def test_a_thread_that_ends_while_it_leads_leaves_nobody_waiting(
    make_tool: MakeTool, people: People, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tool(capacity=5)
    decide = decisions.decide

    def end(request: Any, snapshot: Any, ledger: Any) -> Any:
        if request.request.user == "bad":
            raise SystemExit
        return decide(request, snapshot, ledger)

    monkeypatch.setattr(batch, "decide", end)
    bad = people.ask(borrow("bad"))
    assert watch.began.wait(PATIENCE)
    ana = people.ask(borrow("ana"))
    people.wait_until(lambda: len(people.lane._waiting) == 1)
    watch.go.set()
    with pytest.raises(SystemExit):
        bad.result(PATIENCE)
    assert ana.result(PATIENCE)[0].head.user == "ana"
    assert holders() == ["ana"]
    assert not people.lane._is_led


def test_of_a_batch_whose_leader_ends_all_are_told_to_try_again(
    make_tool: MakeTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tool(capacity=5)

    def end(*args: Any) -> Any:
        raise SystemExit

    monkeypatch.setattr(batch, "decide", end)
    lane, leader, other = batch.GroupCommit(), Entry(borrow("ana")), Entry(borrow("ben"))
    lane._waiting.extend([leader, other])
    with pytest.raises(SystemExit):
        lane._lead(leader)
    with pytest.raises(Busy):
        other.result()
    assert other.woken.acquire(timeout=0)
    assert holders() == []


def test_calls_with_one_key_never_share_a_batch(make_tool: MakeTool, people: People, watch: Watch) -> None:
    make_tool(capacity=5)
    first = people.ask(borrow("first"))
    assert watch.began.wait(PATIENCE)
    same = [people.ask(borrow("ana", key="once")) for _ in range(3)]
    people.wait_until(lambda: len(people.lane._waiting) == 3)
    watch.go.set()
    first.result(PATIENCE)
    outcomes = [answer.result(PATIENCE) for answer in same]
    assert watch.sizes == [1, 1, 1, 1]
    assert len({outcome.head.pk for outcome, _ in outcomes}) == 1
    assert sorted(replayed for _, replayed in outcomes) == [False, True, True]
    assert holders() == ["first", "ana"]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one lock for all tools")
def test_a_stranger_who_locks_one_tool_holds_up_no_other(make_tool: MakeTool, people: People) -> None:
    make_tool("cad", capacity=5)
    make_tool("sim", capacity=5)
    lease = services.borrow(borrow("old", "sim").request).head  # type: ignore[union-attr]
    with locked("cad"):
        stuck = [people.ask(borrow(f"stuck{number}")) for number in range(3)]
        others = [people.ask(borrow(f"user{number}", "sim")) for number in range(3)]
        others.append(people.ask(Return(lease.pk)))
        for answer in others:
            answer.result(PATIENCE)
        assert sorted(holders()) == ["user0", "user1", "user2"]
        outcomes = [answer.exception(PATIENCE) for answer in stuck]
    # They waited as long as anybody waits for a lock.
    assert all(isinstance(outcome, Busy) for outcome in outcomes)
    assert people.ask(borrow("ana")).result(PATIENCE)[0].head.user == "ana"
    assert consistent()


def waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(LOCK_WAITS)
        return bool(cursor.fetchone()[0])


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite locks before it reads")
def test_no_lease_is_lost_that_changes_while_a_batch_waits_for_it(make_tool: MakeTool, people: People) -> None:
    make_tool(capacity=9)
    leases = sorted(services.borrow(borrow(f"user{number}").request).head.pk for number in range(4))  # type: ignore[union-attr]
    of_one = Lease.objects.filter(pk=leases[0])
    now = database_now()
    with changing(lambda: of_one.update(ended_at=now, end_reason=EndReason.FORCED)):
        renewed = people.do(decided, *(Renew(lease) for lease in leases))
        people.wait_until(waits_for_a_lock)
    first, *others = renewed.result(PATIENCE)
    with pytest.raises(LeaseEnded):
        first.result()
    assert [entry.result().head.pk for entry in others] == leases[1:]
    with changing(lambda: Lease.objects.filter(pk__in=leases[:3]).update(project="x")):
        ended = people.do(decided, *(Return(lease) for lease in leases))
        people.wait_until(waits_for_a_lock)
    assert [entry.result()[0].pk for entry in ended.result(PATIENCE)] == leases


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite locks before it reads")
def test_no_tool_is_lost_that_changes_while_a_batch_waits_for_it(make_tool: MakeTool, people: People) -> None:
    for name in ("cad", "sim", "old"):
        make_tool(name, capacity=5)
    lease = services.borrow(borrow("old", "old").request).head  # type: ignore[union-attr]
    with changing(lambda: Tool.objects.update(vendor="x", capacity=3)):
        asked = people.do(decided, borrow("ana"), borrow("ben", "sim"), Return(lease.pk), borrow("eve", "sim"))
        people.wait_until(waits_for_a_lock)
    ana, ben, gone, eve = asked.result(PATIENCE)
    assert [entry.result()[0].head.user for entry in (ana, ben, eve)] == ["ana", "ben", "eve"]
    assert gone.result()[0].pk == lease.pk
    assert consistent()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite locks before it reads")
def test_a_borrow_counts_for_no_team_that_is_deleted_while_it_waits(make_tool: MakeTool, people: People) -> None:
    make_tool(capacity=5)
    team = Team.objects.create(name="body")
    TeamMember.objects.create(team=team, user="ana")

    def delete() -> None:
        list(Tool.objects.locked(["cad"]))
        team.delete()

    with changing(delete):
        asked = people.ask(borrow("ana"))
        people.wait_until(waits_for_a_lock)
    assert asked.result(PATIENCE)[0].head.team is None
    assert consistent()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")
@pytest.mark.parametrize("left", [timedelta(hours=8), timedelta(minutes=5)])
def test_a_heartbeat_never_extends_a_lease_beyond_a_license_that_is_cut_short(
    make_tool: MakeTool, people: People, left: timedelta
) -> None:
    make_tool(capacity=5, default_ttl=timedelta(hours=8))
    lease = services.borrow(borrow("ana").request).head  # type: ignore[union-attr]
    Lease.objects.update(expires_at=database_now() + left)
    until = database_now() + timedelta(minutes=10)
    with changing(lambda: tools.change(name="cad", values={"valid_until": until}, by=Actor.of_command("test"))):
        renewed = people.do(decided, Renew(lease.pk))
        people.wait_until(lambda: renewed.done() or waits_for_a_lock())
    (entry,) = renewed.result(PATIENCE)
    assert entry.result().head.expires_at == until
    assert Lease.objects.get().expires_at == until


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")
def test_a_license_that_is_cut_short_deadlocks_with_no_heartbeat(
    make_tool: MakeTool, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tool(capacity=5, default_ttl=timedelta(hours=8))
    first, second = sorted(services.borrow(borrow(user).request).head.pk for user in ("ana", "ben"))  # type: ignore[union-attr]
    ago = database_now() - timedelta(hours=1)
    Lease.objects.filter(pk=second).update(borrowed_at=ago - timedelta(hours=1), expires_at=ago)
    follow, renewed = ledger.end_with_license, []

    def follow_late(*args: Any) -> None:
        renewed.append(people.do(decided, Renew(first), Renew(second)))
        people.wait_until(lambda: people.do(waits_for_a_lock).result(PATIENCE))
        follow(*args)

    monkeypatch.setattr(ledger, "end_with_license", follow_late)
    until = database_now() + timedelta(minutes=10)
    with transaction.atomic():
        with connection.cursor() as cursor:
            # Of two that wait for each other, the server ends the one that finds out.
            cursor.execute("SET LOCAL deadlock_timeout = 1")
        tools.change(name="cad", values={"valid_until": until}, by=Actor.of_command("test"))
    extended, ended = renewed[0].result(PATIENCE)
    assert extended.result().head.expires_at == until
    with pytest.raises(LeaseEnded):
        ended.result()


def test_what_time_has_ended_is_not_taken_from_the_borrows_of_a_user_again(make_tool: MakeTool, settings: Any) -> None:
    make_tool(capacity=1)
    make_tool("sim", capacity=5)
    for tool in ("cad", "sim"):
        services.borrow(borrow("ana", tool).request)
        services.borrow(borrow("eve", "sim").request)
    waits = BorrowRequest("eve", ((Item("cad"),),), wait=timedelta(minutes=5))
    services.borrow(waits)
    now = database_now()
    ago = now - timedelta(hours=1)
    Lease.objects.filter(tool__name="cad").update(borrowed_at=ago - timedelta(hours=1), expires_at=ago)
    Ticket.objects.update(alive_until=ago)
    settings.LICENSE_LEASES_PER_USER = 1
    # The first closes ana's lease, the second eve's ticket.
    waits = BorrowRequest("max", ((Item("cad"),),), wait=timedelta(minutes=5))
    ben, max_, ana, eve = decided(borrow("ben"), Borrow(waits), borrow("ana", "sim"), borrow("eve", "sim"))
    assert ben.result()[0].head.user == "ben"
    assert isinstance(max_.result()[0], Waiting)
    assert [type(entry.result()[0]) for entry in (ana, eve)] == [LeaseLimitReached] * 2
    assert consistent()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")
def test_a_ticket_that_becomes_a_lease_while_the_borrows_are_counted_counts_once(
    make_tool: MakeTool, people: People, settings: Any
) -> None:
    make_tool(capacity=1)
    make_tool("sim", capacity=5)
    first = services.borrow(borrow("ben").request).head  # type: ignore[union-attr]
    waiting = services.borrow(BorrowRequest("ana", ((Item("cad"),),), wait=timedelta(minutes=5)))
    assert isinstance(waiting, Waiting)
    services.give_back(lease_id=first.pk)
    settings.LICENSE_LEASES_PER_USER = 1
    polled: list[Any] = []

    def poll() -> Any:
        return services.poll(ticket_id=waiting.ticket.id)

    def poll_after_counting(execute: Any, text: Any, *more: Any) -> Any:
        found = execute(text, *more)
        if "COUNT(" in text and not polled:
            polled.append(people.do(poll).result(PATIENCE))
        return found

    with connection.execute_wrapper(poll_after_counting):
        (ana,) = decided(borrow("ana", "sim"))
    assert [granted.head.user for granted in polled] == ["ana"]
    refusal = ana.result()[0]
    assert isinstance(refusal, LeaseLimitReached)
    assert refusal.facts["borrowed"] + refusal.facts["waiting"] == 1


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no locks of rows")
def test_locks_last_to_the_end_of_a_transaction_that_begins_with_them(make_tool: MakeTool, people: People) -> None:
    make_tool(capacity=1)

    def free_tools() -> list[str]:
        with transaction.atomic():
            return [tool.name for tool in Tool.objects.all().under_lock(skip_locked=True)]

    with transaction.atomic():
        read_locked([CloseOverdue("cad")])
        assert people.do(free_tools).result(PATIENCE) == []
    assert people.do(free_tools).result(PATIENCE) == ["cad"]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite ends no sessions")
def test_a_session_that_is_ended_in_its_transaction_is_answered_busy(
    make_tool: MakeTool, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tool(capacity=5)
    decide = decisions.decide
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (session,) = cursor.fetchone()
        cursor.execute("SET idle_in_transaction_session_timeout = 1")

    def is_gone() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", [session])
            gone: bool = cursor.fetchone()[0]
        return gone

    def decide_late(*args: Any) -> Any:
        people.wait_until(lambda: people.do(is_gone).result(PATIENCE))
        return decide(*args)

    monkeypatch.setattr(batch, "decide", decide_late)
    (ana,) = decided(borrow("ana"))
    with pytest.raises(Busy):
        ana.result()
    assert holders() == []


def test_heartbeats_for_another_user_in_one_batch_are_recorded_once(make_tool: MakeTool) -> None:
    make_tool(capacity=5)
    lease = services.borrow(borrow("ana").request).head  # type: ignore[union-attr]
    root, admin = (Actor.of_account(name, {}) for name in ("root", "admin"))
    for entry in decided(*(Renew(lease.pk, by=by) for by in (root, root, admin, root))):
        entry.result()
    decided(Renew(lease.pk, by=root))
    assert sorted(AuditRecord.objects.values_list("actor", flat=True)) == ["admin", "root"]


def test_a_refusal_writes_nothing_of_the_tool(make_tool: MakeTool) -> None:
    make_tool(capacity=0)
    decided(borrow("ana"))
    with CaptureQueriesContext(connection) as queries:
        (entry,) = decided(borrow("ana"))
    assert isinstance(entry.result()[0], Refusal)
    assert any("UPDATE licenses_denial" in query["sql"] for query in queries)
    assert not any("UPDATE licenses_tool" in query["sql"] for query in queries)


TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"))
MOMENTS = st.datetimes(timezones=st.just(UTC))
SPANS = st.timedeltas(timedelta(days=-1000), timedelta(days=100_000))


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no arrays")
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.none() | TEXTS | st.sampled_from(["NULL", "{}", '"', "\\", "a,b", " "])),
    numbers=st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
    ids=st.lists(st.uuids()),
    moments=st.lists(st.none() | MOMENTS),
    spans=st.lists(st.none() | SPANS),
)
def test_what_is_sent_in_an_array_arrives_unchanged(
    db: None, texts: Any, numbers: Any, ids: Any, moments: Any, spans: Any
) -> None:
    arrays = [sql._parameter(values) for values in (texts, numbers, ids, moments, spans)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::text[], %s::bigint[], %s::uuid[], %s::timestamptz[], %s::interval[]", arrays)
        assert cursor.fetchone() == (texts, numbers, ids, moments, spans)


def test_a_retry_of_a_call_before_an_upgrade_is_the_same_request() -> None:
    """The hashes are those of the first version that kept them."""
    request = BorrowRequest(
        user="ana",
        alternatives=((Item("cad", 2), Item("sim")), (Item("old"),)),
        team="body",
        project="p-1",
        host="node1",
        ttl=timedelta(seconds=300),
        wait=timedelta(minutes=10),
        asserted_teams=frozenset({"x"}),
        kept=True,
    )
    assert request.fingerprint() == "4d43a2098f770e2c3b4e907491b5b6879648bfa838108d1810a95549ce3846b8"
    plain = BorrowRequest(user="ana", alternatives=((Item("cad"),),))
    assert plain.fingerprint() == "a3dd505c86fbab1170f8d43f22069d6efa5819a971a1d710d6bf2adad0a31371"
