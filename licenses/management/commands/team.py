"""List teams and import their members from a CSV file."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db import IntegrityError, transaction

from licenses import auditing
from licenses.auditing import Actor
from licenses.management.base import ServerCommand
from licenses.models import Team, TeamMember

HEADER = ["team", "user"]


class Command(ServerCommand):
    help = "List teams and import their members from a CSV file."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        every = actions.add_parser("list", help="show the teams")
        every.add_argument("--members", action="store_true", help="also show the members and the source of each")
        load = actions.add_parser(
            "import",
            help="import the members from a CSV file with the columns team and user. Remove members from an earlier "
            "file who are not in it. Keep members from the admin and the sign-in provider",
        )
        load.add_argument("file", type=Path, help="the CSV file")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        actions: dict[str, Callable[..., None]] = {"list": self.list, "import": self.load}
        actions[action](**options)

    def list(self, *, members: bool, **_: Any) -> None:
        for team in Team.objects.prefetch_related("members"):
            people = team.members.all()
            self.stdout.write(f"{team.name}\t{len(people)}\t{team.display_name}")
            for member in people if members else ():
                self.stdout.write(f"\t{member.user}\t{member.source}")

    def load(self, *, file: Path, **_: Any) -> None:
        try:
            with file.open(encoding="utf-8-sig", newline="") as lines, transaction.atomic():
                changes = TeamMember.objects.follow_file(pairs(csv.reader(lines)))
                auditing.membership(changes, by=Actor.of_command("team import"))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise CommandError(f"{file}: {error}") from None
        except ValidationError as error:
            raise CommandError(f"{file}: {'; '.join(error.messages)}") from None
        except IntegrityError:
            raise CommandError(f"{file}: somebody else changed the same teams at the same time; try again") from None
        self.stdout.write(f"{file}: {len(changes.joined)} added, {len(changes.left)} removed")


def pairs(rows: Iterator[list[str]]) -> Iterator[tuple[str, str]]:
    """Yield the team and user of each row. Raises ValidationError with the row's number."""
    if next(rows, None) != HEADER:
        raise ValidationError(f"line 1: the header must be {','.join(HEADER)}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(HEADER) or not all(row):
            raise ValidationError(f"line {number}: write a team and a user")
        yield row[0], row[1]
