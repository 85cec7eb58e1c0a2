"""Fields of admin forms."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.autocomplete import AutocompleteJsonView
from django.contrib.admin.widgets import AdminSplitDateTime, AutocompleteSelect
from django.http import HttpRequest


class SearchedSelect(AutocompleteSelect):
    """Select a row of another table with a search.

    Django's widget fails on a value that cannot be a key.
    """

    def optgroups(self, name: str, value: Any, attr: Any = None) -> Any:
        """Return the selected choices."""
        return super().optgroups(name, [key for key in value if str(key).isdecimal() and len(str(key)) < 19], attr)


class BothNames(AutocompleteJsonView):
    """Answer a search with both names of a tool or a team: two can have the same display name."""

    def serialize_result(self, obj: Any, to_field_name: str) -> dict[str, str]:
        found: dict[str, str] = super().serialize_result(obj, to_field_name)
        return found | ({"text": f"{obj} ({obj.name})"} if getattr(obj, "display_name", "") else {})


class LabeledInputs(admin.ModelAdmin[Any]):
    """Give both inputs of a time their own label."""

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **options)
        if field is not None and isinstance(field.widget, AdminSplitDateTime):
            for part, name in zip(field.widget.widgets, ("date", "time"), strict=True):
                part.attrs["aria-label"] = f"{field.label}, {name}"
        return field
