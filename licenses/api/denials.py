"""Refused borrows."""

from typing import Any

import django_filters
from rest_framework import serializers, viewsets

from licenses.access.rules import names_on_denials
from licenses.models import Denial
from licenses.names import NAME_LENGTH

from .authentication import caller_of
from .common.filters import TextFilter, within_calendar
from .common.pagination import StablePagination
from .common.queries import StrictQuery
from .permissions import HasScope, MayReadDenials


class DenialSerializer(serializers.ModelSerializer[Denial]):
    """An episode of refusals of one kind."""

    tool = serializers.CharField(source="tool.name")
    resolved_by = serializers.UUIDField(source="resolved_by_id", allow_null=True, help_text="The lease that ended it.")

    class Meta:
        model = Denial
        fields = [
            "id",
            "tool",
            "user",
            "host",
            "code",
            "seats",
            "first_at",
            "last_at",
            "attempts",
            "resolved_at",
            "resolved_by",
        ]
        read_only_fields = fields


class DenialFilter(django_filters.FilterSet):
    """Filters of the list of denials; times are ISO 8601."""

    tool = TextFilter(field_name="tool__name", max_length=64)
    user = TextFilter(max_length=NAME_LENGTH)
    code = TextFilter(max_length=32)
    resolved = django_filters.ChoiceFilter(choices=[("true", "true"), ("false", "false")], method="filter_resolved")
    after = django_filters.IsoDateTimeFilter(field_name="last_at", lookup_expr="gte", validators=[within_calendar])
    before = django_filters.IsoDateTimeFilter(field_name="first_at", lookup_expr="lt", validators=[within_calendar])

    class Meta:
        model = Denial
        fields: list[str] = []

    def filter_resolved(self, denials: Any, name: str, value: str) -> Any:
        return denials.filter(resolved_at__isnull=value == "false")


class DenialPagination(StablePagination):
    ordering = ("-last_at", "-id")


class DenialViewSet(StrictQuery, viewsets.ReadOnlyModelViewSet[Denial]):
    """Refused borrows: one row for each episode, the latest first. Administrators see all, others their own."""

    queryset = Denial.objects.select_related("tool").order_by("-last_at", "-id")
    serializer_class = DenialSerializer
    filterset_class = DenialFilter
    pagination_class = DenialPagination
    permission_classes = [HasScope, MayReadDenials]
    lookup_value_converter = "int"

    def filter_queryset(self, queryset: Any) -> Any:
        return super().filter_queryset(queryset.filter(names_on_denials(caller_of(self.request)).rows()))
