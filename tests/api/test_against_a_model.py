"""Compare the server with a simple model, for any calls in any order.

Hypothesis chooses calls, changes of capacity and the passing of hours. After each step
the answer and the state of the server must equal those of a few lists in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import DateTimeField, F
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from licenses.models import AuditRecord, TeamMember, Tool
from tests.support.api import Api, api_of
from tests.support.quotas import allot

PLAIN, RATIONED = "plain", "rationed"
QUOTA = USER_LIMIT = 2
USERS = ["red1", "red2", "solo"]
# A ticket that nobody asks for within an hour is dropped; the leases last for
# half an hour, or for one and a half.
HOUR = 3600
TTLS = [HOUR // 2, HOUR * 3 // 2]
WAIT = 24 * HOUR


@dataclass(eq=False)
class Lease:
    user: str
    items: dict[str, int]
    ttl: int
    ends_at: int
    is_ended: bool = False


@dataclass(eq=False)
class Wait:
    user: str
    seats: int
    ttl: int
    is_open: bool = True


@dataclass(eq=False)
class Model:
    """The state of the server as lists."""

    now: int = 0
    capacity: dict[str, int] = field(default_factory=lambda: {PLAIN: 2, RATIONED: 4})
    leases: list[Lease] = field(default_factory=list)
    queue: list[Wait] = field(default_factory=list)

    def live(self) -> Iterator[Lease]:
        return (lease for lease in self.leases if not lease.is_ended and lease.ends_at > self.now)

    def out(self, tool: str, *, user: str = "") -> int:
        return sum(lease.items.get(tool, 0) for lease in self.live() if lease.user.startswith(user))

    def waiting(self, *, ahead_of: Wait | None = None) -> list[Wait]:
        every = [wait for wait in self.queue if wait.is_open]
        return every[: every.index(ahead_of)] if ahead_of in every else every

    def reasons(self, user: str, items: dict[str, int], *, waiter: Wait | None = None) -> list[tuple[str, bool]]:
        """Return each reason of a refusal, and whether waiting can help."""
        found = []
        for tool, seats in items.items():
            if tool == RATIONED:
                if self.out(tool, user=user) + seats > USER_LIMIT:
                    found.append(("user_limit", seats <= USER_LIMIT))
                if user.startswith("red") and self.out(tool, user="red") + seats > QUOTA:
                    found.append(("quota", seats <= QUOTA))
            claimed = sum(wait.seats for wait in self.waiting(ahead_of=waiter)) if tool == PLAIN else 0
            if seats > self.capacity[tool] - self.out(tool) - claimed:
                found.append(("exhausted", seats <= self.capacity[tool]))
        return found

    def grant(self, user: str, items: dict[str, int], ttl: int) -> Lease:
        lease = Lease(user, items, ttl, self.now + ttl)
        self.leases.append(lease)
        return lease


class Comparison(RuleBasedStateMachine):
    """One run of a server and its model."""

    leases: "Bundle[tuple[str, Lease]]" = Bundle("leases")
    tickets: "Bundle[tuple[str, Wait]]" = Bundle("tickets")
    api: Api
    admin: Api

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        # Like the test's transaction, it allows services to begin durable ones inside.
        self.everything = transaction.atomic()
        vars(self.everything)["_from_testcase"] = True
        self.everything.__enter__()
        for name, seats in self.model.capacity.items():
            Tool.objects.create(name=name, capacity=seats, user_limit=USER_LIMIT if name == RATIONED else None)
        from licenses.models import Team

        red = Team.objects.create(name="red")
        TeamMember.objects.bulk_create(TeamMember(team=red, user=user) for user in USERS if user.startswith("red"))
        allot(RATIONED, red, quota=QUOTA)

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.everything.__exit__(None, None, None)

    @rule(
        target=leases,
        user=st.sampled_from(USERS),
        items=st.sampled_from([{PLAIN: 1}, {PLAIN: 2}, {RATIONED: 1}, {RATIONED: 2}, {PLAIN: 1, RATIONED: 1}]),
        ttl=st.sampled_from(TTLS),
    )
    def borrow(self, user: str, items: dict[str, int], ttl: int) -> Any:
        answer = self.api.borrow_set(*items.items(), user=user, ttl_seconds=ttl)
        reasons = self.model.reasons(user, items)
        if reasons:
            code, _ = min(reasons, key=lambda reason: reason[1])
            assert (answer.status_code, answer.json()["code"]) == (409, code)
            return ("", None)
        assert answer.status_code == 200, answer.content
        return answer.json()["id"], self.model.grant(user, items, ttl)

    @rule(target=tickets, user=st.sampled_from(USERS), seats=st.sampled_from([1, 1, 2]), ttl=st.sampled_from(TTLS))
    def wait(self, user: str, seats: int, ttl: int) -> Any:
        items = {PLAIN: seats}
        reasons = self.model.reasons(user, items)
        answer = self.api.borrow_set((PLAIN, seats), user=user, ttl_seconds=ttl, wait_seconds=WAIT)
        if not reasons:
            assert answer.status_code == 200, answer.content
            self.model.grant(user, items, ttl)
        elif not reasons[0][1]:
            assert answer.status_code == 409
        else:
            assert answer.status_code == 202, answer.content
            assert answer.json()["position"] == len(self.model.waiting()) + 1
            wait = Wait(user, seats, ttl)
            self.model.queue.append(wait)
            return answer.json()["ticket"], wait
        return ("", None)

    @rule(target=leases, ticket=tickets)
    def poll(self, ticket: tuple[str, Wait | None]) -> Any:
        ticket_id, wait = ticket
        if wait is None:
            return ("", None)
        answer = self.api.poll(ticket_id)
        if not wait.is_open:
            # Granted before, or dropped.
            assert answer.status_code in {200, 410}
        elif self.model.reasons(wait.user, {PLAIN: wait.seats}, waiter=wait):
            assert answer.status_code == 202, answer.content
            assert answer.json()["position"] == len(self.model.waiting(ahead_of=wait)) + 1
        else:
            assert answer.status_code == 200, answer.content
            wait.is_open = False
            return answer.json()["id"], self.model.grant(wait.user, {PLAIN: wait.seats}, wait.ttl)
        return ("", None)

    @rule(ticket=tickets)
    def leave(self, ticket: tuple[str, Wait | None]) -> None:
        ticket_id, wait = ticket
        if wait is not None and wait.is_open:
            assert self.api.leave(ticket_id).status_code == 204
            wait.is_open = False

    @rule(lease=leases)
    def renew(self, lease: tuple[str, Lease | None]) -> None:
        lease_id, mine = lease
        if mine is None:
            return
        is_live = mine in list(self.model.live())
        assert self.api.renew(lease_id).status_code == (200 if is_live else 410)
        if is_live:
            mine.ends_at = self.model.now + mine.ttl

    @rule(lease=leases)
    def give_back(self, lease: tuple[str, Lease | None]) -> None:
        lease_id, mine = lease
        if mine is not None:
            assert self.api.give_back(lease_id).status_code == 200
            mine.is_ended = True

    @rule(lease=consumes(leases))
    def force_return(self, lease: tuple[str, Lease | None]) -> None:
        lease_id, mine = lease
        if mine is not None:
            answer = self.admin.post(f"/api/v1/leases/{lease_id}/force-return/", {"reason": "model"})
            assert answer.status_code == 200, answer.content
            mine.is_ended = True

    @rule(tool=st.sampled_from([PLAIN, RATIONED]), seats=st.integers(0, 5))
    def change_the_capacity(self, tool: str, seats: int) -> None:
        call_command("seed", f"--tool={tool}={seats}", force=True, verbosity=0)
        self.model.capacity[tool] = seats

    @rule()
    def an_hour_passes(self) -> None:
        from django.apps import apps

        for each in set(apps.get_app_config("licenses").get_models()) - {AuditRecord}:
            moments = [field.name for field in each._meta.fields if isinstance(field, DateTimeField)]
            if moments:
                each._default_manager.update(**{name: F(name) - timedelta(seconds=HOUR) for name in moments})
        self.model.now += HOUR
        for wait in self.model.queue:
            wait.is_open = False

    @rule()
    def sweep(self) -> None:
        call_command("expire_leases", verbosity=0)

    @invariant()
    def both_look_alike(self) -> None:
        for tool, capacity in self.model.capacity.items():
            status = self.api.status(tool)
            waiting = self.model.waiting() if tool == PLAIN else []
            claimed = sum(wait.seats for wait in waiting)
            out = self.model.out(tool)
            assert (status["total"], status["borrowed"], status["queued"], status["available"]) == (
                capacity,
                out,
                len(waiting),
                max(capacity - out - claimed, 0),
            )


@pytest.mark.django_db
def test_the_server_does_what_a_few_lists_do(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    Comparison.api, Comparison.admin = api, api_of(scopes=["admin"])
    run_state_machine_as_test(
        Comparison,
        settings=settings(
            # Another database has other statements, which the first sequences have all.
            max_examples=60 if connection.vendor == "sqlite" else 20,
            stateful_step_count=40,
            derandomize=True,
            # Report a failure at once, because shrinking takes minutes.
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
