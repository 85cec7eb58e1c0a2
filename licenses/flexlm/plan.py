"""Plan the tools, teams and rules of FlexNet's files, with pure functions.

A line without a counterpart here is a finding. It is never ignored silently or
replaced by something similar.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from ipaddress import ip_address
from typing import TypeVar

from licenses.names import RESERVED_TOOL_NAMES, TOOL_NAME_PATTERN, is_clean, is_name

from .parser import (
    MAX_COUNT,
    POOLING,
    Feature,
    Finding,
    Kind,
    LicenseFile,
    NotUnderstood,
    OptionsFile,
    Package,
    Rule,
    Verb,
    bare,
    day,
)

LISTED = {Kind.USER: "user", Kind.GROUP: "team", Kind.HOST: "host", Kind.PROJECT: "project"}
# The end of "... can't be".
USER = "a name here, because this server has no patterns"
HOST = "a host here, because hosts are names, not addresses or patterns"
# Longest name of a tool's vendor, and longest reference of a contract.
VENDOR_LENGTH = REFERENCE_LENGTH = 128
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ContractPlan:
    """The seats of one line. None is a line without START=, or a permanent one."""

    seats: int
    first_day: date | None
    last_day: date | None
    reference: str


@dataclass(slots=True)
class ToolPlan:
    """The values of one tool in the files. Values that they do not have stay unset.

    ``contracts`` are the lines that have not ended. They set the capacity if they differ in
    their dates (``has_dates``), or if the tool has contracts already.
    """

    capacity: int
    overdraft: int
    vendor: str
    valid_from: datetime | None
    valid_until: datetime | None
    user_limit: int | None = None
    # Whether names of users and hosts in the options file match in any case.
    ignores_case: bool = False
    quotas: dict[str, int] = field(default_factory=dict)
    reservations: dict[str, int] = field(default_factory=dict)
    user_limits: dict[str, int] = field(default_factory=dict)
    # Effect, kind of subject and name, as AccessRule has them.
    lists: set[tuple[str, str, str]] = field(default_factory=set)
    contracts: list[ContractPlan] = field(default_factory=list)

    @property
    def has_dates(self) -> bool:
        """Return whether the number of seats changes by date."""
        return len({(contract.first_day, contract.last_day) for contract in self.contracts}) > 1


@dataclass(slots=True)
class Plan:
    """The plan of both files, and the findings of each."""

    tools: dict[str, ToolPlan] = field(default_factory=dict)
    teams: dict[str, set[str]] = field(default_factory=dict)
    # Whether names of members match in any case.
    ignores_case: bool = False
    of_license: list[Finding] = field(default_factory=list)
    of_options: list[Finding] = field(default_factory=list)

    @property
    def seats(self) -> int:
        return sum(tool.capacity for tool in self.tools.values())

    @property
    def parts(self) -> int:
        """Return the number of tools, contracts, members, quotas, limits and access rules."""
        of_tools = sum(
            1 + sum(map(len, (tool.contracts, tool.quotas, tool.reservations, tool.user_limits, tool.lists)))
            for tool in self.tools.values()
        )
        return of_tools + len(self.teams) + sum(map(len, self.teams.values()))

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.of_license + self.of_options if finding.is_problem]


@dataclass(frozen=True, slots=True)
class Renames:
    """New names from the administrator, by the names of features and groups in the files."""

    features: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)


AS_IN_THE_FILES = Renames()


def plan(license: LicenseFile, options: OptionsFile, today: date, renames: Renames = AS_IN_THE_FILES) -> Plan:
    """Return the plan of the files for a day."""
    wanted = Plan(of_license=[*license.findings], of_options=[*options.findings], ignores_case=options.ignores_case)
    names = _tools(license, wanted, today, renames)
    _groups(options, names, wanted, renames)
    _rules(options, names, wanted)
    return wanted


def _note(number: int, text: str) -> Finding:
    return Finding(number, text, is_problem=False)


# --- The license file -------------------------------------------------------


@dataclass(slots=True)
class _Names:
    """The tools of each feature or package, the lines of each tool, the team of each GROUP and the
    hosts of each HOST_GROUP."""

    tools: dict[str, list[str]] = field(default_factory=dict)
    lines: dict[str, list[Feature]] = field(default_factory=dict)
    uncounted: set[str] = field(default_factory=set)
    teams: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, set[str]] = field(default_factory=dict)


def _tools(license: LicenseFile, wanted: Plan, today: date, renames: Renames) -> _Names:
    """Plan the tools. Return the tools of each feature or package."""
    tell = wanted.of_license.append
    lines = _upgraded(_first_features(_current(license.features, wanted), wanted), wanted)
    packages = _current(license.packages, wanted)
    by_name: dict[tuple[str, str], list[Package]] = defaultdict(list)
    for package in packages:
        by_name[package.name, package.vendor].append(package)
    pools: dict[tuple[str, str], list[Feature]] = defaultdict(list)
    enabling: set[int] = set()
    for line in lines:
        enabled = _enabled(line, by_name.get((line.name, line.vendor), []), wanted)
        if enabled is None or enabled.is_suite:
            pools[line.name, line.vendor].append(line)
        if enabled is not None:
            enabling.add(enabled.number)
            for part in enabled.components:
                count = None if line.count is None else line.count * part.count
                version = part.version or line.version
                pools[part.name, line.vendor].append(
                    replace(line, name=part.name, version=version, count=count, keyword="INCREMENT")
                )
    for package in packages:
        if package.number in enabling:
            if package.is_suite:
                tell(_note(package.number, _suite(package)))
        elif (package.name, package.vendor) in pools:
            tell(Finding(package.number, f"{package.name}: no line of version {package.version} enables this package"))
        else:
            tell(_note(package.number, f"{package.name}: no line enables this package, so it brings no seats"))
    names = _name(pools, wanted, today, renames)
    for package in packages:
        parts = [tool for part in package.components for tool in names.tools.get(part.name, [])]
        names.tools[package.name] = list(dict.fromkeys([*names.tools.get(package.name, []), *parts]))
    return names


def _suite(package: Package) -> str:
    text = f"{package.name}: a suite. A borrow of a component takes no seat of the suite: borrow both as a set"
    if package.options == "SUITE_RESERVED":
        text += ". FlexNet reserves all components for the user of one; here borrow all of them as a set"
    return text


def _name(pools: Mapping[tuple[str, str], list[Feature]], wanted: Plan, today: date, renames: Renames) -> _Names:
    """Plan a tool for each feature that can be one. Return the tools of each name."""
    names = _Names()
    taken: dict[str, tuple[str, str]] = {}
    for (name, vendor), pool in pools.items():
        counted = [line for line in pool if line.count is not None]
        for line in pool:
            if line.count is None:
                host = f" and locked to the host {line.attribute('HOSTID')[:80]}" if line.attribute("HOSTID") else ""
                text = f"{name}: uncounted{host}, so there are no seats to borrow; not imported"
                wanted.of_license.append(_note(line.number, text))
                names.uncounted.add(name)
        if not counted:
            continue
        tool = renames.features.get(name, name.lower())
        why = _no_tool(tool, counted)
        if why is None and (first := taken.setdefault(tool, (name, vendor))) != (name, vendor):
            why = f"would be the same tool as {first[0]} of {first[1]}; a tool has one vendor and a name in lower case"
            if first[0] != name:
                why += f": give it another name, for example --rename {name}={tool}_2"
        if why is None:
            wanted.tools[tool] = _tool(name, counted, wanted.of_license, today)
            names.tools[name] = [tool]
            names.lines[tool] = counted
        else:
            wanted.of_license += [Finding(line.number, f"{name}: {why}") for line in counted]
    return names


def _no_tool(tool: str, pool: list[Feature]) -> str | None:
    """Return why the lines of a feature can't be a tool of this name, or None."""
    name, vendor = pool[0].name, pool[0].vendor
    if not re.fullmatch(TOOL_NAME_PATTERN, tool) or tool in RESERVED_TOOL_NAMES:
        return f"is not a valid name of a tool; give another, for example --rename {name[:80]}={_suggested(tool)}"
    if not is_clean(vendor) or len(vendor) > VENDOR_LENGTH:
        return "its vendor's name is not valid here"
    if sum(line.count or 0 for line in pool) > MAX_COUNT or sum(line.overdraft for line in pool) > MAX_COUNT:
        return f"has more than {MAX_COUNT} seats"
    return None


def _suggested(name: str) -> str:
    """Return a similar name that is valid for a tool or team."""
    plain = re.sub("[^a-z0-9_.-]", "_", name.lower(), flags=re.ASCII)[:58]
    return plain if re.match("[a-z0-9_]", plain) and plain not in RESERVED_TOOL_NAMES else f"tool_{plain}"


Line = TypeVar("Line", Feature, Package)


def _current(lines: list[Line], wanted: Plan) -> list[Line]:
    """Return the lines that no newer line of the same vendor replaces.

    SUPERSEDE replaces lines that were issued before its ISSUED=, or before its START= if
    it has no ISSUED=; lines of one day add up. SUPERSEDE_SIGN replaces the lines with the
    named signatures. Source: "Using the SUPERSEDE and SUPERSEDE_SIGN Keywords".
    """
    replaced_by: dict[tuple[str, str], Line] = {}
    by_signature: dict[str, Line] = {}
    for line in lines:
        if line.supersedes and line.dated is None:
            text = f"{line.name}: SUPERSEDE without ISSUED= or START= replaces nothing, so older lines count too"
            wanted.of_license.append(_note(line.number, text))
        for name in line.supersedes if line.dated else ():
            key = line.vendor, name
            if key not in replaced_by or _dated(line) > _dated(replaced_by[key]):
                replaced_by[key] = line
        by_signature |= dict.fromkeys(_superseded_signatures(line), line)
    current, used = [], set()
    for line in lines:
        by = replaced_by.get((line.vendor, line.name))
        if by is not None and _dated(line) >= _dated(by):
            by = None
        for signature in _signatures(line):
            signed = by_signature.get(signature)
            if signed is not None and signed is not line and signed.vendor == line.vendor:
                by = signed
                used.add(signature)
        if by is None:
            current.append(line)
        else:
            wanted.of_license.append(
                _note(line.number, f"{line.name}: superseded by line {by.number}{_seats_of(line)}")
            )
    for signature, line in by_signature.items():
        if signature.rpartition(":")[2] not in {one.rpartition(":")[2] for one in used}:
            text = f"{line.name}: SUPERSEDE_SIGN names a signature that no line of this file has: {signature[-40:]}"
            wanted.of_license.append(_note(line.number, text))
    return current


def _dated(line: Feature | Package) -> date:
    return line.dated or date.min


def _seats_of(line: Feature | Package) -> str:
    return f" ({_seats(line.count)})" if isinstance(line, Feature) and line.count else ""


def _seats(count: int | None) -> str:
    return "1 seat" if count == 1 else f"{count} seats"


def _signatures(line: Feature | Package) -> set[str]:
    """Return the signatures of a line, without and with its feature."""
    own = {bare(value) for key, value in line.attributes if key in ("SIGN", "SIGN2", "KEY") and value}
    return own | {f"{line.name}:{signature}" for signature in own}


def _superseded_signatures(line: Feature | Package) -> set[str]:
    """Read SUPERSEDE_SIGN: ``{f1:00D0 12AB f2:34CD}``, or only signatures."""
    value = next((value for key, value in line.attributes if key == "SUPERSEDE_SIGN"), "")
    found: list[tuple[str, list[str]]] = [("", [])]
    for word in re.sub("[,;{}()]", " ", value).replace(":", ": ").split():
        if word.endswith(":"):
            found.append((word, []))
        else:
            found[-1][1].append(word)
    return {name + bare("".join(parts)) for name, parts in found if parts}


def _first_features(lines: list[Feature], wanted: Plan) -> list[Feature]:
    """Return all lines that add up, and one counted FEATURE line per name.

    FlexNet serves only the first of these: the highest version, then the newest.
    Source: "Order of Lines in the License File".
    """
    first: dict[tuple[str, str], Feature] = {}
    counted = [line for line in lines if not line.is_increment and line.count is not None]
    for line in sorted(counted, key=_precedence):
        first.setdefault((line.name, line.vendor), line)
    kept = []
    for line in lines:
        if line.is_increment or line.count is None or first[line.name, line.vendor] is line:
            kept.append(line)
        else:
            text = f"{line.name}: not counted ({_seats(line.count)}): FlexNet serves one FEATURE line per name, "
            text += f"here line {first[line.name, line.vendor].number}; INCREMENT lines would add up"
            wanted.of_license.append(_note(line.number, text))
    return kept


def _precedence(line: Feature) -> tuple[int, float, int, int]:
    return line.sort, -_version(line.version), -_dated(line).toordinal(), line.number


def _version(text: str) -> float:
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d{0,9})?", text, re.ASCII) else 0.0


def _upgraded(lines: list[Feature], wanted: Plan) -> list[Feature]:
    """Apply UPGRADE lines: each takes up to its number of seats from the closest earlier line of a
    version that it upgrades."""
    done: list[Feature] = []
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for line in lines:
        key = line.name, line.vendor
        if line.keyword == "UPGRADE":
            old = next((place for place in reversed(places[key]) if _upgrades(line, done[place])), None)
            if old is None:
                text = f"{line.name}: no line before it has seats of a version from {line.from_version} "
                wanted.of_license.append(Finding(line.number, text + f"to below {line.version} to upgrade"))
                continue
            before = done[old].count or 0
            moved = min(line.count or 0, before)
            done[old] = replace(done[old], count=before - moved)
            text = (
                f"{line.name}: {moved} of the {before} seats of line {done[old].number} become version {line.version}"
            )
            if moved < (line.count or 0):
                text += f"; it has fewer than {line.count}"
            wanted.of_license.append(_note(line.number, text))
            line = replace(line, count=moved)
        places[key].append(len(done))
        done.append(line)
    return done


def _upgrades(line: Feature, old: Feature) -> bool:
    return bool(old.count and line.count) and _version(line.from_version) <= _version(old.version) < _version(
        line.version
    )


def _enabled(line: Feature, packages: list[Package], wanted: Plan) -> Package | None:
    """Return the package that a line enables, or None."""
    fitting = [package for package in packages if package.version in ("", line.version)]
    if len(fitting) > 1:
        text = f"{line.name}: enables the packages of the lines {', '.join(str(one.number) for one in fitting)}"
        wanted.of_license.append(Finding(line.number, f"{text}; only the first is imported"))
    return fitting[0] if fitting else None


def _tool(name: str, pool: list[Feature], findings: list[Finding], today: date) -> ToolPlan:
    """Return one tool of the lines that are valid today; without any, of the next ones; without those,
    of the last ones."""
    good = [line for line in pool if _starts(line) <= today and _ends(line) >= today]
    if not good and (later := [line for line in pool if _starts(line) > today]):
        next_start = min(map(_starts, later))
        good = [line for line in later if _starts(line) == next_start]
    if not good:
        last_end = max(map(_ends, pool))
        good = [line for line in pool if _ends(line) == last_end]
    counted = set(map(id, good))
    for line in pool:
        if id(line) not in counted:
            when = f"ended on {line.expires}" if _ends(line) < today else f"from {line.starts} on"
            findings.append(_note(line.number, f"{name}: not counted today ({_seats(line.count)}, {when})"))
    _report_pools(name, good, findings)
    begin, seats = max(min(map(_starts, good)), today), sum(line.count or 0 for line in good)
    last = max(map(_ends, pool))
    end = None if last == date.max else last + DAY
    _report_changes(min(line.number for line in good), name, seats, begin, end, _changes(pool, begin), findings, today)
    return ToolPlan(
        capacity=seats,
        overdraft=sum(line.overdraft for line in good),
        vendor=good[0].vendor,
        valid_from=_midnight(begin) if begin > today else None,
        valid_until=_midnight(end) if end else None,
        contracts=[_contract(line) for line in pool if _ends(line) >= today and line.count],
    )


def _contract(line: Feature) -> ContractPlan:
    number = line.attribute("SN")
    reference = number if is_clean(number) and len(number) <= REFERENCE_LENGTH else ""
    return ContractPlan(line.count or 0, line.starts, line.expires, reference)


def _report_pools(name: str, good: list[Feature], findings: list[Finding]) -> None:
    """Report that FlexNet has separate pools for the seats."""
    if len(versions := {line.version for line in good}) > 1:
        text = f"{name}: its seats are for the versions {', '.join(sorted(versions))}; here a borrow gets any of them"
        findings.append(_note(good[0].number, text))
    if apart := [key for key in POOLING if len({line.attribute(key).upper() for line in good}) > 1]:
        text = f"{name}: FlexNet may count its seats in pools by {', '.join(apart)}; here they are one pool"
        findings.append(_note(good[0].number, text))


def _report_changes(
    number: int,
    name: str,
    seats: int,
    begin: date,
    end: date | None,
    changes: list[tuple[date, int]],
    findings: list[Finding],
    today: date,
) -> None:
    """Report when the number of seats changes."""
    if end is not None and end <= today:
        findings.append(_note(number, f"{name}: all its seats have ended, the last on {end - DAY}"))
        return
    text = f"{name}: {_seats(seats)} now"
    if begin > today:
        text = f"{name}: no seat can be borrowed before {begin}; {seats} from that day"
    if changes and changes != [(end, 0)]:
        more = [f"{count or 'none'} from {when}" for when, count in changes[:5]]
        if len(changes) > 5:
            more.append(f"{len(changes) - 5} more changes until {changes[-1][0]}")
        text += f", {', '.join(more)}"
    elif begin <= today:
        return
    findings.append(_note(number, text))


def _changes(pool: list[Feature], since: date) -> list[tuple[date, int]]:
    """Return the days after ``since`` on which the number of valid seats changes, with the new number."""
    steps: dict[date, int] = defaultdict(int)
    for line in pool:
        steps[max(_starts(line), since)] += line.count or 0 if _ends(line) >= since else 0
        if since <= _ends(line) < date.max:
            steps[_ends(line) + DAY] -= line.count or 0
    seats = steps.pop(since, 0)
    changes = []
    for when, step in sorted(steps.items()):
        if step:
            seats += step
            changes.append((when, seats))
    return changes


def _starts(line: Feature) -> date:
    return line.starts or date.min


def _ends(line: Feature) -> date:
    return line.expires or date.max


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


# --- The options file -------------------------------------------------------


def _groups(options: OptionsFile, names: _Names, wanted: Plan, renames: Renames) -> None:
    """Plan the teams and collect the names of groups. Lines of one name add up."""
    groups = {group.name for group in options.groups if not group.of_hosts}
    taken: dict[str, str] = {}
    for group in options.groups:
        given = [_folded(name, options) for name in group.members]
        # Check hosts more strictly: 10.1.*.* is not a host.
        bad = [name for name in given if not (_is_host if group.of_hosts else _is_one)(name)]
        members = set(given) - set(bad)
        for name in bad:
            wanted.of_options.append(
                Finding(group.number, f"{name[:80]!r} can't be {HOST if group.of_hosts else USER}")
            )
        if group.of_hosts:
            names.hosts.setdefault(group.name, set()).update(members)
            continue
        for name in sorted(groups.intersection(group.members)):
            text = f"{group.name}: {name[:80]} is read as a user, because FlexNet has no groups in groups"
            wanted.of_options.append(_note(group.number, text))
        for name in sorted(name for name in members if "," in name):
            text = f"{group.name}: {name[:80]!r} is one name, because FlexNet separates names by blanks"
            wanted.of_options.append(_note(group.number, text))
        team = renames.groups.get(group.name, group.name.lower())
        if not re.fullmatch(TOOL_NAME_PATTERN, team):
            text = f"{group.name}: is not a valid name of a team; give another, for example "
            text += f"--rename-group {group.name[:80]}={_suggested(team)}"
            wanted.of_options.append(Finding(group.number, text))
        elif (other := taken.setdefault(team, group.name)) != group.name:
            text = f"{group.name}: would be the same team as {other}, because names are in lower case here; "
            text += f"give another, for example --rename-group {group.name}={team}_2"
            wanted.of_options.append(Finding(group.number, text))
        else:
            names.teams[group.name] = team
            wanted.teams.setdefault(team, set()).update(members)


def _folded(name: str, options: OptionsFile) -> str:
    return name.lower() if options.ignores_case else name


def _is_one(name: str) -> bool:
    """Return whether it is the name of one user, and not a pattern."""
    return is_name(name) and "*" not in name


def _is_host(name: str) -> bool:
    """Return whether it is the name of a host, and not an address or a pattern."""
    try:
        ip_address(name)
    except ValueError:
        return is_name(name) and "*" not in name
    return False


def _rules(options: OptionsFile, names: _Names, wanted: Plan) -> None:
    limits: dict[tuple[str, Kind | None, str], Rule] = {}
    groups_of: dict[str, set[str]] = defaultdict(set)
    for team, members in wanted.teams.items():
        for member in members:
            groups_of[member].add(team)
    # Plan quotas first, because reservations must fit into them.
    for given in sorted(options.rules, key=lambda rule: (rule.verb == Verb.RESERVE, rule.number)):
        rule = given
        if rule.kind in (Kind.USER, Kind.HOST):
            rule = replace(rule, name=_folded(rule.name, options))
        why = _cannot(rule, names, wanted)
        if why is not None:
            wanted.of_options.append(why)
            continue
        for name in names.tools[rule.feature] if rule.feature else list(wanted.tools):
            if rule.verb == Verb.MAX and (earlier := _limited_by(rule, name, limits)):
                if earlier.count != rule.count:
                    text = f"line {earlier.number} has another MAX for the same in {name} and wins"
                    wanted.of_options.append(Finding(rule.number, text))
                continue
            _apply(rule, name, names, wanted)
            wanted.tools[name].ignores_case |= options.ignores_case
        if rule.verb == Verb.MAX and rule.kind == Kind.GROUP:
            _report_overlap(rule, names.teams[rule.name], groups_of, wanted)


def _limited_by(rule: Rule, tool: str, limits: dict[tuple[str, Kind | None, str], Rule]) -> Rule | None:
    """Return the earlier MAX line for the same subject or for all. In FlexNet a line for one subject has
    no effect after a line for all. Source: "MAX" in its guide."""
    of_all = {Kind.USER: Kind.ALL_USERS, Kind.GROUP: Kind.ALL_GROUPS}.get(rule.kind) if rule.kind else None
    mine = tool, rule.kind, rule.name
    if earlier := limits.get(mine) or limits.get((tool, of_all, "")):
        return earlier
    limits[mine] = rule
    return None


def _report_overlap(rule: Rule, team: str, groups_of: Mapping[str, set[str]], wanted: Plan) -> None:
    if both := sorted(member for member in wanted.teams[team] if len(groups_of[member]) > 1):
        more = f" and {len(both) - 3} more" if len(both) > 3 else ""
        text = f"{', '.join(both[:3])}{more} of {rule.name} can also borrow for another GROUP, without this limit"
        wanted.of_options.append(_note(rule.number, text))


def _cannot(rule: Rule, names: _Names, wanted: Plan) -> Finding | None:
    """Return why a rule has no counterpart here, or None."""
    if rule.feature in names.uncounted and not names.tools.get(rule.feature):
        return _note(rule.number, f"{rule.feature}: uncounted, so this has no effect")
    why = _no_tools(rule, names, wanted) or _no_subject(rule, names)
    return Finding(rule.number, why) if why else None


def _no_tools(rule: Rule, names: _Names, wanted: Plan) -> str | None:
    """Return why the tools of a rule are unknown, or None."""
    if rule.feature and not names.tools.get(rule.feature):
        return f"{rule.feature}: not an imported feature of the license file"
    if not rule.feature and len(vendors := {tool.vendor for tool in wanted.tools.values()}) > 1:
        return (
            f"it is for the features of one vendor, and the license file has {len(vendors)} vendors; name the features"
        )
    if rule.qualifier is not None:
        lines = [line for tool in names.tools[rule.feature] for line in names.lines[tool]]
        fitting = [line for line in lines if _qualifies(line, *rule.qualifier)]
        if len(fitting) < len(lines):
            what = "=".join(rule.qualifier)[:80]
            numbers = ", ".join(str(line.number) for line in fitting[:5]) or "none"
            return (
                f"{rule.feature} has one pool of seats here, so {what} can't select some of them (its lines: {numbers})"
            )
    return None


def _qualifies(line: Feature, key: str, value: str) -> bool:
    """Return whether ``feature:KEY=value`` in an options file selects this line."""
    match key:
        case "VERSION":
            return line.version == value or (_version(line.version) == _version(value) != 0)
        case "EXPDATE":
            try:
                return line.expires == day(value)
            except NotUnderstood:
                return False
        case "KEY" | "SIGN":
            return bare(value) in line.signatures
        case _:
            return line.attribute(key) == value != ""


def _no_subject(rule: Rule, names: _Names) -> str | None:
    """Return why the subject of a rule has no counterpart here, or None."""
    kinds: dict[Verb, set[Kind | None]] = {
        Verb.MAX: {Kind.USER, Kind.GROUP, Kind.ALL_USERS, Kind.ALL_GROUPS},
        Verb.RESERVE: {Kind.GROUP},
        Verb.MAX_OVERDRAFT: {None},
    }
    if rule.kind not in kinds.get(rule.verb, {*LISTED, Kind.HOST_GROUP}):
        advice = "; make a GROUP of it" if rule.verb == Verb.RESERVE and rule.kind == Kind.USER else ""
        return f"{rule.verb} for {rule.kind} has no counterpart here{advice}"
    if rule.kind == Kind.GROUP and rule.name not in names.teams:
        return f"there is no GROUP {rule.name}"
    if rule.kind == Kind.HOST_GROUP and not names.hosts.get(rule.name):
        return f"there is no HOST_GROUP {rule.name} with a valid host"
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
                text = f"the reservations would exceed the seats of {name}; FlexNet ignores this line too"
                wanted.of_options.append(Finding(rule.number, text, is_problem=False))
            elif reserved > tool.quotas.get(team, reserved):
                text = f"the reservation of {rule.name} for {name} would exceed its MAX"
                wanted.of_options.append(Finding(rule.number, text))
            else:
                tool.reservations[team] = reserved
        case Verb.MAX_OVERDRAFT, _:
            if rule.count >= tool.overdraft:
                text = f"{name} has an overdraft of {tool.overdraft}, and this does not lower it"
                wanted.of_options.append(Finding(rule.number, text, is_problem=False))
            tool.overdraft = min(tool.overdraft, rule.count)
        case _, Kind.HOST_GROUP:
            tool.lists |= {(_effect(rule), "host", host) for host in names.hosts[rule.name]}
        case _, kind:
            listed = team if kind == Kind.GROUP else rule.name
            tool.lists.add((_effect(rule), LISTED[kind or Kind.USER], listed))


def _effect(rule: Rule) -> str:
    return "include" if rule.verb in (Verb.INCLUDE, Verb.INCLUDEALL) else "exclude"
