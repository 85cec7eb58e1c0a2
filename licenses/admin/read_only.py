"""Show rows in the admin, read-only."""

from typing import Any

from django.http import HttpRequest

from .lookups import ListedLookups


class ReadOnlyAdmin(ListedLookups):
    show_full_result_count = False
    # Without the link to a history: it would be empty.
    change_form_template = "admin/licenses/read_only.html"

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        # Also those that Django puts in no form.
        return self.fields or self.readonly_fields

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
