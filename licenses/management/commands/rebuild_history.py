"""Roll up the history again."""

from typing import Any

from licenses.history import rollups
from licenses.management.base import ServerCommand


class Command(ServerCommand):
    help = (
        "Roll up again every day whose leases still exist. Run it after another program changed old leases. "
        "Reports stay correct while it runs."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"{rollups.rebuild()} day(s) rolled up")
