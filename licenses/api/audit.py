"""Show the audit records over the API, to administrators."""

from typing import Any

import django_filters
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers, viewsets

from licenses.models import Action, ActorKind, AuditedKind, AuditRecord

from .common.filters import TextFilter, within_calendar
from .common.pagination import StablePagination
from .common.queries import StrictQuery
from .permissions import MayReadAudit


class AuditSerializer(serializers.ModelSerializer[AuditRecord]):
    """One change."""

    before = serializers.SerializerMethodField(help_text="The fields before the change. Durations are in seconds.")
    after = serializers.SerializerMethodField(help_text="The fields after the change.")

    class Meta:
        model = AuditRecord
        fields = [
            "id",
            "recorded_at",
            "actor_kind",
            "actor",
            "origin",
            "action",
            "subject_kind",
            "subject",
            "before",
            "after",
            "note",
        ]
        read_only_fields = fields

    @extend_schema_field(serializers.DictField())
    def get_before(self, record: AuditRecord) -> dict[str, Any]:
        before: dict[str, Any] = record.before
        return before

    @extend_schema_field(serializers.DictField())
    def get_after(self, record: AuditRecord) -> dict[str, Any]:
        after: dict[str, Any] = record.after
        return after


class AuditFilter(django_filters.FilterSet):
    """Filter audit records. Times are ISO 8601."""

    actor = TextFilter(max_length=255)
    actor_kind = django_filters.ChoiceFilter(choices=ActorKind.choices)
    action = django_filters.ChoiceFilter(choices=Action.choices)
    subject_kind = django_filters.ChoiceFilter(choices=AuditedKind.choices)
    subject = TextFilter(max_length=400)
    recorded_after = django_filters.IsoDateTimeFilter(
        field_name="recorded_at", lookup_expr="gte", validators=[within_calendar]
    )
    recorded_before = django_filters.IsoDateTimeFilter(
        field_name="recorded_at", lookup_expr="lt", validators=[within_calendar]
    )

    class Meta:
        model = AuditRecord
        fields: list[str] = []


class AuditPagination(StablePagination):
    ordering = ("-recorded_at", "-id")


class AuditViewSet(StrictQuery, viewsets.ReadOnlyModelViewSet[AuditRecord]):
    """Show changes and who made them, the latest first. For administrators."""

    queryset = AuditRecord.objects.order_by("-recorded_at", "-id")
    serializer_class = AuditSerializer
    filterset_class = AuditFilter
    pagination_class = AuditPagination
    permission_classes = [MayReadAudit]
    lookup_value_converter = "int"
