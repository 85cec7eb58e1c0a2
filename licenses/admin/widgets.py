"""Fields of the admin's forms."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.widgets import AdminSplitDateTime, AutocompleteSelect
from django.http import HttpRequest


class SearchedSelect(AutocompleteSelect):
    """A row of another table, searched for while one types.

    Django's own fails on a value that can't be a key, in an address or a form.
    """

    def optgroups(self, name: str, value: Any, attr: Any = None) -> Any:
        """Return the choices that are chosen."""
        return super().optgroups(name, [key for key in value if str(key).isdecimal() and len(str(key)) < 19], attr)


class LabelledInputs(admin.ModelAdmin[Any]):
    """Gives both inputs of a time a label of their own."""

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **options)
        if field is not None and isinstance(field.widget, AdminSplitDateTime):
            for part, name in zip(field.widget.widgets, ("date", "time"), strict=True):
                part.attrs["aria-label"] = f"{field.label}, {name}"
        return field
