"""Record the changes that are made on admin pages."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from licenses import auditing
from licenses.auditing import Actor
from licenses.errors import Refusal
from licenses.tools import texts

from .deletions import ShortDeletions
from .lookups import ListedLookups
from .widgets import LabeledInputs, SearchedField, SearchedSelect

M = TypeVar("M", bound=Model)


def actor_of(request: HttpRequest) -> Actor:
    """Return the user of the admin, for the audit."""
    return Actor.of_account(request.user.get_username(), request.META)


class AuditedAdmin(LabeledInputs, ShortDeletions, ListedLookups, admin.ModelAdmin[M], Generic[M]):
    """Record what is created, changed and deleted.

    A subclass that saves rows in another way must record them itself.
    """

    def get_fields(self, request: HttpRequest, obj: M | None = None) -> Any:
        fields = super().get_fields(request, obj)
        if obj is not None:
            return fields
        # A row that does not exist yet has nothing to show.
        shown = self.get_readonly_fields(request)
        return [name for name in fields if name not in shown]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        if db_field.name in self.get_autocomplete_fields(request):
            options |= {"widget": SearchedSelect(db_field, self.admin_site), "form_class": SearchedField}
        return super().formfield_for_foreignkey(db_field, request, **options)

    def changeform_view(self, request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        return self._refused(request, super().changeform_view, *args, **options)

    def changelist_view(self, request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        return self._refused(request, super().changelist_view, *args, **options)

    def delete_view(self, request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        return self._refused(request, super().delete_view, *args, **options)

    def _refused(self, request: HttpRequest, view: Callable[..., Any], *args: Any, **options: Any) -> HttpResponse:
        """Show what a service refuses although the form was valid: somebody changed the same rows meanwhile."""
        try:
            answer: HttpResponse = view(request, *args, **options)
        except ValidationError as error:
            reasons = texts.of_error(error).messages
        except Refusal as refusal:
            reasons = [texts.of_refusal(refusal)]
        else:
            return answer
        for text in reasons:
            self.message_user(request, text, messages.ERROR)
        return HttpResponseRedirect(request.get_full_path())

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
