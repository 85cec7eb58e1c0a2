"""``manage.py import_flexlm``: capacities and policies from FlexNet's files."""

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
from licenses.flexlm.plan import plan
from licenses.names import is_clean

UNSIGNED = "The signatures (SIGN=) were not checked: only the vendor's own daemon can."


class Command(BaseCommand):
    help = (
        "Bring capacities, dates, groups, quotas, reservations and lists of a FlexNet (FlexLM) license file and "
        "options file into the tables. Shows what would change; --apply changes it. Ends with an error if any line "
        "was not understood or can't be expressed here, and then applies nothing unless --skip-unknown."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--license", type=Path, required=True, metavar="FILE", help="the license file")
        parser.add_argument("--options", type=Path, metavar="FILE", help="the vendor daemon's options file")
        parser.add_argument("--apply", action="store_true", help="change the tables")
        parser.add_argument("--skip-unknown", action="store_true", help="apply what is understood, without the rest")

    def handle(
        self, *args: Any, license: Path, options: Path | None, apply: bool, skip_unknown: bool, **_: Any
    ) -> None:
        wanted = plan(
            parse_license(read(license)),
            parse_options(read(options) if options else ""),
            timezone.now().date(),
        )
        self._tell(license, wanted.of_license)
        if options:
            self._tell(options, wanted.of_options)
        problems = [finding for finding in wanted.of_license + wanted.of_options if finding.is_problem]
        for_real = apply and (skip_unknown or not problems)
        try:
            changes = bring_in(wanted, by=Actor.of_command("import_flexlm"), for_real=for_real)
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from None
        except Refusal as refusal:
            raise CommandError(refusal.detail) from None
        except IntegrityError:
            raise CommandError("somebody else changed the same tools or teams just now; try again") from None
        for change in changes:
            self.stdout.write(change)
        self.stdout.write(UNSIGNED)
        if not changes:
            self.stdout.write("Nothing to change.")
        elif for_real:
            self.stdout.write(f"{len(changes)} change(s) made.")
        elif not apply:
            self.stdout.write(f"{len(changes)} change(s) to make; --apply makes them.")
        if problems:
            done = "the rest was applied" if for_real else "nothing was changed"
            advice = "" if skip_unknown else "; --skip-unknown applies the rest"
            raise CommandError(f"{len(problems)} line(s) can't be imported, {done}{'' if for_real else advice}.")

    def _tell(self, file: Path, findings: list[Finding]) -> None:
        for finding in sorted(findings):
            kind = "" if finding.is_problem else "note: "
            self.stderr.write(f"{file.name}:{finding.number}: {kind}{visible(finding.text)}")


def visible(text: str) -> str:
    """With an escape for what a terminal would act on."""
    return "".join(sign if is_clean(sign) else sign.encode("unicode_escape").decode() for sign in text)


def read(file: Path) -> str:
    """The text of a file; raises CommandError. Vendors' files may hold names in
    some old encoding."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
