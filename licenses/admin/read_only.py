"""Show rows in the admin, read-only."""

from typing import Any

from django.http import HttpRequest

from licenses import auditing

from .lookups import ListedLookups


class ReadOnlyAdmin(ListedLookups):
    show_full_result_count = False
    change_form_template = "admin/licenses/read_only_form.html"

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> Any:
        context = {"has_history": self.model in auditing.SUBJECTS} | (extra_context or {})
        return super().change_view(request, object_id, form_url, context)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
