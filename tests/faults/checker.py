"""Proof that a run kept the promises: the history and the final rows, nothing else.

Each rule is a function that yields a sentence for every violation. Their names
carry the numbers of docs/reliability.md (S is safety, L is liveness).
"""

import bisect
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .history import Operation

Row = dict[str, Any]

# How much later than the lease's end, by the client's own clock, it is surely over
# at the server too, in seconds: both run on one machine.
MARGIN = 0.2
RECOVERY_SECONDS = 5.0
TO_BE_EXPECTED = {
    "borrow": {200, 202, 403, 409, 410, 503},
    "misuse": {422, 503},
    "renew": {200, 410, 503},
    "return": {200, 404, 503},
    "trespass": {404, 503},
    "poll": {200, 202, 410, 503},
    "leave": {204, 409, 503},
    "force": {200, 404, 503},
    "change": {302, 503},
    "backup": {200},
    "fault": {200},
    "calm": {200},
    "final": {200},
}


@dataclass
class Evidence:
    """Everything that is known of a run: what callers saw, and the rows."""

    operations: Sequence[Operation]
    rows: dict[str, list[Row]]
    # Values of gauges and counters at rest, by series.
    metrics: dict[str, float] = field(default_factory=dict)
    tools: dict[Any, str] = field(init=False)
    teams: dict[Any, str] = field(init=False)

    def __post_init__(self) -> None:
        self.tools = {row["id"]: row["name"] for row in self.rows["tools"]}
        self.teams = {row["id"]: row["name"] for row in self.rows["teams"]}

    def of_kind(self, *kinds: str) -> Iterator[Operation]:
        return (operation for operation in self.operations if operation.kind in kinds)

    def granted(self) -> Iterator[Operation]:
        """Calls that a lease was the answer to."""
        return (
            operation
            for operation in self.of_kind("borrow", "poll")
            if operation.status == 200 and isinstance(operation.answer, dict)
        )

    def leases_of(self, tool: str) -> list[Row]:
        return [row for row in self.rows["leases"] if self.tools[row["tool_id"]] == tool]

    def heads(self) -> dict[str, Row]:
        """The lease that each borrow is known by, by its id."""
        return {row["id"]: row for row in self.rows["leases"] if row["part_of_id"] is None}


Rule = Callable[[Evidence], Iterator[str]]


def violations(evidence: Evidence) -> list[str]:
    """Every broken promise, each with its rule's name."""
    return _broken(RULES, evidence)


def violations_so_far(evidence: Evidence) -> list[str]:
    """Every promise that is broken already while the run goes on: the rows are of one
    moment, and newer than the history."""
    return _broken([rule for rule in RULES if rule not in ONLY_IN_THE_END], evidence)


def rule_of(violation: str) -> str:
    """The name of the rule that a violation breaks."""
    return violation.partition(":")[0]


def _broken(rules: Iterable[Rule], evidence: Evidence) -> list[str]:
    return [f"{rule.__name__}: {sentence}" for rule in rules for sentence in rule(evidence)]


# --- Helpers


def _id(value: str) -> str:
    return value.replace("-", "")


def _moment(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None


class Timeline:
    """A value of the site's that administrators change, by the audit's times.

    The audit's record is written while the tool is locked: a grant before it
    was decided by the old value, a grant after it by the new one.
    """

    def __init__(self, now: Any, changes: Iterable[tuple[float, Any, Any]]) -> None:
        in_order = sorted(changes, key=lambda change: change[0])
        self._moments = [recorded for recorded, _, _ in in_order]
        self._values = [in_order[0][1] if in_order else now, *(after for _, _, after in in_order)]

    def at(self, moment: float) -> Any:
        return self._values[bisect.bisect_right(self._moments, moment)]

    def values(self) -> list[Any]:
        return self._values


def _timeline(evidence: Evidence, kind: str, subject: str, name: str, now: Any) -> Timeline:
    changes = [
        # What was made has had its first value all along.
        (row["recorded_at"], row["before"].get(name, row["after"][name]), row["after"][name])
        for row in evidence.rows["audit"]
        if row["subject_kind"] == kind
        and row["subject"] == subject
        and name in row["after"]
        and (name in row["before"] or row["action"] == "created")
    ]
    return Timeline(now, changes)


@dataclass(frozen=True)
class Event:
    """A grant or an end, at the time that was taken under the lock."""

    at: float
    is_grant: bool
    lease: Row


def _events(leases: Iterable[Row]) -> list[Event]:
    """In the order of time; an end at the same instant as a grant comes first,
    and grants go by their fences."""
    events = []
    for lease in leases:
        events.append(Event(lease["borrowed_at"], True, lease))
        if lease["ended_at"] is not None:
            events.append(Event(lease["ended_at"], False, lease))
    return sorted(events, key=lambda event: (event.at, event.is_grant, event.lease["fence"]))


# --- Safety


def s0_no_server_error(evidence: Evidence) -> Iterator[str]:
    """A server that fails says 503; it never answers with a defect."""
    for operation in evidence.operations:
        if operation.status is not None and operation.status not in TO_BE_EXPECTED[operation.kind]:
            yield f"{operation.kind} of {operation.caller} was answered {operation.status}: {operation.answer}"


def s0_no_failure_without_a_fault(evidence: Evidence) -> Iterator[str]:
    """At the beginning, and when the last fault has been over for long enough."""
    for start, end in _quiet(evidence):
        for operation in evidence.operations:
            if operation.is_unknown and start <= operation.start and operation.end <= end:
                yield f"{operation.kind} of {operation.caller} was answered {operation.status} while nothing was wrong"


def _quiet(evidence: Evidence) -> Iterator[tuple[float, float]]:
    yield from ((calm.start, calm.end) for calm in evidence.of_kind("calm"))
    faults = sorted((fault.start, fault.end) for fault in evidence.of_kind("fault"))
    last = max((operation.end for operation in evidence.operations), default=0.0)
    starts = [start for start, _ in faults[1:]] + [last]
    for (_, over), start in zip(faults, starts, strict=False):
        if over + RECOVERY_SECONDS < start:
            yield over + RECOVERY_SECONDS, start


def s1_never_oversold_in_the_ledger(evidence: Evidence) -> Iterator[str]:
    for tool in evidence.rows["tools"]:
        capacity = _timeline(evidence, "tool", tool["name"], "capacity", tool["capacity"])
        out = 0
        for event in _events(evidence.leases_of(tool["name"])):
            if not event.is_grant:
                out -= event.lease["seats"]
                continue
            out += event.lease["seats"]
            limit = capacity.at(event.at) + tool["overdraft"]
            if out > limit:
                yield f"{tool['name']}: {out} seats were out with lease {event.lease['id']}, the limit was {limit}"


def s2_never_oversold_as_clients_see_it(evidence: Evidence) -> Iterator[str]:
    """By the times between an answer that was read and a return that was sent."""
    surely_held: dict[str, list[tuple[float, int]]] = defaultdict(list)
    ends = _surely_given_up(evidence)
    seen = set()
    for operation in evidence.granted():
        lease = operation.answer
        if operation.replayed or lease["id"] in seen:
            continue
        seen.add(lease["id"])
        lasts = (_moment(lease["expires_at"]) or float("inf")) - (_moment(lease["server_time"]) or 0)
        # The server's clock was read after the call was sent.
        end = min(operation.start + lasts, ends.get(lease["id"], float("inf")))
        if end > operation.end:
            for item in lease["items"]:
                surely_held[item["tool"]] += [(operation.end, item["seats"]), (end, -item["seats"])]
    for tool in evidence.rows["tools"]:
        capacity = _timeline(evidence, "tool", tool["name"], "capacity", tool["capacity"])
        limit, out = max(capacity.values()) + tool["overdraft"], 0
        for _, seats in sorted(surely_held[tool["name"]]):
            out += seats
            if out > limit:
                yield f"clients held {out} seats of {tool['name']} at once, the limit was {limit}"


def _surely_given_up(evidence: Evidence) -> dict[str, float]:
    """By lease, the first moment from which its holder doesn't count as one."""
    given_up: dict[str, float] = {}
    forced = {_id(row["subject"]) for row in evidence.rows["audit"] if row["action"] == "force_returned"}
    revoked = {row["id"] for row in evidence.rows["leases"] if row["end_reason"] == "revoked"}
    for operation in evidence.of_kind("return", "force"):
        lease = operation.facts["lease"]
        given_up[lease] = min(given_up.get(lease, float("inf")), operation.start)
    for operation in evidence.granted():
        lease = operation.answer["id"]
        if _id(lease) in forced | revoked:
            # Also if its holder, who did not know, returned it later.
            given_up[lease] = min(given_up.get(lease, operation.end), operation.end)
    return given_up


def s3_no_acknowledged_lease_is_lost(evidence: Evidence) -> Iterator[str]:
    heads = evidence.heads()
    parts: dict[str, list[Row]] = defaultdict(list)
    for row in evidence.rows["leases"]:
        parts[row["part_of_id"] or row["id"]].append(row)
    for operation in evidence.granted():
        lease = operation.answer
        if _id(lease["id"]) not in heads:
            yield f"lease {lease['id']} of {operation.caller} is not there"
            continue
        row = heads[_id(lease["id"])]
        stored = sorted((evidence.tools[part["tool_id"]], part["seats"], part["fence"]) for part in parts[row["id"]])
        said = sorted((item["tool"], item["seats"], item["fence"]) for item in lease["items"])
        if (row["user"], row["project"]) != (lease["user"], lease["project"]) or stored != said:
            yield f"lease {lease['id']} is stored as {row['user']} {stored}, the answer was {lease['user']} {said}"
        if lease["user"] != operation.caller:
            yield f"{operation.caller} was given the lease of {lease['user']}"
        if operation.kind == "borrow" and lease["project"] != operation.facts["project"]:
            yield f"{operation.caller} asked for {operation.facts['project']} and was given {lease['project']}"


def s4_no_acknowledged_return_is_lost(evidence: Evidence) -> Iterator[str]:
    heads = evidence.heads()
    for operation in evidence.of_kind("return"):
        if operation.status == 200:
            row = heads.get(_id(operation.facts["lease"]))
            if row is None or row["ended_at"] is None:
                yield f"the return of {operation.facts['lease']} was acknowledged, and it is out"


def s5_one_key_is_one_borrow(evidence: Evidence) -> Iterator[str]:
    """However often it is sent, also when it was refused."""
    answers: dict[str, list[Operation]] = defaultdict(list)
    for operation in evidence.of_kind("borrow"):
        if "key" in operation.facts and not operation.is_unknown:
            answers[operation.facts["key"]].append(operation)
    rows = Counter(row["project"] for row in evidence.rows["leases"] if row["part_of_id"] is None)
    for key, operations in answers.items():
        statuses = {operation.status for operation in operations}
        if len(statuses) > 1:
            yield f"key {key} was answered {sorted(statuses, key=str)}"
        leases = {operation.answer["id"] for operation in operations if operation.status == 200}
        if len(leases) > 1:
            yield f"key {key} has {len(leases)} leases"
    for operation in evidence.of_kind("borrow"):
        project = operation.facts["project"]
        if operation.status == 409 and rows[project]:
            yield f"borrow {project} was refused and has {rows[project]} leases"
        if rows[project] > 1:
            yield f"borrow {project} has {rows[project]} leases"


def s6_a_lease_ends_once(evidence: Evidence) -> Iterator[str]:
    ends = Counter((row["tool_id"], row["end_reason"]) for row in evidence.rows["leases"] if row["end_reason"])
    for tool in evidence.rows["tools"]:
        for reason in ("returned", "expired", "forced", "revoked"):
            counted, rows = tool[f"{reason}_total"], ends[tool["id"], reason]
            if counted != rows:
                yield f"{tool['name']}: {counted} leases are counted as {reason}, {rows} rows are"


def s7_counters_are_rows(evidence: Evidence) -> Iterator[str]:
    out, of_team = Counter[Any](), Counter[Any]()
    for row in evidence.rows["leases"]:
        if row["ended_at"] is None:
            out[row["tool_id"]] += row["seats"]
            of_team[row["tool_id"], row["team_id"]] += row["seats"]
    waiting = Counter(row["tool_id"] for row in evidence.rows["claims"])
    idle = Counter[Any]()
    for row in evidence.rows["allotments"]:
        if row["in_use"] != of_team[row["tool_id"], row["team_id"]]:
            yield (
                f"team {evidence.teams[row['team_id']]} has {of_team[row['tool_id'], row['team_id']]} seats of"
                f" {evidence.tools[row['tool_id']]}, its counter says {row['in_use']}"
            )
        idle[row["tool_id"]] += max(row["reservation"] - row["in_use"], 0)
    for tool in evidence.rows["tools"]:
        for name, counter, rows in (
            ("seats out", tool["in_use"], out[tool["id"]]),
            ("requests waiting", tool["waiting"], waiting[tool["id"]]),
            ("reserved idle seats", tool["kept_back"], idle[tool["id"]]),
        ):
            if counter != rows:
                yield f"{tool['name']}: the counter says {counter} {name}, the rows say {rows}"
        series = f'licenses_borrowed{{tool="{tool["name"]}"}}'
        if series in evidence.metrics and evidence.metrics[series] != out[tool["id"]]:
            yield f"{series} is {evidence.metrics[series]}, the rows say {out[tool['id']]}"
    open_tickets = {row["number"] for row in evidence.rows["tickets"] if row["state"] == "waiting"}
    if strangers := {row["ticket_id"] for row in evidence.rows["claims"]} - open_tickets:
        yield f"{len(strangers)} closed tickets claim seats"


def s8_quotas_reservations_and_limits_hold(evidence: Evidence) -> Iterator[str]:
    teams_of_tool: dict[Any, list[Row]] = defaultdict(list)
    for row in evidence.rows["allotments"]:
        teams_of_tool[row["tool_id"]].append(row)
    for tool in evidence.rows["tools"]:
        capacity = _timeline(evidence, "tool", tool["name"], "capacity", tool["capacity"])
        allotted = {
            row["team_id"]: {
                name: _timeline(
                    evidence, "allotment", f"{tool['name']} for {evidence.teams[row['team_id']]}", name, row[name]
                )
                for name in ("quota", "reservation")
            }
            for row in teams_of_tool[tool["id"]]
        }
        out, of_team, of_user = 0, Counter[Any](), Counter[str]()
        for event in _events(evidence.leases_of(tool["name"])):
            lease, seats = event.lease, event.lease["seats"]
            if not event.is_grant:
                out -= seats
                of_team[lease["team_id"]] -= seats
                of_user[lease["user"]] -= seats
                continue
            idle = {
                team: max((lines["reservation"].at(event.at) or 0) - of_team[team], 0)
                for team, lines in allotted.items()
            }
            shared = max(capacity.at(event.at) + tool["overdraft"] - out - sum(idle.values()), 0)
            own = min(idle.get(lease["team_id"], 0), seats)
            if seats - own > shared:
                yield f"{tool['name']}: lease {lease['id']} took seats that are reserved for another team"
            out += seats
            of_team[lease["team_id"]] += seats
            of_user[lease["user"]] += seats
            if lease["team_id"] in allotted:
                quota = allotted[lease["team_id"]]["quota"].at(event.at)
                if quota is not None and of_team[lease["team_id"]] > quota:
                    yield f"{tool['name']}: team {evidence.teams[lease['team_id']]} is above its quota of {quota}"
            limit = tool["user_limit"]
            if limit is not None and of_user[lease["user"]] > limit:
                yield f"{tool['name']}: {lease['user']} is above the limit of {limit}"


def s9_nobody_is_overtaken(evidence: Evidence) -> Iterator[str]:
    """For tools with one seat: no later ticket and no newcomer gets it while an earlier
    ticket lives."""
    for tool in evidence.rows["tools"]:
        if tool["capacity"] + tool["overdraft"] == 1:
            yield from _overtaken(evidence, tool["name"])


def _overtaken(evidence: Evidence, tool: str) -> Iterator[str]:
    waits = []
    for ticket in evidence.rows["tickets"]:
        if any(item["tool"] == tool for entry in ticket["alternatives"] for item in entry["items"]):
            alive_until = ticket["alive_until"]
            if ticket["closed_at"] is not None:
                alive_until = (
                    ticket["closed_at"] if ticket["state"] == "granted" else min(alive_until, ticket["closed_at"])
                )
            waits.append((ticket["number"], ticket["created_at"], alive_until, ticket["lease_id"]))
    number_of_lease = {lease: number for number, _, _, lease in waits if lease is not None}
    for lease in evidence.leases_of(tool):
        mine = number_of_lease.get(lease["part_of_id"] or lease["id"], float("inf"))
        at = lease["borrowed_at"]
        for number, came, alive_until, _ in waits:
            if number < mine and came < at < alive_until:
                yield f"lease {lease['id']} of {lease['user']} overtook ticket {number}"


def s10_a_lease_lives_until_its_end_and_not_longer(evidence: Evidence) -> Iterator[str]:
    heads = evidence.heads()
    ends_of_licenses = [
        moment
        for row in evidence.rows["audit"]
        if row["subject_kind"] == "tool" and (moment := _moment(row["after"].get("valid_until"))) is not None
    ]
    promised: dict[str, float] = {}
    for operation in [*evidence.granted(), *evidence.of_kind("renew")]:
        if operation.status != 200 or operation.replayed:
            continue
        end = _moment(operation.answer["expires_at"])
        lease = _id(operation.answer["id"])
        if end is not None:
            promised[lease] = max(promised.get(lease, 0), end)
    for lease, end in promised.items():
        ended = heads.get(lease, {})
        if ended.get("end_reason") != "expired":
            continue
        # A license that ends ends its leases, whatever was promised to them. The audit
        # has milliseconds.
        if any(abs(ended["ended_at"] - moment) < 0.002 for moment in ends_of_licenses):
            continue
        if ended["ended_at"] < end:
            yield f"lease {lease} expired {end - ended['ended_at']:.3f} s before the end that was promised"
    returned: dict[str, float] = {}
    for operation in evidence.of_kind("return"):
        if operation.status == 200:
            lease = operation.facts["lease"]
            returned[lease] = min(returned.get(lease, float("inf")), operation.end)
    for operation in evidence.of_kind("renew"):
        if operation.status != 200:
            continue
        lease = operation.facts["lease"]
        if operation.start > returned.get(lease, float("inf")):
            yield f"lease {lease} was revived after its return"
        if operation.start > operation.facts.get("over_since", float("inf")) + MARGIN:
            yield f"lease {lease} was revived after its end"
    for row in evidence.rows["leases"]:
        if row["ended_at"] is not None and row["expires_at"] is not None:
            is_late = row["ended_at"] > row["expires_at"]
            if is_late:
                yield f"lease {row['id']} ended {row['ended_at'] - row['expires_at']:.3f} s after its time was over"


def s10_no_grant_outside_the_license(evidence: Evidence) -> Iterator[str]:
    for tool in evidence.rows["tools"]:
        until = _timeline(evidence, "tool", tool["name"], "valid_until", None)
        enabled = _timeline(evidence, "tool", tool["name"], "enabled", tool["enabled"])
        for lease in evidence.leases_of(tool["name"]):
            if not enabled.at(lease["borrowed_at"]):
                yield f"{tool['name']}: lease {lease['id']} was granted while the tool was switched off"
            end = until.at(lease["borrowed_at"])
            if end is not None and lease["borrowed_at"] >= (_moment(end) if isinstance(end, str) else end):
                yield f"{tool['name']}: lease {lease['id']} was granted after the license ended"


def s11_fences_grow(evidence: Evidence) -> Iterator[str]:
    for tool in evidence.rows["tools"]:
        grants = sorted(evidence.leases_of(tool["name"]), key=lambda row: (row["borrowed_at"], row["fence"]))
        for earlier, later in itertools.pairwise(grants):
            if later["fence"] <= earlier["fence"]:
                yield f"{tool['name']}: fence {later['fence']} was given out after {earlier['fence']}"


def s12_the_ledger_has_no_gap(evidence: Evidence) -> Iterator[str]:
    """Every fence belongs to a row: none was given out and forgotten."""
    for tool in evidence.rows["tools"]:
        fences = sorted(row["fence"] for row in evidence.leases_of(tool["name"]))
        if fences != list(range(1, tool["last_fence"] + 1)):
            yield f"{tool['name']}: {len(fences)} leases, and the last fence is {tool['last_fence']}"


def s13_nobody_touches_what_is_not_theirs(evidence: Evidence) -> Iterator[str]:
    for operation in evidence.of_kind("trespass"):
        if operation.status == 200:
            yield f"{operation.caller} changed lease {operation.facts['lease']} of somebody else"
    members = {(row["user"], evidence.teams[row["team_id"]]) for row in evidence.rows["members"]}
    for operation in evidence.of_kind("borrow"):
        team = operation.facts.get("team")
        if operation.status == 403 and (operation.caller, team) in members:
            yield f"{operation.caller} is a member of {team} and was refused"
        got = operation.answer["team"] if operation.status == 200 else None
        if got is not None and (operation.caller, got) not in members:
            yield f"{operation.caller} was given a seat for {got}"


def s14_every_force_return_is_audited_once(evidence: Evidence) -> Iterator[str]:
    forced_rows = {row["id"] for row in evidence.heads().values() if row["end_reason"] == "forced"}
    records = Counter(_id(row["subject"]) for row in evidence.rows["audit"] if row["action"] == "force_returned")
    for lease in forced_rows | records.keys():
        if records[lease] != (lease in forced_rows):
            yield f"lease {lease}: {records[lease]} records of a force return, forced is {lease in forced_rows}"


def s14_every_change_is_audited_once(evidence: Evidence) -> Iterator[str]:
    changes = list(evidence.of_kind("change"))
    certain = sum(operation.facts["changed"] is True for operation in changes)
    unknown = sum(operation.facts["changed"] is None for operation in changes)
    rows = sum(
        row["action"] == "changed" and row["subject_kind"] in {"tool", "allotment"} for row in evidence.rows["audit"]
    )
    if not certain <= rows <= certain + unknown:
        yield f"administrators made {certain} changes and {unknown} unknown ones, the audit has {rows}"


def s16_a_backup_keeps_the_promises(evidence: Evidence) -> Iterator[str]:
    """What was found wrong in the restored copy of a backup that was taken meanwhile."""
    for operation in evidence.of_kind("backup"):
        yield from operation.facts["broken"]


# --- Liveness


def recoveries(evidence: Evidence) -> Iterator[tuple[str, float]]:
    """Yield each fault's name and the seconds from its end to the next success; infinite if none came."""
    successes = sorted(
        operation.end for operation in evidence.of_kind("borrow", "return") if operation.status in {200, 202, 409}
    )
    for fault in evidence.of_kind("fault"):
        place = bisect.bisect_left(successes, fault.end)
        yield fault.facts["name"], (successes[place] if place < len(successes) else float("inf")) - fault.end


def l1_it_recovers(evidence: Evidence) -> Iterator[str]:
    """After each fault a call succeeds within five seconds of its end."""
    for name, seconds in recoveries(evidence):
        if seconds > RECOVERY_SECONDS:
            yield f"after {name} the first success came {seconds:.1f} s later"


def l2_everybody_finishes(evidence: Evidence) -> Iterator[str]:
    """Clients, administrators, sweepers and the server itself came to their end."""
    for operation in evidence.of_kind("final"):
        yield from operation.facts["unfinished"]


def l3_every_seat_comes_back(evidence: Evidence) -> Iterator[str]:
    """All seats could be borrowed again once everybody was gone."""
    for operation in evidence.of_kind("final"):
        for name, reason in operation.facts["missing"].items():
            yield f"{name} did not come back: {reason}"


def l4_every_wait_ends(evidence: Evidence) -> Iterator[str]:
    left = [row["number"] for row in evidence.rows["tickets"] if row["state"] == "waiting"]
    if left:
        yield f"{len(left)} tickets still wait"


def l5_nothing_is_left_over(evidence: Evidence) -> Iterator[str]:
    for operation in evidence.of_kind("final"):
        yield from operation.facts["left_over"]


RULES: list[Rule] = [
    s0_no_server_error,
    s0_no_failure_without_a_fault,
    s1_never_oversold_in_the_ledger,
    s2_never_oversold_as_clients_see_it,
    s3_no_acknowledged_lease_is_lost,
    s4_no_acknowledged_return_is_lost,
    s5_one_key_is_one_borrow,
    s6_a_lease_ends_once,
    s7_counters_are_rows,
    s8_quotas_reservations_and_limits_hold,
    s9_nobody_is_overtaken,
    s10_a_lease_lives_until_its_end_and_not_longer,
    s10_no_grant_outside_the_license,
    s11_fences_grow,
    s12_the_ledger_has_no_gap,
    s13_nobody_touches_what_is_not_theirs,
    s14_every_force_return_is_audited_once,
    s14_every_change_is_audited_once,
    s16_a_backup_keeps_the_promises,
    l1_it_recovers,
    l2_everybody_finishes,
    l3_every_seat_comes_back,
    l4_every_wait_ends,
    l5_nothing_is_left_over,
]


# What is under way looks wrong to these.
ONLY_IN_THE_END: list[Rule] = [
    s2_never_oversold_as_clients_see_it,
    s14_every_change_is_audited_once,
    l1_it_recovers,
    l4_every_wait_ends,
]


# --- A run must have tested something


def what_happened(evidence: Evidence) -> Counter[str]:
    """How often each situation came about that a run must contain."""
    happened: Counter[str] = Counter()
    waited = {row["lease_id"] for row in evidence.rows["tickets"] if row["lease_id"] is not None}
    seen: dict[str, bool] = {}
    for operation in evidence.operations:
        answer = operation.answer if isinstance(operation.answer, dict) else {}
        key = operation.facts.get("key")
        if operation.status == 409 and operation.kind == "borrow":
            happened["refusal"] += 1
            happened[f"refusal: {answer.get('code')}"] += 1
        happened["replay"] += operation.replayed
        happened["503"] += operation.status == 503
        happened["cut"] += operation.status is None
        happened["key misused"] += operation.kind == "misuse" and operation.status == 422
        happened["heartbeat refused"] += operation.kind == "renew" and operation.status == 410
        happened["heartbeat"] += operation.kind == "renew" and operation.status == 200
        happened["trespass refused"] += operation.kind == "trespass" and operation.status == 404
        happened["left the queue"] += operation.kind == "leave" and operation.status == 204
        if operation.kind == "borrow" and operation.status == 200:
            happened["set"] += len(answer["items"]) > 1
            happened["second choice"] += answer.get("alternative", 0) > 0
            happened["overdraft"] += answer.get("overdraft_seats", 0) > 0
        if key and operation.kind == "borrow":
            happened["retry"] += seen.get(key, False) and not operation.is_unknown
            seen[key] = operation.is_unknown
    happened["queue grant"] = len(waited)
    for row in evidence.rows["leases"]:
        happened[f"ended: {row['end_reason']}"] += 1
    return happened


MUST_HAPPEN = [
    "refusal",
    "replay",
    "503",
    "retry",
    "queue grant",
    "refusal: exhausted",
    "refusal: quota",
    "refusal: reserved",
    "refusal: user_limit",
    "refusal: expired",
    "refusal: disabled",
    "key misused",
    "heartbeat",
    "heartbeat refused",
    "trespass refused",
    "left the queue",
    "set",
    "second choice",
    "overdraft",
    "ended: expired",
    "ended: forced",
    "ended: returned",
    "ended: revoked",
]


def missing(evidence: Evidence) -> list[str]:
    """Situations that never came about; a run without them tested nothing."""
    happened = what_happened(evidence)
    return [name for name in MUST_HAPPEN if not happened[name]]
