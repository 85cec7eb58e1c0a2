"""Accounts in the admin: Django's own pages, with what they may do recorded."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest, HttpResponse

from licenses import auditing

from .audited import AuditedAdmin, actor_of
from .deletions import ShortDeletions
from .lookups import ListedLookups

admin.site.unregister([User, Group])


@admin.register(Group)
class RoleAdmin(ShortDeletions, ListedLookups, GroupAdmin):
    """What several accounts may do."""


@admin.register(User)
class AccountAdmin(AuditedAdmin[User], UserAdmin[User]):
    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        user = self.get_object(request, object_id) if object_id and request.method == "POST" else None
        if user is None:
            return super().changeform_view(request, object_id, form_url, extra_context)
        # Around all of it: an account's groups are written after the account.
        with auditing.changing(user, by=actor_of(request)):
            return super().changeform_view(request, object_id, form_url, extra_context)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        if change:
            obj.save()
        else:
            super().save_model(request, obj, form, change)
