"""FlexNet's license and options files as data; nothing is decided here.

The formats are those of the "License File Format" and "Options File" chapters of
Revenera's administration guide, https://docs.revenera.com. Signatures are read
over: to check them takes the vendor's own daemon.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# A number of seats that is a slip of the pen rather than a purchase.
MAX_COUNT = 1_000_000

# Attributes of a license line that change nothing about seats here.
SILENT = {
    *("SIGN", "SIGN2", "CK", "SN", "NOTICE", "ISSUER", "ISSUED", "VENDOR_STRING", "SORT", "SUPERSEDE"),
    *("ASSET_INFO", "DIST_INFO", "USER_INFO", "VENDOR_INFO", "START", "OVERDRAFT", "AUTH", "VERSION"),
}
# Those that the vendor's daemon acts on, and this server doesn't.
WITHOUT_COUNTERPART = {
    *("DUP_GROUP", "SUITE_DUP_GROUP", "BORROW", "LINGER", "HOSTID", "HOST_BASED", "USER_BASED", "FLOAT_OK"),
    *("TS_OK", "PLATFORMS", "MINIMUM", "CAPACITY", "RESTART"),
}
OF_PACKAGE = {"COMPONENTS", "OPTIONS", "SIGN", "SIGN2", "CK", "AUTH", "ISSUED", "SUPERSEDE"}
# Lines of an options file about the daemon itself, offline use, and idle time.
DAEMON_OPTIONS = {
    *("AUTOMATIC_REREAD", "ACTIVATION_LOWWATER", "ACTIVATION_EXPIRY_DAYS", "BORROW_LOWWATER", "DEBUGLOG"),
    *("DAEMON_SELECT_TIMEOUT", "FQDN_MATCHING", "LINGER", "MAX_BORROW_HOURS", "MAX_CONNECTIONS", "NOLOG"),
    *("REPORTLOG", "TIMEOUT", "TIMEOUTALL", "EXCLUDE_BORROW", "INCLUDE_BORROW", "EXCLUDE_ENTITLEMENT"),
    *("INCLUDE_ENTITLEMENT", "EXCLUDEALL_ENTITLEMENT", "INCLUDEALL_ENTITLEMENT", "AUTO_RETURN_ENABLE"),
}


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something to tell about a line. A *problem* is a line that isn't understood
    or can't be expressed here; else it is a note."""

    number: int
    text: str
    is_problem: bool = True


@dataclass(frozen=True, slots=True)
class Feature:
    """A FEATURE or INCREMENT line: ``count`` seats, None if they aren't counted;
    ``expires`` is the last day that it is good for, None for ever."""

    number: int
    is_increment: bool
    name: str
    vendor: str
    version: str
    expires: date | None
    count: int | None
    starts: date | None = None
    issued: date | None = None
    overdraft: int = 0
    # What FlexNet sorts lines by before all else; lower comes first.
    sort: int = 100
    # The features whose older lines it replaces; its own if it names none.
    supersedes: frozenset[str] = frozenset()

    @property
    def dated(self) -> date | None:
        """How old it is, for lines that supersede it."""
        return self.issued or self.starts


@dataclass(frozen=True, slots=True)
class Component:
    """A feature in a package: ``count`` seats for each seat of the package."""

    name: str
    count: int = 1
    # Instead of the package's, if not ''.
    version: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """A PACKAGE line. In a suite the package's own feature stays one. ``version``
    is that of the lines which enable it, '' if any does."""

    number: int
    name: str
    vendor: str
    version: str
    components: tuple[Component, ...]
    is_suite: bool
    issued: date | None = None
    supersedes: frozenset[str] = frozenset()

    @property
    def dated(self) -> date | None:
        """How old it is, for lines that supersede it."""
        return self.issued


@dataclass(frozen=True, slots=True)
class LicenseFile:
    features: list[Feature] = field(default_factory=list)
    packages: list[Package] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


class Verb(StrEnum):
    RESERVE = "RESERVE"
    MAX = "MAX"
    INCLUDE = "INCLUDE"
    EXCLUDE = "EXCLUDE"
    INCLUDEALL = "INCLUDEALL"
    EXCLUDEALL = "EXCLUDEALL"
    MAX_OVERDRAFT = "MAX_OVERDRAFT"


class Kind(StrEnum):
    USER = "USER"
    HOST = "HOST"
    DISPLAY = "DISPLAY"
    INTERNET = "INTERNET"
    PROJECT = "PROJECT"
    GROUP = "GROUP"
    HOST_GROUP = "HOST_GROUP"
    ALL_USERS = "ALL_USERS"
    ALL_GROUPS = "ALL_GROUPS"


# MAX for each one, in place of a name: https://docs.revenera.com, "MAX".
EACH = {(Kind.USER, "ALL_USERS"): Kind.ALL_USERS, (Kind.GROUP, "ALL_GROUPS"): Kind.ALL_GROUPS}


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of an options file about who may have how many seats. ``feature`` is
    '' where it is about all, ``qualifier`` what picks some of its lines."""

    number: int
    verb: Verb
    feature: str = ""
    qualifier: str = ""
    count: int = 0
    kind: Kind | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """The members that one GROUP or HOST_GROUP line adds."""

    number: int
    name: str
    members: tuple[str, ...]
    of_hosts: bool


@dataclass(frozen=True, slots=True)
class OptionsFile:
    rules: list[Rule] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


class NotUnderstood(ValueError):
    """Why a line can't be read."""


def lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that say something, with the number that each begins at; a
    backslash at its end continues a line, but not a comment, which would take
    the next line with it."""
    number, parts = 0, list[str]()
    # Not splitlines(): the lines are to be those that an editor numbers.
    for current, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        number = number or current
        stripped = line.rstrip()
        is_comment = not parts and stripped.lstrip().startswith("#")
        if stripped.endswith("\\") and not is_comment:
            parts.append(stripped[:-1])
            continue
        parts.append(stripped)
        whole, begun = " ".join(parts).strip(), number
        number, parts = 0, []
        if whole and not is_comment:
            yield begun, whole
    if whole := " ".join(parts).strip():
        yield number, whole


WORD = re.compile(r'(?:[^\s"]|"[^"]*")+')


def words(line: str) -> list[str]:
    """The words of a line; blanks between quotation marks are part of a word."""
    if line.count('"') % 2:
        raise NotUnderstood("a quotation mark is missing")
    return [word.replace('"', "") for word in WORD.findall(line)]


def day(text: str) -> date | None:
    """A date as 31-dec-2027; None is never: ``permanent``, or the year 0."""
    if text.lower() == "permanent":
        return None
    match = re.fullmatch(r"(\d{1,2})-([a-z]{3})-(\d{1,4})", text.lower(), re.ASCII)
    if match is None or match[2] not in MONTHS:
        raise NotUnderstood(f"{text!r} is no date like 31-dec-2027")
    year = int(match[3])
    if year == 0:
        return None
    # FlexLM's short years are those of its own century.
    year += 1900 if year < 100 else 0
    try:
        return date(year, MONTHS.index(match[2]) + 1, int(match[1]))
    except ValueError:
        raise NotUnderstood(f"{text!r} is no day") from None


def number_of(text: str) -> int:
    """A number of seats."""
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) > MAX_COUNT:
        raise NotUnderstood(f"{text!r} is no number of seats up to {MAX_COUNT}")
    return int(text)


def attributes(parts: list[str]) -> dict[str, str]:
    """``KEY=value`` and bare words; the first of each counts."""
    found: dict[str, str] = {}
    for part in parts:
        key, _, value = part.partition("=")
        found.setdefault(key.upper(), value)
    return found


def parse_license(text: str) -> LicenseFile:
    """Read a license file; what isn't understood is in its findings."""
    file = LicenseFile()
    for number, line in lines(text):
        try:
            _license_line(number, words(line), file)
        except NotUnderstood as error:
            file.findings.append(Finding(number, f"not understood: {error}"))
    return file


def _license_line(number: int, parts: list[str], file: LicenseFile) -> None:
    keyword = parts[0].upper() if parts else ""
    match keyword:
        case "FEATURE" | "INCREMENT":
            feature, more = _feature(number, parts)
            file.features.append(feature)
            _tell_attributes(number, more, file.findings)
        case "PACKAGE":
            file.packages.append(_package(number, parts))
        case "SERVER" | "VENDOR" | "DAEMON" | "USE_SERVER":
            # Where FlexNet's own daemons run.
            pass
        case _:
            raise NotUnderstood(f"{parts[0][:40] if parts else 'it'!r} isn't a keyword that is imported")


def _feature(number: int, parts: list[str]) -> tuple[Feature, Mapping[str, str]]:
    if len(parts) < 6:
        raise NotUnderstood("it takes a name, a vendor, a version, an expiry and a count")
    keyword, name, vendor, version, expiry, count, *rest = parts
    more = attributes(rest)
    seats = None if count.lower() == "uncounted" or number_of(count) == 0 else number_of(count)
    expires, starts = day(expiry), day(more["START"]) if more.get("START") else None
    if starts and expires and starts > expires:
        raise NotUnderstood("it ends before it starts")
    return (
        Feature(
            number=number,
            is_increment=keyword.upper() == "INCREMENT",
            name=name,
            vendor=vendor,
            version=version,
            expires=expires,
            count=seats,
            starts=starts,
            issued=_issued(more),
            overdraft=number_of(more["OVERDRAFT"]) if more.get("OVERDRAFT") else 0,
            sort=number_of(more["SORT"]) if more.get("SORT") else 100,
            supersedes=_supersedes(name, more),
        ),
        more,
    )


def _issued(more: Mapping[str, str]) -> date | None:
    return day(more["ISSUED"]) if more.get("ISSUED") else None


def _supersedes(name: str, more: Mapping[str, str]) -> frozenset[str]:
    if "SUPERSEDE" not in more:
        return frozenset()
    return frozenset(more["SUPERSEDE"].split() or [name])


def _tell_attributes(number: int, more: Mapping[str, str], findings: list[Finding]) -> None:
    kept = [key for key in more if key in WITHOUT_COUNTERPART]
    if kept:
        findings.append(Finding(number, f"{', '.join(kept)}: has no counterpart here", is_problem=False))
    # Before SIGN= there was a bare key in its place; anything else is told.
    strange = [key for key in more if key not in SILENT | WITHOUT_COUNTERPART and not re.fullmatch("[0-9A-F]+", key)]
    if strange:
        findings.append(Finding(number, f"not understood: {', '.join(strange)[:200]}"))


def _package(number: int, parts: list[str]) -> Package:
    if len(parts) < 3:
        raise NotUnderstood("it takes a name, a vendor and COMPONENTS=")
    _, name, vendor, *rest = parts
    version = rest.pop(0) if rest and "=" not in rest[0] else ""
    more = attributes(rest)
    # Before SIGN= there was a bare key in its place.
    strange = [key for key in more if key not in OF_PACKAGE and not re.fullmatch("[0-9A-F]+", key)]
    if strange:
        raise NotUnderstood(", ".join(strange)[:200])
    options = more.get("OPTIONS", "").upper()
    if options not in ("", "SUITE"):
        raise NotUnderstood(f"OPTIONS={options[:80]}")
    components = tuple(_component(text) for text in more.get("COMPONENTS", "").split())
    if not components:
        raise NotUnderstood("it has no COMPONENTS=")
    if options and any(component.count != 1 for component in components):
        raise NotUnderstood("the components of a suite have no counts of their own")
    return Package(
        number, name, vendor, version, components, options == "SUITE", _issued(more), _supersedes(name, more)
    )


def _component(text: str) -> Component:
    name, *more = text.split(":")
    if not name or len(more) > 2:
        raise NotUnderstood(f"{text!r} is no component like name:version:count")
    return Component(name, number_of(more[1]) if len(more) == 2 else 1, more[0] if more else "")


def parse_options(text: str) -> OptionsFile:
    """Read an options file; what isn't understood is in its findings."""
    file = OptionsFile()
    for number, line in lines(text):
        try:
            _options_line(number, words(line), file)
        except NotUnderstood as error:
            file.findings.append(Finding(number, f"not understood: {error}"))
    return file


def _options_line(number: int, parts: list[str], file: OptionsFile) -> None:
    keyword, *rest = [parts[0].upper(), *parts[1:]] if parts else [""]
    if any(word.startswith("#") for word in rest):
        raise NotUnderstood("a comment takes a line of its own")
    match keyword:
        case "GROUP" | "HOST_GROUP":
            if len(rest) < 2:
                raise NotUnderstood("a group takes a name and members")
            file.groups.append(Group(number, rest[0], tuple(rest[1:]), of_hosts=keyword == "HOST_GROUP"))
        case "GROUPCASEINSENSITIVE":
            if [word.upper() for word in rest] != ["OFF"]:
                raise NotUnderstood("names are case sensitive here")
        case "RESERVE" | "MAX":
            if len(rest) < 3:
                raise NotUnderstood("it takes a number, a feature, a type and a name")
            feature, qualifier = _feature_name(rest[1])
            count, (kind, name) = number_of(rest[0]), _subject(rest[2:])
            file.rules.append(Rule(number, Verb(keyword), feature, qualifier, count, kind, name))
        case "INCLUDE" | "EXCLUDE":
            if len(rest) < 2:
                raise NotUnderstood("it takes a feature, a type and a name")
            feature, qualifier = _feature_name(rest[0])
            kind, name = _subject(rest[1:])
            file.rules.append(Rule(number, Verb(keyword), feature, qualifier, kind=kind, name=name))
        case "INCLUDEALL" | "EXCLUDEALL":
            kind, name = _subject(rest)
            file.rules.append(Rule(number, Verb(keyword), kind=kind, name=name))
        case "MAX_OVERDRAFT":
            if len(rest) != 2:
                raise NotUnderstood("it takes a feature and a number")
            feature, qualifier = _feature_name(rest[0])
            file.rules.append(Rule(number, Verb.MAX_OVERDRAFT, feature, qualifier, number_of(rest[1])))
        case _ if keyword in DAEMON_OPTIONS:
            file.findings.append(Finding(number, f"{keyword}: has no counterpart here", is_problem=False))
        case _:
            raise NotUnderstood(f"{parts[0][:40] if parts else 'it'!r} isn't a keyword that is imported")


def _feature_name(text: str) -> tuple[str, str]:
    """The feature, and what picks some of its lines: ``f1:VERSION=2.0``, or in
    quotation marks ``"f1 VERSION=2.0"``."""
    match = re.fullmatch(r"([^\s:]+)(?:[:\s](\S+=.*))?", text)
    if match is None:
        raise NotUnderstood(f"{text[:40]!r} is no feature")
    return match[1], match[2] or ""


def _subject(parts: list[str]) -> tuple[Kind, str]:
    kind = parts[0].upper() if parts else ""
    if kind not in list(Kind):
        raise NotUnderstood(f"{parts[0][:40] if parts else 'it'!r} is no type of user")
    if kind in EACH.values():
        # Some write it in place of the type, not of the name.
        if len(parts) != 1:
            raise NotUnderstood(f"{kind} takes no name")
        return Kind(kind), ""
    if len(parts) != 2:
        raise NotUnderstood("it takes one name; several are a GROUP")
    if each := EACH.get((Kind(kind), parts[1])):
        return each, ""
    return Kind(kind), parts[1]
