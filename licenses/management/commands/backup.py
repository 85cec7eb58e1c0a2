"""Back up an SQLite database while it serves."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from licenses.clock import database_now
from licenses.models import Lease


class Command(BaseCommand):
    help = (
        "Copy the SQLite database to a new file, while the server goes on: all that was answered before this begins "
        "is in it. The file is whole by itself and holds credentials' hashes: only its owner can read it. "
        "A PostgreSQL has its own programs for that (docs/howto/backup.md)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="must not exist yet")

    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        if connection.vendor != "sqlite":
            raise CommandError("The database is a PostgreSQL; back it up with its own programs (docs/howto/backup.md).")
        began = database_now()
        part = file.with_name(file.name + ".part")
        try:
            # Not to be found half written, nor to be read by others, nor written twice.
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise CommandError(f"{part} can't be written: {error.strerror}") from None
        try:
            if file.exists():
                raise CommandError(f"{file} exists already; nothing was written.")
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
        """Copy the database; the number of open leases in the copy."""
        connection.ensure_connection()
        with closing(sqlite3.connect(part)) as copy:
            # In one step: a single snapshot, which writers don't wait for.
            connection.connection.backup(copy)
            # A write-ahead log beside it could be forgotten when it is moved.
            copy.execute("PRAGMA journal_mode = DELETE")
            (verdict,) = copy.execute("PRAGMA integrity_check").fetchone()
            if verdict != "ok":
                raise CommandError(f"The copy is damaged, and so may the database be: {verdict}")
            count = f"SELECT count(*) FROM {Lease._meta.db_table} WHERE ended_at IS NULL"  # noqa: S608
            (open_leases,) = copy.execute(count).fetchone()
        _flush(part)
        return int(open_leases)


def _flush(path: Path) -> None:
    """Wait until it is on the disk, also after a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
