"""Parse FlexNet's license and options files, without decisions.

The formats are those of the chapters "License File Format" and "Options File" of
Revenera's License Administration Guide, https://docs.revenera.com. Signatures are
not verified, because only the vendor's daemon can do that.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# A larger number of seats is a mistake.
MAX_COUNT = 1_000_000
# FlexNet reads only a few thousand characters of a line.
LINE_LENGTH = 200_000
# The sort order of a line without SORT=.
DEFAULT_SORT = 100

# Keywords that begin a statement of a license file.
STATEMENTS = {"FEATURE", "INCREMENT", "UPGRADE", "PACKAGE", "SERVER", "VENDOR", "DAEMON", "USE_SERVER"}
# Attributes of a license line that concern seats and are applied.
APPLIED = {"START", "ISSUED", "OVERDRAFT", "SORT", "SUPERSEDE", "SUPERSEDE_SIGN", "SIGN", "SIGN2", "KEY"}
# Attributes that do not concern seats.
DESCRIPTIVE = {
    *("ASSET_INFO", "AUTH", "CK", "DIST_INFO", "ISSUER", "NOTICE", "SN", "USER_INFO", "VENDOR_INFO"),
    *("VENDOR_STRING", "VERSION"),
}
# Attributes that only the vendor's daemon applies, with the effect on seats here.
NO_COUNTERPART = {
    "BORROW": "this server has no offline licenses",
    "CAPACITY": "FlexNet counts more seats for a larger host; here a borrow names its seats",
    "DUP_GROUP": "FlexNet counts repeated use by one user, host or display once; here each borrow counts",
    "FLOAT_OK": "this server does not read dongles",
    "HOSTID": "FlexNet serves these seats to that host only; here any host can borrow them",
    "HOST_BASED": "FlexNet serves listed hosts only; here an access rule does that",
    "LINGER": "here a returned seat is free at once",
    "MINIMUM": "FlexNet counts at least this number for a checkout; here a borrow names its seats",
    "ONE_TS_OK": "this server has no rules for terminal servers",
    "PLATFORMS": "here any platform can borrow",
    "RESTART": "it has no effect here",
    "SUITE_DUP_GROUP": "FlexNet counts repeated use of the suite once; here each borrow counts",
    "TS_OK": "this server has no rules for terminal servers",
    "TZ": "this server has no time zone rules",
    "USER_BASED": "FlexNet serves listed users only; here an access rule does that",
    "VM_PLATFORMS": "here physical and virtual hosts can borrow",
}
# Attributes that make FlexNet count the seats of one feature in separate pools.
POOLING = ("DUP_GROUP", "FLOAT_OK", "HOST_BASED", "HOSTID", "PLATFORMS", "USER_BASED", "VENDOR_STRING")
# Attributes that need a value.
VALUED = {"START", "ISSUED", "OVERDRAFT", "SORT", "SUPERSEDE_SIGN", "COMPONENTS"}
# Attributes that must not have two values in a line.
DECISIVE = {*VALUED, "SUPERSEDE", "OPTIONS"}
OF_PACKAGE = {"COMPONENTS", "OPTIONS"}
PACKAGE_OPTIONS = {"", "SUITE", "SUITE_RESERVED"}
# Types of host ids that lines before FLEXlm 3 have without HOSTID=.
BARE_HOSTIDS = {"ANY", "DEMO", "DISK_SERIAL_NUM", "DISPLAY", "ETHER", "FLEXID", "HOSTNAME", "ID", "INTERNET", "USER"}
# Lines of an options file about the daemon, offline use and idle time.
DAEMON_OPTIONS = {
    *("ACTIVATION_EXPIRY_DAYS", "ACTIVATION_LOWWATER", "AUTOMATIC_REREAD", "AUTO_RETURN_ENABLE", "AUTO_ROLLOVER"),
    *("BORROW_LOWWATER", "DAEMON_SELECT_TIMEOUT", "DEBUGLOG", "EXCLUDEALL_ENTITLEMENT", "EXCLUDE_BORROW"),
    *("EXCLUDE_ENTITLEMENT", "FQDN_MATCHING", "INCLUDEALL_ENTITLEMENT", "INCLUDE_BORROW", "INCLUDE_ENTITLEMENT"),
    *("LINGER", "MAX_BORROW_HOURS", "MAX_CONNECTIONS", "NOLOG", "REPORTLOG", "TIMEOUT", "TIMEOUTALL"),
}
# Qualifiers that select lines of a feature: "Specifying Features" in the guide.
QUALIFIERS = {
    *("ASSET_INFO", "DIST_INFO", "EXPDATE", "HOSTID", "ISSUER", "KEY", "NOTICE", "SIGN", "USER_INFO"),
    *("VENDOR_STRING", "VERSION"),
}


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A report about a line. A *problem* is a line that is not understood or has no counterpart here;
    all others are notes."""

    number: int
    text: str
    is_problem: bool = True


@dataclass(frozen=True, slots=True)
class Feature:
    """A FEATURE, INCREMENT or UPGRADE line. ``count`` is None if it is uncounted; ``expires`` is the last
    valid day, or None."""

    number: int
    keyword: str
    name: str
    vendor: str
    version: str
    expires: date | None
    count: int | None
    # The oldest version that an UPGRADE line upgrades; '' for other lines.
    from_version: str = ""
    starts: date | None = None
    issued: date | None = None
    overdraft: int = 0
    # FlexNet sorts lines by this first, ascending.
    sort: int = DEFAULT_SORT
    # The features whose older lines it replaces; its own feature by default.
    supersedes: frozenset[str] = frozenset()
    # All other attributes, as in the file.
    attributes: tuple[tuple[str, str], ...] = ()

    @property
    def is_increment(self) -> bool:
        return self.keyword != "FEATURE"

    @property
    def dated(self) -> date | None:
        """Return its date for lines that supersede it, or None."""
        return self.issued or self.starts

    def attribute(self, key: str) -> str:
        """Return the value of an attribute, or ''."""
        return next((value for known, value in self.attributes if known == key), "")

    @property
    def signatures(self) -> frozenset[str]:
        """Return its signatures and key, without blanks."""
        return frozenset(bare(value) for key, value in self.attributes if key in ("SIGN", "SIGN2", "KEY") and value)


@dataclass(frozen=True, slots=True)
class Component:
    """A feature in a package: ``count`` seats for each seat of the package."""

    name: str
    count: int = 1
    # Replaces the package's version if not ''.
    version: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """A PACKAGE line. In a suite the package is a feature too. ``version`` is the version of the lines that
    enable it, or '' for any."""

    number: int
    name: str
    vendor: str
    version: str
    components: tuple[Component, ...]
    options: str = ""
    starts: date | None = None
    issued: date | None = None
    supersedes: frozenset[str] = frozenset()
    attributes: tuple[tuple[str, str], ...] = ()

    @property
    def is_suite(self) -> bool:
        return bool(self.options)

    @property
    def dated(self) -> date | None:
        """Return its date for lines that supersede it, or None."""
        return self.issued or self.starts


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


# Types for MAX of each user or group: https://docs.revenera.com, "MAX".
EACH = {(Kind.USER, "ALL_USERS"): Kind.ALL_USERS, (Kind.GROUP, "ALL_GROUPS"): Kind.ALL_GROUPS}


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of an options file about limits or access. ``feature`` is '' for all features;
    ``qualifier``, a key and a value, selects some of its lines."""

    number: int
    verb: Verb
    feature: str = ""
    qualifier: tuple[str, str] | None = None
    count: int = 0
    kind: Kind | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """The members of one GROUP or HOST_GROUP line."""

    number: int
    name: str
    members: tuple[str, ...]
    of_hosts: bool


@dataclass(slots=True)
class OptionsFile:
    rules: list[Rule] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    # Whether names of users and hosts match in any case, and the line of that option.
    ignores_case: bool = False


class NotUnderstood(ValueError):
    """The reason why a line cannot be read."""


# --- Lines and words --------------------------------------------------------


def lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the statements, each with the number of its first line.

    A backslash at the end continues a line, but not a comment. A statement of a license
    file also continues on a line that begins with no keyword and is indented, begins
    with an attribute, or is inside quotation marks.
    """
    number, parts = 0, list[str]()
    goes_on = is_statement = is_quoted = False
    # splitlines() would count more line ends than an editor does.
    for current, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        stripped = line.strip()
        if not goes_on and stripped.startswith("#"):
            continue
        if not goes_on and not (is_statement and stripped and _continues(line, is_quoted)):
            if whole := " ".join(parts).strip():
                yield number, whole
            number, parts = 0, []
            goes_on = is_statement = is_quoted = False
            if not stripped:
                continue
            is_statement = _first_word(stripped) in STATEMENTS
        number = number or current
        goes_on = stripped.endswith("\\")
        stripped = line.rstrip().removesuffix("\\")
        is_quoted ^= bool(stripped.count('"') % 2)
        parts.append(stripped)
    if whole := " ".join(parts).strip():
        yield number, whole


def _first_word(line: str) -> str:
    return line.split(maxsplit=1)[0].upper()


def _continues(line: str, is_quoted: bool) -> bool:
    """Return whether a line continues the statement before it."""
    first = _first_word(line)
    if first in STATEMENTS:
        return False
    if is_quoted or line[0].isspace():
        return True
    key, equals, _ = first.partition("=")
    return bool(equals) and key in {*APPLIED, *DESCRIPTIVE, *NO_COUNTERPART, *OF_PACKAGE, "PORT"}


WORD = re.compile(r'(?:"[^"]*"|\{[^{}]*\}|[^\s"])+')


def _raw_words(line: str) -> list[str]:
    if len(line) > LINE_LENGTH:
        raise NotUnderstood(f"it is longer than {LINE_LENGTH} characters")
    if line.count('"') % 2:
        raise NotUnderstood("a quotation mark is missing")
    return WORD.findall(line)


def words(line: str) -> list[str]:
    """Return the words of a line. Blanks in quotation marks or braces are part of a word."""
    return [word.replace('"', "") for word in _raw_words(line)]


def bare(signature: str) -> str:
    """Return a signature without blanks, in upper case."""
    return "".join(signature.split()).upper()


def day(text: str) -> date | None:
    """Read a date like 31-dec-2027. Return None for ``permanent`` or the year 0."""
    if text.lower() == "permanent" or re.fullmatch("0{1,4}", text):
        return None
    match = re.fullmatch(r"(\d{1,2})-([a-z]{3})-(\d{1,4})", text.lower(), re.ASCII)
    if match is None or match[2] not in MONTHS:
        raise NotUnderstood(f"{text[:40]!r} is not a date like 31-dec-2027")
    year = int(match[3])
    if year == 0:
        return None
    # FlexNet reads two digits as a year of the 20th century.
    year += 1900 if year < 100 else 0
    try:
        return date(year, MONTHS.index(match[2]) + 1, int(match[1]))
    except ValueError:
        raise NotUnderstood(f"{text!r} is not a day") from None


def number_of(text: str) -> int:
    """Read a number of seats."""
    digits = text.lstrip("0") or text[:1]
    if not re.fullmatch(r"\d{1,9}", digits, re.ASCII) or int(digits) > MAX_COUNT:
        raise NotUnderstood(f"{text[:40]!r} is not a number of seats up to {MAX_COUNT}")
    return int(digits)


# --- The license file -------------------------------------------------------


def parse_license(text: str) -> LicenseFile:
    """Read a license file. Its findings list lines that are not understood."""
    file = LicenseFile()
    for number, line in lines(text):
        try:
            _license_line(number, _raw_words(line), file)
        except NotUnderstood as error:
            file.findings.append(Finding(number, f"not understood: {error}"))
    return file


def _license_line(number: int, raw: list[str], file: LicenseFile) -> None:
    if (comment := next((place for place, word in enumerate(raw) if word.startswith("#")), None)) is not None:
        raw = raw[:comment]
        file.findings.append(Finding(number, "the comment after the line is skipped", is_problem=False))
    parts = [word.replace('"', "") for word in raw]
    keyword = parts[0].upper() if parts else ""
    match keyword:
        case "FEATURE" | "INCREMENT" | "UPGRADE":
            positions = 7 if keyword == "UPGRADE" else 6
            if len(parts) < positions:
                old = "a version to upgrade from, " if keyword == "UPGRADE" else ""
                raise NotUnderstood(f"it needs a name, a vendor, {old}a version, an expiry and a count")
            found = _attributes(number, raw[positions:], file.findings)
            file.features.append(_feature(number, [keyword, *parts[1:positions]], found, file.findings))
        case "PACKAGE":
            file.packages.append(_package(number, raw, file.findings))
        case "SERVER" | "VENDOR" | "DAEMON" | "USE_SERVER":
            # These lines say where FlexNet's daemons run.
            pass
        case _ if re.fullmatch(r"[^\s-]+-\S+(-\d{3,})+", parts[0] if parts else ""):
            raise NotUnderstood("a license in decimal format; convert it with the vendor's lmutil lminstall")
        case _:
            raise NotUnderstood(f"{parts[0][:40] if parts else 'it'!r} is not a keyword of a license file")


def _attributes(number: int, raw: list[str], findings: list[Finding]) -> dict[str, str]:
    """Read ``KEY=value`` and bare words. Raises NotUnderstood if an attribute that concerns seats has no
    value or two."""
    found: dict[str, str] = {}
    strange: list[str] = []
    in_key = True
    for word in raw:
        text = word.replace('"', "")
        key, equals, value = text.partition("=")
        key = key.upper()
        if not equals and word.startswith('"'):
            # FLEXlm 2 has the vendor's string in quotation marks after the key.
            key, value = "VENDOR_STRING", text
        elif not equals and re.fullmatch("[0-9A-F]+", key) and (in_key or len(key) >= 8):
            # Older lines have a bare key instead of SIGN=. A signature may contain blanks.
            found["KEY"] = found.get("KEY", "") + key
            continue
        elif key in BARE_HOSTIDS:
            key, value = "HOSTID", text
        in_key = key in ("SIGN", "SIGN2")
        if key not in APPLIED | DESCRIPTIVE | NO_COUNTERPART.keys() | OF_PACKAGE:
            strange.append(text)
        elif key in VALUED and not value:
            raise NotUnderstood(f"{key} has no value")
        elif found.setdefault(key, value) != value and key in DECISIVE:
            raise NotUnderstood(f"{key} has two different values")
    if strange:
        findings.append(Finding(number, f"not understood: {', '.join(strange)[:200]}"))
    return found


def _feature(number: int, parts: list[str], found: dict[str, str], findings: list[Finding]) -> Feature:
    keyword, name, vendor, *versions, expiry, count = parts
    seats = None if count.lower() == "uncounted" or number_of(count) == 0 else number_of(count)
    expires = _day(number, expiry, findings)
    starts = _day(number, found.pop("START", "permanent"), findings)
    if starts and expires and starts > expires:
        raise NotUnderstood("it ends before it starts")
    issued = _day(number, found.pop("ISSUED", "permanent"), findings)
    overdraft, sort = number_of(found.pop("OVERDRAFT", "0")), number_of(found.pop("SORT", str(DEFAULT_SORT)))
    supersedes = _supersedes(name, found)
    if seats is not None:
        _report_counterparts(number, found, findings)
    return Feature(
        number=number,
        keyword=keyword,
        name=name,
        vendor=vendor,
        version=versions[-1],
        expires=expires,
        count=seats,
        from_version=versions[0] if keyword == "UPGRADE" else "",
        starts=starts,
        issued=issued,
        overdraft=overdraft,
        sort=sort,
        supersedes=supersedes,
        attributes=tuple(found.items()),
    )


def _day(number: int, text: str, findings: list[Finding]) -> date | None:
    found = day(text)
    if found and re.search(r"-\d{1,2}$", text):
        note = f"{text}: FlexNet reads a year of two digits as 19xx, so this is {found}"
        findings.append(Finding(number, note, is_problem=False))
    return found


def _supersedes(name: str, found: dict[str, str]) -> frozenset[str]:
    if (value := found.pop("SUPERSEDE", None)) is None:
        return frozenset()
    return frozenset(re.split(r"[\s,{}]+", value)) - {""} or frozenset([name])


def _report_counterparts(number: int, found: Mapping[str, str], findings: list[Finding]) -> None:
    for key in [key for key in found if key in NO_COUNTERPART]:
        if (key, found[key].upper()) in (("HOSTID", "ANY"), ("DUP_GROUP", "NONE")):
            continue
        shown = f"{key}={found[key][:40]}" if found[key] else key
        findings.append(Finding(number, f"{shown} has no counterpart here: {NO_COUNTERPART[key]}", is_problem=False))


def _package(number: int, raw: list[str], findings: list[Finding]) -> Package:
    parts = [word.replace('"', "") for word in raw]
    if len(parts) < 3:
        raise NotUnderstood("it needs a name, a vendor and COMPONENTS=")
    _, name, vendor, *rest = parts
    version = rest[0] if rest and "=" not in rest[0] and rest[0].upper() != "SUPERSEDE" else ""
    strange: list[Finding] = []
    found = _attributes(number, raw[4 if version else 3 :], strange)
    if strange:
        raise NotUnderstood(strange[0].text.removeprefix("not understood: "))
    options = re.split(r"[\s,]+", found.pop("OPTIONS", "").upper().strip())
    if unknown := set(options) - PACKAGE_OPTIONS:
        raise NotUnderstood(f"OPTIONS={' '.join(sorted(unknown))[:80]}")
    components = tuple(_component(text) for text in found.pop("COMPONENTS", "").split())
    if not components:
        raise NotUnderstood("it has no COMPONENTS=")
    if any(options) and any(component.count != 1 for component in components):
        raise NotUnderstood("the components of a suite must not have counts")
    starts = _day(number, found.pop("START", "permanent"), findings)
    issued = _day(number, found.pop("ISSUED", "permanent"), findings)
    supersedes = _supersedes(name, found)
    _report_counterparts(number, found, findings)
    return Package(
        number=number,
        name=name,
        vendor=vendor,
        version=version,
        components=components,
        options=max(options),
        starts=starts,
        issued=issued,
        supersedes=supersedes,
        attributes=tuple(found.items()),
    )


def _component(text: str) -> Component:
    name, *more = text.split(":")
    if not name or len(more) > 2:
        raise NotUnderstood(f"{text[:80]!r} is not a component like name:version:count")
    count = number_of(more[1]) if len(more) == 2 else 1
    if not count:
        raise NotUnderstood(f"{text[:80]!r} has no seats")
    return Component(name, count, more[0] if more else "")


# --- The options file -------------------------------------------------------


def parse_options(text: str) -> OptionsFile:
    """Read an options file. Its findings list lines that are not understood."""
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
        raise NotUnderstood("a comment needs its own line")
    match keyword:
        case "GROUP" | "USER_GROUP" | "HOST_GROUP":
            if len(rest) < 2:
                raise NotUnderstood("a group needs a name and members")
            file.groups.append(Group(number, rest[0], tuple(rest[1:]), of_hosts=keyword == "HOST_GROUP"))
        case "GROUPCASEINSENSITIVE":
            _case(number, [word.upper() for word in rest], file)
        case "RESERVE" | "MAX":
            if len(rest) < 3:
                raise NotUnderstood("it needs a number, a feature, a type and a name")
            feature, qualifier = _feature_name(rest[1])
            count, (kind, name) = number_of(rest[0]), _subject(rest[2:])
            file.rules.append(Rule(number, Verb(keyword), feature, qualifier, count, kind, name))
        case "INCLUDE" | "EXCLUDE":
            if len(rest) < 2:
                raise NotUnderstood("it needs a feature, a type and a name")
            feature, qualifier = _feature_name(rest[0])
            kind, name = _subject(rest[1:])
            file.rules.append(Rule(number, Verb(keyword), feature, qualifier, kind=kind, name=name))
        case "INCLUDEALL" | "EXCLUDEALL":
            kind, name = _subject(rest)
            file.rules.append(Rule(number, Verb(keyword), kind=kind, name=name))
        case "MAX_OVERDRAFT":
            if len(rest) != 2:
                raise NotUnderstood("it needs a feature and a number")
            feature, qualifier = _feature_name(rest[0])
            file.rules.append(Rule(number, Verb.MAX_OVERDRAFT, feature, qualifier, number_of(rest[1])))
        case _ if keyword in DAEMON_OPTIONS:
            file.findings.append(Finding(number, f"{keyword} has no counterpart here", is_problem=False))
        case _:
            raise NotUnderstood(f"{parts[0][:40] if parts else 'it'!r} is not a keyword of an options file")


def _case(number: int, rest: list[str], file: OptionsFile) -> None:
    if rest not in (["ON"], ["OFF"]):
        raise NotUnderstood("it needs ON or OFF")
    if rest == ["OFF"]:
        if file.ignores_case:
            raise NotUnderstood("an earlier line has ON")
        return
    file.ignores_case = True
    text = "names of users and hosts match in any case, for the tools and teams of this file"
    if file.groups or file.rules:
        text += "; FlexNet expects it in the first line; here it applies to the whole file"
    file.findings.append(Finding(number, text, is_problem=False))


def _feature_name(text: str) -> tuple[str, tuple[str, str] | None]:
    """Return the feature and its qualifier, from ``f1:VERSION=2.0`` or ``"f1 VERSION=2.0"``."""
    if "=" not in text and text and not re.search(r"\s", text):
        return text, None
    match = re.fullmatch(r"([^\s=]+)[:\s]\s*(\w+)=(.*)", text)
    if match is None:
        raise NotUnderstood(f"{text[:40]!r} is not a feature")
    if match[2].upper() not in QUALIFIERS:
        raise NotUnderstood(f"{match[2][:40]!r} does not qualify a feature")
    return match[1], (match[2].upper(), match[3])


def _subject(parts: list[str]) -> tuple[Kind, str]:
    kind = parts[0].upper() if parts else ""
    if kind not in list(Kind):
        raise NotUnderstood(f"{parts[0][:40] if parts else 'it'!r} is not a type of user")
    if kind in EACH.values():
        # Some files have it instead of the type.
        if len(parts) != 1:
            raise NotUnderstood(f"{kind} must not have a name")
        return Kind(kind), ""
    if len(parts) != 2:
        raise NotUnderstood("it needs one name; for several names make a GROUP")
    if each := EACH.get((Kind(kind), parts[1])):
        return each, ""
    return Kind(kind), parts[1]
