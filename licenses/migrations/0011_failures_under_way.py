"""Attempts to sign in that are under way count too."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("licenses", "0010_longer_names")]

    operations = [
        migrations.AddField(
            model_name="failurecount",
            name="pending",
            field=models.PositiveIntegerField(db_default=0, default=0),
        ),
    ]
