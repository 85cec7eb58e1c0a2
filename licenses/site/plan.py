"""Compare a document with the site, row by row and field by field, always in the same order.

What the document does not mention stays or, with ``prune``, goes: a tool or a team, a row of one, or
the value of a field, which gets its default.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from typing import Any

from licenses.models import AuditedKind, Contract, SubjectKind
from licenses.names import visible
from licenses.tools import contracts

from .description import ALLOWANCE_FIELDS, CONTRACT_FIELDS, TEAM_FIELDS, TOOL_FIELDS, Rule, Site, SiteTeam, SiteTool
from .parser import KEYS, TEAMS, Document, Mistake, invalid, place_of
from .toml_lines import Path
from .writer import json_ready, written


class Act(StrEnum):
    """What becomes of a row."""

    NEW = "new"
    CHANGED = "changed"
    # A contract that has begun ends, and a tool that had leases is disabled, because reports need them.
    ENDED = "ended"
    DISABLED = "disabled"
    REMOVED = "removed"


# What Django calls them in permissions.
VERBS = {Act.NEW: "add", Act.CHANGED: "change", Act.ENDED: "change", Act.DISABLED: "change", Act.REMOVED: "delete"}
TABLES = {
    AuditedKind.TOOL: "tool",
    AuditedKind.CONTRACT: "contract",
    AuditedKind.ALLOTMENT: "allotment",
    AuditedKind.USER_LIMIT: "userlimit",
    AuditedKind.ACCESS_RULE: "accessrule",
    AuditedKind.TEAM: "team",
    AuditedKind.MEMBER: "teammember",
}
SIGNS = {Act.NEW: "+", Act.CHANGED: "~", Act.ENDED: "-", Act.DISABLED: "-", Act.REMOVED: "-"}
WORDS = {kind: kind.label.lower() for kind in AuditedKind} | {AuditedKind.MEMBER: "member"}


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a row. ``before`` and ``after`` have the values that change, by their keys in a document.
    ``why`` says why a row that should go stays."""

    act: Act
    kind: AuditedKind
    subject: str
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""

    def __str__(self) -> str:
        """Return it on one line."""
        if self.act == Act.CHANGED:
            values = [f"{key} {_shown(self.before.get(key))} -> {_shown(value)}" for key, value in self.after.items()]
        else:
            values = [f"{key} {_shown(value)}" for key, value in self.after.items()]
            values += [self.act] if self.act in (Act.ENDED, Act.DISABLED) else []
        text = f"{SIGNS[self.act]} {WORDS[self.kind]} {self.subject}"
        return visible(text + (f": {', '.join(values)}" if values else "") + (f" ({self.why})" if self.why else ""))

    @property
    def data(self) -> dict[str, Any]:
        """Return it for JSON."""
        found = {"act": self.act.value, "kind": self.kind.value, "subject": self.subject, "text": str(self)}
        values = {"before": json_ready(self.before), "after": json_ready(self.after)}
        return found | values | ({"why": self.why} if self.why else {})


def _shown(value: Any) -> str:
    match value:
        case None | "":
            return "none"
        case bool():
            return "yes" if value else "no"
        case str():
            return f'"{value}"' if " " in value else value
    return str(json_ready(value))


@dataclass(frozen=True, slots=True)
class History:
    """The tools that have leases, and the teams that other rows than rules and members need: both stay."""

    tools: Collection[str] = ()
    teams: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes, and those that only ``prune`` makes (``unlisted``). ``target`` is the site after the changes.

    ``warnings`` are sentences for the administrator.
    """

    changes: list[Change]
    unlisted: list[Change]
    target: Site
    warnings: list[str]

    @property
    def permissions(self) -> set[str]:
        """Return Django's permissions that its changes need."""
        return {f"licenses.{VERBS[change.act]}_{TABLES[change.kind]}" for change in self.changes}


def plan(document: Document, present: Site, *, prune: bool, history: History, today: date) -> Plan:
    """Return the plan of a document for a site on a day.

    Raises InvalidSite if it names an unknown team, or has a plain capacity for a tool with contracts.
    """
    return _Planner(document, present, prune, history, today).plan()


class _Planner:
    """Compare every row, and collect what differs."""

    def __init__(self, document: Document, present: Site, prune: bool, history: History, today: date) -> None:
        self.document, self.present = document, present
        self.prune, self.history, self.today = prune, history, today
        self.changes: list[Change] = []
        self.unlisted: list[Change] = []
        self.mistakes: list[Mistake] = []
        self.target = Site()

    def plan(self) -> Plan:
        wanted, present = self.document.site, self.present
        for name in sorted(wanted.teams.keys() | present.teams.keys()):
            self._team(name, wanted.teams.get(name), present.teams.get(name))
        for name in sorted(wanted.tools.keys() | present.tools.keys()):
            self._tool(name, wanted.tools.get(name), present.tools.get(name))
        self._check_teams()
        if self.mistakes:
            raise invalid(self.mistakes)
        # New teams come before the tools that name them, and teams go after these.
        last = [change for change in self.changes if change.kind == AuditedKind.TEAM and change.act == Act.REMOVED]
        return Plan(
            [*(change for change in self.changes if change not in last), *last],
            self.unlisted,
            self.target,
            list(self._warnings()),
        )

    def _only_here(self, change: Change) -> bool:
        """Add a change of what the document does not mention. Return whether it is made."""
        made = self.prune and not change.why
        (self.changes if made else self.unlisted).append(change)
        return made

    # --- Teams

    def _team(self, name: str, wanted: SiteTeam | None, present: SiteTeam | None) -> None:
        if wanted is None:
            self._team_only_here(name, present or SiteTeam())
            return
        known = present or SiteTeam()
        values = self._values(AuditedKind.TEAM, name, wanted.values, present.values if present else None, TEAM_FIELDS)
        members = wanted.members | (known.members if not self.prune else set())
        for user in sorted(wanted.members - known.members):
            self.changes.append(Change(Act.NEW, AuditedKind.MEMBER, f"{user} in {name}"))
        self._members_only_here(name, known.members - wanted.members)
        self.target.teams[name] = SiteTeam(values, members)

    def _team_only_here(self, name: str, present: SiteTeam) -> None:
        why = "has leases, tokens or rules, so it stays" if name in self._needed_teams() else ""
        if self._only_here(Change(Act.REMOVED, AuditedKind.TEAM, name, why=why)):
            return
        if why and self.prune:
            self._members_only_here(name, present.members)
            present = SiteTeam(present.values)
        self.target.teams[name] = present

    def _members_only_here(self, name: str, users: Iterable[str]) -> None:
        for user in sorted(users):
            self._only_here(Change(Act.REMOVED, AuditedKind.MEMBER, f"{user} in {name}"))

    def _needed_teams(self) -> set[str]:
        """Return the teams that tools need which stay although the document does not have them."""
        needed = set(self.history.teams)
        for name, tool in self.present.tools.items():
            if name not in self.document.site.tools and name in self.history.tools:
                needed |= _teams_of(tool)
        return needed

    # --- Tools

    def _tool(self, name: str, wanted: SiteTool | None, present: SiteTool | None) -> None:
        if wanted is None:
            self._tool_only_here(name, present or SiteTool())
            return
        known = present or SiteTool()
        before = dict(known.values)
        if wanted.contracts is not None:
            # Contracts set the capacity.
            before.pop("capacity", None)
        values = self._values(AuditedKind.TOOL, name, wanted.values, before if present else None, TOOL_FIELDS)
        if wanted.contracts is not None:
            values.pop("capacity", None)
        target = SiteTool(values, self._contracts(name, wanted, known))
        self._rules(name, wanted, known, target)
        self.target.tools[name] = target

    def _tool_only_here(self, name: str, present: SiteTool) -> None:
        self.target.tools[name] = present
        if name not in self.history.tools:
            if self._only_here(Change(Act.REMOVED, AuditedKind.TOOL, name)):
                del self.target.tools[name]
        elif present.values["enabled"] and self._only_here(Change(Act.DISABLED, AuditedKind.TOOL, name)):
            self.target.tools[name] = replace(present, values=present.values | {"enabled": False})

    def _values(
        self,
        kind: AuditedKind,
        subject: str,
        wanted: Mapping[str, Any],
        present: Mapping[str, Any] | None,
        defaults: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Compare the fields of a row. Return all its values after the changes."""
        if present is None:
            self.changes.append(Change(Act.NEW, kind, subject, after=_keyed(wanted)))
            return {**defaults, **wanted}
        stated = {name: value for name, value in wanted.items() if present.get(name) != value}
        others = {name: value for name, value in defaults.items() if name not in wanted and name in present}
        others = {name: value for name, value in others.items() if present[name] != value}
        if self.prune:
            stated, others = stated | others, {}
        for values, changes in ((stated, self.changes), (others, self.unlisted)):
            if values:
                before = {name: present.get(name) for name in values}
                changes.append(Change(Act.CHANGED, kind, subject, _keyed(before), _keyed(values)))
        return {**present, **stated}

    def _contracts(self, name: str, wanted: SiteTool, present: SiteTool) -> list[dict[str, Any]] | None:
        """Compare the contracts of a tool. Return all of them after the changes, as the service wants them."""
        # Rows have keys.
        known = [Contract(pk=number, **values) for number, values in enumerate(present.contracts or ())]
        if wanted.contracts is None:
            self._no_contracts(name, known)
            return None
        stated = [{**CONTRACT_FIELDS, **values} if self.prune else values for values in wanted.contracts]
        given = [Contract(**values) for values in stated]
        target = list(stated)
        for done in contracts.compare(given, stated, known, self.today):
            change = _of_contract(name, done)
            if change.act in (Act.NEW, Act.CHANGED):
                self.changes.append(change)
            elif not self._only_here(change):
                target.append({key: getattr(done.contract, key) for key in CONTRACT_FIELDS} | dict(done.old))
        return target

    def _no_contracts(self, name: str, known: Collection[Contract]) -> None:
        """Plan that a tool has a plain capacity: it can't have any contract then, not even one that has ended."""
        if known and not self.prune:
            text = "The tool has contracts, which set its capacity. List its contracts, or remove them with prune."
            self._wrong(name, ("capacity",), text)
        for contract in known:
            self.changes.append(Change(Act.REMOVED, AuditedKind.CONTRACT, f"{name}: {contract.terms}"))

    def _rules(self, name: str, wanted: SiteTool, present: SiteTool, target: SiteTool) -> None:
        """Compare the quotas and reservations, the user limits and the access rules of a tool."""
        for team in sorted(wanted.allowances.keys() | present.allowances.keys()):
            subject, known = f"{name} for {team}", present.allowances.get(team)
            if team in wanted.allowances:
                values = self._values(AuditedKind.ALLOTMENT, subject, wanted.allowances[team], known, ALLOWANCE_FIELDS)
                target.allowances[team] = values
            elif known and not self._only_here(Change(Act.REMOVED, AuditedKind.ALLOTMENT, subject)):
                target.allowances[team] = known
        for user in sorted(wanted.user_limits.keys() | present.user_limits.keys()):
            subject, seats = f"{name} for {user}", present.user_limits.get(user)
            if user in wanted.user_limits:
                before = None if seats is None else {"seats": seats}
                stated = {"seats": wanted.user_limits[user]}
                target.user_limits |= {user: stated["seats"]}
                self._values(AuditedKind.USER_LIMIT, subject, stated, before, {})
            elif seats is not None and not self._only_here(Change(Act.REMOVED, AuditedKind.USER_LIMIT, subject)):
                target.user_limits[user] = seats
        target.access_rules |= wanted.access_rules
        for rule in sorted(wanted.access_rules | present.access_rules):
            subject = f"{name}: {rule}"
            if rule not in present.access_rules:
                self.changes.append(Change(Act.NEW, AuditedKind.ACCESS_RULE, subject))
            elif rule not in wanted.access_rules and not self._only_here(
                Change(Act.REMOVED, AuditedKind.ACCESS_RULE, subject)
            ):
                target.access_rules.add(rule)

    # --- Checks

    def _wrong(self, tool: str, place: Path, detail: str) -> None:
        """Add a mistake at a place in the table of a tool."""
        self.mistakes.append(self.document.mistake((*place_of(self.document, tool), *place), detail))

    def _check_teams(self) -> None:
        """Find teams that are not there after the changes."""
        for name, tool in sorted(self.document.site.tools.items()):
            places: dict[str, Path] = {rule.name: (rule.effect, TEAMS) for rule in tool.access_rules if _is_team(rule)}
            places |= {team: (TEAMS, team) for team in tool.allowances}
            for team, place in sorted(places.items()):
                if team not in self.target.teams:
                    self._wrong(name, place, f"There is no team {team}. Add it to the document: [{TEAMS}.{team}].")

    def _warnings(self) -> Iterator[str]:
        for name, tool in sorted(self.target.tools.items()):
            reserved = sum(values["reservation"] for values in tool.allowances.values())
            seats = _seats(tool, self.today)
            if reserved > seats and name in self.document.site.tools:
                yield (
                    f"{name}: {reserved} seats are reserved, more than its capacity of {seats}. "
                    "Only these teams can borrow."
                )


def _seats(tool: SiteTool, today: date) -> int:
    """Return the capacity on a day."""
    if tool.contracts is None:
        return int(tool.values["capacity"])
    return sum(
        values["seats"]
        for values in tool.contracts
        if (values.get("first_day") or date.min) <= today <= (values.get("last_day") or date.max)
    )


def _is_team(rule: Rule) -> bool:
    return rule.kind == SubjectKind.TEAM


def _teams_of(tool: SiteTool) -> set[str]:
    return {*tool.allowances, *(rule.name for rule in tool.access_rules if _is_team(rule))}


def _keyed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by their keys in a document, as it has them."""
    return {KEYS.get(name, name): written(name, value) for name, value in values.items()}


def _of_contract(tool: str, done: contracts.ContractChange) -> Change:
    subject = f"{tool}: {done.before or done.contract.terms}"
    if done.change == contracts.Change.CHANGED:
        after = {name: getattr(done.contract, name) for name in done.old}
        return Change(Act.CHANGED, AuditedKind.CONTRACT, subject, _keyed(done.old), _keyed(after))
    return Change(Act(done.change), AuditedKind.CONTRACT, subject)
