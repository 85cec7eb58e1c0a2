"""Let some members lead their team, and managers read reports.

The group is made here and not by the server, so that a group that an administrator deletes stays deleted.
"""

from django.db import migrations, models

GROUP = "managers"
PERMISSIONS = [
    ("usageday", "view_reports", "Can view reports of use and cost"),
    ("tool", "view_tool", "Can view tool"),
    ("contract", "view_contract", "Can view contract"),
    ("team", "view_team", "Can view team"),
]


def add_managers(apps, schema_editor):
    """Create the group with its permissions. Django creates permissions only after all migrations."""
    Group = apps.get_model("auth", "Group")
    Permission = apps.get_model("auth", "Permission")
    ContentType = apps.get_model("contenttypes", "ContentType")
    # A group of this name that exists already is somebody's own.
    if Group.objects.filter(name=GROUP).exists():
        return
    group = Group.objects.create(name=GROUP)
    for model, codename, name in PERMISSIONS:
        kind, _ = ContentType.objects.get_or_create(app_label="licenses", model=model)
        permission, _ = Permission.objects.get_or_create(content_type=kind, codename=codename, defaults={"name": name})
        group.permissions.add(permission)


class Migration(migrations.Migration):

    dependencies = [
        ("licenses", "0024_device_login"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.AddField(
            model_name="teammember",
            name="is_lead",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Sees the use and the cost of the team.",
                verbose_name="team lead",
            ),
        ),
        migrations.AlterModelOptions(
            name="usageday",
            options={"permissions": [("view_reports", "Can view reports of use and cost")]},
        ),
        migrations.RunPython(add_managers, migrations.RunPython.noop, elidable=True),
    ]
