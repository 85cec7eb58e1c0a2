"""What follows from FlexNet's files for our tables: pure, files in, wishes out.

What can't be expressed here is a finding, never left out without a word and
never something like it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

from licenses.names import TOOL_NAME_PATTERN, is_clean, is_user_name

from .parser import Feature, Finding, Kind, LicenseFile, OptionsFile, Rule, Verb

LISTED = {Kind.USER: "user", Kind.GROUP: "team", Kind.HOST: "host", Kind.PROJECT: "project"}
# Longest name of a host in a list.
HOST_LENGTH = 255


@dataclass(slots=True)
class ToolPlan:
    """What the files say of one tool; nothing about what they don't mention."""

    capacity: int
    overdraft: int
    vendor: str
    valid_from: datetime | None
    valid_until: datetime | None
    user_limit: int | None = None
    quotas: dict[str, int] = field(default_factory=dict)
    reservations: dict[str, int] = field(default_factory=dict)
    user_limits: dict[str, int] = field(default_factory=dict)
    # Effect, kind of subject and name, as AccessRule has them.
    lists: set[tuple[str, str, str]] = field(default_factory=set)


@dataclass(slots=True)
class Plan:
    """What both files together ask for; findings of each by themselves."""

    tools: dict[str, ToolPlan] = field(default_factory=dict)
    teams: dict[str, set[str]] = field(default_factory=dict)
    of_license: list[Finding] = field(default_factory=list)
    of_options: list[Finding] = field(default_factory=list)


def plan(license: LicenseFile, options: OptionsFile, today: date) -> Plan:
    """What the files ask for on a day."""
    wanted = Plan(of_license=[*license.findings], of_options=[*options.findings])
    tools_of = _tools(license, wanted, today)
    hosts = _groups(options, wanted)
    _rules(options, tools_of, hosts, wanted)
    return wanted


# --- The licence file -------------------------------------------------------


def _tools(license: LicenseFile, wanted: Plan, today: date) -> dict[str, list[str]]:
    """Plan the tools; which of them each name of a feature or package means."""
    lines = _current(license.features, wanted)
    by_name: dict[str, list[Feature]] = defaultdict(list)
    means: dict[str, list[str]] = {}
    packages = {package.name: package for package in license.packages}
    for package in license.packages:
        if not any(line.name == package.name for line in lines):
            wanted.of_license.append(Finding(package.number, f"{package.name}: no FEATURE line enables this package"))
    for line in lines:
        enabled = packages.get(line.name)
        if enabled is None or enabled.is_suite:
            by_name[line.name].append(line)
        for part in enabled.components if enabled else ():
            count = None if line.count is None else line.count * part.count
            by_name[part.name].append(_like(line, part.name, count))
    for package in license.packages:
        if package.is_suite:
            text = f"{package.name}: a suite; its seat isn't taken with a component's: borrow both as a set"
            wanted.of_license.append(Finding(package.number, text, is_problem=False))
    taken: dict[str, str] = {}
    for name, pool in by_name.items():
        tool = name.lower()
        if not re.fullmatch(TOOL_NAME_PATTERN, tool):
            wanted.of_license.append(Finding(pool[0].number, f"{name}: can't be the name of a tool"))
        elif taken.setdefault(tool, name) != name:
            text = f"{name}: would be the same tool as {taken[tool]}, since names are in lower case here"
            wanted.of_license.append(Finding(pool[0].number, text))
        elif counted := [line for line in pool if line.count is not None]:
            wanted.tools[tool] = _tool(counted, wanted.of_license, today)
            means[name] = [tool]
        if uncounted := [line for line in pool if line.count is None]:
            text = f"{name}: uncounted, so there is nothing to borrow; not imported"
            wanted.of_license.append(Finding(uncounted[0].number, text, is_problem=False))
    for package in license.packages:
        parts = [tool for part in package.components for tool in means.get(part.name, [])]
        means[package.name] = [*means.get(package.name, []), *parts]
    return means


def _current(features: Iterable[Feature], wanted: Plan) -> list[Feature]:
    """The lines that count: not superseded, and one FEATURE line a name."""
    lines = list(features)
    for newer in lines:
        if newer.supersedes and newer.issued is None:
            wanted.of_license.append(Finding(newer.number, "SUPERSEDE without ISSUED= replaces nothing"))
    gone = {
        old.number
        for newer in lines
        for old in lines
        if newer is not old
        and old.name in newer.supersedes
        and newer.issued is not None
        and (old.issued or old.starts or date.min) < newer.issued
    }
    first: dict[str, Feature] = {}
    for line in lines:
        if line.number in gone:
            text = f"{line.name}: superseded by a newer line"
            wanted.of_license.append(Finding(line.number, text, is_problem=False))
        elif not line.is_increment and first.setdefault(line.name, line) is not line:
            gone.add(line.number)
            text = f"{line.name}: FEATURE stands again; the first one counts, INCREMENT would add"
            wanted.of_license.append(Finding(line.number, text, is_problem=False))
    return [line for line in lines if line.number not in gone]


def _like(line: Feature, name: str, count: int | None) -> Feature:
    return Feature(
        line.number, True, name, line.vendor, line.version, line.expires, count, line.starts, overdraft=line.overdraft
    )


def _tool(pool: list[Feature], findings: list[Finding], today: date) -> ToolPlan:
    """One tool of the lines of a feature that are good today; else of those that
    will be next; else of those that were last."""
    name = pool[0].name
    good = [line for line in pool if _starts(line) <= today and _ends(line) >= today]
    if not good and (later := [line for line in pool if _starts(line) > today]):
        good = [line for line in later if _starts(line) == min(map(_starts, later))]
    good = good or [line for line in pool if _ends(line) == max(map(_ends, pool))]
    last = max(map(_ends, good))
    for end in sorted({_ends(line) for line in good} - {last}):
        seats = sum(line.count or 0 for line in good if _ends(line) == end)
        text = f"{name}: {seats} of its seats end on {end}, before the others: import again then"
        findings.append(Finding(good[0].number, text, is_problem=False))
    for line in pool:
        if line not in good:
            text = f"{name}: its {line.count} seats aren't good today; not counted"
            findings.append(Finding(line.number, text, is_problem=False))
    first = min(map(_starts, good))
    return ToolPlan(
        capacity=sum(line.count or 0 for line in good),
        overdraft=sum(line.overdraft for line in good),
        vendor=good[0].vendor,
        valid_from=_midnight(first) if first > today else None,
        # The last day is a good one still.
        valid_until=_midnight(last + timedelta(days=1)) if last < date.max else None,
    )


def _starts(line: Feature) -> date:
    return line.starts or date.min


def _ends(line: Feature) -> date:
    return line.expires or date.max


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


# --- The options file -------------------------------------------------------


def _groups(options: OptionsFile, wanted: Plan) -> dict[str, set[str]]:
    """Plan the teams; the hosts of each group of hosts. Lines of one name add up."""
    hosts: dict[str, set[str]] = defaultdict(set)
    names: dict[str, str] = {}
    for group in options.groups:
        bad = [name for name in group.members if not (is_user_name(name) or (group.of_hosts and _is_host(name)))]
        members = set(group.members) - set(bad)
        for name in bad:
            wanted.of_options.append(Finding(group.number, f"{name[:80]!r} can't be a name here"))
        team = group.name.lower()
        if group.of_hosts:
            hosts[group.name] |= members
        elif not re.fullmatch(TOOL_NAME_PATTERN, team):
            wanted.of_options.append(Finding(group.number, f"{group.name}: can't be the name of a team"))
        elif names.setdefault(team, group.name) != group.name:
            text = f"{group.name}: would be the same team as {names[team]}, since names are in lower case here"
            wanted.of_options.append(Finding(group.number, text))
        else:
            wanted.teams.setdefault(team, set()).update(members)
    return hosts


def _is_host(name: str) -> bool:
    return 0 < len(name) <= HOST_LENGTH and is_clean(name) and "*" not in name


def _rules(options: OptionsFile, tools_of: dict[str, list[str]], hosts: dict[str, set[str]], wanted: Plan) -> None:
    # Quotas before reservations, which have to fit into them.
    for rule in sorted(options.rules, key=lambda rule: (rule.verb == Verb.RESERVE, rule.number)):
        why = _cannot(rule, tools_of, hosts, wanted)
        if why is not None:
            wanted.of_options.append(Finding(rule.number, why))
            continue
        for name in tools_of[rule.feature] if rule.feature else list(wanted.tools):
            _apply(rule, name, wanted.tools[name], hosts, wanted)


def _cannot(rule: Rule, tools_of: dict[str, list[str]], hosts: dict[str, set[str]], wanted: Plan) -> str | None:
    """Why a rule can't be expressed here; None if it can."""
    if rule.feature and not tools_of.get(rule.feature):
        return f"{rule.feature}: not a feature that is imported from the licence file"
    if rule.qualifier:
        return f"{rule.feature} has one pool of seats here, which {rule.qualifier} can't divide"
    kinds: dict[Verb, set[Kind | None]] = {
        Verb.MAX: {Kind.USER, Kind.GROUP, Kind.ALL_USERS},
        Verb.RESERVE: {Kind.GROUP},
        Verb.MAX_OVERDRAFT: {None},
    }
    if rule.kind not in kinds.get(rule.verb, {*LISTED, Kind.HOST_GROUP}):
        advice = "; make a GROUP of it" if rule.verb == Verb.RESERVE and rule.kind == Kind.USER else ""
        return f"{rule.verb} for {rule.kind} can't be expressed here{advice}"
    if rule.kind == Kind.GROUP and rule.name.lower() not in wanted.teams:
        return f"there is no GROUP {rule.name}"
    if rule.kind == Kind.HOST_GROUP and rule.name not in hosts:
        return f"there is no HOST_GROUP {rule.name}"
    if rule.kind in (Kind.USER, Kind.PROJECT) and not is_user_name(rule.name):
        return f"{rule.name[:80]!r} can't be a name here"
    if rule.kind == Kind.HOST and not _is_host(rule.name):
        return f"{rule.name[:80]!r} can't be a host here; wildcards aren't known"
    return None


def _apply(rule: Rule, name: str, tool: ToolPlan, hosts: dict[str, set[str]], wanted: Plan) -> None:
    team = rule.name.lower()
    match rule.verb, rule.kind:
        case Verb.MAX, Kind.GROUP:
            tool.quotas[team] = min(rule.count, tool.quotas.get(team, rule.count))
        case Verb.MAX, Kind.USER:
            tool.user_limits[rule.name] = min(rule.count, tool.user_limits.get(rule.name, rule.count))
        case Verb.MAX, _:
            tool.user_limit = rule.count if tool.user_limit is None else min(rule.count, tool.user_limit)
        case Verb.RESERVE, _:
            reserved = tool.reservations.get(team, 0) + rule.count
            if sum(tool.reservations.values()) + rule.count > tool.capacity:
                text = f"more seats of {name} would be reserved than there are; FlexNet ignores such a line too"
                wanted.of_options.append(Finding(rule.number, text, is_problem=False))
            elif reserved > tool.quotas.get(team, reserved):
                text = f"{rule.name} would have more seats of {name} reserved than its MAX lets it use"
                wanted.of_options.append(Finding(rule.number, text))
            else:
                tool.reservations[team] = reserved
        case Verb.MAX_OVERDRAFT, _:
            tool.overdraft = min(tool.overdraft, rule.count)
        case _, Kind.HOST_GROUP:
            tool.lists |= {(_effect(rule), "host", host) for host in hosts[rule.name]}
        case _, kind:
            listed = team if kind == Kind.GROUP else rule.name
            tool.lists.add((_effect(rule), LISTED[kind or Kind.USER], listed))


def _effect(rule: Rule) -> str:
    return "include" if rule.verb in (Verb.INCLUDE, Verb.INCLUDEALL) else "exclude"
