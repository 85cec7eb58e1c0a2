"""Who borrowed, waited or returned for somebody else."""

from django.db import migrations, models

from ._online import LockTables


class Migration(migrations.Migration):
    dependencies = [("licenses", "0011_failures_under_way")]

    operations = [
        LockTables("lease", "ticket"),
        migrations.AddField(
            model_name="lease",
            name="borrowed_by",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                help_text="The account or token that borrowed it for its user; empty = the user.",
                max_length=300,
            ),
        ),
        migrations.AddField(
            model_name="lease",
            name="ended_by",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                help_text="The account or token that ended it, if that was not its user.",
                max_length=300,
            ),
        ),
        migrations.AddField(
            model_name="ticket",
            name="borrowed_by",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                editable=False,
                help_text="The account or token that joined the queue for its user; empty = the user.",
                max_length=300,
            ),
        ),
        # The choices are not in the database: the table stays as it is, with its triggers.
        migrations.AlterField(
            model_name="auditrecord",
            name="action",
            field=models.CharField(
                choices=[
                    ("created", "Created"),
                    ("changed", "Changed"),
                    ("deleted", "Deleted"),
                    ("revoked", "Revoked"),
                    ("force_returned", "Force-returned"),
                    ("borrowed", "Borrowed"),
                    ("renewed", "Renewed"),
                    ("returned", "Returned"),
                    ("queued", "Queued"),
                    ("left", "Left the queue"),
                ],
                max_length=16,
            ),
        ),
        migrations.AlterField(
            model_name="auditrecord",
            name="subject_kind",
            field=models.CharField(
                choices=[
                    ("tool", "Tool"),
                    ("lease", "Lease"),
                    ("ticket", "Ticket of the queue"),
                    ("team", "Team"),
                    ("member", "Member of a team"),
                    ("allotment", "Quota or reservation"),
                    ("access_rule", "Access rule"),
                    ("user_limit", "User limit"),
                    ("token", "API token"),
                    ("account", "Account"),
                    ("identity", "Identity"),
                ],
                max_length=16,
            ),
        ),
    ]
