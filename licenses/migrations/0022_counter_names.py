"""Rename the fields of counters to the words of the API. The columns stay, so this runs no SQL,
and the previous version works on."""

from django.db import migrations, models
from django.db.migrations.operations.base import Operation
from django.db.models import F, Q


def rename(model: str, old: str, new: str, **options: int) -> list[Operation]:
    """Return the operations that rename a field and keep its column."""
    kept = models.PositiveIntegerField(default=0, editable=False, db_column=old, **options)
    return [
        migrations.AlterField(model_name=model, name=old, field=kept),
        migrations.RenameField(model_name=model, old_name=old, new_name=new),
    ]


class Migration(migrations.Migration):
    dependencies = [("licenses", "0021_notifications")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                # A renamed field leaves the conditions of constraints as they were.
                migrations.RemoveConstraint(model_name="tool", name="tool_in_use_not_negative"),
                migrations.RemoveConstraint(model_name="tool", name="tool_kept_back_is_reserved"),
                migrations.RemoveConstraint(model_name="allotment", name="allotment_in_use_not_negative"),
                *rename("tool", "in_use", "borrowed"),
                *rename("tool", "kept_back", "reserved_idle", db_default=0),
                *rename("allotment", "in_use", "borrowed"),
                migrations.AddConstraint(
                    model_name="tool",
                    constraint=models.CheckConstraint(condition=Q(borrowed__gte=0), name="tool_in_use_not_negative"),
                ),
                migrations.AddConstraint(
                    model_name="tool",
                    constraint=models.CheckConstraint(
                        condition=Q(reserved_idle__gte=0, reserved_idle__lte=F("reserved")),
                        name="tool_kept_back_is_reserved",
                    ),
                ),
                migrations.AddConstraint(
                    model_name="allotment",
                    constraint=models.CheckConstraint(
                        condition=Q(borrowed__gte=0), name="allotment_in_use_not_negative"
                    ),
                ),
            ]
        )
    ]
