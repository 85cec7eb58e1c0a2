"""Print the site as a document for ``manage.py apply``."""

from typing import Any

from django.core.management.base import BaseCommand

from licenses.site.writer import exported


class Command(BaseCommand):
    help = "Print the tools, contracts, teams, members and rules of this site as a TOML file for `manage.py apply`."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(exported(), ending="")
