"""Filters for several lists of the admin."""

from collections.abc import Iterator
from datetime import UTC, timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.db.models import DateTimeField, QuerySet
from django.http import HttpRequest
from django.utils.safestring import mark_safe

from licenses.clock import database_now
from licenses.models import Team, Tool
from licenses.names import distinguished


class TypedFilter(admin.SimpleListFilter):
    """Filter by one typed value of the field ``parameter_name``, which has too many values to list."""

    parameter_name: str
    lookup = ""
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
        return queryset.filter(**{self.lookup or self.parameter_name: value}) if value else queryset


class DefaultedFilter(admin.SimpleListFilter):
    """Filter by ``default`` unless another value is chosen."""

    parameter_name: str
    default: str

    def value(self) -> str:
        """Return the chosen value, or the default."""
        return super().value() or self.default

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """Yield the values. Django would put "All" first, and select it."""
        for value, title in self.lookup_choices:
            yield {
                "selected": self.value() == value,
                "query_string": changelist.get_query_string({self.parameter_name: value}),
                "display": title,
            }


class NamedValues(admin.AllValuesFieldListFilter):
    """Filter by a value of a field. The empty value has a name too."""

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """Yield the choices of the filter."""
        for choice in super().choices(changelist):
            yield choice | {"display": choice["display"] if str(choice["display"]) else "(none)"}


class NamedRelations(admin.RelatedFieldListFilter):
    """Filter by a related row, in the order of the names for people. No row has a name too."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.empty_value_display = mark_safe("(none)")

    def field_choices(self, field: Any, *args: Any) -> Any:
        """Return the related rows, each a key and a name. Two tools or teams can have the same display name."""
        shown = {key: str(text) for key, text in super().field_choices(field, *args)}
        if field.related_model in {Tool, Team}:
            names = dict(field.related_model.objects.filter(pk__in=shown).values_list("name", "pk"))
            apart = distinguished({name: shown[key] for name, key in names.items()})
            return [(names[name], text) for name, text in apart.items()]
        return sorted(shown.items(), key=lambda choice: choice[1].casefold())


class UsedRelations(NamedRelations, admin.RelatedOnlyFieldListFilter):
    """Filter by a related row that a row of the list has."""


admin.FieldListFilter.register(lambda field: bool(field.remote_field), NamedRelations, take_priority=True)


class EndsFilter(admin.SimpleListFilter):
    """Filter by the days until a row ends. ``field`` is its last day, in UTC, or the moment of its end."""

    title = "end"
    parameter_name = "ends"
    field: str
    within = (7, 30, 60, 90)

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        field = model_admin.model._meta.get_field(self.field)
        self.of_moments = isinstance(field, DateTimeField)
        days = [(str(number), f"Within {number} days") for number in self.within]
        return [*days, ("ended", "Ended"), *([("never", "No end")] if field.null else [])]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if value not in dict(self.lookup_choices):
            return queryset
        if value == "never":
            return queryset.filter(**{f"{self.field}__isnull": True})
        now: Any = database_now() if self.of_moments else database_now().astimezone(UTC).date()
        # A row is still valid on its last day, but not at the moment of its end.
        ended, valid = ("lte", "gt") if self.of_moments else ("lt", "gte")
        if value == "ended":
            return queryset.filter(**{f"{self.field}__{ended}": now})
        until = now + timedelta(days=int(value))
        return queryset.filter(**{f"{self.field}__{valid}": now, f"{self.field}__lte": until})
