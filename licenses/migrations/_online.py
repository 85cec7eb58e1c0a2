"""Changes to tables that people work with meanwhile.

A migration that uses ``AddIndexOnline`` is not atomic. One that alters several
tables that a borrow needs begins with ``LockTables``. ``manage.py migrate`` tries
again what could not have its locks.
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
    """Without a limit to how long a lock is waited for: an index that is made
    concurrently waits for whoever began before it, and nobody waits for it."""
    if settings.LICENSE_DB_POOLER:
        # What is set here could meet another client.
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
    """An index on a table that grows with every borrow, made while these go on.

    On PostgreSQL an index that is made within a transaction keeps writers out
    until it is done, which takes seconds for a million leases. SQLite knows no
    other way.
    """

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor != "postgresql":
            migrations.AddIndex.database_forwards(self, app_label, schema_editor, from_state, to_state)
            return
        with schema_editor.connection.cursor() as cursor:
            # A try before this one may have made it, or have left half of it.
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
    """A CharField with more room, in a migration that isn't atomic: so it holds one
    table at a time, and only for a moment, since PostgreSQL copies no row for it.

    It does rebuild an index with a condition, and reads the whole table for that
    while nobody can use it. Such an index is dropped first and made again online.

    SQLite keeps texts of any length, whatever the column's type says.
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
    """Lock these models' tables, in the order in which a borrow comes to them.

    Otherwise a migration may have the leases and wait for the tool, while every
    borrow has the tool and waits for the leases.
    """

    reduces_to_sql = True
    reversible = True

    def __init__(self, *models: str) -> None:
        self.models = models

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Nothing changes."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            for name in self.models:
                table = from_state.apps.get_model(app_label, name)._meta.db_table
                schema_editor.execute(f'LOCK TABLE "{table}" IN ACCESS EXCLUSIVE MODE')

    database_backwards = database_forwards

    def describe(self) -> str:
        return f"Lock {', '.join(self.models)}"
