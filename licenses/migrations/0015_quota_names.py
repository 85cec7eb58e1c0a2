"""What people call an allotment; no statement."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("licenses", "0014_members_in_any_case"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="allotment",
            options={
                "ordering": ["tool__name", "team__name"],
                "verbose_name": "quota and reservation",
                "verbose_name_plural": "quotas and reservations",
            },
        ),
    ]
