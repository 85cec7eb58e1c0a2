"""Show rows in the admin, read-only."""

from typing import Any

from django.http import HttpRequest

from .lookups import ListedLookups


class ReadOnlyAdmin(ListedLookups):
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
