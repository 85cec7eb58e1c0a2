"""Add many rows from pasted text, one row per line.

All rows are added, or none if one is wrong.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html

from licenses.tools import texts

from .audited import AuditedAdmin
from .widgets import SearchedField, SearchedSelect

MAX_LINES = 2000
# The most wrong lines that the page lists.
MAX_LISTED = 20


class LinesForm(forms.Form):
    """Ask for the parent and the lines."""

    required_css_class = "required"
    lines = forms.CharField(widget=forms.Textarea(attrs={"rows": 20, "cols": 80}), strip=True)

    def __init__(self, data: Any, *, rows: "LinesAdmin", **options: Any) -> None:
        super().__init__(data, **options)
        field: Any = rows.model._meta.get_field(rows.parent)
        widget = SearchedSelect(field, rows.admin_site)
        parents = SearchedField(field.related_model._default_manager.all(), widget=widget)
        self.fields = {rows.parent: parents, **self.fields}
        self.fields["lines"].help_text = f"{rows.line_help} At most {MAX_LINES:,} lines."
        self.rows = rows

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not self.errors:
            lines = [line.strip() for line in cleaned["lines"].splitlines()]
            if len(lines) > MAX_LINES:
                raise ValidationError(f"Add at most {MAX_LINES:,} lines at once, not {len(lines):,}.")
            cleaned["rows"] = self._parsed(cleaned[self.rows.parent], lines)
        return cleaned

    def _parsed(self, parent: Model, lines: Sequence[str]) -> list[Model]:
        parse = self.rows.parser(parent)
        rows, wrong = [], []
        for number, line in enumerate(lines, start=1):
            try:
                if line:
                    row = parse(line)
                    # The form checked already that the related rows exist.
                    row.clean_fields(exclude={field.name for field in row._meta.fields if field.is_relation})
                    row.clean()
                    rows.append(row)
            except ValidationError as error:
                wrong.append(f"Line {number}: {' '.join(error.messages)}")
        if wrong:
            more = [f"And {len(wrong) - MAX_LISTED} more lines."] if len(wrong) > MAX_LISTED else []
            raise ValidationError([*wrong[:MAX_LISTED], *more])
        return rows


class LinesAdmin(AuditedAdmin[Any]):
    """A list whose rows belong to ``parent``, a field, and can be added as lines.

    ``line_help`` describes a line.
    """

    parent: str
    line_help: str
    change_list_template = "admin/licenses/list_with_lines.html"

    def parser(self, parent: Any) -> Callable[[str], Model]:
        """Return a function that makes an unsaved row of a line, or raises ValidationError."""
        raise NotImplementedError

    def add_rows(self, request: HttpRequest, parent: Any, rows: Iterable[Any]) -> tuple[int, int]:
        """Save the new ones of these rows. Return the numbers of new and of known rows.

        Raises ValidationError. Part of the caller's transaction.
        """
        raise NotImplementedError

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        # A row cannot move to another parent.
        return [*self.readonly_fields, *([self.parent] if obj else [])]

    def get_urls(self) -> list[Any]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_lines"
        return [path("lines/", self.admin_site.admin_view(self.lines_view), name=name), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        chosen = request.GET.get(f"{self.parent}__id__exact", "")
        query = f"?{self.parent}={chosen}" if chosen.isdecimal() else ""
        lines = reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_lines") + query
        return super().changelist_view(request, {"lines_url": lines} | (extra_context or {}))

    def lines_view(self, request: HttpRequest) -> HttpResponse:
        """Add many rows."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        chosen = request.GET.get(self.parent, "")
        form = LinesForm(request.POST or None, rows=self, initial={self.parent: chosen} if chosen.isdecimal() else {})
        if request.method == "POST" and form.is_valid():
            parent = form.cleaned_data[self.parent]
            try:
                with transaction.atomic():
                    added, known = self.add_rows(request, parent, form.cleaned_data["rows"])
            except ValidationError as error:
                form.add_error(None, texts.of_error(error))
            else:
                text = f"{added:,} added to {parent}." + (f" {known:,} existed already." if known else "")
                self.message_user(request, text, messages.SUCCESS)
                return HttpResponseRedirect(list_of(self.model, self.parent, parent))
        context = self.admin_site.each_context(request) | {
            "title": f"Add {self.opts.verbose_name_plural}",
            "opts": self.opts,
            "form": form,
            "media": self.media + form.media,
        }
        return TemplateResponse(request, "admin/licenses/lines.html", context, status=200)


def list_of(model: type[Model], parent: str, row: Model) -> str:
    """Return the address of the list with the rows of a parent."""
    opts = model._meta
    return reverse(f"admin:{opts.app_label}_{opts.model_name}_changelist") + f"?{parent}__id__exact={row.pk}"


def link_to(model: type[Model], parent: str, row: Model, *, none: str) -> str:
    """Return a link to the rows of a parent, with their number.

    ``none`` says what no rows mean.
    """
    opts = model._meta
    count = model._default_manager.filter(**{parent: row}).count()
    names = opts.verbose_name if count == 1 else opts.verbose_name_plural
    filters = f"_changelist_filters={parent}__id__exact%3D{row.pk}"
    return format_html(
        '<a href="{}">{}</a>{} <a class="addlink" href="{}?{}={}&amp;{}">Add</a>',
        list_of(model, parent, row),
        f"{count:,} {names}",
        "" if count else f": {none}",
        reverse(f"admin:{opts.app_label}_{opts.model_name}_add"),
        parent,
        row.pk,
        filters,
    )
