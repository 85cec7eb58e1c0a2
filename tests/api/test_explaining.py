"""Explain whether a borrow would be granted."""

from collections.abc import Callable
from typing import Any

import pytest

from licenses.models import AccessRule, Denial, Lease, Team, Ticket, Tool
from licenses.tools import quotas
from tests.support.api import Api
from tests.support.quotas import SOMEBODY, allot

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]
PassTime = Callable[..., None]


def codes(explanation: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in explanation["reasons"]]


def test_an_explanation_shows_the_grant_and_takes_no_seat(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool()
    make_team("crash", "ana")
    explanation = api.explain()
    assert explanation == {
        "granted": True,
        "alternative": 0,
        "team": "crash",
        "reasons": [],
        "expected_seconds": 0,
        "reasons_omitted": 0,
    }
    assert not Lease.objects.exists()


def test_every_rule_that_blocks_is_listed(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    tool = make_tool(capacity=2, user_limit=1, enabled=True)
    allot("cad", make_team("crash", "ana"), quota=1)
    api.borrow()
    api.borrow(user="eve")
    rule = AccessRule(tool=tool, effect="exclude", kind="host", name="kiosk")
    quotas.save_rules(rules=[rule], by=SOMEBODY)
    explanation = api.explain(host="kiosk")
    assert not explanation["granted"]
    assert codes(explanation) == ["excluded", "user_limit", "quota", "exhausted"]
    quota = explanation["reasons"][2]
    assert (quota["tool"], quota["team"], quota["quota"], quota["borrowed"]) == ("cad", "crash", 1, 1)
    assert all(reason["detail"] for reason in explanation["reasons"])


def test_a_refused_borrow_has_the_same_explanation(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool(user_limit=1)
    allot("cad", make_team("crash", "ana"), quota=1)
    api.borrow()
    explanation, refused = api.explain(), api.borrow()
    assert refused.json()["reasons"] == explanation["reasons"]
    assert refused.json()["expected_seconds"] == explanation["expected_seconds"]
    assert api.borrow(key="k").json() == api.borrow(key="k").json()


def test_it_says_when_a_seat_is_expected(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool(capacity=2)
    lease = api.borrow().json()
    assert api.explain()["expected_seconds"] == 0
    pass_time(minutes=10)
    api.give_back(lease["id"])
    api.borrow(seats=2)
    # Ten minutes a seat, two seats out: the next comes back in five.
    assert api.explain()["expected_seconds"] == pytest.approx(300, abs=2)
    assert api.explain(seats=2)["expected_seconds"] == pytest.approx(600, abs=4)
    assert api.explain(seats=3)["expected_seconds"] is None


def test_each_alternative_is_explained(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=0)
    make_tool("sim", capacity=1)
    body = {"user": "ana", "alternatives": [[{"tool": "cad"}], [{"tool": "sim"}]]}
    explanation = api.post("/licenses/explain", body).json()
    assert (explanation["granted"], explanation["alternative"]) == (True, 1)
    assert [(reason["alternative"], reason["code"]) for reason in explanation["reasons"]] == [(0, "exhausted")]


def test_it_changes_nothing(api: Api, make_tool: MakeTool) -> None:
    tool = make_tool(capacity=1)
    api.borrow()
    before = Tool.objects.filter(pk=tool.pk).values().get()
    assert not api.explain(wait_seconds=60)["granted"]
    assert Tool.objects.filter(pk=tool.pk).values().get() == before
    assert (Lease.objects.count(), Denial.objects.count(), Ticket.objects.count()) == (1, 0, 0)


def test_an_expired_seat_is_free(api: Api, make_tool: MakeTool, make_team: MakeTeam, pass_time: PassTime) -> None:
    make_tool(user_limit=1)
    allot("cad", make_team("crash", "ana"), quota=1, reservation=1)
    api.borrow(ttl_seconds=5)
    pass_time(seconds=5)
    assert api.explain()["granted"]
    assert api.status(user="ana")["available_to_you"] == 1
    assert api.status(user="eve")["available_to_you"] == 0
    assert codes(api.explain(user="eve")) == ["reserved"]


def test_a_queue_ahead_is_in_the_way(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow().json()
    api.wait()
    api.give_back(lease["id"])
    assert codes(api.explain(user="eve")) == ["exhausted"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"tool": "nothing", "user": "ana"}, 404, "unknown_tool"),
        ({"tool": "cad"}, 400, "invalid"),
        ({"tool": "cad", "user": "ana", "team": "nothing"}, 403, "not_a_member"),
        ({"tool": "cad", "user": "ana", "seats": 0}, 400, "invalid"),
    ],
)
def test_what_makes_no_sense_is_refused(
    api: Api, make_tool: MakeTool, body: dict[str, Any], status: int, code: str
) -> None:
    make_tool()
    refused = api.post("/licenses/explain", body)
    assert (refused.status_code, refused.json()["code"]) == (status, code)


def test_status_answers_for_a_user_or_a_team(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool(capacity=5, user_limit=4)
    make_team("body", "ben")
    allot("cad", make_team("crash", "ana"), quota=3, reservation=2)
    assert "available_to_you" not in api.status()
    assert api.status(user="ana")["available_to_you"] == 3
    assert api.status(user="ana", team="crash")["available_to_you"] == 3
    assert api.status(team="crash")["available_to_you"] == 3
    assert api.status(user="eve")["available_to_you"] == 3
    api.borrow(user="ana", seats=2)
    assert api.status(user="ana")["available_to_you"] == 1
    assert api.status(user="ben")["available_to_you"] == 3
    assert api.status(user="ben", team="crash")["code"] == "not_a_member"
    assert api.status(nonsense="x")["code"] == "invalid"
    assert api.client.get("/api/v1/tools/cad/status/?user=ana").json()["available_to_you"] == 1
