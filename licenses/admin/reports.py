"""Show reports in the admin: of all tools, of one tool, and each report of the catalog as a table."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from licenses.access.rules import VIEW_LEASES, VIEW_REPORTS
from licenses.clock import database_now
from licenses.history import reports, whatif
from licenses.history.catalog import REPORTS
from licenses.history.declarations import (
    Answer,
    Choice,
    Column,
    Limits,
    Parameter,
    Report,
    RowParameter,
    Seats,
    TooLarge,
    Words,
)
from licenses.history.reports import Period, Recent, Span, Utilization
from licenses.history.tables import Table, amount, duration, percent
from licenses.leases import capacity
from licenses.models import Tool
from licenses.names import TOOL_NAME_PATTERN, distinguished
from licenses.policy.rules import BORROW_REFUSALS

from . import plots

# With more bars a plot is too dense.
MAX_BARS = 124
# Rows of a list of the largest users. The CSV has all.
MOST = 15
# The most borrows that a page replays. This takes 1 to 2 seconds.
MAX_DEMANDS = 50_000
MAX_CAPACITIES = 6
# Rows of a table. The CSV has all.
MAX_ROWS = 500
# The end of the name of a column with a duration.
SECONDS = "_seconds"
LIMITS = Limits(rows=20_000, borrows=MAX_DEMANDS)


class SpanForm(forms.Form):
    """Ask for the days and the time zone."""

    since = forms.DateField(required=False, widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(required=False, widget=forms.DateInput(attrs={"type": "date"}))
    tz = forms.CharField(required=False, max_length=64, label="Time zone", widget=forms.TextInput(attrs={"size": 18}))

    def clean_tz(self) -> Any:
        try:
            return reports.time_zone(self.cleaned_data["tz"] or settings.LICENSE_TIME_ZONE)
        except ValueError as error:
            raise ValidationError(str(error)) from None

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not self.errors:
            try:
                cleaned["span"] = Span.between(cleaned["since"], cleaned["until"], cleaned["tz"])
            except ValueError as error:
                raise ValidationError(str(error)) from None
        return cleaned

    def span(self) -> Span:
        """Return the days of the form, or the default."""
        default = reports.time_zone(settings.LICENSE_TIME_ZONE)
        span: Span = self.cleaned_data["span"] if self.is_valid() else Span.between(None, None, default)
        return span


class SeatsField(forms.CharField):
    """Numbers of seats, separated by commas."""

    def __init__(self, asked: Seats, **options: Any) -> None:
        widget = forms.TextInput(attrs={"size": 12, "placeholder": "4,5,6"})
        super().__init__(max_length=80, required=False, widget=widget, **options)
        self.asked = asked

    def clean(self, value: Any) -> list[int] | None:
        text = super().clean(value).replace(" ", "")
        try:
            return self.asked.read(text) if text else None
        except ValueError as error:
            raise ValidationError(str(error)) from None


class ToolSpanForm(SpanForm):
    """Ask also for the capacities to try."""

    capacity = SeatsField(Seats(name="capacity", at_most=MAX_CAPACITIES), label="What if: capacities")


def _field(asked: Parameter) -> forms.Field:
    """Return the field of a form that reads a parameter of a report."""
    label = asked.name.capitalize()
    match asked:
        case RowParameter():
            rows: Any = asked.model._default_manager
            shown = distinguished({name: text or name for name, text in rows.values_list("name", "display_name")})
            choices = [*([] if asked.required else [("", "all")]), *shown.items()]
            return forms.ChoiceField(label=label, choices=choices, required=False)
        case Choice():
            return forms.ChoiceField(label=label, choices=[(word, word) for word in asked.among], required=False)
        case Words():
            return forms.MultipleChoiceField(
                label=label,
                choices=[(word, word) for word in asked.among],
                required=False,
                widget=forms.CheckboxSelectMultiple,
            )
        case Seats():
            return SeatsField(asked, label=label)
    raise NotImplementedError(type(asked))


def _form(report: Report) -> type[SpanForm]:
    """Return the form of a report."""
    return type(f"{report.component}Form", (SpanForm,), {asked.name: _field(asked) for asked in report.asks})


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one tool."""

    tool: Tool
    capacity: int
    peak: int
    share: float | None
    full_for: timedelta
    usage: reports.Usage | None
    denials: reports.Denials | None


def require_reader(request: HttpRequest) -> None:
    """Raise PermissionDenied for a user who may view neither reports nor leases."""
    if not may_read(request):
        raise PermissionDenied


def may_read(request: HttpRequest) -> bool:
    """Return whether a user may view reports. The permission to view leases includes it."""
    may = getattr(request.user, "has_perm", lambda permission: False)
    return may(VIEW_REPORTS) or may(VIEW_LEASES)


def sees_people(request: HttpRequest) -> bool:
    """Return whether a user may see what single people did."""
    return bool(getattr(request.user, "has_perm", lambda permission: False)(VIEW_LEASES))


def overview(request: HttpRequest) -> HttpResponse:
    """Show the use, cost and refusals of all tools."""
    require_reader(request)
    form = SpanForm(request.GET)
    span = form.span()
    tools = sorted(Tool.objects.all(), key=lambda tool: (str(tool).casefold(), tool.name))
    recent, now = Recent.read(), database_now()
    months: dict[str, list[Utilization]] = {}
    for row in reports.utilization(tools=tools, span=span, period=Period.MONTH, recent=recent):
        months.setdefault(row.tool, []).append(row)
    usage = {row.key["tool"]: row for row in reports.usage(by=["tool"], span=span, recent=recent)}
    denials = {row.key["tool"]: row for row in reports.denials(by=["tool"], span=span, recent=recent)}
    summaries = [
        _summary(
            tool,
            months.get(tool.name, []),
            min(span.end, now) - span.start,
            usage.get(tool.name),
            denials.get(tool.name),
        )
        for tool in tools
    ]
    context = {
        "title": "Reports",
        "summaries": summaries,
        "names": distinguished({tool.name: str(tool) for tool in tools}),
        "reports": REPORTS,
        "sees_people": sees_people(request),
    }
    return page(request, "admin/licenses/reports.html", form, span, context)


def _summary(
    tool: Tool, months: list[Utilization], past: timedelta, usage: reports.Usage | None, denials: reports.Denials | None
) -> Summary:
    capacity = max((row.capacity for row in months), default=tool.capacity)
    seat_time = usage.seat_time if usage else timedelta(0)
    return Summary(
        tool=tool,
        capacity=capacity,
        peak=max((row.peak for row in months), default=0),
        share=seat_time / past / capacity if capacity and past > timedelta(0) else None,
        full_for=sum((row.full_for for row in months if row.full_for), timedelta(0)),
        usage=usage,
        denials=denials,
    )


def one_tool(request: HttpRequest, name: str) -> HttpResponse:
    """Show one tool: use by day, hour of the week and user, refusals, and other capacities."""
    require_reader(request)
    tool = Tool.objects.filter(name=name).first() if re.fullmatch(TOOL_NAME_PATTERN, name) else None
    if tool is None:
        raise Http404
    capacity.show([tool], database_now())
    form = ToolSpanForm(request.GET)
    span = form.span()
    period = next(period for period in (Period.HOUR, Period.DAY, Period.MONTH) if span.length(period) <= MAX_BARS)
    recent = Recent.read()
    found = reports.utilization(tools=[tool], span=span, period=period, recent=recent)
    context = {
        "title": f"Reports: {tool}",
        "tool": tool,
        "period": period,
        "plot": plots.plot(found),
        "full_for": sum((row.full_for for row in found if row.full_for), timedelta(0)),
        "week": plots.heat_map(reports.hours_of_week(tool=tool, span=span, recent=recent), tool.capacity),
        "hours": range(24),
        "denials": reports.denials(by=["code"], span=span, tool=tool, recent=recent),
        "lists": [
            (key, rows[:MOST], len(rows), query_of(span, tz=span.zone.key, tool=tool.name, by=key, format="csv"))
            for key in ("team", "project", *(["user"] if sees_people(request) else []))
            for rows in [reports.usage(by=[key], span=span, tool=tool, recent=recent)]
        ],
    }
    return page(request, "admin/licenses/report.html", form, span, context | _what_if(form, tool, span))


def one_report(request: HttpRequest, name: str) -> HttpResponse:
    """Show a report of the catalog as a table."""
    require_reader(request)
    report = next((report for report in REPORTS if report.name == name), None)
    if report is None:
        raise Http404
    if not sees_people(request):
        report = report.without_people()
    form = _form(report)(request.GET)
    span = form.span()
    question = _question(report, form)
    answer = _answer(report, form, span, question)
    given = {name: value for name, value in question.items() if value is not None}
    texts = {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in given.items()}
    context = {
        "title": report.title,
        "report": report,
        "columns": [
            (column.name.removesuffix(SECONDS).replace("_", " "), _is_number(column))
            for column in report.shown(question)
        ],
        "rows": _cells(report.shown(question), answer.table.rows[:MAX_ROWS]),
        "total": len(answer.table.rows),
        "notes": answer.notes,
        "csv": f"{reverse(f'report-{report.name}')}?{query_of(span, tz=span.zone.key, **texts, format='csv')}",
    }
    # The boxes that are checked are a list, and all other fields texts.
    asked = texts | {asked.name: question[asked.name] for asked in report.asks if isinstance(asked, Words)}
    return page(request, report.template, form, span, context, asked)


@dataclass(frozen=True, slots=True)
class Cell:
    """A value of a report: as in its CSV, and as people read it."""

    value: str
    text: str
    is_number: bool


def _cells(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> list[list[Cell]]:
    """Return the cells of each row."""
    names = Tool.objects.all().display_names() if any(column.name == "tool" for column in columns) else {}
    return [
        [
            Cell(_plain(row[column.name]), _text(column, row[column.name], names), _is_number(column))
            for column in columns
        ]
        for row in rows
    ]


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def _is_amount(column: Column) -> bool:
    return column.name == "price" or column.name.endswith("cost")


def _is_number(column: Column) -> bool:
    return _is_amount(column) or column.kind in (int, float)


def _text(column: Column, value: Any, names: Mapping[str, str]) -> str:
    """Write a value of a report for people."""
    if value is None:
        return "—"
    if column.share:
        return percent(value)
    if _is_amount(column):
        return amount(Decimal(value))
    if column.name.endswith(SECONDS):
        return duration(timedelta(seconds=value))
    if column.kind is float:
        return f"{value:,.1f}"
    if column.kind is int:
        return f"{value:,}"
    if column.name == "code":
        return BORROW_REFUSALS[value].title if value in BORROW_REFUSALS else value
    return names.get(value, value) if column.name == "tool" else str(value)


def _question(report: Report, form: SpanForm) -> dict[str, Any]:
    """Return what the form asks; the first tool where one is required."""
    question = report.question({asked.name: form.cleaned_data.get(asked.name) for asked in report.asks})
    for asked in report.asks:
        if isinstance(asked, RowParameter) and asked.required and question[asked.name] is None:
            choices: Any = form.fields[asked.name]
            question[asked.name] = next((name for name, _ in choices.choices), None)
    return question


def _answer(report: Report, form: SpanForm, span: Span, question: dict[str, Any]) -> Answer:
    """Return the report; without rows if the form is not valid, the report too large, or there is no tool."""
    if form.is_valid() and all(question[asked.name] is not None for asked in report.asks if asked.required):
        try:
            return report.answer(span, question, LIMITS)
        except TooLarge as error:
            form.add_error("since", f"{error} manage.py usage_report has no limit.")
    return Answer(Table([column.name for column in report.shown(question)], []), {}, [])


def _what_if(form: SpanForm, tool: Tool, span: Span) -> dict[str, Any]:
    asked = form.cleaned_data.get("capacity") if form.is_valid() else None
    around = range(max(tool.capacity - 2, 0), tool.capacity + 3)
    try:
        recorded, outcomes = whatif.replay(tool=tool, capacities=asked or around, span=span, at_most=MAX_DEMANDS)
    except whatif.TooMuch:
        return {"too_much": MAX_DEMANDS}
    return {"recorded": recorded, "outcomes": outcomes}


def query_of(span: Span, **more: str) -> str:
    return urlencode({"since": span.first, "until": span.last, **more})


def page(
    request: HttpRequest,
    template: str,
    form: SpanForm,
    span: Span,
    context: dict[str, Any],
    asked: Mapping[str, Any] = MappingProxyType({}),
) -> HttpResponse:
    """Return a page with its form, which shows what was asked: the days, and ``asked``."""
    days = {"since": span.first.isoformat(), "until": span.last.isoformat(), "tz": span.zone.key}
    if form.is_valid():
        form = type(form)({**request.GET.dict(), **asked, **days})
    else:
        # Keep its errors, and what was given; show what was used for the rest.
        given = {name: text for name, text in request.GET.items() if text and not isinstance(asked.get(name), list)}
        form.data = {**days, **asked, **given}
    more = {
        "form": form,
        "span": span,
        "query": query_of(span, tz=span.zone.key),
        "currency": settings.LICENSE_CURRENCY,
    }
    return render(
        request, template, admin.site.each_context(request) | more | context, status=200 if form.is_valid() else 400
    )
