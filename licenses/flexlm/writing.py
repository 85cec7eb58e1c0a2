"""Write FlexNet's files as they were read, one statement per line.

Shows an administrator how a line was understood, for example a wrapped one. The
output parses to the same values.
"""

import re
from collections.abc import Iterator
from datetime import date

from .parser import DEFAULT_SORT, EACH, MONTHS, Component, Feature, Group, LicenseFile, OptionsFile, Package, Rule, Verb

PLAIN = re.compile(r"[\w.:/+@%*-]+", re.ASCII)


def license_lines(file: LicenseFile) -> Iterator[tuple[int, str]]:
    """Yield the understood lines of a license file with their numbers."""
    written = [(line.number, _feature(line)) for line in file.features]
    yield from sorted(written + [(line.number, _package(line)) for line in file.packages])


def options_lines(file: OptionsFile) -> Iterator[tuple[int, str]]:
    """Yield the understood lines of an options file with their numbers."""
    written = [(line.number, _group(line)) for line in file.groups]
    yield from sorted(written + [(line.number, _rule(line)) for line in file.rules])


def _feature(line: Feature) -> str:
    versions = [line.from_version] if line.keyword == "UPGRADE" else []
    count = "uncounted" if line.count is None else str(line.count)
    parts = [line.name, line.vendor, *versions, line.version, _date(line.expires), count]
    more = {
        "OVERDRAFT": str(line.overdraft) if line.overdraft else "",
        "SORT": str(line.sort) if line.sort != DEFAULT_SORT else "",
    }
    return " ".join([line.keyword, *map(_word, parts), *_attributes(line, more)])


def _package(line: Package) -> str:
    more = {"COMPONENTS": " ".join(map(_component, line.components)), "OPTIONS": line.options}
    parts = [line.name, line.vendor, *([line.version] if line.version else [])]
    return " ".join(["PACKAGE", *map(_word, parts), *_attributes(line, more)])


def _component(component: Component) -> str:
    count = [str(component.count)] if component.count != 1 else []
    version = [component.version] if component.version or count else []
    return ":".join([component.name, *version, *count])


def _attributes(line: Feature | Package, more: dict[str, str]) -> Iterator[str]:
    if line.starts:
        yield f"START={_date(line.starts)}"
    if line.issued:
        yield f"ISSUED={_date(line.issued)}"
    if line.supersedes:
        own = line.supersedes == {line.name}
        yield "SUPERSEDE" if own else f"SUPERSEDE={_word(' '.join(sorted(line.supersedes)))}"
    for key, value in [*((key, value) for key, value in more.items() if value), *line.attributes]:
        yield f"{key}={_word(value)}" if value else key


def _group(line: Group) -> str:
    return " ".join(["HOST_GROUP" if line.of_hosts else "GROUP", *map(_word, [line.name, *line.members])])


def _rule(line: Rule) -> str:
    count = [str(line.count)] if line.verb in (Verb.MAX, Verb.RESERVE) else []
    qualifier = f" {line.qualifier[0]}={line.qualifier[1]}" if line.qualifier else ""
    feature = [line.feature + qualifier] if line.feature else []
    each = next((names for names, kind in EACH.items() if kind == line.kind), None)
    subject = list(each or (line.kind, line.name)) if line.kind else [str(line.count)]
    return " ".join([line.verb, *map(_word, [*count, *feature, *map(str, subject)])])


def _word(text: str) -> str:
    return text if PLAIN.fullmatch(text) else f'"{text}"'


def _date(day: date | None) -> str:
    return f"{day.day}-{MONTHS[day.month - 1]}-{day.year}" if day else "permanent"
