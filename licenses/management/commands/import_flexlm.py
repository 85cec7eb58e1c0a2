"""Import capacities and policies from FlexNet's files."""

from argparse import ArgumentTypeError
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db import IntegrityError
from django.utils import timezone

from licenses.auditing import Actor
from licenses.errors import Refusal
from licenses.flexlm.applying import bring_in
from licenses.flexlm.files import UNSIGNED, WrongRename, listed, parse, planned, renaming
from licenses.flexlm.parser import Finding
from licenses.flexlm.writing import license_lines, options_lines
from licenses.management.base import ServerCommand
from licenses.names import visible

# Far above every vendor's file: 10,000 lines with signatures are 5 MiB.
MAX_BYTES = 32 * 2**20


class Command(ServerCommand):
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
                type=renamed,
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
        license_file, options_file = parse(read(license), read(options) if options else b"")
        try:
            wanted = planned(license_file, options_file, timezone.now().date(), rename, rename_group)
        except WrongRename as error:
            raise CommandError(f"{'--rename-group' if error.of_group else '--rename'} {error}") from None
        if verbosity > 1:
            self._show(license, license_lines(license_file))
            if options:
                self._show(options, options_lines(options_file))
        self._report(license, wanted.of_license)
        if options:
            self._report(options, wanted.of_options)
        problems = len(wanted.problems)
        for_real = apply and (skip_unknown or not problems)
        try:
            changes, remarks = bring_in(wanted, by=Actor.of_command("import_flexlm"), for_real=for_real)
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from None
        except Refusal as refusal:
            raise CommandError(refusal.detail) from None
        except IntegrityError:
            raise CommandError("somebody else changed the same tools or teams at the same time; try again") from None
        for change in changes:
            self.stdout.write(visible(change))
        for remark in remarks:
            self.stdout.write(f"note: {visible(remark)}")
        self.stdout.write(UNSIGNED)
        notes = len(wanted.of_license) + len(wanted.of_options) - problems + len(remarks)
        self.stdout.write(
            f"Summary: {len(wanted.tools)} tool(s) with {wanted.seats} seats, "
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
        for finding in listed(findings):
            kind = "" if finding.is_problem else "note: "
            self.stderr.write(f"{file.name}:{finding.number}: {kind}{finding.text}")


def renamed(text: str) -> tuple[str, str]:
    """Return the two names of ``OLD=new``. Raises ArgumentTypeError."""
    try:
        return renaming(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def read(file: Path) -> bytes:
    """Return the bytes of a file. Raises CommandError if it cannot be read or is too large."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise CommandError(f"{file}: larger than {MAX_BYTES // 2**20} MiB; this is not a license or options file")
    return data
