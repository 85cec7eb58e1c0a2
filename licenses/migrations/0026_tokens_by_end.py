"""Tokens that end soon, however many have ended."""

from django.db import migrations, models

from ._online import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("licenses", "0025_managers_and_leads")]

    operations = [
        AddIndexOnline(
            model_name='apitoken',
            index=models.Index(condition=models.Q(('revoked_at__isnull', True)), fields=['expires_at'], name='apitoken_valid_by_end'),
        ),
    ]
