"""Acting for other users is allowed with rights, and recorded on leases, tickets and in the audit."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from licenses import auditing
from licenses.access.provider_accounts import _operators
from licenses.access.rights import OPERATORS
from licenses.models import ApiToken, AuditRecord, BorrowKey, Lease, Team, Ticket, Tool
from tests.support.api import Api, api_of, api_with, basic

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]

PASSWORD = "a long pass phrase"


def api_of_account(name: str, **rights: Any) -> Api:
    """Return the API for a user with an account and a password."""
    User.objects.create_user(name, password=PASSWORD, **rights)
    return api_with(basic(name, PASSWORD)["Authorization"])


@pytest.fixture
def operator(required: None, db: None) -> Api:
    """Somebody who looks around in the admin and forces returns."""
    api = api_of_account("oper", is_staff=True)
    User.objects.get(username="oper").groups.add(_operators())
    return api


@pytest.fixture
def root(required: None, db: None) -> Api:
    return api_of_account("root", is_staff=True, is_superuser=True)


def records() -> list[tuple[str, str, str, str, str]]:
    """Return the audit records, the oldest first."""
    rows = AuditRecord.objects.order_by("pk")
    return list(rows.values_list("action", "subject_kind", "subject", "actor_kind", "actor"))


# --- Operators force returns, and nothing else --------------------------------


@pytest.mark.parametrize("rights", [OPERATORS, "change_lease", "every permission"])
def test_staff_act_for_nobody_else(required: None, make_tool: MakeTool, rights: str) -> None:
    staff = api_of_account("oper", is_staff=True)
    oper = User.objects.get(username="oper")
    if rights == OPERATORS:
        oper.groups.add(_operators())
    else:
        permissions = Permission.objects.filter(codename=rights) if rights == "change_lease" else Permission.objects
        oper.user_permissions.set(permissions.all())
    make_tool("cad", capacity=1)
    make_tool("sim", capacity=1)
    eve = api_of(user="eve")
    lease = eve.borrow("cad", "eve").json()["id"]
    ticket = eve.wait("cad", "eve")
    before = list(Lease.objects.values()), list(Ticket.objects.values())
    answers = [
        staff.give_back(lease),
        staff.renew(lease),
        staff.post(f"/api/v1/leases/{lease}/renew/", {}),
        staff.poll(ticket),
        staff.leave(ticket),
        staff.borrow("sim", "ana", project="p"),
    ]
    assert [answer.status_code for answer in answers] == [404, 404, 404, 404, 404, 403]
    assert (list(Lease.objects.values()), list(Ticket.objects.values())) == before
    assert records() == []
    # An explanation changes nothing.
    assert staff.explain("sim", "ana")["granted"] is True


def test_an_operator_ends_a_lease_by_force_with_a_reason(operator: Api, make_tool: MakeTool) -> None:
    make_tool()
    eve = api_of(user="eve")
    lease = eve.borrow(user="eve").json()["id"]
    address = f"/api/v1/leases/{lease}/force-return/"
    assert operator.post(address, {}).status_code == 400
    forced = operator.post(address, {"reason": "Maintenance"}).json()
    assert (forced["end_reason"], forced["end_note"], forced["ended_by"]) == ("forced", "Maintenance", "account oper")
    assert records() == [("force_returned", "lease", lease, "account", "oper")]
    told = eve.renew(lease).json()
    assert (told["code"], told["note"], told["ended_by"]) == ("forced", "Maintenance", "account oper")


def test_staff_act_for_themselves(operator: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = operator.borrow(user="oper").json()
    assert (lease["borrowed_by"], operator.give_back(lease["id"]).status_code) == ("", 200)
    assert records() == []


# --- Those who may are recorded -----------------------------------------------


def of_root() -> tuple[Api, str, tuple[str, str]]:
    return api_of_account("root", is_staff=True, is_superuser=True), "account root", ("account", "root")


def of_admins_token() -> tuple[Api, str, tuple[str, str]]:
    api = api_of(scopes=["admin"])
    number = f"token {ApiToken.objects.latest('pk').pk}"
    return api, number, ("token", number)


def of_teams_token() -> tuple[Api, str, tuple[str, str]]:
    api = api_of(team="crash")
    number = f"token {ApiToken.objects.latest('pk').pk}"
    return api, number, ("token", number)


ACTORS = pytest.mark.parametrize("acting", [of_root, of_admins_token, of_teams_token])
Acting = Callable[[], tuple[Api, str, tuple[str, str]]]


@ACTORS
def test_a_lease_keeps_the_actors_that_borrowed_and_ended_it(
    required: None, make_tool: MakeTool, make_team: MakeTeam, acting: Acting
) -> None:
    make_tool()
    make_team("crash", "ana")
    api, label, actor = acting()
    lease = api.borrow(user="ana", host="ws1").json()
    assert (lease["user"], lease["borrowed_by"], lease["ended_by"]) == ("ana", label, "")
    assert api.give_back(lease["id"]).status_code == 200
    (listed,) = api.client.get("/api/v1/leases/").json()["results"]
    assert (listed["end_reason"], listed["borrowed_by"], listed["ended_by"]) == ("returned", label, label)
    assert records() == [
        ("borrowed", "lease", lease["id"], *actor),
        ("returned", "lease", lease["id"], *actor),
    ]
    borrowed, returned = AuditRecord.objects.order_by("pk")
    assert borrowed.after == {"user": "ana", "host": "ws1", "team": "crash", "seats": {"cad": 1}}
    assert returned.before["user"] == "ana"
    assert borrowed.origin == "127.0.0.1"
    told = api_of(user="ana").renew(lease["id"]).json()
    assert (told["code"], told["ended_by"]) == ("returned", label)
    assert f"returned by {label}" in told["detail"]


@ACTORS
def test_a_ticket_keeps_the_actors_that_began_and_ended_it(
    required: None, make_tool: MakeTool, make_team: MakeTeam, acting: Acting
) -> None:
    make_tool()
    make_team("crash", "ana")
    own = api_of(user="ben")
    held = own.borrow(user="ben").json()["id"]
    api, label, actor = acting()
    left, granted = api.wait(user="ana"), api.wait(user="ana")
    assert set(Ticket.objects.values_list("borrowed_by", flat=True)) == {label}
    assert api.leave(left).status_code == 204
    # Leaving again changes nothing.
    assert api.leave(left).status_code == 204
    own.give_back(held)
    lease = api.poll(granted).json()
    assert lease["borrowed_by"] == label
    # The retry returns the same lease.
    assert api.poll(granted).json()["id"] == lease["id"]
    assert records() == [
        ("queued", "ticket", left, *actor),
        ("queued", "ticket", granted, *actor),
        ("left", "ticket", left, *actor),
        ("borrowed", "lease", lease["id"], *actor),
    ]


def test_a_heartbeat_for_another_is_recorded_once(required: None, make_tool: MakeTool, root: Api) -> None:
    make_tool()
    lease = api_of(user="ana").borrow(user="ana", ttl_seconds=600).json()["id"]
    for _ in range(3):
        assert root.renew(lease).status_code == 200
        assert root.post(f"/api/v1/leases/{lease}/renew/", {}).status_code == 200
    assert records() == [("renewed", "lease", lease, "account", "root")]


def test_renewals_for_another_user_add_no_further_record(required: None, make_tool: MakeTool, root: Api) -> None:
    make_tool()
    lease = root.borrow(user="ana", ttl_seconds=600).json()["id"]
    assert root.renew(lease).status_code == 200
    assert [action for action, *_ in records()] == ["borrowed"]


def test_a_replayed_borrow_is_recorded_once(required: None, make_tool: MakeTool, root: Api) -> None:
    make_tool(capacity=2)
    first, again = (root.borrow(user="ana", key="k") for _ in range(2))
    assert first.json() == again.json()
    assert [action for action, *_ in records()] == ["borrowed"]


def test_calls_that_change_nothing_are_not_recorded(required: None, make_tool: MakeTool, root: Api) -> None:
    make_tool()
    lease = api_of(user="ana").borrow(user="ana").json()["id"]
    assert root.borrow(user="ben").status_code == 409
    api_of(user="ana").give_back(lease)
    assert root.give_back(lease).status_code == 200
    assert root.renew(lease).status_code == 410
    assert records() == []
    assert Lease.objects.get().ended_by == ""


def test_a_borrow_whose_record_fails_is_undone(
    required: None, make_tool: MakeTool, root: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tool()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no record")

    monkeypatch.setattr(auditing, "made", fail)
    assert root.borrow(user="ana").status_code == 500
    assert not Lease.objects.exists()
    assert root.borrow(user="root").status_code == 200
    assert api_of(scopes=["admin"]).give_back(str(Lease.objects.get().pk)).status_code == 500
    assert Lease.objects.get().ended_at is None


def test_a_caller_with_a_credential_on_an_open_server_is_recorded(api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=3)
    ben = api_of(user="ben")
    for_ana = ben.borrow(user="ana").json()
    label = f"token {ApiToken.objects.get().pk}"
    assert for_ana["borrowed_by"] == label
    # On an open server the actor is unknown.
    anonymous = api.borrow(user="ana").json()
    assert (anonymous["borrowed_by"], api.give_back(for_ana["id"]).status_code) == ("", 200)
    assert [action for action, *_ in records()] == ["borrowed"]
    assert ben.give_back(anonymous["id"]).status_code == 200
    assert Lease.objects.get(pk=anonymous["id"]).ended_by == label


def test_a_borrow_by_the_user_costs_no_more_statements(required: None, make_tool: MakeTool) -> None:
    make_tool(capacity=9)
    ana = api_of(user="ana")
    ana.borrow(user="ana", ttl_seconds=600)

    def cost(act: Callable[[], Any]) -> int:
        with CaptureQueriesContext(connection) as queries:
            assert act().status_code == 200
        return len(queries)

    # As tests/api/test_borrowing.py has it, and one statement for the token.
    postgresql = connection.vendor == "postgresql"
    leases: list[str] = []
    assert cost(lambda: borrowed(ana, leases)) == 1 + (2 if postgresql else 5) + 2
    # The lock of the leases, their tools, and the new end.
    assert cost(lambda: ana.renew(leases[0])) == 1 + 3 + 2
    assert cost(lambda: ana.give_back(leases[0])) == 1 + (3 if postgresql else 4) + 2


def borrowed(api: Api, leases: list[str]) -> Any:
    answer = api.borrow(user="ana", ttl_seconds=600)
    leases.append(answer.json()["id"])
    return answer


# --- A team's token acts on what counts for its team --------------------------


@pytest.fixture
def two_teams(required: None, make_tool: MakeTool, make_team: MakeTeam) -> Api:
    """Provide a token of team crash. User ana is in crash and in noise."""
    make_tool("cad", capacity=1)
    make_tool("sim", capacity=9)
    make_team("crash", "ana")
    make_team("noise", "ana")
    return api_of(team="crash")


def test_a_teams_token_leaves_what_counts_for_other_teams(two_teams: Api) -> None:
    ana = api_of(user="ana")
    lease = ana.borrow("cad", "ana", team="noise").json()["id"]
    ticket = ana.wait("cad", "ana", team="noise")
    address = f"/api/v1/leases/{lease}/"
    answers = [
        two_teams.give_back(lease),
        two_teams.renew(lease),
        two_teams.post(f"{address}renew/", {}),
        two_teams.poll(ticket),
        two_teams.leave(ticket),
    ]
    assert [answer.status_code for answer in answers] == [404] * 5
    assert two_teams.post(f"{address}force-return/", {"reason": "x"}).status_code == 403
    assert two_teams.borrow("sim", "ana", team="noise").status_code == 403
    assert (Lease.objects.get().ended_at, Ticket.objects.get().state, records()) == (None, "waiting", [])


def test_a_teams_token_acts_on_what_counts_for_its_team(two_teams: Api) -> None:
    ana = api_of(user="ana")
    lease = ana.borrow("cad", "ana", team="crash", ttl_seconds=600).json()["id"]
    ticket = ana.wait("cad", "ana", team="crash")
    assert two_teams.renew(lease).status_code == 200
    assert two_teams.poll(ticket).status_code == 202
    assert two_teams.leave(ticket).status_code == 204
    assert two_teams.give_back(lease).status_code == 200
    assert Lease.objects.get().ended_by.startswith("token ")


def test_a_lease_without_a_team_is_no_teams(required: None, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool()
    lease = api_of(user="ana").borrow(user="ana").json()["id"]
    make_team("crash", "ana")
    assert api_of(team="crash").give_back(lease).status_code == 404


# --- Idempotency keys are their caller's --------------------------------------


def test_nobody_blocks_or_reads_anothers_keys(two_teams: Api) -> None:
    ana, root = api_of(user="ana"), api_of(scopes=["admin"])
    body: dict[str, Any] = {"tool": "sim", "user": "ana", "team": "crash"}
    taken = two_teams.borrow(**body, key="nightly-0")
    for caller in (ana, root, api_of(team="crash")):
        mine = caller.borrow(**body, key="nightly-0")
        assert mine.status_code == 200
        assert "Idempotent-Replayed" not in mine.headers
        assert mine.json()["id"] != taken.json()["id"]
        # Another caller's key does not affect the own retry.
        again = caller.borrow(**body, key="nightly-0")
        assert (again["Idempotent-Replayed"], again.json()) == ("true", mine.json())
    assert two_teams.borrow(**body, key="nightly-0").json() == taken.json()
    assert two_teams.borrow("cad", "ana", key="nightly-0").json()["code"] == "key_reused"


def test_a_keys_of_one_token_are_apart_by_holder(two_teams: Api, make_team: MakeTeam) -> None:
    Team.objects.get(name="crash").members.create(user="ben")
    ids = {two_teams.borrow("sim", user, key="k").json()["id"] for user in ("ana", "ben")}
    assert len(ids) == 2


def test_a_person_has_the_same_keys_by_every_credential(required: None, make_tool: MakeTool) -> None:
    make_tool(capacity=2)
    first = api_of_account("ana").borrow(user="ana", key="k").json()
    assert api_of(user="ana").borrow(user="ana", key="k").json() == first


def test_a_key_of_the_version_before_is_replayed_to_its_holder(required: None, make_tool: MakeTool) -> None:
    make_tool(capacity=2)
    ana = api_of(user="ana")
    first = ana.borrow(user="ana", key="k").json()
    # The previous version wrote the holder's name.
    assert BorrowKey.objects.get().caller == "ana"
    assert ana.borrow(user="ana", key="k").json() == first
