"""Show denials in the admin."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest

from licenses.models import Denial
from licenses.policy.rules import BORROW_REFUSALS

from . import names
from .read_only import ReadOnlyAdmin


class ResolvedFilter(admin.SimpleListFilter):
    title = "outcome"
    parameter_name = "resolved"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Got a seat later"), ("no", "Got no seat")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Denial]) -> QuerySet[Denial]:
        if self.value() in {"yes", "no"}:
            return queryset.filter(resolved_at__isnull=self.value() == "no")
        return queryset


def reason_of(code: str) -> str:
    """Return the title of a refusal, or its code if no refusal has it any more."""
    return BORROW_REFUSALS[code].title if code in BORROW_REFUSALS else code


class ReasonFilter(admin.AllValuesFieldListFilter):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.title = "reason"

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        """Yield the codes in use, with their titles."""
        for choice in super().choices(changelist):
            yield choice | {"display": reason_of(str(choice["display"]))}


class LastRefusalFilter(admin.DateFieldListFilter):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.title = "last refusal"


class DenialForm(ModelForm[Denial]):
    class Meta:
        model = Denial
        fields: list[str] = []
        labels = {
            "first_at": "First refusal",
            "last_at": "Last refusal",
            "resolved_at": "Got a seat",
            "resolved_by": "Lease",
        }


@admin.register(Denial)
class DenialAdmin(ReadOnlyAdmin):
    form = DenialForm
    fields = [
        "tool",
        "user",
        "team",
        "host",
        "reason",
        "code",
        "seats",
        "attempts",
        "first_at",
        "last_at",
        "resolved_at",
        "resolved_by",
    ]
    list_display = [names.tool, "user", names.team, "reason", "seats", "attempts", "last_refusal", "got_a_seat", "host"]
    list_filter = ["tool", ("code", ReasonFilter), ResolvedFilter, ("last_at", LastRefusalFilter)]
    list_select_related = ["tool", "team"]
    search_fields = ["user", "host", "tool__name", "tool__display_name"]

    @admin.display(ordering="code")
    def reason(self, denial: Denial) -> str:
        return reason_of(denial.code)

    @admin.display(ordering="last_at")
    def last_refusal(self, denial: Denial) -> datetime:
        return denial.last_at

    @admin.display(ordering="resolved_at")
    def got_a_seat(self, denial: Denial) -> datetime | None:
        return denial.resolved_at
