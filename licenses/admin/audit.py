"""Show the audit in the admin, read-only."""

import json

from django.contrib import admin

from licenses.models import AuditRecord

from .filters import TypedFilter
from .read_only import ReadOnlyAdmin


class ActorFilter(TypedFilter):
    title = parameter_name = "actor"


class SubjectFilter(TypedFilter):
    title = parameter_name = "subject"


@admin.register(AuditRecord)
class AuditAdmin(ReadOnlyAdmin):
    list_display = [
        "recorded_at",
        "actor",
        "action",
        "subject_kind",
        "subject",
        "changes",
        "note",
        "origin",
        "actor_kind",
    ]
    fields = [
        "recorded_at",
        "actor",
        "actor_kind",
        "origin",
        "action",
        "subject_kind",
        "subject",
        "before",
        "after",
        "note",
    ]
    list_filter = ["subject_kind", SubjectFilter, "action", "actor_kind", ActorFilter, "recorded_at"]
    search_fields = ["actor", "origin", "subject", "before", "after", "note"]
    date_hierarchy = "recorded_at"

    @admin.display
    def changes(self, record: AuditRecord) -> str:
        """Return the changes, such as ``capacity: 5 -> 9``."""
        sides = (record.before, record.after)
        told = {
            name: [json.dumps(values[name], ensure_ascii=False) for values in sides if name in values]
            for name in record.before | record.after
        }
        return "; ".join(f"{name}: {' -> '.join(values)}" for name, values in told.items())
