"""Names of users and projects as long as those of hosts: UPNs, e-mail addresses, owner/repository."""

import licenses.models.team
from django.db import migrations, models

from ._online import WidenText


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("licenses", "0009_index_of_open_leases"),
    ]

    operations = [
        WidenText(
            model_name="apitoken",
            name="user",
            field=models.CharField(
                blank=True,
                help_text="Or: acts as this user.",
                max_length=255,
                validators=[licenses.models.team.validate_name],
            ),
        ),
        WidenText(
            model_name="borrowkey",
            name="caller",
            field=models.CharField(max_length=255),
        ),
        WidenText(
            model_name="denial",
            name="user",
            field=models.CharField(max_length=255),
        ),
        WidenText(
            model_name="lease",
            name="project",
            field=models.CharField(blank=True, db_default="", help_text="What its cost goes to.", max_length=255),
        ),
        WidenText(
            model_name="lease",
            name="user",
            field=models.CharField(max_length=255),
        ),
        WidenText(
            model_name="teammember",
            name="user",
            field=models.CharField(max_length=255, validators=[licenses.models.team.validate_name]),
        ),
        WidenText(
            model_name="ticket",
            name="project",
            field=models.CharField(blank=True, db_default="", max_length=255),
        ),
        WidenText(
            model_name="ticket",
            name="user",
            field=models.CharField(max_length=255),
        ),
        WidenText(
            model_name="usageday",
            name="project",
            field=models.CharField(blank=True, max_length=255),
        ),
        WidenText(
            model_name="usageday",
            name="user",
            field=models.CharField(blank=True, help_text="Empty where the name was taken out.", max_length=255),
        ),
        WidenText(
            model_name="userlimit",
            name="user",
            field=models.CharField(max_length=255, validators=[licenses.models.team.validate_name]),
        ),
    ]
