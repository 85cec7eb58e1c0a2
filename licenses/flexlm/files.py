"""Read FlexNet's files into a plan, and write what the plan found for people. The command and the page share this."""

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date

from licenses.names import RESERVED_TOOL_NAMES, TOOL_NAME_PATTERN, visible

from .parser import Finding, LicenseFile, OptionsFile, parse_license, parse_options
from .plan import Plan, Renames, plan

UNSIGNED = "The signatures (SIGN=) were not checked, because only the vendor's daemon can do that."

# Pairs of an old and a new name, in the order of the administrator.
Pairs = Sequence[tuple[str, str]]


class WrongRename(ValueError):
    """A new name can't be given. The message is for the administrator; ``of_group`` says which list has it."""

    def __init__(self, text: str, *, of_group: bool) -> None:
        super().__init__(text)
        self.of_group = of_group


def parse(license: bytes, options: bytes = b"") -> tuple[LicenseFile, OptionsFile]:
    """Parse the bytes of a license file and of an options file."""
    return parse_license(decoded(license)), parse_options(decoded(options))


def planned(license: LicenseFile, options: OptionsFile, today: date, features: Pairs = (), groups: Pairs = ()) -> Plan:
    """Return the plan of both files with these new names. Raises WrongRename."""
    known = {line.name for line in license.features}
    known |= {part.name for package in license.packages for part in package.components}
    _check(features, known, of_group=False)
    _check(groups, {group.name for group in options.groups}, of_group=True)
    return plan(license, options, today, Renames(features=dict(features), groups=dict(groups)))


def decoded(data: bytes) -> str:
    """Return the text of a file in UTF-8, in UTF-16 with a byte order mark, or in Latin-1."""
    encoding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return data.decode("latin-1")


def renaming(text: str) -> tuple[str, str]:
    """Return the two names of ``OLD=new``. Raises ValueError."""
    old, _, new = text.partition("=")
    if not old or not re.fullmatch(TOOL_NAME_PATTERN, new) or new in RESERVED_TOOL_NAMES:
        raise ValueError(f"{visible(text)!r} is not OLD=new, with new of 1 to 64 characters a-z 0-9 _ . -")
    return old, new


def _check(given: Pairs, known: set[str], *, of_group: bool) -> None:
    """Raise WrongRename if the file does not have a name to rename, or a name is renamed twice."""
    for old, new in given:
        if old not in known:
            raise WrongRename(f"{visible(old)}={new}: the file does not have this name", of_group=of_group)
        if dict(given)[old] != new:
            text = f"{visible(old)}: give one new name, not {new} and {dict(given)[old]}"
            raise WrongRename(text, of_group=of_group)


def listed(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield findings by line, with clean texts. A note that several lines share comes once, with their number."""
    found = list(findings)
    alike = Counter(finding.text for finding in found if not finding.is_problem)
    for finding in sorted(found):
        if finding.is_problem:
            yield replace(finding, text=visible(finding.text))
        elif more := alike.pop(finding.text, 0):
            others = f" (and {more - 1} more lines)" if more > 1 else ""
            yield replace(finding, text=visible(finding.text) + others)
