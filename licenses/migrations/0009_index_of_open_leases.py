"""Who holds the seats of a tool, however long the tool's history is."""

from django.db import migrations, models

from ._online import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("licenses", "0008_history_indexes")]

    operations = [
        AddIndexOnline(
            model_name='lease',
            index=models.Index(condition=models.Q(('ended_at__isnull', True)), fields=['tool', '-borrowed_at', '-id'], name='lease_open_by_tool'),
        ),
    ]
