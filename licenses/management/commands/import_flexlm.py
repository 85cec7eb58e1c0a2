"""Import capacities and policies from FlexNet's files."""

import re
from argparse import ArgumentTypeError
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import IntegrityError
from django.utils import timezone

from licenses.auditing import Actor
from licenses.errors import Refusal
from licenses.flexlm.applying import bring_in
from licenses.flexlm.parser import Finding, parse_license, parse_options
from licenses.flexlm.plan import Renames, plan
from licenses.flexlm.writing import license_lines, options_lines
from licenses.names import RESERVED_TOOL_NAMES, TOOL_NAME_PATTERN, visible

UNSIGNED = "The signatures (SIGN=) were not checked, because only the vendor's daemon can do that."
# Far above every vendor's file: 10,000 lines with signatures are 5 MiB.
MAX_BYTES = 32 * 2**20


class Command(BaseCommand):
    help = (
        "Import capacities, dates, groups, quotas, reservations and access rules from a FlexNet (FlexLM) license "
        "file and options file. Without --apply it only shows the changes. If a line is not understood or has no "
        "counterpart here, it fails and changes nothing, unless you give --skip-unknown."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--license", type=Path, required=True, metavar="FILE", help="the license file")
        parser.add_argument("--options", type=Path, metavar="FILE", help="the vendor daemon's options file")
        parser.add_argument("--apply", action="store_true", help="make the changes")
        parser.add_argument(
            "--skip-unknown", action="store_true", help="with --apply: skip lines that can't be imported"
        )
        for what, where in (("", "feature or package"), ("-group", "group")):
            parser.add_argument(
                f"--rename{what}",
                type=renaming,
                action="append",
                default=[],
                metavar="OLD=new",
                help=f"give the {where} OLD of the files the name new; repeatable",
            )

    def handle(
        self,
        *args: Any,
        license: Path,
        options: Path | None,
        apply: bool,
        skip_unknown: bool,
        rename: list[tuple[str, str]],
        rename_group: list[tuple[str, str]],
        verbosity: int,
        **_: Any,
    ) -> None:
        license_file, options_file = parse_license(read(license)), parse_options(read(options) if options else "")
        known = {line.name for line in license_file.features}
        known |= {part.name for package in license_file.packages for part in package.components}
        check_renames("--rename", rename, known)
        check_renames("--rename-group", rename_group, {group.name for group in options_file.groups})
        if verbosity > 1:
            self._show(license, license_lines(license_file))
            if options:
                self._show(options, options_lines(options_file))
        renames = Renames(features=dict(rename), groups=dict(rename_group))
        wanted = plan(license_file, options_file, timezone.now().date(), renames)
        self._report(license, wanted.of_license)
        if options:
            self._report(options, wanted.of_options)
        problems = len(wanted.problems)
        for_real = apply and (skip_unknown or not problems)
        try:
            changes = bring_in(wanted, by=Actor.of_command("import_flexlm"), for_real=for_real)
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from None
        except Refusal as refusal:
            raise CommandError(refusal.detail) from None
        except IntegrityError:
            raise CommandError("somebody else changed the same tools or teams at the same time; try again") from None
        for change in changes:
            self.stdout.write(visible(change))
        self.stdout.write(UNSIGNED)
        notes = len(wanted.of_license) + len(wanted.of_options) - problems
        self.stdout.write(
            f"Summary: {len(wanted.tools)} tool(s) with {sum(tool.capacity for tool in wanted.tools.values())} seats, "
            f"{len(changes)} change(s), {problems} problem(s), {notes} note(s)."
        )
        if not changes:
            self.stdout.write("Nothing to change.")
        elif for_real:
            self.stdout.write(f"{len(changes)} change(s) made.")
        elif not apply and (skip_unknown or not problems):
            self.stdout.write(f"{len(changes)} change(s) to make. Use --apply to make them.")
        if problems:
            done = "the rest was applied" if for_real else "nothing was changed"
            advice = "" if skip_unknown else "; use --skip-unknown to import the rest"
            raise CommandError(f"{problems} line(s) can't be imported, {done}{'' if for_real else advice}.")

    def _show(self, file: Path, read_as: Iterable[tuple[int, str]]) -> None:
        for number, line in read_as:
            self.stdout.write(f"{file.name}:{number}: read as: {visible(line)}")

    def _report(self, file: Path, findings: list[Finding]) -> None:
        alike = Counter(finding.text for finding in findings if not finding.is_problem)
        for finding in sorted(findings):
            # Show a note that several lines share only at the first of them.
            if finding.is_problem or (more := alike.pop(finding.text, 0)):
                kind = "" if finding.is_problem else "note: "
                others = f" (and {more - 1} more lines)" if not finding.is_problem and more > 1 else ""
                self.stderr.write(f"{file.name}:{finding.number}: {kind}{visible(finding.text)}{others}")


def renaming(text: str) -> tuple[str, str]:
    """Return the two names of ``OLD=new``. Raises ArgumentTypeError."""
    old, _, new = text.partition("=")
    if not old or not re.fullmatch(TOOL_NAME_PATTERN, new) or new in RESERVED_TOOL_NAMES:
        raise ArgumentTypeError(f"{text!r} is not OLD=new, with new of 1 to 64 characters a-z 0-9 _ . -")
    return old, new


def check_renames(option: str, given: list[tuple[str, str]], known: set[str]) -> None:
    """Raise CommandError if the file does not have a name to rename, or a name is renamed twice."""
    for old, new in given:
        if old not in known:
            raise CommandError(f"{option} {visible(old)}={new}: the file does not have this name")
        if dict(given)[old] != new:
            raise CommandError(f"{option} {visible(old)}: give one new name, not {new} and {dict(given)[old]}")


def read(file: Path) -> str:
    """Return the text of a file in UTF-8, in UTF-16 with a byte order mark, or in Latin-1.

    Raises CommandError if it cannot be read or is too large.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise CommandError(f"{file}: larger than {MAX_BYTES // 2**20} MiB; this is not a license or options file")
    encoding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return data.decode("latin-1")
