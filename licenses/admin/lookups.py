"""The base of every list of the admin: it limits the lookups that an address or a form can ask of it."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import get_fields_from_path, unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.dateparse import parse_datetime
from django.utils.http import urlencode
from django.utils.text import capfirst

from licenses import auditing
from licenses.access.rules import VIEW_AUDIT
from licenses.clock import is_in_calendar
from licenses.names import is_clean

# The suffixes that Django's filters add to the name of a field; empty if a filter lists all values.
OF_FILTERS = {"", "exact", "in", "isnull", "isempty", "gte", "lt"}
OF_HIERARCHY = {"year", "month", "day"}


class NarrowedList(ChangeList):
    """A list that shows the number of its rows next to the search only if it is narrowed."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not self.query and not self.get_filters_params():
            self.full_result_count = self.result_count


class ListedLookups(admin.ModelAdmin[Any]):
    """Accept only the lookups of ``list_filter`` and ``date_hierarchy``.

    Django accepts any lookup of the model's own fields, such as a regular expression
    that keeps a worker busy for minutes, or a hash compared letter by letter.
    """

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        return NarrowedList

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show what the audit has about a row. Django's own history has only what was changed on pages."""
        shown: HttpResponse = super().history_view(request, object_id, extra_context)
        row = self.get_object(request, unquote(object_id))
        if row is None or type(row) not in auditing.SUBJECTS or not request.user.has_perm(VIEW_AUDIT):
            return shown
        kind, subject = auditing.subject_of(row)
        query = urlencode({"subject_kind__exact": kind, "subject": subject})
        return HttpResponseRedirect(f"{reverse('admin:licenses_auditrecord_changelist')}?{query}")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Return whether a filter of this list sends this lookup."""
        fields = []
        for item in self.get_list_filter(request):
            if isinstance(item, type) and issubclass(item, admin.SimpleListFilter):
                if lookup == item.parameter_name:
                    # This filter checks its value.
                    return True
            elif isinstance(item, (list, tuple)):
                fields.append(str(item[0]))
            else:
                fields.append(str(item))
        compared = [*fields, *map(self._key_of, fields)]
        if any(_behind(field, lookup) in OF_FILTERS for field in compared):
            return is_clean(value) and _is_possible(value)
        if self.date_hierarchy and _behind(self.date_hierarchy, lookup) in OF_HIERARCHY:
            # Django adds a year, so 9999 would fail.
            return value.isdecimal() and len(value) <= 4 and int(value) < 9999
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        # Django's title asks to select a row to change, also where none can be changed.
        title = {"title": capfirst(self.opts.verbose_name_plural)}
        return super().changelist_view(request, title | (extra_context or {}))

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **options: Any
    ) -> HttpResponse | None:
        """Do an action. Report a selected value that cannot be a row."""
        try:
            for key in request.POST.getlist(ACTION_CHECKBOX_NAME):
                self.opts.pk.run_validators(self.opts.pk.to_python(key))
        except ValidationError:
            self.message_user(request, "There is no such row. Nothing was changed.", messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        answer: HttpResponse | None = super().response_action(request, queryset, *args, **options)
        return answer

    def _key_of(self, field: str) -> str:
        """Return the key that a filter compares for a relation, such as ``tool__id``."""
        target = getattr(get_fields_from_path(self.model, field)[-1], "target_field", None)
        return f"{field}__{target.name}" if target else field


def _behind(field: str, lookup: str) -> str | None:
    """Return the part of the lookup after the field's name; None if it is for another field."""
    if lookup == field:
        return ""
    return lookup.removeprefix(f"{field}__") if lookup.startswith(f"{field}__") else None


def _is_possible(value: str) -> bool:
    """Return False for a time that a database cannot compare."""
    try:
        moment = parse_datetime(value)
    except ValueError:
        return True  # Django reports it.
    return moment is None or is_in_calendar(moment)
