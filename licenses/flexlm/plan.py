"""What follows from FlexNet's files for our tables: pure, files in, wishes out.

What can't be expressed here is a finding, never left out without a word and
never something like it.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from ipaddress import ip_address
from typing import TypeVar

from licenses.names import TOOL_NAME_PATTERN, UNKNOWN_TOOL_LABEL, is_clean, is_name

from .parser import MAX_COUNT, Feature, Finding, Kind, LicenseFile, OptionsFile, Package, Rule, Verb

LISTED = {Kind.USER: "user", Kind.GROUP: "team", Kind.HOST: "host", Kind.PROJECT: "project"}
# What a name would have to be.
USER = "a name here, where there are no patterns"
HOST = "a host here; those are known by name, not by address or pattern"
# Longest name of a tool's vendor.
VENDOR_LENGTH = 128


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
    names = _Names(tools=_tools(license, wanted, today))
    _groups(options, names, wanted)
    _rules(options, names, wanted)
    return wanted


# --- The license file -------------------------------------------------------


def _tools(license: LicenseFile, wanted: Plan, today: date) -> dict[str, list[str]]:
    """Plan the tools; which of them each name of a feature or package means."""
    tell = wanted.of_license.append
    lines = _first_features(_current(license.features, wanted), wanted)
    packages = _current(license.packages, wanted)
    pools: dict[tuple[str, str], list[Feature]] = defaultdict(list)
    enabling: set[int] = set()
    for line in lines:
        enabled = _enabled(line, packages, wanted)
        if enabled is None or enabled.is_suite:
            pools[line.name, line.vendor].append(line)
        if enabled is not None:
            enabling.add(enabled.number)
            for part in enabled.components:
                count = None if line.count is None else line.count * part.count
                version = part.version or line.version
                pools[part.name, line.vendor].append(
                    replace(line, name=part.name, version=version, count=count, is_increment=True)
                )
    for package in packages:
        if package.number not in enabling:
            tell(Finding(package.number, f"{package.name}: no FEATURE line enables this package"))
        elif package.is_suite:
            text = f"{package.name}: a suite; its seat isn't taken with a component's: borrow both as a set"
            tell(Finding(package.number, text, is_problem=False))
    means = _name(pools, wanted, today)
    for package in packages:
        parts = [tool for part in package.components for tool in means.get(part.name, [])]
        means[package.name] = list(dict.fromkeys([*means.get(package.name, []), *parts]))
    return means


def _name(pools: Mapping[tuple[str, str], list[Feature]], wanted: Plan, today: date) -> dict[str, list[str]]:
    """Plan a tool for each feature that can be one; what its name means."""
    means: dict[str, list[str]] = {}
    taken: dict[str, tuple[str, str]] = {}
    for (name, vendor), pool in pools.items():
        counted = [line for line in pool if line.count is not None]
        if uncounted := [line for line in pool if line.count is None]:
            text = f"{name}: uncounted, so there is nothing to borrow; not imported"
            wanted.of_license += [Finding(line.number, text, is_problem=False) for line in uncounted]
        if not counted:
            continue
        tool = name.lower()
        why = _no_tool(tool, counted)
        if why is None and (first := taken.setdefault(tool, (name, vendor))) != (name, vendor):
            why = f"would be the same tool as {first[0]} of {first[1]}; a tool has one vendor, and a name in lower case"
        if why is None:
            wanted.tools[tool] = _tool(counted, wanted.of_license, today)
            means[name] = [tool]
        else:
            wanted.of_license += [Finding(line.number, f"{name}: {why}") for line in counted]
    return means


def _no_tool(tool: str, pool: list[Feature]) -> str | None:
    """Why the lines of a feature can't be a tool of this name; None if they can."""
    vendor = pool[0].vendor
    if not re.fullmatch(TOOL_NAME_PATTERN, tool) or tool == UNKNOWN_TOOL_LABEL:
        return "can't be the name of a tool"
    if not is_clean(vendor) or len(vendor) > VENDOR_LENGTH:
        return "its vendor's name can't be one here"
    if sum(line.count or 0 for line in pool) > MAX_COUNT or sum(line.overdraft for line in pool) > MAX_COUNT:
        return f"has more than {MAX_COUNT} seats"
    return None


Line = TypeVar("Line", Feature, Package)


def _current(lines: list[Line], wanted: Plan) -> list[Line]:
    """The lines that no newer one of the same vendor supersedes."""
    replaced_before: dict[tuple[str, str], date] = {}
    for line in lines:
        if line.supersedes and line.issued is None:
            wanted.of_license.append(Finding(line.number, "SUPERSEDE without ISSUED= replaces nothing"))
        for name in line.supersedes if line.issued else ():
            key = line.vendor, name
            replaced_before[key] = max(line.issued or date.min, replaced_before.get(key, date.min))
    current = []
    for line in lines:
        if (line.dated or date.min) < replaced_before.get((line.vendor, line.name), date.min):
            text = f"{line.name}: superseded by a newer line"
            wanted.of_license.append(Finding(line.number, text, is_problem=False))
        else:
            current.append(line)
    return current


def _first_features(lines: list[Feature], wanted: Plan) -> list[Feature]:
    """All INCREMENT lines, and of the FEATURE lines of a name the one that
    FlexNet sorts first, which is the only one that it reads: lines without a
    count, then higher versions, then newer ones. Source: the order of
    precedence in "License File Format"."""
    first: dict[tuple[str, str], Feature] = {}
    for line in sorted((line for line in lines if not line.is_increment), key=_precedence):
        first.setdefault((line.name, line.vendor), line)
    kept = []
    for line in lines:
        if line.is_increment or first[line.name, line.vendor] is line:
            kept.append(line)
        else:
            text = f"{line.name}: FlexNet reads but one FEATURE line of a name, here line "
            text += f"{first[line.name, line.vendor].number}; INCREMENT would add"
            wanted.of_license.append(Finding(line.number, text, is_problem=False))
    return kept


def _precedence(line: Feature) -> tuple[int, bool, float, int, int]:
    version = float(line.version) if re.fullmatch(r"\d{1,9}(\.\d{0,9})?", line.version, re.ASCII) else 0.0
    return line.sort, line.count is not None, -version, -(line.dated or date.min).toordinal(), line.number


def _enabled(line: Feature, packages: list[Package], wanted: Plan) -> Package | None:
    """The package that a line enables, if any."""
    fitting = [
        package
        for package in packages
        if (package.name, package.vendor) == (line.name, line.vendor) and package.version in ("", line.version)
    ]
    if len(fitting) > 1:
        text = f"{line.name}: enables the packages of the lines {', '.join(str(one.number) for one in fitting)}"
        wanted.of_license.append(Finding(line.number, f"{text}; only the first is imported"))
    return fitting[0] if fitting else None


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
    if len(versions := {line.version for line in good}) > 1:
        text = f"{name}: its seats are for the versions {', '.join(sorted(versions))}; here any of them is handed out"
        findings.append(Finding(good[0].number, text, is_problem=False))
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


@dataclass(frozen=True, slots=True)
class _Names:
    """What the files' names mean here: tools by feature or package, the team of
    a GROUP, the hosts of a HOST_GROUP."""

    tools: Mapping[str, list[str]]
    teams: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, set[str]] = field(default_factory=dict)


def _groups(options: OptionsFile, names: _Names, wanted: Plan) -> None:
    """Plan the teams, and learn the groups' names. Lines of one name add up."""
    for group in options.groups:
        # Not all that can be a person can be a host: 10.1.*.* can't.
        bad = [name for name in group.members if not (_is_host if group.of_hosts else _is_one)(name)]
        members = set(group.members) - set(bad)
        for name in bad:
            wanted.of_options.append(
                Finding(group.number, f"{name[:80]!r} can't be {HOST if group.of_hosts else USER}")
            )
        team = group.name.lower()
        other = next((name for name, known in names.teams.items() if known == team), group.name)
        if group.of_hosts:
            names.hosts.setdefault(group.name, set()).update(members)
        elif not re.fullmatch(TOOL_NAME_PATTERN, team):
            wanted.of_options.append(Finding(group.number, f"{group.name}: can't be the name of a team"))
        elif other != group.name:
            text = f"{group.name}: would be the same team as {other}, since names are in lower case here"
            wanted.of_options.append(Finding(group.number, text))
        else:
            names.teams[group.name] = team
            wanted.teams.setdefault(team, set()).update(members)


def _is_one(name: str) -> bool:
    """Whether it is one user's name, and not a pattern of many."""
    return is_name(name) and "*" not in name


def _is_host(name: str) -> bool:
    """Whether clients could give it as their host: a name, not an address."""
    try:
        ip_address(name)
    except ValueError:
        return is_name(name) and "*" not in name
    return False


def _rules(options: OptionsFile, names: _Names, wanted: Plan) -> None:
    limits: dict[tuple[str, Kind | None, str], Rule] = {}
    # Quotas before reservations, which have to fit into them.
    for rule in sorted(options.rules, key=lambda rule: (rule.verb == Verb.RESERVE, rule.number)):
        why = _cannot(rule, names, wanted)
        if why is not None:
            wanted.of_options.append(Finding(rule.number, why))
            continue
        for name in names.tools[rule.feature] if rule.feature else list(wanted.tools):
            if rule.verb == Verb.MAX and (earlier := _limited_by(rule, name, limits)):
                if earlier.count != rule.count:
                    text = f"the MAX of line {earlier.number} limits the same of {name} already, and stands"
                    wanted.of_options.append(Finding(rule.number, text))
                continue
            _apply(rule, name, names, wanted)
        if rule.verb == Verb.MAX and rule.kind == Kind.GROUP:
            _tell_overlap(rule, names.teams[rule.name], wanted)


def _limited_by(rule: Rule, tool: str, limits: dict[tuple[str, Kind | None, str], Rule]) -> Rule | None:
    """The MAX line before this one about the same, or about all: FlexNet has a
    line for one after that for all without effect. Source: "MAX" in its guide."""
    of_all = {Kind.USER: Kind.ALL_USERS, Kind.GROUP: Kind.ALL_GROUPS}.get(rule.kind) if rule.kind else None
    mine = tool, rule.kind, rule.name
    if earlier := limits.get(mine) or limits.get((tool, of_all, "")):
        return earlier
    limits[mine] = rule
    return None


def _tell_overlap(rule: Rule, team: str, wanted: Plan) -> None:
    others: set[str] = set().union(*(members for name, members in wanted.teams.items() if name != team))
    if both := sorted(wanted.teams[team] & others):
        more = f" and {len(both) - 3} more" if len(both) > 3 else ""
        text = (
            f"{', '.join(both[:3])}{more} of {rule.name} can borrow for another GROUP's team, which this doesn't limit"
        )
        wanted.of_options.append(Finding(rule.number, text, is_problem=False))


def _cannot(rule: Rule, names: _Names, wanted: Plan) -> str | None:
    """Why a rule can't be expressed here; None if it can."""
    if rule.feature and not names.tools.get(rule.feature):
        return f"{rule.feature}: not a feature that is imported from the license file"
    if not rule.feature and len(vendors := {tool.vendor for tool in wanted.tools.values()}) > 1:
        return f"it is about one vendor's features, and the license file has {len(vendors)} vendors; name the features"
    if rule.qualifier:
        return f"{rule.feature} has one pool of seats here, which {rule.qualifier} can't divide"
    kinds: dict[Verb, set[Kind | None]] = {
        Verb.MAX: {Kind.USER, Kind.GROUP, Kind.ALL_USERS, Kind.ALL_GROUPS},
        Verb.RESERVE: {Kind.GROUP},
        Verb.MAX_OVERDRAFT: {None},
    }
    if rule.kind not in kinds.get(rule.verb, {*LISTED, Kind.HOST_GROUP}):
        advice = "; make a GROUP of it" if rule.verb == Verb.RESERVE and rule.kind == Kind.USER else ""
        return f"{rule.verb} for {rule.kind} can't be expressed here{advice}"
    if rule.kind == Kind.GROUP and rule.name not in names.teams:
        return f"there is no GROUP {rule.name}"
    if rule.kind == Kind.HOST_GROUP and not names.hosts.get(rule.name):
        return f"there is no HOST_GROUP {rule.name} with a host that can be listed"
    if rule.kind in (Kind.USER, Kind.PROJECT) and not _is_one(rule.name):
        return f"{rule.name[:80]!r} can't be {USER}"
    if rule.kind == Kind.HOST and not _is_host(rule.name):
        return f"{rule.name[:80]!r} can't be {HOST}"
    return None


def _apply(rule: Rule, name: str, names: _Names, wanted: Plan) -> None:
    tool = wanted.tools[name]
    team = names.teams.get(rule.name, "")
    match rule.verb, rule.kind:
        case Verb.MAX, Kind.GROUP:
            tool.quotas[team] = rule.count
        case Verb.MAX, Kind.ALL_GROUPS:
            tool.quotas = {each: tool.quotas.get(each, rule.count) for each in names.teams.values()}
        case Verb.MAX, Kind.USER:
            tool.user_limits[rule.name] = rule.count
        case Verb.MAX, _:
            tool.user_limit = rule.count
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
            if rule.count >= tool.overdraft:
                text = f"{name} has an overdraft of {tool.overdraft}, which this doesn't lower"
                wanted.of_options.append(Finding(rule.number, text, is_problem=False))
            tool.overdraft = min(tool.overdraft, rule.count)
        case _, Kind.HOST_GROUP:
            tool.lists |= {(_effect(rule), "host", host) for host in names.hosts[rule.name]}
        case _, kind:
            listed = team if kind == Kind.GROUP else rule.name
            tool.lists.add((_effect(rule), LISTED[kind or Kind.USER], listed))


def _effect(rule: Rule) -> str:
    return "include" if rule.verb in (Verb.INCLUDE, Verb.INCLUDEALL) else "exclude"
