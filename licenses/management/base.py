"""The base of this server's commands."""

from django.core.checks import Tags
from django.core.management.base import BaseCommand


class ServerCommand(BaseCommand):
    """A command that starts without Django's checks of pages.

    These import every page, which takes as long as the rest of the start, and depend only on the code:
    ``manage.py check`` runs them. Wrong settings stop a command without them.
    """

    requires_system_checks = [Tags.database]
