"""Quotas, reservations, user limits and access rules."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from django.db.models import Sum

from licenses.errors import OverReserved
from licenses.models import AccessRule, Allotment, Lease, Team, Ticket, Tool, UserLimit
from licenses.tools import quotas
from tests.support.api import Api
from tests.support.quotas import SOMEBODY, allot
from tests.support.servers import Server

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]
PassTime = Callable[..., None]


def exclude(tool: Tool, kind: str, name: str, effect: str = "exclude") -> None:
    team = Team.objects.get(name=name) if kind == "team" else None
    rule = AccessRule(tool=tool, effect=effect, kind=kind, team=team, name="" if team else name)
    quotas.save_rules(rules=[rule], by=SOMEBODY)


def include(tool: Tool, kind: str, name: str) -> None:
    exclude(tool, kind, name, effect="include")


def limit(tool: Tool, user: str, seats: int) -> None:
    quotas.save_rules(rules=[UserLimit(tool=tool, user=user, seats=seats)], by=SOMEBODY)


def assert_counters_equal_rows() -> None:
    for tool in Tool.objects.all():
        assert tool.borrowed == (Lease.objects.open().filter(tool=tool).aggregate(n=Sum("seats"))["n"] or 0)
        allotments = []
        for allotment in tool.allotments.all():
            out = Lease.objects.open().filter(tool=tool, team=allotment.team)
            assert allotment.borrowed == (out.aggregate(n=Sum("seats"))["n"] or 0)
            allotments.append(allotment.for_policy)
        assert tool.reserved_idle == sum(allotment.reserved_idle for allotment in allotments)


def test_a_team_has_no_more_than_its_quota(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool(capacity=5)
    allot("cad", make_team("crash", "ana", "ben"), quota=2)
    lease = api.borrow(user="ana").json()
    assert api.borrow(user="ben").status_code == 200
    refused = api.borrow(user="ana")
    assert (refused.status_code, refused.json()["code"]) == (409, "quota")
    assert (refused.json()["quota"], refused.json()["borrowed"], refused.json()["team"]) == (2, 2, "crash")
    assert api.borrow(user="eve").status_code == 200
    api.give_back(lease["id"])
    assert api.borrow(user="ben").status_code == 200
    assert_counters_equal_rows()


def test_reserved_seats_are_only_for_the_team(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool(capacity=3)
    allot("cad", make_team("crash", "ana"), reservation=2)
    assert api.borrow(user="eve").status_code == 200
    refused = api.borrow(user="eve")
    assert (refused.status_code, refused.json()["code"]) == (409, "reserved")
    status = api.status()
    assert (status["borrowed"], status["reserved_idle"], status["available"]) == (1, 2, 0)
    assert [api.borrow(user="ana").status_code for _ in range(3)] == [200, 200, 409]
    assert api.status()["reserved_idle"] == 0
    assert_counters_equal_rows()


def test_a_team_uses_its_reserved_seats_first(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool(capacity=3)
    allot("cad", make_team("crash", "ana"), reservation=1)
    api.borrow(user="ana")
    assert api.status()["available"] == 2
    api.borrow(user="ana")
    assert api.status()["available"] == 1


def test_an_expired_lease_gives_its_reserved_seat_back_to_the_team(
    api: Api, make_tool: MakeTool, make_team: MakeTeam, pass_time: PassTime
) -> None:
    make_tool(capacity=1)
    allot("cad", make_team("crash", "ana"), quota=1, reservation=1)
    api.borrow(user="ana", ttl_seconds=60)
    pass_time(seconds=60)
    status = api.status()
    assert (status["borrowed"], status["reserved_idle"], status["available"]) == (0, 1, 0)
    assert api.borrow(user="eve").json()["code"] == "reserved"
    assert api.borrow(user="ana").status_code == 200
    assert_counters_equal_rows()


def test_every_way_out_gives_the_quota_back(
    api: Api, make_tool: MakeTool, make_team: MakeTeam, pass_time: PassTime, admin_client: Any
) -> None:
    make_tool(capacity=5)
    allot("cad", make_team("crash", "ana"), quota=1, reservation=1)
    api.give_back(api.borrow().json()["id"])
    lease = api.borrow().json()
    admin_client.post(
        f"/api/v1/leases/{lease['id']}/force-return/", {"reason": "test"}, content_type="application/json"
    )
    api.borrow(ttl_seconds=5)
    pass_time(seconds=5)
    assert api.borrow().status_code == 200
    assert_counters_equal_rows()


def test_quota_and_reservation_hold_for_every_tool_of_a_set(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool("cad", capacity=5)
    make_tool("sim", capacity=5)
    allot("sim", make_team("crash", "ana"), quota=2, reservation=2)
    refused = api.borrow_set(("cad", 1), ("sim", 3))
    assert (refused.json()["code"], refused.json()["tool"]) == ("quota", "sim")
    assert api.borrow_set(("cad", 1), ("sim", 2)).status_code == 200
    assert_counters_equal_rows()


def test_an_allotment_counts_the_seats_that_are_out_already(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool(capacity=5)
    crash = make_team("crash", "ana")
    api.borrow(seats=2)
    allot("cad", crash, quota=3)
    assert api.borrow(seats=2).json()["code"] == "quota"
    assert api.borrow().status_code == 200
    quotas.allot(tool="cad", terms={crash: None}, by=SOMEBODY)
    assert api.borrow().status_code == 200
    assert_counters_equal_rows()


def test_more_than_there_is_can_not_be_reserved(make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool(capacity=3)
    crash, body = make_team("crash"), make_team("body")
    allot("cad", crash, reservation=2)
    with pytest.raises(OverReserved):
        allot("cad", body, reservation=2)
    assert Allotment.objects.count() == 1
    # A change in one step never exceeds the capacity.
    moved = {body: quotas.AllotmentTerms(None, 3), crash: quotas.AllotmentTerms(None, 0)}
    quotas.allot(tool="cad", terms=moved, by=SOMEBODY)


def test_a_capacity_below_the_reservations_serves_the_teams_in_turn(
    api: Api, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    tool = make_tool(capacity=4)
    allot("cad", make_team("crash", "ana"), reservation=2)
    allot("cad", make_team("body", "ben"), reservation=2)
    tool.capacity = 1
    tool.save(update_fields=["capacity"])
    status = api.status()
    assert (status["reserved_idle"], status["available"]) == (1, 0)
    assert api.borrow(user="eve").status_code == 409
    assert api.borrow(user="ben").status_code == 200
    assert api.borrow(user="ana").json()["code"] == "exhausted"


def test_a_user_has_no_more_than_the_limit(api: Api, make_tool: MakeTool) -> None:
    tool = make_tool(capacity=9, user_limit=2)
    limit(tool, "ben", 3)
    assert [api.borrow(user="ana").status_code for _ in range(3)] == [200, 200, 409]
    assert [api.borrow(user="ben").status_code for _ in range(4)] == [200, 200, 200, 409]
    refused = api.borrow(user="ana").json()
    assert (refused["code"], refused["limit"], refused["borrowed"]) == ("user_limit", 2, 2)


def test_an_excluded_user_gets_nothing(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    tool = make_tool(capacity=9)
    make_team("interns", "ben")
    make_team("crash", "ben")
    exclude(tool, "user", "ana")
    exclude(tool, "team", "interns")
    exclude(tool, "host", "kiosk")
    exclude(tool, "project", "hobby")
    assert api.borrow(user="ana").json()["code"] == "excluded"
    # For either of the teams.
    assert api.borrow(user="ben", team="crash").json()["code"] == "excluded"
    assert api.borrow(user="eve", host="kiosk").json()["code"] == "excluded"
    assert api.borrow(user="eve", project="hobby").json()["excluded"] == {"project": "hobby"}
    assert api.borrow(user="eve", host="ws1", project="x").status_code == 200


def test_where_some_are_included_nobody_else_is(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    tool = make_tool(capacity=9)
    make_team("crash", "ana", "ben")
    include(tool, "team", "crash")
    exclude(tool, "user", "ben")
    assert api.borrow(user="ana").status_code == 200
    assert api.borrow(user="ben").json()["code"] == "excluded"
    assert api.borrow(user="eve").json()["code"] == "not_included"


def test_of_several_teams_the_one_that_can_have_it_is_taken(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool(capacity=9)
    allot("cad", make_team("alpha", "ana"), quota=1)
    make_team("beta", "ana")
    assert [api.borrow().json()["team"] for _ in range(2)] == ["alpha", "beta"]
    assert api.borrow(team="alpha").json()["code"] == "quota"


# --- The queue --------------------------------------------------------------


def test_a_ticket_that_waits_for_its_quota_blocks_nobody(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool(capacity=3)
    allot("cad", make_team("crash", "ana", "ben"), quota=1)
    lease = api.borrow(user="ana").json()
    ticket = api.wait(user="ben")
    assert api.borrow(user="eve").status_code == 200
    assert api.poll(ticket).status_code == 202
    api.give_back(lease["id"])
    # Now the ticket can have the seat, before any newcomer.
    status = api.status()
    assert (status["set_aside"], status["available"]) == (1, 1)
    assert api.borrow(user="ana").json()["code"] == "quota"
    assert api.borrow(user="eve", seats=2).json()["code"] == "exhausted"
    assert api.poll(ticket).json()["team"] == "crash"
    assert_counters_equal_rows()


def test_a_team_takes_its_reserved_seat_past_the_others_queue(
    api: Api, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    make_tool(capacity=2)
    allot("cad", make_team("crash", "ana"), reservation=1)
    api.borrow(user="eve")
    ticket = api.wait(user="ben")
    assert api.borrow(user="ana").status_code == 200
    assert api.poll(ticket).status_code == 202


def test_a_waiter_of_the_team_comes_before_a_newcomer_of_the_team(
    api: Api, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    make_tool(capacity=2)
    allot("cad", make_team("crash", "ana", "ben"), quota=1, reservation=1)
    lease = api.borrow(user="ana").json()
    ticket = api.wait(user="ben", project="hood")
    api.give_back(lease["id"])
    assert api.borrow(user="ana").status_code == 409
    granted = api.poll(ticket).json()
    assert (granted["team"], granted["project"]) == ("crash", "hood")


def test_a_refusal_that_waiting_does_not_change_comes_at_once(
    api: Api, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    tool = make_tool(capacity=5, user_limit=2)
    exclude(tool, "user", "eve")
    allot("cad", make_team("crash", "ana"), quota=1)
    assert api.borrow(user="eve", wait_seconds=60).json()["code"] == "excluded"
    assert api.borrow(user="ana", seats=2, wait_seconds=60).json()["code"] == "quota"
    assert api.borrow(user="ben", seats=3, wait_seconds=60).json()["code"] == "user_limit"
    assert not Ticket.objects.exists()


# --- Many at once -----------------------------------------------------------


def test_quotas_and_reservations_hold_under_load(server: Server) -> None:
    """Four workers, sixteen clients, three teams: at no instant of the history
    has a team more than its quota, or somebody else its reserved seats."""
    teams = {"crash": ["c1", "c2"], "body": ["b1", "b2"], "": ["x1", "x2"]}
    server.manage(
        "shell",
        "-c",
        "from licenses import auditing; from licenses.tools import quotas; from licenses.models import *\n"
        "crash, body = (Team.objects.create(name=name) for name in ('crash', 'body'))\n"
        "for team, users in ((crash, ('c1', 'c2')), (body, ('b1', 'b2'))):\n"
        "    TeamMember.objects.bulk_create(TeamMember(team=team, user=user) for user in users)\n"
        "quotas.allot(tool='cad_tool', terms={crash: quotas.AllotmentTerms(2, 1), "
        "body: quotas.AllotmentTerms(None, 1)}, by=auditing.Actor.of_command('shell'))",
    )
    trouble: list[Any] = []

    def work(team: str, user: str) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for _ in range(60):
                answer = client.post("/licenses/borrow", json={"tool": "cad_tool", "user": user})
                if answer.status_code == 200:
                    lease = answer.json()
                    if (lease["team"] or "") != team:
                        trouble.append(lease)
                    client.post("/licenses/return", json={"id": lease["id"]}).raise_for_status()
                elif answer.status_code != 409:
                    trouble.append(answer.text)

    workers = [
        threading.Thread(target=work, args=(team, user))
        for team, users in teams.items()
        for user in users
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not trouble
    rows = server.manage(
        "shell",
        "-v0",
        "-c",
        "from licenses.models import *\n"
        "for lease in Lease.objects.select_related('team'):\n"
        "    print(lease.borrowed_at.timestamp(), lease.ended_at.timestamp(), lease.team or '-')",
    )
    # Both times were read under the tool's lock, so their order is the order of events.
    events = []
    for row in rows.splitlines():
        began, ended, team = row.split()
        events += [(float(began), 1, team), (float(ended), -1, team)]
    out = Counter[str]()
    most = Counter[str]()
    for _, change, team in sorted(events):
        out[team] += change
        assert out.total() <= 5
        most[team] = max(most[team], out[team])
    # Each team has one of the five seats reserved, and crash has a quota.
    assert most["crash"] <= 2
    assert most["-"] <= 3
    assert most["body"] <= 4
    assert all(most[team] for team in ("crash", "body", "-"))
    checked = server.manage(
        "shell",
        "-v0",
        "-c",
        "from licenses.models import *\n"
        "tool = Tool.objects.get(name='cad_tool')\n"
        "print(tool.borrowed, tool.reserved_idle, *Allotment.objects.values_list('borrowed', flat=True))",
    )
    assert checked.split() == ["0", "2", "0", "0"]
