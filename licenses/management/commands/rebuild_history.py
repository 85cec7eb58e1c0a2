"""Roll up the past anew."""

from typing import Any

from django.core.management.base import BaseCommand

from licenses.history import rollups


class Command(BaseCommand):
    help = (
        "Roll up the history anew, of every day whose leases are still there. For after something else than this "
        "program has changed leases of the past; reports are right while it works."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"{rollups.rebuild()} day(s) rolled up")
