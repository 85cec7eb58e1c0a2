"""Every refusal is declared once, and everything that speaks of it follows."""

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from licenses import errors
from licenses.api.common.problems import from_refusal
from licenses.api.hints import HINTS
from licenses.errors import BorrowRefusal, Refusal, UnknownTool, kinds
from licenses.metrics import BORROW_FAILURE_REASONS
from licenses.models import Tool
from licenses.policy import BORROW_REFUSALS, RULES, Rule, State, rules
from licenses.policy.rules import ClosedTool
from tests.support.api import Api
from tests.support.paths import ROOT

ALL = kinds(Refusal)
# What clients are written against. Add lines; never change one.
CONTRACT = {
    ("ttl_too_long", 400),
    ("more_rights", 403),
    ("not_a_member", 403),
    ("unknown_tool", 404),
    ("unknown_team", 404),
    ("unknown_row", 404),
    ("unknown_lease", 404),
    ("unknown_ticket", 404),
    ("exhausted", 409),
    ("reserved", 409),
    ("quota", 409),
    ("user_limit", 409),
    ("lease_limit", 409),
    ("excluded", 409),
    ("not_included", 409),
    ("disabled", 409),
    ("not_started", 409),
    ("expired", 409),
    ("granted", 409),
    ("in_use", 409),
    ("over_reserved", 409),
    ("queue_full", 409),
    ("too_many_tickets", 409),
    ("too_many_tokens", 409),
    ("returned", 410),
    ("expired", 410),
    ("forced", 410),
    ("revoked", 410),
    ("queue_timeout", 410),
    ("out_of_date", 412),
    ("queue_dropped", 410),
    ("queue_left", 410),
    ("key_reused", 422),
    ("too_many_keys", 429),
    ("too_many_failures", 429),
    ("rate_limited", 429),
    ("busy", 503),
    ("overloaded", 503),
    ("storage_full", 503),
    ("not_migrated", 503),
    ("read_only", 503),
    ("provider_away", 503),
}


def answer(kind: type[Refusal], code: str) -> tuple[int, dict[str, object]]:
    """Return the status and the problem document of a refusal."""
    refusal = kind.again("Why.", {})
    refusal.code = code
    response = from_refusal(refusal)
    return response.status_code, json.loads(response.content)


def test_the_codes_and_their_statuses_never_change() -> None:
    assert {(code, answer(kind, code)[0]) for kind in ALL for code in kind.codes()} >= CONTRACT


@pytest.mark.parametrize("kind", ALL)
def test_no_refusal_lacks_a_code_a_title_a_status_or_a_meaning(kind: type[Refusal]) -> None:
    assert kind.codes()
    for code in kind.codes():
        status, problem = answer(kind, code)
        assert 400 <= status < 600
        assert (problem["code"], problem["status"], problem["title"]) == (code, status, kind.title)
        assert problem.get("hint") == HINTS.get(kind)
    # Its own, and not that of its base.
    assert "__doc__" in vars(kind)
    assert re.fullmatch(r"[A-Z`][^|]+\.", kind.meaning())


def test_no_two_refusals_of_one_status_share_a_code() -> None:
    declared = [(kind.status, code) for kind in ALL for code in kind.codes()]
    assert len(declared) > 30
    assert sorted(set(declared)) == sorted(declared)


def test_every_rule_has_one_place_in_the_order() -> None:
    assert set(RULES) == set(kinds(Rule))
    assert len(set(RULES)) == len(RULES)


def test_each_rule_that_closes_a_tool_is_a_state_of_the_tool() -> None:
    assert [*State] == ["open", *(rule.code for rule in RULES if issubclass(rule, ClosedTool))]


@pytest.mark.parametrize("kind", kinds(BorrowRefusal))
def test_every_refusal_of_a_borrow_can_be_repeated_and_is_a_reason_in_the_metrics(kind: type[Refusal]) -> None:
    assert BORROW_REFUSALS[kind.code] is kind
    # A borrow of an unknown tool is counted apart: no client can add series.
    assert (kind.code in BORROW_FAILURE_REASONS) == (kind is not UnknownTool)


def test_every_denial_is_a_refusal_of_a_borrow() -> None:
    denials = [kind for kind in ALL if kind.denial]
    assert len(denials) > 10
    assert set(denials) <= set(BORROW_REFUSALS.values())


def test_the_schema_has_every_refusal_with_its_status(api: Api) -> None:
    schema = api.schema()
    described = {
        (code, int(status))
        for operations in schema["paths"].values()
        for operation in operations.values()
        for status, response in operation["responses"].items()
        for code in re.findall(r"^- `(\w+)`:", response["description"], re.MULTILINE)
    }
    assert {(code, kind.status) for kind in ALL for code in kind.codes()} <= described


def test_the_schema_of_a_borrow_has_every_refusal_of_a_borrow(api: Api) -> None:
    schema = api.schema()
    responses = schema["paths"]["/licenses/borrow"]["post"]["responses"]
    for kind in kinds(BorrowRefusal):
        assert f"- `{kind.code}`: {kind.meaning()}" in responses[str(kind.status)]["description"].splitlines()


def test_the_tables_of_errors_are_those_of_the_code() -> None:
    script = ROOT / "scripts" / "error_tables.py"
    checked = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("module", [errors, rules])
def test_the_texts_of_the_domain_name_no_call_of_the_api(module: ModuleType) -> None:
    assert not re.search(r"\b(GET|POST|PUT|PATCH|DELETE) /|\bIdempotency-Key\b(?!`)", inspect.getsource(module))


def test_a_refusal_says_which_call_helps(api: Api) -> None:
    refused = api.post("/licenses/borrow", {"tool": "nothing", "user": "ana"})
    assert refused.json()["detail"] == "There is no tool called nothing."
    assert refused.json()["hint"] == "GET /licenses/status lists the tools."


def test_no_hint_says_to_wait_where_waiting_does_not_help(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad", capacity=1)
    never = [api.borrow("cad", key="one", seats=2) for _ in range(2)]
    assert never[0].content == never[1].content
    assert (never[0].json()["waiting_helps"], "hint" in never[0].json()) == (False, False)
    api.borrow("cad")
    later = api.borrow("cad").json()
    assert later["waiting_helps"] is True
    assert "wait_seconds" in later["hint"]


def test_a_limit_of_one_seat_is_written_as_one(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool(capacity=3, user_limit=1)
    api.borrow()
    assert api.borrow().json()["detail"].startswith("ana can have at most 1 seat of cad, ")
    assert "full: 1 ticket." in errors.QueueFull(tool="cad", limit=1).detail


@pytest.mark.parametrize("kind", ["tool", "team"])
def test_a_page_finds_the_name_of_a_tool_and_a_team_in_every_text(kind: str) -> None:
    for module in (errors, rules):
        before = re.findall(rf"([\w@]+) {{{kind}}}", inspect.getsource(module))
        assert before
        assert set(before) <= set(errors.BEFORE[kind])


def test_a_page_has_the_names_for_people() -> None:
    refusal = errors.QueueFull(tool="seat", limit=3)
    assert refusal.with_names({"tool": "Seat Designer"}) == (
        "No seat of Seat Designer is free, and its queue is full: 3 tickets. Try again later."
    )
    assert refusal.with_names({}) == refusal.detail
    assert "cad, the most" in errors.TooManyTickets(tool="cad", user="cad", limit=2).detail
    assert (
        errors.TooManyTickets(tool="cad", user="cad", limit=2)
        .with_names({"tool": r"CAD \1"})
        .startswith(r"cad has 2 tickets in the queue for CAD \1, the most")
    )
    assert errors.NotAMember(user="crash", team="crash").with_names({"team": "Crash simulation"}) == (
        "crash is not a member of team Crash simulation. Name another team, or ask the administrators to add the user."
    )
