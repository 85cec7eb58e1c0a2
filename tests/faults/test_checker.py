"""The checker finds every kind of broken promise, and nothing in a run that is right."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import checker, mutants
from .checker import Evidence
from .history import Operation

START = 1_700_000_000.0
Rows = dict[str, list[dict[str, Any]]]
# What is known when everybody is gone.
FINE: dict[str, Any] = {"missing": {}, "left_over": [], "unfinished": []}


def moment(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(START + seconds, UTC).isoformat()


def tool(number: int, name: str, **values: Any) -> dict[str, Any]:
    zeros = dict.fromkeys(
        ["overdraft", "in_use", "kept_back", "reserved", "waiting", "last_fence", "overdraft_total"]
        + [f"{reason}_total" for reason in ("returned", "expired", "forced", "revoked")],
        0,
    )
    return (
        {"id": number, "name": name, "capacity": 1, "enabled": True, "user_limit": None, "valid_until": None}
        | zeros
        | values
    )


def lease(number: int, fence: int, start: float, end: float | None, **values: Any) -> dict[str, Any]:
    """A lease of ``cad`` from ``start`` to ``end``, in seconds of the run."""
    return {
        "id": f"{number:032x}",
        "tool_id": 1,
        "user": "ana",
        "team_id": None,
        "project": f"ana-{number}",
        "part_of_id": None,
        "place": 0,
        "fence": fence,
        "seats": 1,
        "borrowed_at": START + start,
        "expires_at": START + start + 60,
        "ended_at": None if end is None else START + end,
        "end_reason": "" if end is None else "returned",
    } | values


def borrowed(number: int, fence: int, start: float, **values: Any) -> Operation:
    """The answer to a borrow, read a tenth of a second after it was decided."""
    answer = {
        "id": f"{number:032x}",
        "user": "ana",
        "team": None,
        "project": f"ana-{number}",
        "items": [{"tool": "cad", "seats": 1, "fence": fence}],
        "expires_at": moment(start + 60),
        "server_time": moment(start),
        "alternative": 0,
    } | values.pop("answer", {})
    facts = {"project": f"ana-{number}", "team": None} | values.pop("facts", {})
    return Operation("ana", "borrow", start - 0.1, start + 0.1, 200, facts, answer, **values)


def returned(number: int, start: float) -> Operation:
    return Operation("ana", "return", start - 0.1, start + 0.1, 200, {"lease": f"{number:032x}"})


def good() -> tuple[list[Operation], Rows]:
    """Two leases of one seat, one after the other; the second expired."""
    operations = [
        borrowed(1, 1, 10),
        returned(1, 20),
        borrowed(2, 2, 30, facts={"key": "k"}),
        borrowed(2, 2, 30, facts={"key": "k"}, replayed=True),
        Operation(
            "ana", "renew", 40, 40.1, 200, {"lease": f"{2:032x}"}, {"id": f"{2:032x}", "expires_at": moment(100)}
        ),
        Operation("ben", "trespass", 41, 41.1, 404, {"lease": f"{2:032x}"}),
        Operation("admin", "change", 50, 50.1, 302, {"changed": True}),
        Operation("run", "calm", 0, 8, 200),
        Operation("run", "fault", 9, 9.5, 200, {"name": "kill_worker"}),
        Operation("run", "final", 200, 200, 200, FINE),
    ]
    rows: Rows = {
        "tools": [
            tool(1, "cad", last_fence=2, returned_total=1, expired_total=1),
            tool(2, "single", last_fence=1, returned_total=1),
        ],
        "teams": [{"id": 1, "name": "red"}],
        "members": [{"user": "ana", "team_id": 1}],
        "leases": [
            lease(1, 1, 10, 20),
            lease(2, 2, 30, 100, expires_at=START + 100, end_reason="expired"),
            lease(3, 1, 15, 18, tool_id=2, user="ben", project="ben-1"),
        ],
        "tickets": [
            {
                "number": 1,
                "id": "t",
                "user": "ben",
                "alternatives": [{"number": 0, "items": [{"tool": "single", "seats": 1}]}],
                "state": "granted",
                "created_at": START + 12,
                "alive_until": START + 35,
                "deadline": START + 100,
                "closed_at": START + 15,
                "lease_id": f"{3:032x}",
            }
        ],
        "claims": [],
        "allotments": [{"tool_id": 1, "team_id": 1, "quota": 1, "reservation": 0, "in_use": 0}],
        "keys": [],
        "audit": [
            {
                "id": 1,
                "recorded_at": START + 50,
                "action": "changed",
                "subject_kind": "tool",
                "subject": "cad",
                "before": {"capacity": 1},
                "after": {"capacity": 1},
            }
        ],
    }
    return operations, rows


def found(operations: list[Operation], rows: Rows, metrics: dict[str, float] | None = None) -> set[str]:
    """The rules that were broken."""
    evidence = Evidence(operations, rows, metrics or {})
    return set(map(checker.rule_of, checker.violations(evidence)))


def test_a_run_that_is_right_breaks_nothing() -> None:
    operations, rows = good()
    assert found(operations, rows, {'licenses_borrowed{tool="cad"}': 0}) == set()


def test_a_lease_that_ended_early_is_held_no_longer_whenever_its_holder_returns_it() -> None:
    operations, rows = good()
    rows["leases"][0] |= {"ended_at": START + 12, "end_reason": "revoked"}
    # Somebody else holds the seat before the holder of the first lease, who did not know, returns it at 20.
    operations.append(borrowed(4, 3, 14, answer={"expires_at": moment(18)}))
    assert "s2_never_oversold_as_clients_see_it" not in found(operations, rows)
    rows["leases"][0]["end_reason"] = "returned"
    assert "s2_never_oversold_as_clients_see_it" in found(operations, rows)


Break = Callable[[list[Operation], Rows], None]


def put(operation: Operation) -> Break:
    return lambda operations, rows: operations.append(operation)


def put_row(table: str, row: dict[str, Any]) -> Break:
    return lambda operations, rows: rows[table].append(row)


def change(table: str, number: int, **values: Any) -> Break:
    return lambda operations, rows: rows[table][number].update(values)


def both(*breaks: Break) -> Break:
    def apply(operations: list[Operation], rows: Rows) -> None:
        for one in breaks:
            one(operations, rows)

    return apply


HEAD = f"{2:032x}"
WRONG: dict[str, tuple[str, Break]] = {
    "the server failed": ("s0_no_server_error", put(Operation("ana", "renew", 1, 2, 500, {"lease": HEAD}))),
    "the server was busy though nothing was wrong": (
        "s0_no_failure_without_a_fault",
        put(Operation("ana", "renew", 1, 2, 503, {"lease": HEAD})),
    ),
    "the server was busy long after a fault": (
        "s0_no_failure_without_a_fault",
        put(Operation("ana", "renew", 60, 61, 503, {"lease": HEAD})),
    ),
    "two leases of the one seat overlap": (
        "s1_never_oversold_in_the_ledger",
        change("leases", 0, ended_at=START + 31),
    ),
    "a lease was granted after the capacity was lowered": (
        "s1_never_oversold_in_the_ledger",
        both(
            change("audit", 0, recorded_at=START + 25, before={"capacity": 1}, after={"capacity": 0}),
            change("tools", 0, capacity=0),
        ),
    ),
    "two clients held the one seat": (
        "s2_never_oversold_as_clients_see_it",
        put(borrowed(4, 3, 12, answer={"project": "ana-4"})),
    ),
    "an acknowledged lease has no row": ("s3_no_acknowledged_lease_is_lost", put(borrowed(9, 9, 120))),
    "an answer has another fence than the row": (
        "s3_no_acknowledged_lease_is_lost",
        lambda operations, rows: operations.__setitem__(0, borrowed(1, 7, 10)),
    ),
    "an answer was somebody else's": (
        "s3_no_acknowledged_lease_is_lost",
        lambda operations, rows: operations.__setitem__(0, borrowed(1, 1, 10, facts={"project": "ana-8"})),
    ),
    "an acknowledged return is not in the rows": (
        "s4_no_acknowledged_return_is_lost",
        change("leases", 0, ended_at=None, end_reason=""),
    ),
    "one key has two leases": (
        "s5_one_key_is_one_borrow",
        put(borrowed(1, 1, 10, facts={"key": "k"})),
    ),
    "one key was refused and granted": (
        "s5_one_key_is_one_borrow",
        put(Operation("ana", "borrow", 5, 6, 409, {"project": "ana-0", "key": "k", "team": None}, {})),
    ),
    "a refused borrow has a lease": (
        "s5_one_key_is_one_borrow",
        put(Operation("ana", "borrow", 5, 6, 409, {"project": "ana-1", "team": None}, {})),
    ),
    "one borrow has two rows": ("s5_one_key_is_one_borrow", put_row("leases", lease(5, 3, 110, 111, project="ana-1"))),
    "an end was counted twice": ("s6_a_lease_ends_once", change("tools", 0, returned_total=2)),
    "the counter of seats is wrong": ("s7_counters_are_rows", change("tools", 0, in_use=1)),
    "a team's counter is wrong": ("s7_counters_are_rows", change("allotments", 0, in_use=1)),
    "the counter of waiters is wrong": ("s7_counters_are_rows", change("tools", 1, waiting=1)),
    "the counter of idle reserved seats is wrong": ("s7_counters_are_rows", change("allotments", 0, reservation=1)),
    "a closed ticket claims a seat": (
        "s7_counters_are_rows",
        put_row("claims", {"ticket_id": 1, "tool_id": 2, "seats": 1}),
    ),
    "a team is above its quota": (
        "s8_quotas_reservations_and_limits_hold",
        both(change("allotments", 0, quota=0), change("leases", 0, team_id=1)),
    ),
    "a reserved seat went to somebody else": (
        "s8_quotas_reservations_and_limits_hold",
        both(change("allotments", 0, reservation=1), change("tools", 0, kept_back=1)),
    ),
    "a user is above the limit": ("s8_quotas_reservations_and_limits_hold", change("tools", 0, user_limit=0)),
    "a newcomer overtook a ticket": (
        "s9_nobody_is_overtaken",
        both(
            put_row("leases", lease(6, 0, 13, 14, tool_id=2, user="eve", project="eve-1")),
            change("tools", 1, returned_total=2),
        ),
    ),
    "a lease expired before its promised end": (
        "s10_a_lease_lives_until_its_end_and_not_longer",
        change("leases", 1, ended_at=START + 90, expires_at=START + 90),
    ),
    "a lease ended long after its time": (
        "s10_a_lease_lives_until_its_end_and_not_longer",
        change("leases", 1, ended_at=START + 130),
    ),
    "a heartbeat revived a returned lease": (
        "s10_a_lease_lives_until_its_end_and_not_longer",
        put(
            Operation(
                "ana", "renew", 21, 22, 200, {"lease": f"{1:032x}"}, {"id": f"{1:032x}", "expires_at": moment(80)}
            )
        ),
    ),
    "a heartbeat revived an expired lease": (
        "s10_a_lease_lives_until_its_end_and_not_longer",
        put(
            Operation(
                "ana",
                "renew",
                101,
                102,
                200,
                {"lease": HEAD, "over_since": 100},
                {"id": HEAD, "expires_at": moment(99)},
            )
        ),
    ),
    "a lease was granted after the license ended": (
        "s10_no_grant_outside_the_license",
        put_row(
            "audit",
            {
                "id": 2,
                "recorded_at": START + 22,
                "action": "changed",
                "subject_kind": "tool",
                "subject": "cad",
                "before": {"valid_until": None},
                "after": {"valid_until": moment(25)},
            },
        ),
    ),
    "a lease was granted while the tool was switched off": (
        "s10_no_grant_outside_the_license",
        put_row(
            "audit",
            {
                "id": 2,
                "recorded_at": START + 22,
                "action": "changed",
                "subject_kind": "tool",
                "subject": "cad",
                "before": {"enabled": True},
                "after": {"enabled": False},
            },
        ),
    ),
    "a fence was given out twice": ("s11_fences_grow", change("leases", 1, fence=1)),
    "a grant was forgotten": ("s12_the_ledger_has_no_gap", change("tools", 0, last_fence=3)),
    "somebody returned another's lease": (
        "s13_nobody_touches_what_is_not_theirs",
        put(Operation("ben", "trespass", 41, 42, 200, {"lease": HEAD})),
    ),
    "a stranger got a team's seat": (
        "s13_nobody_touches_what_is_not_theirs",
        lambda operations, rows: operations.__setitem__(0, borrowed(1, 1, 10, answer={"team": "blue"})),
    ),
    "a member was refused": (
        "s13_nobody_touches_what_is_not_theirs",
        put(Operation("ana", "borrow", 5, 6, 403, {"project": "ana-0", "team": "red"}, {})),
    ),
    "a force return has no record": (
        "s14_every_force_return_is_audited_once",
        change("leases", 0, end_reason="forced"),
    ),
    "a change has no record": (
        "s14_every_change_is_audited_once",
        put(Operation("admin", "change", 60, 61, 302, {"changed": True})),
    ),
    "a backup lacks a lease": (
        "s16_a_backup_keeps_the_promises",
        put(Operation("run", "backup", 60, 61, 200, {"broken": ["s3: lease 1 is not there"]})),
    ),
    "it took too long to recover": (
        "l1_it_recovers",
        put(Operation("run", "fault", 31, 32, 200, {"name": "crash_database"})),
    ),
    "a client did not come to its end": (
        "l2_everybody_finishes",
        put(Operation("run", "final", 200, 200, 200, FINE | {"unfinished": ["user7 did not end"]})),
    ),
    "a seat did not come back": (
        "l3_every_seat_comes_back",
        put(Operation("run", "final", 200, 200, 200, FINE | {"missing": {"cad": "1 seats are out"}})),
    ),
    "a ticket still waits": (
        "l4_every_wait_ends",
        change("tickets", 0, state="waiting", closed_at=None, lease_id=None),
    ),
    "a process is left over": (
        "l5_nothing_is_left_over",
        put(Operation("run", "final", 200, 200, 200, FINE | {"left_over": ["process 7 is left over"]})),
    ),
}


@pytest.mark.parametrize(("rule", "break_it"), WRONG.values(), ids=list(WRONG))
def test_a_history_that_is_wrong_is_found_out(rule: str, break_it: Break) -> None:
    operations, rows = good()
    broken, wrong_rows = list(operations), copy.deepcopy(rows)
    break_it(broken, wrong_rows)
    assert rule in found(broken, wrong_rows)


def test_every_rule_is_broken_by_some_history() -> None:
    assert {rule for rule, _ in WRONG.values()} == {rule.__name__ for rule in checker.RULES}


def test_what_is_under_way_is_not_found_wrong() -> None:
    operations, rows = good()
    seen = [operation for operation in operations if operation.end < 50 and operation.kind != "fault"]
    # The second lease is still out, a change has just been recorded, somebody waits.
    rows["leases"][1].update(ended_at=None, end_reason="")
    rows["tools"][0].update(in_use=1, expired_total=0)
    rows["tools"][1].update(waiting=1)
    rows["tickets"].append(rows["tickets"][0] | {"number": 2, "state": "waiting", "closed_at": None, "lease_id": None})
    rows["claims"].append({"ticket_id": 2, "tool_id": 2, "seats": 1})
    assert checker.violations_so_far(Evidence(seen, rows)) == []


def test_the_metric_of_seats_out_is_compared_with_the_rows() -> None:
    operations, rows = good()
    assert found(operations, rows, {'licenses_borrowed{tool="cad"}': 1}) == {"s7_counters_are_rows"}


def test_a_run_in_which_nothing_happened_tested_nothing() -> None:
    operations, rows = good()
    missing = checker.missing(Evidence(operations, rows))
    assert {"503", "refusal: quota", "ended: forced", "queue grant"} - set(missing) == {"queue grant"}


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_still_has_its_place_in_the_code(mutant: mutants.Mutant, tmp_path: Path) -> None:
    mutants.make(mutant, tmp_path / "code")


def test_every_mutant_is_to_be_caught_by_a_rule() -> None:
    assert {mutant.rule for mutant in mutants.MUTANTS} <= {rule.__name__ for rule in checker.RULES}
