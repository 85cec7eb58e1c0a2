"""Record the changes that are made on admin pages."""

from typing import Any, Generic, TypeVar

from django.contrib import admin
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from licenses import auditing
from licenses.auditing import Actor

from .deletions import ShortDeletions
from .lookups import ListedLookups
from .widgets import LabelledInputs, SearchedSelect

M = TypeVar("M", bound=Model)


def actor_of(request: HttpRequest) -> Actor:
    """Return the user of the admin, for the audit."""
    return Actor.of_account(request.user.get_username(), request.META)


class AuditedAdmin(LabelledInputs, ShortDeletions, ListedLookups, admin.ModelAdmin[M], Generic[M]):
    """Record what is created, changed and deleted.

    A subclass that saves rows in another way must record them itself.
    """

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        if db_field.name in self.get_autocomplete_fields(request):
            options["widget"] = SearchedSelect(db_field, self.admin_site)
        return super().formfield_for_foreignkey(db_field, request, **options)

    def save_model(self, request: HttpRequest, obj: M, form: Any, change: bool) -> None:
        with auditing.changing(obj, by=actor_of(request)):
            super().save_model(request, obj, form, change)

    def delete_model(self, request: HttpRequest, obj: M) -> None:
        with auditing.deleting(obj, by=actor_of(request)):
            super().delete_model(request, obj)

    @transaction.atomic
    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[M]) -> None:
        for obj in queryset:
            self.delete_model(request, obj)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        if not self.model._meta.many_to_many:
            super().save_related(request, form, formsets, change)
            return
        # Django writes many-to-many relations after the row.
        with auditing.changing(form.instance, by=actor_of(request)):
            super().save_related(request, form, formsets, change)
