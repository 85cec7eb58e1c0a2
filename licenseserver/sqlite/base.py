"""The database backend for ``ENGINE = "licenseserver.sqlite"``."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from django_prometheus.db.backends.sqlite3 import base

from licenseserver import private
from licenseserver.counting import counted


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect. Create a new database that only its owner can read, whatever the umask. SQLite gives its
        -wal and -shm files the same permissions."""
        name = str(conn_params["database"])
        if not name.startswith((":", "file:")):
            # SQLite reports what is wrong with the file.
            with suppress(OSError):
                private.create(Path(name))
        return super().get_new_connection(conn_params)

    def create_cursor(self, name: str | None = None) -> Any:
        return self.connection.cursor(factory=counted(self.CURSOR_CLASS, self.alias, self.vendor))
