"""Migrate while the server works."""

import random
import time
from typing import Any

from django.conf import settings
from django.core.checks import Tags
from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

# PostgreSQL's codes for a lock timeout and for a deadlock.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
NOT_NOW = {"55P03", "40P01"}
# A migration that waits for a table blocks all later requests. This is below
# deadlock_timeout (1 s), so in a deadlock with a borrow the migration gives way.
LOCK_TIMEOUT = "500ms"
# Seconds of the random pause between tries, and of all tries together.
PAUSE = (0.2, 1.0)
PATIENCE = 600
# The number of the advisory lock that lets only one process migrate. Any unused number works.
ONE_AT_A_TIME = 0x6C69_6365_6E63_65


class Command(migrate.Command):
    # The others are about pages, and import them.
    requires_system_checks = [Tags.models, Tags.database]
    help = (
        migrate.Command.help + " On PostgreSQL it can run while the server works: a migration that does not get a "
        "table's lock at once lets the requests pass and tries again, for at most 10 minutes."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        connection = connections[options["database"]]
        # A pooler would pass the session's settings on to other clients.
        if connection.vendor != "postgresql" or settings.LICENSE_DB_POOLER:
            super().handle(*args, **options)
            return
        deadline = time.monotonic() + PATIENCE
        while not self._tried(connection, *args, **options):
            if time.monotonic() > deadline:
                raise CommandError("The tables were in use for 10 minutes. Some migrations may be applied. Try again.")
            self.stderr.write("A table is in use. Trying again.")
            time.sleep(random.uniform(*PAUSE))  # noqa: S311

    def _tried(self, connection: BaseDatabaseWrapper, *args: Any, **options: Any) -> bool:
        """Migrate until a lock is missing. Return whether all migrations were applied."""
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
            # A lost session has lost both already.
            if connection.is_usable():
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_unlock_all()")
                    cursor.execute("RESET lock_timeout")
        return True
