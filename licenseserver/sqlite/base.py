"""The database backend for ``ENGINE = "licenseserver.sqlite"``."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.db.backends.sqlite3.base import SQLiteCursorWrapper
from django_prometheus.db.backends.sqlite3 import base

from licenseserver import private
from licenseserver.counting import counted

# Statements that are kept as SQLite takes them at most.
CONVERTED = 1000
_converted: dict[str, str] = {}


class Cursor(SQLiteCursorWrapper):
    def convert_query(self, query: str, *, param_names: list[str] | None = None) -> str:
        """Return a statement as SQLite takes it, with ``?`` for ``%s``. Each text is converted once."""
        if param_names is not None:
            return super().convert_query(query, param_names=param_names)
        if (converted := _converted.get(query)) is None:
            converted = super().convert_query(query)
            if len(_converted) < CONVERTED:
                _converted[query] = converted
        return converted


class DatabaseWrapper(base.DatabaseWrapper):
    CURSOR_CLASS = Cursor
    # Which file the connection is to, by its device and number.
    file: tuple[int, int] | None = None

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect. Create a new database that only its owner can read, whatever the umask. SQLite gives its
        -wal and -shm files the same permissions."""
        name = str(conn_params["database"])
        if not name.startswith((":", "file:")):
            # SQLite reports what is wrong with the file.
            with suppress(OSError):
                private.create(Path(name))
        connection = super().get_new_connection(conn_params)
        self.file = self._file_now()
        return connection

    def close_if_unusable_or_obsolete(self) -> None:
        """Close a connection that broke, or whose file is no longer the database: moved away, or replaced."""
        if self.connection is not None and not self.in_atomic_block and self._file_now() != self.file:
            self.close()
        super().close_if_unusable_or_obsolete()

    def _file_now(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.settings_dict["NAME"])  # noqa: PTH116 - asked twice a request: a third of Path's time
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def create_cursor(self, name: str | None = None) -> Any:
        return self.connection.cursor(factory=counted(self.CURSOR_CLASS, self.alias, self.vendor))
