"""Protect the rows that give rights, so that nobody can give rights that they lack."""

from typing import Any

from django.http import HttpRequest

from .lookups import ListedLookups


class SuperusersOnly(ListedLookups):
    """Rows that give rights. Only superusers can change them."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.is_superuser and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_superuser and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_superuser and super().has_delete_permission(request, obj)
