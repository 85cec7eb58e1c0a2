"""Summarize what a deletion deletes: a tool or a team may have thousands of rows."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected as delete_what_is_selected
from django.contrib.admin.utils import NestedObjects
from django.db import router
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse

# The confirmation page sends a field for each row, and Django refuses forms with more than 1,000.
MAX_AT_ONCE = 500


class ShortDeletions(admin.ModelAdmin[Any]):
    """List the selected rows and count the rows that depend on them.

    Rows of an admin with ``goes_with_parent`` need no permission of their own when their parent is deleted.
    """

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[list[Any], dict[str, int], set[str], Any]:
        """Return the rows to delete, their number by kind, the kinds that this user may not
        delete, and the rows that prevent the deletion."""
        chosen = list(objs)
        collector = NestedObjects(using=router.db_for_write(self.model), origin=chosen)
        collector.collect(chosen)
        of_model: dict[Any, Any] = collector.model_objs
        found: dict[type[Model], int] = {model: len(rows) for model, rows in of_model.items()}
        lacking = set()
        for model in found:
            if self.admin_site.is_registered(model):
                asked = self.admin_site.get_model_admin(model)
                if model is not self.model and getattr(asked, "goes_with_parent", False):
                    continue
                rows = chosen if model is self.model else [None]
                if not all(asked.has_delete_permission(request, row) for row in rows):
                    lacking.add(str(model._meta.verbose_name))
        with_them = [_number(count, model) for model, count in found.items() if model is not self.model]
        protected: dict[type[Model], int] = {}
        for row in collector.protected:
            protected[type(row)] = protected.get(type(row), 0) + 1
        counts = {str(model._meta.verbose_name_plural): count for model, count in found.items()}
        kept_by = [_number(count, model) for model, count in protected.items()]
        return [*map(str, chosen), *sorted(with_them)], counts, lacking, sorted(kept_by)


def _number(count: int, model: type[Model]) -> str:
    names = model._meta.verbose_name if count == 1 else model._meta.verbose_name_plural
    return f"{count:,} {names}"


@admin.action(permissions=["delete"], description="Delete selected %(verbose_name_plural)s")
def delete_selected(
    model_admin: admin.ModelAdmin[Any], request: HttpRequest, rows: QuerySet[Any]
) -> HttpResponse | None:
    """Ask for confirmation and delete at most ``MAX_AT_ONCE`` rows."""
    if (number := rows.count()) > MAX_AT_ONCE:
        text = f"{number:,} rows are selected. Select at most {MAX_AT_ONCE}. Nothing was deleted."
        model_admin.message_user(request, text, messages.ERROR)
        return None
    answer: HttpResponse | None = delete_what_is_selected(model_admin, request, rows)
    return answer
