"""Prepare a restored database, once, before the server starts on it."""

from datetime import timedelta
from typing import Any

from licenses.leases import expiry
from licenses.management.base import ServerCommand
from licenses.models import Lease, Tool


class Command(ServerCommand):
    help = (
        "Run once after you restore a backup, or after a failover that lost answered calls. Makes sure that no fence "
        "is used twice, and shows how long clients can still work with leases that this database does not know "
        "(docs/howto/backup.md)."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        expiry.skip_fences()
        self.stdout.write("New fences are higher than all earlier ones.")
        newest = Lease.objects.newest_first().values_list("borrowed_at", flat=True).first()
        self.stdout.write(f"The newest lease in this database: {newest.isoformat() if newest else 'none'}.")
        self.stdout.write(
            "Clients whose leases this database does not know can work for this time after their last heartbeat:"
        )
        for tool in Tool.objects.order_by("name"):
            longest = tool.default_ttl if tool.max_ttl is None else tool.max_ttl
            self.stdout.write(f"  {tool.name}: {_limit(longest, limited=tool.max_ttl is not None)}")


def _limit(longest: timedelta | None, *, limited: bool) -> str:
    if longest is None:
        return "without a limit"
    return f"{longest}" + ("" if limited else ", or longer if the borrow asked for that")
