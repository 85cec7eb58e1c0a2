"""Filters for several lists of the admin."""

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest


class TypedFilter(admin.SimpleListFilter):
    """Filter by one typed value of the field ``parameter_name``, which has too many values to list."""

    parameter_name: str
    template = "admin/licenses/typed_filter.html"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        # Django hides a filter without choices.
        return [("", "")]

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        others = changelist.get_filters_params().items()
        yield {
            "value": self.value() or "",
            "others": [(name, value) for name, values in others if name != self.parameter_name for value in values],
            "without": changelist.get_query_string(remove=[self.parameter_name]),
        }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        try:
            value = forms.CharField(required=False).clean(self.value())
        except ValidationError as error:
            raise IncorrectLookupParameters from error
        return queryset.filter(**{self.parameter_name: value}) if value else queryset


class NamedValues(admin.AllValuesFieldListFilter):
    """Filter by a value of a field. The empty value has a name too."""

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """Yield the choices of the filter."""
        for choice in super().choices(changelist):
            yield choice | {"display": choice["display"] if str(choice["display"]) else "(none)"}
