"""Show rows in the admin, read-only."""

from typing import Any

from django.http import HttpRequest

from licenses import auditing

from .lookups import ListedLookups


class ReadOnlyAdmin(ListedLookups):
    show_full_result_count = False
    change_form_template = "admin/licenses/read_only.html"

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        # Also those that Django puts in no form.
        return self.fields or self.readonly_fields

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> Any:
        # What the audit does not record has no history.
        context = {"has_history": self.model in auditing.SUBJECTS} | (extra_context or {})
        return super().change_view(request, object_id, form_url, context)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
