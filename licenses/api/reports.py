"""Serve the reports of the catalog: a query, a table as JSON or CSV, and their schema."""

import io
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar
from zoneinfo import ZoneInfo

from drf_spectacular.drainage import set_override
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import APIException, NotAuthenticated, PermissionDenied
from rest_framework.renderers import BaseRenderer, BrowsableAPIRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from licenses.access.callers import Kind
from licenses.access.rules import CHANGE_LEASES, VIEW_LEASES, may_see_costs_of, names_of_past
from licenses.errors import UnknownTool
from licenses.history.catalog import REPORTS
from licenses.history.declarations import (
    Choice,
    Column,
    Limits,
    Missing,
    Parameter,
    Report,
    Seats,
    TeamParameter,
    TooLarge,
    ToolParameter,
    Words,
)
from licenses.history.reports import UTC_ZONE, Span, time_zone
from licenses.models.tool import MAX_CAPACITY

from .authentication import caller_of
from .common import formats
from .common.fields import StrictSerializer, TeamNameField, ToolNameField
from .common.openapi import refused_by
from .common.queries import FormatNegotiation, StrictQuery

T = TypeVar("T")

# A replay of this number of borrows takes some seconds.
LIMITS = Limits(rows=20_000, borrows=100_000)
FORMATS = ("json", "csv")
WITHOUT_LIMIT = "manage.py usage_report has no limit."


class CsvRenderer(BaseRenderer):
    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"

    def render(self, data: Any, media_type: str | None = None, context: Mapping[str, Any] | None = None) -> str:
        stream = io.StringIO()
        data["table"].write_csv(stream)
        # Excel needs the byte order mark to read UTF-8.
        return "\ufeff" + stream.getvalue()


# --- Queries ----------------------------------------------------------------


@extend_schema_field(formats.TIME_ZONE)
class ZoneField(serializers.Field[ZoneInfo, str, str, Any]):
    def to_internal_value(self, data: str) -> ZoneInfo:
        return _valid(time_zone, data)


class ListField(serializers.CharField):
    """Values that are separated by commas, as a parameter of a report reads them."""

    def __init__(self, asked: Words | Seats, *words: str, max_length: int, **options: Any) -> None:
        super().__init__(max_length=max_length, **options)
        self.asked = asked
        at_most = asked.at_most if isinstance(asked, Seats) else None
        set_override(self, "field", formats.listed(*words, at_most=at_most))

    def to_representation(self, value: Any) -> str:
        return ",".join(value)

    def to_internal_value(self, data: Any) -> Any:
        return _valid(self.asked.read, super().to_internal_value(data))


def _valid(read: Callable[[str], T], text: str) -> T:
    """Return the value of a text. Raises ValidationError if ``read`` raises ValueError."""
    try:
        return read(text)
    except ValueError as error:
        raise serializers.ValidationError(str(error)) from None


class SpanQuery(StrictSerializer):
    """The days of a report. Default: the last 30."""

    since = serializers.DateField(required=False, help_text="The first day.")
    until = serializers.DateField(required=False, help_text="The last day. Default: today.")
    tz = ZoneField(
        required=False, help_text="The time zone of days, months and hours, for example Europe/Berlin. Default: UTC."
    )
    format = serializers.ChoiceField(choices=FORMATS, required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        try:
            span = Span.between(attrs.get("since"), attrs.get("until"), attrs.get("tz", UTC_ZONE))
        except ValueError as error:
            raise serializers.ValidationError({"since": str(error)}) from None
        return attrs | {"span": span}


def _field(asked: Parameter) -> serializers.Field[Any, Any, Any, Any]:
    """Return the field of a query that reads a parameter."""
    options: dict[str, Any] = {"help_text": asked.help or None, "required": asked.required}
    match asked:
        case ToolParameter():
            return ToolNameField(max_length=64, **options)
        case TeamParameter():
            return TeamNameField(max_length=64, **options)
        case Choice():
            return serializers.ChoiceField(
                choices=asked.among,
                default=asked.default,
                help_text=asked.help or None,
                error_messages={"invalid_choice": f"'{{input}}' is not one of {', '.join(asked.among)}."},
            )
        case Words():
            return ListField(asked, *asked.among, max_length=200, default=list(asked.default), help_text=asked.help)
        case Seats():
            return ListField(asked, "0?[0-9]{1,6}", str(MAX_CAPACITY), max_length=80, **options)
    raise NotImplementedError(type(asked))


def _query(report: Report) -> type[SpanQuery]:
    """Return the query of a report."""
    return type(f"{report.component}Query", (SpanQuery,), {asked.name: _field(asked) for asked in report.asks})


# --- Answers, for the schema ------------------------------------------------


def _column(column: Column, *, required: bool) -> serializers.Field[Any, Any, Any, Any]:
    options: dict[str, Any] = {"help_text": column.help or None, "required": required, "allow_null": column.nullable}
    if column.kind is int:
        return serializers.IntegerField(**options)
    if column.kind is float:
        return serializers.FloatField(**options)
    return serializers.CharField(**options) if column.kind is str else serializers.DateField(**options)


def _answer(report: Report) -> type[serializers.Serializer[Any]]:
    """Return the declaration of a report's answer."""
    row = type(
        report.row_name or f"{report.component}Row",
        (serializers.Serializer,),
        {column.name: _column(column, required=False) for column in report.keys}
        | {column.name: _column(column, required=not (column.when or column.money)) for column in report.columns},
    )
    span = {"since": serializers.DateField(), "until": serializers.DateField()}
    facts = {column.name: _column(column, required=not column.money) for column in report.facts}
    return type(f"{report.component}Answer", (serializers.Serializer,), span | facts | {"rows": row(many=True)})


# --- Views ------------------------------------------------------------------


def _refusal(request: Request, text: str) -> APIException:
    """Return the refusal of a caller who lacks a right, or sends no credential."""
    return NotAuthenticated(text) if caller_of(request).kind == Kind.ANONYMOUS else PermissionDenied(text)


class ReportView(StrictQuery, APIView):
    """Answer a query with a table, as JSON or CSV."""

    known_by_serializer = frozenset({None})

    renderer_classes = [JSONRenderer, CsvRenderer, BrowsableAPIRenderer]
    content_negotiation_class = FormatNegotiation
    report: ClassVar[Report]
    query: ClassVar[type[SpanQuery]]

    def get(self, request: Request) -> Response:
        values = self.query.validated(request.query_params.dict())
        span: Span = values["span"]
        question = self.report.question(values)
        report = self.permitted(request, question)
        try:
            answer = report.answer(span, question, LIMITS)
        except Missing as missing:
            if isinstance(missing.asked, ToolParameter):
                raise UnknownTool from None
            raise serializers.ValidationError({missing.asked.name: str(missing)}) from None
        except TooLarge as error:
            raise serializers.ValidationError({"since": f"{error} {WITHOUT_LIMIT}"}) from None
        if isinstance(getattr(request, "accepted_renderer", None), CsvRenderer):
            name = f"{self.report.component.lower()}-{span.first}-{span.last}.csv"
            return Response({"table": answer.table}, headers={"Content-Disposition": f'attachment; filename="{name}"'})
        return Response({"since": span.first, "until": span.last, **answer.facts, "rows": answer.table.rows})

    def permitted(self, request: Request, question: Mapping[str, Any]) -> Report:
        """Return the report, without money if the caller may not see costs. Raise PermissionDenied if it is about
        money as a whole then, or if it shows what single people did and the caller may not see that."""
        sees_costs = may_see_costs_of(caller_of(request), question.get("team"))
        if self.report.about_money and not sees_costs:
            raise _refusal(request, "This report needs the permission to view reports, leases or contracts.")
        personal = [column.name for column in self.report.shown(question) if column.personal]
        if personal and not names_of_past(caller_of(request), VIEW_LEASES, CHANGE_LEASES).everybody:
            others = [column.name for column in self.report.keys if not column.personal]
            hint = f" Ask by={','.join(others)}." if others else ""
            raise _refusal(request, f"A report by {personal[0]} needs the permission to view leases.{hint}")
        return self.report if sees_costs else self.report.without_money()


def _view(report: Report) -> type[ReportView]:
    """Return the view of a report, described in the schema."""
    query = _query(report)
    responses: dict[Any, Any] = {
        (200, "application/json"): _answer(report),
        (200, "text/csv"): OpenApiResponse(bytes, description="The rows, with a header."),
        **refused_by(UnknownTool),
    }
    description = "\n\n".join(filter(None, [report.summary, report.details]))
    view = type(report.component, (ReportView,), {"report": report, "query": query, "__doc__": description})
    described: type[ReportView] = extend_schema(
        parameters=[query], responses=responses, description=description, methods=["GET"]
    )(view)
    return described


VIEWS = {report.name: _view(report) for report in REPORTS}
