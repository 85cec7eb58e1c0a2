"""Explain faults of the database: for the log, for callers and for the terminal."""

import logging
import shutil
import sqlite3
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from django.db import DatabaseError, Error, InterfaceError, OperationalError, connection
from django.db.migrations.exceptions import InconsistentMigrationHistory, MigrationSchemaMissing

from .errors import Busy, NotMigrated, ReadOnly, Refusal, StorageFull

logger = logging.getLogger(__name__)


class Fault(Enum):
    """Why the database can't be used. The value is advice, or empty."""

    AWAY = ""
    CREDENTIALS = (
        "Check the password in DATABASE_URL. A PostgreSQL container uses POSTGRES_PASSWORD only for a new volume."
    )
    NOT_MIGRATED = "Run `python manage.py migrate`."
    READ_ONLY = "It is read-only."
    FULL = "Its disk is full."
    FORBIDDEN = "The role in DATABASE_URL lacks a privilege."


# https://www.postgresql.org/docs/current/errcodes-appendix.html
BY_SQLSTATE = {
    "28P01": Fault.CREDENTIALS,
    "42P01": Fault.NOT_MIGRATED,
    "42703": Fault.NOT_MIGRATED,
    "25006": Fault.READ_ONLY,
    "53100": Fault.FULL,
    "42501": Fault.FORBIDDEN,
    # PostgreSQL has ended a session that idled in its transaction, or a transaction that took too long.
    "25P03": Fault.AWAY,
    "25P04": Fault.AWAY,
}
# https://www.sqlite.org/rescode.html, without the extension of a code.
BY_SQLITE_NAME = {"SQLITE_READONLY": Fault.READ_ONLY, "SQLITE_FULL": Fault.FULL, "SQLITE_NOTADB": Fault.AWAY}
# Bytes by which the other files of an SQLite database grow.
SQLITE_ROOM = 64 * 1024
# A refused connection has no code, and SQLite has the same code for all mistakes in SQL.
BY_TEXT = {
    "password authentication failed": Fault.CREDENTIALS,
    "no such table": Fault.NOT_MIGRATED,
    "no such column": Fault.NOT_MIGRATED,
}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _sqlite_has_no_room() -> bool:
    """Return whether the disk of the SQLite database is full.

    Then its shared memory and its log fail with an I/O error.
    """
    folder = Path(connection.settings_dict["NAME"]).absolute().parent
    return folder.is_dir() and shutil.disk_usage(folder).free < SQLITE_ROOM


def fault(error: BaseException) -> Fault | None:
    """Return why the database can't be used, or None for a defect of this program."""
    for link in _chain(error):
        if (known := BY_SQLSTATE.get(getattr(link, "sqlstate", None) or "")) is not None:
            return known
        if isinstance(link, sqlite3.Error):
            name = "_".join((getattr(link, "sqlite_errorname", None) or "").split("_")[:2])
            if name in BY_SQLITE_NAME:
                return BY_SQLITE_NAME[name]
            if name == "SQLITE_IOERR" and _sqlite_has_no_room():
                return Fault.FULL
        if isinstance(link, (Error, sqlite3.Error)):
            for text, known in BY_TEXT.items():
                if text in str(link):
                    return known
    away = (OperationalError, InterfaceError, MigrationSchemaMissing, InconsistentMigrationHistory, sqlite3.Error)
    return Fault.AWAY if isinstance(error, away) else None


def reason(error: BaseException) -> str:
    """Return the fault in one line for administrators. It names hosts and roles."""
    known = fault(error)
    # For a statement only the first line matters; for several hosts each has a line.
    # Lines that begin with a tab are guesses of libpq.
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    if "All failures were:" in str(error):
        lines = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    elif not any(line.startswith(("connection ", "failed to ")) for line in lines):
        lines = lines[:1]
    said = "; ".join(dict.fromkeys(" ".join(line.split()) for line in lines)) or type(error).__name__
    advice = known.value if known else ""
    return f"{said.rstrip('.')}.{' ' if advice else ''}{advice}"


def refusal(error: DatabaseError | InterfaceError) -> Refusal:
    """Return the refusal for callers. Nothing was changed, unless the connection broke in the commit.

    Closes a connection that is read-only.
    """
    kinds: dict[Fault | None, type[NotMigrated | ReadOnly | StorageFull]] = {
        Fault.NOT_MIGRATED: NotMigrated,
        Fault.READ_ONLY: ReadOnly,
        Fault.FULL: StorageFull,
    }
    known = fault(error)
    if known is Fault.READ_ONLY and not connection.in_atomic_block:
        # A session that began on a standby stays read-only. The next call opens another one.
        connection.close()
    return kinds.get(known, Busy)()


def log_failure(refusal: Refusal) -> None:
    """Log the database's error if it caused a refusal that is answered."""
    if isinstance(error := refusal.__cause__, (DatabaseError, InterfaceError)):
        logger.warning("Answered %s: %s", refusal.code, reason(error))
