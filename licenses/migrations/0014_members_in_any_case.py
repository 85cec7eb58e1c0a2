"""Who is in a team whose names match in any case."""

from django.db import migrations, models
from django.db.models.functions import Lower

from ._online import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("licenses", "0013_names_in_any_case")]

    operations = [
        AddIndexOnline(
            model_name='teammember',
            index=models.Index(Lower('user'), name='teammember_by_user_any_case'),
        ),
    ]
