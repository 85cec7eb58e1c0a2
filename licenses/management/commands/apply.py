"""Bring the site from a document."""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import IntegrityError, OperationalError

from licenses.auditing import Actor
from licenses.errors import InvalidSite, Refusal
from licenses.management.base import ServerCommand
from licenses.names import visible
from licenses.site import parser
from licenses.site.applying import Applied, apply

# The exit code of --exit-code; 1 is an error and 2 a wrong option.
DIFFERENT = 3
MAX_BYTES = 32 * 2**20
# PostgreSQL's lock_not_available, after a wait of 3 s, and deadlock_detected.
NOT_NOW = {"55P03", "40P01"}
# Seconds to try again.
PATIENCE = 60


class Command(ServerCommand):
    help = (
        "Give this site the tools, contracts, teams, members and rules of a TOML or JSON file, all or none, and show "
        "each change. What the file does not mention stays, unless you give --prune."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="the file (TOML, or JSON if it ends with .json); - reads TOML")
        parser.add_argument("--dry-run", action="store_true", help="only show the changes")
        parser.add_argument("--prune", action="store_true", help="remove what the file does not mention")
        parser.add_argument(
            "--exit-code", action="store_true", help=f"exit with {DIFFERENT} if anything changes, with 0 if not"
        )
        parser.add_argument("--json", action="store_true", help="print the changes as JSON")

    def handle(
        self, *args: Any, file: Path, dry_run: bool, prune: bool, exit_code: bool, json: bool, **options: Any
    ) -> None:
        try:
            text = read(file)
            wanted = parser.read(text, is_json=file.suffix == ".json")
            done = patiently(partial(apply, wanted, by=Actor.of_command("apply"), prune=prune, dry_run=dry_run))
        except InvalidSite as refusal:
            lines = [visible(parser.Mistake(**error).in_file(str(file))) for error in refusal.facts["errors"]]
            raise CommandError("\n".join([f"{file} has mistakes. Nothing was changed.", *lines])) from None
        except Refusal as refusal:
            raise CommandError(visible(refusal.detail)) from None
        except IntegrityError:
            raise CommandError("somebody else changed the same tools or teams at the same time; try again") from None
        if json:
            self._show_json(done, dry_run)
        else:
            self._show(done, dry_run, prune)
        if exit_code and done.plan.changes:
            sys.exit(DIFFERENT)

    def _show(self, done: Applied, dry_run: bool, prune: bool) -> None:
        plan = done.plan
        for change in plan.changes:
            self.stdout.write(str(change))
        if plan.unlisted:
            self.stdout.write("Not in the file, so it stays:")
            for change in plan.unlisted:
                self.stdout.write(f"  {change}")
        for warning in plan.warnings:
            self.stderr.write(f"Warning: {warning}")
        if not plan.changes:
            self.stdout.write("Nothing to change.")
        else:
            done_or_not = "to make. Nothing was changed." if dry_run else "made."
            self.stdout.write(f"{len(plan.changes)} change(s) {done_or_not}")
        if any(not change.why for change in plan.unlisted):
            self.stdout.write("Use --prune to remove what is not in the file.")

    def _show_json(self, done: Applied, dry_run: bool) -> None:
        self.stdout.write(json.dumps(done.data | {"dry_run": dry_run}, indent=2))


def patiently(work: Callable[[], Applied]) -> Applied:
    """Do this again while other documents or many borrows have the locks, for at most ``PATIENCE``."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", None) not in NOT_NOW or time.monotonic() > end:
                raise


def read(file: Path) -> str:
    """Return the text of a file, or of standard input for ``-``. Raises CommandError."""
    try:
        if str(file) == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise CommandError(f"{file}: larger than {MAX_BYTES // 2**20} MiB")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CommandError(f"{file}: not in UTF-8") from None
