"""What an account's credentials are bound to, and names that were bound once.

No new reference is a constraint: accounts and sessions that the previous version
deletes meanwhile must not be held up. A token keeps the number of an account that is
gone, and is good for nothing by that.
"""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models.functions import Now


def bind_tokens(apps, schema_editor):
    """Let each user's token belong to the account of that name, where there is one."""
    ApiToken = apps.get_model('licenses', 'ApiToken')
    User = apps.get_model('auth', 'User')
    account = User.objects.filter(username=models.OuterRef('user')).values('pk')
    ApiToken.objects.exclude(user='').update(account=models.Subquery(account))


def revoke_ownerless(apps, schema_editor):
    """The previous version knows tokens by their user's name, and needs a maker that
    is there: what would come back to life is revoked."""
    ApiToken = apps.get_model('licenses', 'ApiToken')
    User = apps.get_model('auth', 'User')
    here = User.objects.filter(pk=models.OuterRef('account'), username=models.OuterRef('user'))
    gone = ApiToken.objects.filter(account__isnull=False).exclude(models.Exists(here))
    made = User.objects.filter(pk=models.OuterRef('created_by'))
    orphans = ApiToken.objects.filter(created_by__isnull=False).exclude(models.Exists(made))
    for tokens in (gone, orphans.filter(may_administer=True)):
        tokens.filter(revoked_at__isnull=True).update(revoked_at=Now())
    orphans.update(created_by=None)


class Migration(migrations.Migration):

    dependencies = [
        ('licenses', '0016_team_of_denials'),
        ('sessions', '0001_initial'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='RetiredName',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=150, unique=True)),
                ('folded', models.CharField(db_index=True, editable=False, help_text='Without case and form.', max_length=300)),
                ('account_id', models.BigIntegerField(editable=False)),
                ('issuer', models.CharField(blank=True, max_length=255)),
                ('subject', models.CharField(blank=True, max_length=255)),
                ('retired_at', models.DateTimeField()),
            ],
            options={
                'ordering': ['name'],
            },
        ),
        migrations.AddField(
            model_name='apitoken',
            name='account',
            field=models.ForeignKey(db_constraint=False, editable=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AlterField(
            model_name='apitoken',
            name='created_by',
            field=models.ForeignKey(db_constraint=False, editable=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AlterField(
            model_name='auditrecord',
            name='action',
            field=models.CharField(choices=[('created', 'Created'), ('changed', 'Changed'), ('deleted', 'Deleted'), ('revoked', 'Revoked'), ('force_returned', 'Force-returned'), ('ended', 'Ended'), ('borrowed', 'Borrowed'), ('renewed', 'Renewed'), ('returned', 'Returned'), ('queued', 'Queued'), ('left', 'Left the queue')], max_length=16),
        ),
        migrations.AlterField(
            model_name='auditrecord',
            name='subject_kind',
            field=models.CharField(choices=[('tool', 'Tool'), ('lease', 'Lease'), ('ticket', 'Ticket of the queue'), ('team', 'Team'), ('member', 'Member of a team'), ('allotment', 'Quota or reservation'), ('access_rule', 'Access rule'), ('user_limit', 'User limit'), ('token', 'API token'), ('account', 'Account'), ('identity', 'Identity'), ('group', 'Group'), ('retired_name', 'Retired name'), ('jwt_caller', 'JWT caller')], max_length=16),
        ),
        migrations.CreateModel(
            name='AccountSession',
            fields=[
                ('session', models.OneToOneField(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='+', serialize=False, to='sessions.session')),
                ('account', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='JwtCaller',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('issuer', models.CharField(max_length=255)),
                ('subject', models.CharField(max_length=255)),
                ('name', models.CharField(max_length=255)),
                ('folded', models.CharField(editable=False, max_length=300, unique=True)),
                ('bound_at', models.DateTimeField(db_default=Now(), editable=False)),
            ],
            options={
                'verbose_name': 'JWT caller',
                'ordering': ['name'],
                'constraints': [models.UniqueConstraint(fields=('issuer', 'subject'), name='jwtcaller_has_one_name')],
            },
        ),
        migrations.RunPython(bind_tokens, revoke_ownerless),
    ]
