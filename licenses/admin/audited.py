"""Pages of the admin whose changes are recorded."""

from typing import Any, Generic, TypeVar

from django.contrib import admin
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from licenses import auditing
from licenses.auditing import Actor

from .lookups import ListedLookups

M = TypeVar("M", bound=Model)


def actor_of(request: HttpRequest) -> Actor:
    """Who uses the admin, for the audit."""
    return Actor.of_account(request.user.get_username(), request.META)


class AuditedAdmin(ListedLookups, admin.ModelAdmin[M], Generic[M]):
    """Records what is made, changed and deleted, rows of its inlines too. Who
    saves rows in another way has to record them there."""

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
        # What a row refers to many of is written after the row.
        with auditing.changing(form.instance, by=actor_of(request)):
            form.save_m2m()
        for formset in formsets:
            self.save_formset(request, form, formset, change=change)

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        formset.save(commit=False)
        for row in formset.deleted_objects:
            with auditing.deleting(row, by=actor_of(request)):
                row.delete()
        for row in [*(row for row, _ in formset.changed_objects), *formset.new_objects]:
            with auditing.changing(row, by=actor_of(request)):
                row.save()
        formset.save_m2m()
