"""Back up an SQLite database while the server runs."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import connection

from licenses.clock import database_now
from licenses.management.base import ServerCommand
from licenses.models import Lease


class Command(ServerCommand):
    help = (
        "Copy the SQLite database to a new file while the server runs. The copy contains everything that was "
        "answered before it began. It also contains password hashes, so only its owner can read it. "
        "For PostgreSQL use its own programs (docs/howto/backup.md)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="the new file; it must not exist")

    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        if connection.vendor != "sqlite":
            raise CommandError("The database is PostgreSQL. Back it up with its own programs (docs/howto/backup.md).")
        began = database_now()
        part = file.with_name(file.name + ".part")
        try:
            # Create the file private and exclusive. Its name marks it as unfinished.
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise CommandError(f"{part} can't be written: {error.strerror}") from None
        try:
            if file.exists():
                raise CommandError(f"{file} exists. Nothing was written.")
            open_leases = self._copy(part)
            part.replace(file)
            _flush(file.parent)
        except (OSError, sqlite3.Error) as error:
            raise CommandError(f"The backup failed: {error}") from None
        finally:
            part.unlink(missing_ok=True)
        self.stdout.write(
            f"{file}: {file.stat().st_size} bytes, {open_leases} open lease(s), as of {began.isoformat()} or later"
        )

    def _copy(self, part: Path) -> int:
        """Copy the database. Return the number of open leases in the copy."""
        connection.ensure_connection()
        with closing(sqlite3.connect(part)) as copy:
            # Copy in one step: a single snapshot, which does not block writers.
            connection.connection.backup(copy)
            # Without a write-ahead log the copy is one file.
            copy.execute("PRAGMA journal_mode = DELETE")
            (verdict,) = copy.execute("PRAGMA integrity_check").fetchone()
            if verdict != "ok":
                raise CommandError(f"The copy is damaged. The database may be damaged too: {verdict}")
            count = f"SELECT count(*) FROM {Lease._meta.db_table} WHERE ended_at IS NULL"  # noqa: S608
            (open_leases,) = copy.execute(count).fetchone()
        _flush(part)
        return int(open_leases)


def _flush(path: Path) -> None:
    """Wait until the file is on the disk and survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
