"""What a restored database needs, once, before the server is started on it."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand

from licenses.leases import expiry
from licenses.models import Lease, Tool


class Command(BaseCommand):
    help = (
        "Run once after you restore a backup, or after a failover that lost answered calls. Makes sure that no fence "
        "is used twice, and shows how long clients can still work with leases that this database does not know "
        "(docs/howto/backup.md)."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        expiry.skip_fences()
        self.stdout.write("Fences go on above all that were given out.")
        newest = Lease.objects.newest_first().values_list("borrowed_at", flat=True).first()
        self.stdout.write(f"The last lease in here is of {newest.isoformat() if newest else 'never'}.")
        self.stdout.write(
            "Holders that this database doesn't know end without a heartbeat, after its last answer to them:"
        )
        for tool in Tool.objects.order_by("name"):
            longest = tool.default_ttl if tool.max_ttl is None else tool.max_ttl
            self.stdout.write(f"  {tool.name}: {_told(longest, limited=tool.max_ttl is not None)}")


def _told(longest: timedelta | None, *, limited: bool) -> str:
    if longest is None:
        return "not by themselves"
    return f"after {longest}" + ("" if limited else ", or longer where the borrower asked for that")
