"""Print the site as a document for ``manage.py apply``."""

from typing import Any

from licenses.management.base import ServerCommand
from licenses.site.writer import exported


class Command(ServerCommand):
    help = "Print the tools, contracts, teams, members and rules of this site as a TOML file for `manage.py apply`."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(exported(), ending="")
