"""The table of audit records, and triggers that keep it append-only.

The triggers refuse what the model refuses too, for whoever comes past it: an
UPDATE, a DELETE, PostgreSQL's TRUNCATE, and SQLite's INSERT OR REPLACE, which
deletes without telling the trigger for deletes. They are in no model's state:
what alters the table on SQLite, where that copies it, has to make them again.
"""

import django.core.serializers.json
from django.db import migrations, models


TABLE = "licenses_auditrecord"
MESSAGE = "audit records are append-only"
CREATE = {
    "postgresql": [
        f"""
        CREATE FUNCTION licenses_audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '{MESSAGE}' USING ERRCODE = 'restrict_violation';
        END $$
        """,
        f"""
        CREATE TRIGGER licenses_audit_keeps_rows BEFORE UPDATE OR DELETE ON {TABLE}
        FOR EACH ROW EXECUTE FUNCTION licenses_audit_is_append_only()
        """,
        f"""
        CREATE TRIGGER licenses_audit_keeps_all BEFORE TRUNCATE ON {TABLE}
        FOR EACH STATEMENT EXECUTE FUNCTION licenses_audit_is_append_only()
        """,
    ],
    "sqlite": [
        f"""
        CREATE TRIGGER licenses_audit_keeps_from_update BEFORE UPDATE ON {TABLE}
        BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END
        """,
        f"""
        CREATE TRIGGER licenses_audit_keeps_from_delete BEFORE DELETE ON {TABLE}
        BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END
        """,
        f"""
        CREATE TRIGGER licenses_audit_keeps_from_replace BEFORE INSERT ON {TABLE}
        WHEN EXISTS (SELECT 1 FROM {TABLE} WHERE id = NEW.id)
        BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END
        """,
    ],
}
DROP = {
    "postgresql": [
        f"DROP TRIGGER licenses_audit_keeps_all ON {TABLE}",
        f"DROP TRIGGER licenses_audit_keeps_rows ON {TABLE}",
        "DROP FUNCTION licenses_audit_is_append_only()",
    ],
    "sqlite": [
        "DROP TRIGGER licenses_audit_keeps_from_replace",
        "DROP TRIGGER licenses_audit_keeps_from_delete",
        "DROP TRIGGER licenses_audit_keeps_from_update",
    ],
}


def create_triggers(apps, schema_editor):
    for statement in CREATE[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


def drop_triggers(apps, schema_editor):
    for statement in DROP[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


class Migration(migrations.Migration):

    dependencies = [
        ('licenses', '0005_quotas_and_reservations'),
    ]

    operations = [
        migrations.CreateModel(
            name='AuditRecord',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('recorded_at', models.DateTimeField(editable=False, help_text="By the database's clock.")),
                ('actor_kind', models.CharField(choices=[('account', 'Account'), ('token', 'API token'), ('jwt', 'JWT of the provider'), ('sign_in', 'Sign-in at the provider'), ('command', 'Command'), ('anonymous', 'Nobody known')], max_length=16)),
                ('actor', models.CharField(blank=True, help_text="The account's name, the token's number, the command's OS user.", max_length=255)),
                ('origin', models.CharField(help_text="The client's address, or the command's name.", max_length=255)),
                ('action', models.CharField(choices=[('created', 'Created'), ('changed', 'Changed'), ('deleted', 'Deleted'), ('revoked', 'Revoked'), ('force_returned', 'Force-returned')], max_length=16)),
                ('subject_kind', models.CharField(choices=[('tool', 'Tool'), ('lease', 'Lease'), ('team', 'Team'), ('member', 'Member of a team'), ('allotment', 'Quota or reservation'), ('access_rule', 'Access rule'), ('user_limit', 'User limit'), ('token', 'API token'), ('account', 'Account'), ('identity', 'Identity')], max_length=16)),
                ('subject', models.CharField(help_text='Its name; of a lease or a token, its id.', max_length=400)),
                ('before', models.JSONField(default=dict, encoder=django.core.serializers.json.DjangoJSONEncoder, help_text='What changed, as it was.')),
                ('after', models.JSONField(default=dict, encoder=django.core.serializers.json.DjangoJSONEncoder, help_text='What changed, as it is since.')),
                ('note', models.CharField(blank=True, help_text='The reason, where one was given.', max_length=255)),
            ],
            options={
                'ordering': ['-recorded_at', '-pk'],
                'indexes': [models.Index(fields=['-recorded_at', '-id'], name='audit_newest_first'), models.Index(fields=['subject_kind', 'subject', '-recorded_at'], name='audit_by_subject'), models.Index(fields=['actor', '-recorded_at'], name='audit_by_actor')],
            },
        ),
        migrations.RunPython(create_triggers, drop_triggers),
    ]
