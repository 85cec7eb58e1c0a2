"""Protect the rows that give rights, so that nobody can give rights that they lack."""

from typing import Any

from django.contrib.auth.models import Permission, User
from django.db.models import Q
from django.http import HttpRequest

from .lookups import ListedLookups


def is_within_own(request: HttpRequest, account: User) -> bool:
    """Return whether the sender of the request has every right of the account, active or not."""
    if request.user.is_superuser or account.is_superuser:
        return request.user.is_superuser
    granted = Permission.objects.filter(Q(user=account) | Q(group__user=account))
    codes = granted.values_list("content_type__app_label", "codename")
    return {f"{app}.{code}" for app, code in codes} <= request.user.get_all_permissions()


class SuperusersOnly(ListedLookups):
    """Rows that give rights. Only superusers can change them."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.is_superuser and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_superuser and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_superuser and super().has_delete_permission(request, obj)
