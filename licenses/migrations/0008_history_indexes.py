"""Indexes on tables that grow with every borrow, made while these go on.

On PostgreSQL an index that is made within a transaction keeps writers out until
it is done, which takes seconds for a million leases. SQLite knows no other way.
"""

from typing import Any

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class AddIndexOnline(AddIndexConcurrently):
    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)
        else:
            migrations.AddIndex.database_forwards(self, app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_backwards(app_label, schema_editor, from_state, to_state)
        else:
            migrations.AddIndex.database_backwards(self, app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("licenses", "0007_history")]

    operations = [
        AddIndexOnline(
            model_name='lease',
            index=models.Index(condition=models.Q(('ended_at__isnull', False)), fields=['ended_at'], name='lease_by_end'),
        ),
        AddIndexOnline(
            model_name='ticket',
            index=models.Index(condition=models.Q(('closed_at__isnull', False)), fields=['closed_at'], name='ticket_by_close'),
        ),
        AddIndexOnline(
            model_name='borrowkey',
            index=models.Index(condition=models.Q(('lease__isnull', False)), fields=['lease'], name='borrowkey_by_lease'),
        ),
        AddIndexOnline(
            model_name='borrowkey',
            index=models.Index(condition=models.Q(('ticket__isnull', False)), fields=['ticket'], name='borrowkey_by_ticket'),
        ),
        AddIndexOnline(
            model_name='denial',
            index=models.Index(condition=models.Q(('resolved_by__isnull', False)), fields=['resolved_by'], name='denial_by_lease'),
        ),
        AddIndexOnline(
            model_name='ticket',
            index=models.Index(condition=models.Q(('lease__isnull', False)), fields=['lease'], name='ticket_by_lease'),
        ),
    ]
