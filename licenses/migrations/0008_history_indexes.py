"""Indexes for the history, and for what forgets it."""

from django.db import migrations, models

from ._online import AddIndexOnline


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
