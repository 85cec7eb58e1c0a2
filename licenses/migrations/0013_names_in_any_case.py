"""Tools and teams whose names of users and hosts match in any case."""

from django.db import migrations, models

from ._online import LockTables


class Migration(migrations.Migration):

    dependencies = [("licenses", "0012_acting_for_others")]

    operations = [
        LockTables("tool", "team"),
        migrations.AddField(
            model_name='team',
            name='ignores_case',
            field=models.BooleanField(db_default=False, default=False, help_text='The names of its members match in any case.'),
        ),
        migrations.AddField(
            model_name='tool',
            name='ignores_case',
            field=models.BooleanField(db_default=False, default=False, help_text='The names of users and hosts in its access rules and limits match in any case.'),
        ),
    ]
