"""Change tables while the server works with them.

A migration that uses ``AddIndexOnline`` is not atomic. A migration that alters several
tables of a borrow begins with ``LockTables``. ``manage.py migrate`` repeats a migration
that did not get its locks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.migrations.operations.base import Operation


@contextmanager
def _patience(cursor: Any) -> Iterator[None]:
    """Wait for locks without a limit inside the block.

    CREATE INDEX CONCURRENTLY waits for all earlier transactions, and no transaction waits for
    it.
    """
    if settings.LICENSE_DB_POOLER:
        # A setting of this session could reach another client.
        yield
        return
    cursor.execute("SHOW lock_timeout")
    (before,) = cursor.fetchone()
    cursor.execute("SET lock_timeout = 0")
    try:
        yield
    finally:
        cursor.execute("SELECT set_config('lock_timeout', %s, false)", [before])


class AddIndexOnline(AddIndexConcurrently):
    """Add an index to a table that grows with every borrow, while borrows go on.

    PostgreSQL keeps writers out while it creates an index within a transaction. This takes
    seconds for a million leases. SQLite has no other way.
    """

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor != "postgresql":
            migrations.AddIndex.database_forwards(self, app_label, schema_editor, from_state, to_state)
            return
        with schema_editor.connection.cursor() as cursor:
            # An earlier attempt may have created it, or left an invalid index.
            cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [self.index.name])
            made = cursor.fetchone()
            if made == (True,):
                return
            if made:
                cursor.execute(f'DROP INDEX CONCURRENTLY "{self.index.name}"')
            with _patience(cursor):
                super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_backwards(app_label, schema_editor, from_state, to_state)
        else:
            migrations.AddIndex.database_backwards(self, app_label, schema_editor, from_state, to_state)


class WidenText(migrations.AlterField):
    """Lengthen a CharField, in a migration that is not atomic.

    So it holds one table at a time and only for a moment, because PostgreSQL copies no row. It
    does rebuild an index with a condition, and locks the table while it reads all rows. So such
    an index is dropped first and created again online.

    SQLite stores texts of any length in any text column.
    """

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor != "postgresql":
            return
        partial = self._partial_indexes(to_state.apps.get_model(app_label, self.model_name))
        with schema_editor.connection.cursor() as cursor, _patience(cursor):
            for index in partial:
                cursor.execute(f'DROP INDEX CONCURRENTLY IF EXISTS "{index.name}"')
        super().database_forwards(app_label, schema_editor, from_state, to_state)
        for index in partial:
            online = AddIndexOnline(self.model_name, index)
            online.database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_backwards(app_label, schema_editor, from_state, to_state)

    def _partial_indexes(self, model: type[models.Model]) -> list[models.Index]:
        """Return the indexes with a condition that have this field."""
        partial = [index for index in model._meta.indexes if index.condition is not None]
        return [index for index in partial if self.name in dict(index.fields_orders)]


class LockTables(Operation):
    """Lock the tables of these models in the order in which a borrow locks them.

    Otherwise a migration can hold the leases and wait for the tool, while every borrow holds
    the tool and waits for the leases.
    """

    reduces_to_sql = True
    reversible = True

    def __init__(self, *models: str) -> None:
        self.models = models

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change nothing."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            for name in self.models:
                table = from_state.apps.get_model(app_label, name)._meta.db_table
                schema_editor.execute(f'LOCK TABLE "{table}" IN ACCESS EXCLUSIVE MODE')

    database_backwards = database_forwards

    def describe(self) -> str:
        return f"Lock {', '.join(self.models)}"
