"""Migrations while people work."""

import random
import time
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

# PostgreSQL's codes for a lock that was not had in time, and for a deadlock.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
NOT_NOW = {"55P03", "40P01"}
# A migration that waits for a table keeps out all who come after it. This is below
# deadlock_timeout (1 s): where a migration and a borrow wait for each other it is
# always the migration that gives way.
LOCK_TIMEOUT = "500ms"
# Seconds until it tries again, at random, and how long it does so.
PAUSE = (0.2, 1.0)
PATIENCE = 600
# Of the advisory lock that lets one migrate at a time: any number that nobody else has.
ONE_AT_A_TIME = 0x6C69_6365_6E63_65


class Command(migrate.Command):
    help = (
        migrate.Command.help + " On PostgreSQL while the server is at work: what can't have a table at once lets the "
        "requests pass and tries again, for ten minutes at most."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        connection = connections[options["database"]]
        # A pooler would give what is set here to other clients.
        if connection.vendor != "postgresql" or settings.LICENSE_DB_POOLER:
            super().handle(*args, **options)
            return
        deadline = time.monotonic() + PATIENCE
        while not self._tried(connection, *args, **options):
            if time.monotonic() > deadline:
                raise CommandError("The tables were in use all the time; what was migrated stays so. Try again.")
            self.stderr.write("A table is in use; trying again.")
            time.sleep(random.uniform(*PAUSE))  # noqa: S311

    def _tried(self, connection: BaseDatabaseWrapper, *args: Any, **options: Any) -> bool:
        """Migrate as far as the locks are had; whether that was all the way."""
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_lock(%s)", [ONE_AT_A_TIME])
            super().handle(*args, **options)
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", None) not in NOT_NOW:
                raise
            return False
        finally:
            # Both end with the session, and so they do if that is gone.
            if connection.is_usable():
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_unlock_all()")
                    cursor.execute("RESET lock_timeout")
        return True
