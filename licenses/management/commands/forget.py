"""Delete old rows, or the names in them."""

from datetime import UTC, timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser

from licenses.clock import database_now
from licenses.history import retention
from licenses.management.base import ServerCommand


class Command(ServerCommand):
    help = (
        "Delete leases, tickets and denials that ended more than DAYS days ago, or remove the names of people and "
        "hosts from them. Delete old notifications too. Reports keep their figures. The audit does not change."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--older-than", type=int, required=True, metavar="DAYS", help="1 to 36500")
        parser.add_argument(
            "--anonymize", "--anonymise", action="store_true", help="remove names, also from the usage by day"
        )
        parser.add_argument("--delete", action="store_true", help="delete the rows")

    def handle(self, *args: Any, older_than: int, anonymize: bool, delete: bool, **options: Any) -> None:
        if not 1 <= older_than <= 36500:
            raise CommandError("--older-than must be 1 to 36500 days.")
        if not (anonymize or delete):
            raise CommandError("Give --anonymize, --delete or both.")
        before = (database_now() - timedelta(days=older_than)).astimezone(UTC).date()
        if anonymize:
            done = retention.anonymize(before=before)
            self.stdout.write(
                f"names removed from {done.leases} lease(s), {done.tickets} ticket(s), {done.denials} denial(s), "
                f"and from the usage of {done.days} day(s); {done.notifications} notification(s) deleted"
            )
        if delete:
            done = retention.delete(before=before)
            self.stdout.write(
                f"{done.leases} lease(s), {done.tickets} ticket(s), {done.denials} denial(s), "
                f"{done.notifications} notification(s) deleted"
            )
