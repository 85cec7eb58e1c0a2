"""Fields of admin forms."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.autocomplete import AutocompleteJsonView
from django.contrib.admin.widgets import AdminSplitDateTime, AutocompleteSelect
from django.forms import ModelChoiceField
from django.http import HttpRequest


class SearchedSelect(AutocompleteSelect):
    """Select a row of another table with a search.

    Django's widget fails on a value that cannot be a key.
    """

    def optgroups(self, name: str, value: Any, attr: Any = None) -> Any:
        """Return the selected choices."""
        return super().optgroups(name, [key for key in value if str(key).isdecimal() and len(str(key)) < 19], attr)


def both_names(row: Any) -> str:
    """Return both names of a tool or a team, because two can have the same display name; of another row its text."""
    return f"{row} ({row.name})" if getattr(row, "display_name", "") else str(row)


class SearchedField(ModelChoiceField[Any]):
    """The field of a searched row. It shows the selected one with both names."""

    def label_from_instance(self, obj: Any) -> str:
        return both_names(obj)


class BothNames(AutocompleteJsonView):
    """Answer a search with both names of a tool or a team."""

    def serialize_result(self, obj: Any, to_field_name: str) -> dict[str, str]:
        found: dict[str, str] = super().serialize_result(obj, to_field_name)
        return found | {"text": both_names(obj)}


class LabeledInputs(admin.ModelAdmin[Any]):
    """Give both inputs of a time their own label."""

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **options)
        if field is not None and isinstance(field.widget, AdminSplitDateTime):
            for part, name in zip(field.widget.widgets, ("date", "time"), strict=True):
                part.attrs["aria-label"] = f"{field.label}, {name}"
        return field
