"""Contracts of tools."""

from typing import Any

import django_filters
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from licenses.errors import OutOfDate, UnknownRow, UnknownTool
from licenses.models import Contract
from licenses.tools import contracts

from .common.fields import (
    CleanTextField,
    DayField,
    MoneyField,
    SeatsField,
    StrictIntegerField,
    StrictSerializer,
    ToolNameField,
)
from .common.filters import TextFilter
from .common.openapi import refused_by
from .common.writing import ETAG, IF_MATCH, RowsViewSet, deleted_by, example

FIRST_DAY = "UTC. The first valid day; null: valid already."
LAST_DAY = "UTC. The last valid day; null: no end."
# What needs the right to see prices.
PRIVATE = ("price", "reference", "note")


class ContractSerializer(serializers.ModelSerializer[Contract]):
    """Seats that were bought for some days."""

    tool = serializers.CharField(source="tool.name", read_only=True)

    class Meta:
        model = Contract
        fields = ["id", "tool", "seats", "first_day", "last_day", "price", "reference", "note", "source"]
        read_only_fields = fields


class ContractOfTool(serializers.ModelSerializer[Contract]):
    """A contract of a tool, in the tool."""

    price = serializers.DecimalField(
        max_digits=14,
        decimal_places=2,
        required=False,
        allow_null=True,
        help_text="Of the whole contract. Absent without the right to see prices, as the reference and the note.",
    )
    reference = serializers.CharField(required=False, help_text="The vendor's reference.")
    note = serializers.CharField(required=False)

    class Meta:
        model = Contract
        fields = ["id", "seats", "first_day", "last_day", "price", "reference", "note"]
        read_only_fields = ["id", "seats", "first_day", "last_day"]

    def to_representation(self, contract: Contract) -> dict[str, Any]:
        data = super().to_representation(contract)
        return data if self.context.get("may_see_prices") else {k: v for k, v in data.items() if k not in PRIVATE}


class ContractFields(StrictSerializer):
    """The fields of a contract to change. Those that are left out stay."""

    seats = SeatsField(required=False)
    first_day = DayField(required=False, allow_null=True, help_text=FIRST_DAY)
    last_day = DayField(required=False, allow_null=True, help_text=LAST_DAY)
    price = MoneyField(
        max_digits=14, decimal_places=2, required=False, allow_null=True, help_text="Of the whole contract."
    )
    reference = CleanTextField(required=False, allow_blank=True, max_length=128, help_text="The vendor's reference.")
    note = CleanTextField(required=False, allow_blank=True, max_length=255)


class NewContract(ContractFields):
    """A new contract of a tool."""

    tool = ToolNameField(max_length=64)
    seats = SeatsField()


class ContractToPut(ContractFields):
    """A contract in the list of a tool."""

    id = StrictIntegerField(required=False, min_value=0, max_value=2**63 - 1, help_text="Ignored.")
    seats = SeatsField()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in attrs.items() if name != "id"}


class ContractFilter(django_filters.FilterSet):
    tool = TextFilter(field_name="tool__name", max_length=64)

    class Meta:
        model = Contract
        fields: list[str] = []


class ContractViewSet(RowsViewSet):
    """Contracts: seats of a tool that were bought for some days. The capacity of the tool follows them."""

    model = Contract
    queryset = Contract.objects.select_related("tool").order_by("pk")
    serializer_class = ContractSerializer
    filterset_class = ContractFilter
    lookup_value_regex = "[0-9]{1,18}"

    def list(self, request: Request) -> Response:
        """List the contracts of all tools, or of one."""
        return self.pages(self.filter_queryset(self.get_queryset()))

    @extend_schema(parameters=[ETAG])
    def retrieve(self, request: Request, pk: int) -> Response:
        """Show a contract."""
        return self.shown(self.get_object())

    @extend_schema(
        parameters=[ETAG],
        request=NewContract,
        examples=example(
            "More seats", {"tool": "mesher", "seats": 3, "last_day": "2027-12-31", "reference": "PO-4711"}
        ),
        responses={201: ContractSerializer} | refused_by(UnknownTool, OutOfDate),
    )
    def create(self, request: Request) -> Response:
        """Give a tool another contract. Not idempotent: to retry safely, put the contracts of the tool."""
        values = self.body(NewContract)
        done = contracts.add(tool=values.pop("tool"), values=values, by=self.actor, check=self.check())
        return self.shown(self.get_queryset().get(pk=done.row.pk), is_new=True)

    @extend_schema(
        parameters=[ETAG, IF_MATCH],
        request=ContractFields,
        examples=example("A renewal", {"last_day": "2027-12-31", "price": "1250.00"}),
        responses={200: ContractSerializer} | refused_by(UnknownRow, OutOfDate),
    )
    def update(self, request: Request, pk: int) -> Response:
        """Change a contract. Fields that are left out stay."""
        values = self.body(ContractFields, same={"tool": self.get_object().tool.name})
        contracts.change(key=int(pk), values=values, by=self.actor, check=self.check())
        return self.shown(self.get_object())

    @extend_schema(parameters=[IF_MATCH], responses=deleted_by(UnknownRow))
    def destroy(self, request: Request, pk: int) -> Response:
        """Delete a contract. Reports forget it; to end it, set its last day."""
        contracts.remove(key=int(pk), by=self.actor, check=self.check())
        return Response(status=204)
