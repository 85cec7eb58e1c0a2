"""The team that a refused borrow would have counted for."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("licenses", "0015_quota_names")]

    operations = [
        migrations.AddField(
            model_name='denial',
            name='team',
            field=models.ForeignKey(blank=True, db_index=False, help_text='Which the borrow would have counted for.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='licenses.team'),
        ),
    ]
