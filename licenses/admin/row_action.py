"""Offer an action of a list on the page of a row too."""

from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse


@dataclass(frozen=True, slots=True)
class RowAction:
    """An action of the list, the label of its button, and the query of a list that has the row."""

    name: str
    label: str
    query: str = ""


class WithRowAction(admin.ModelAdmin[Any]):
    """Show the button of ``row_action`` on the page of a row."""

    def row_action(self, request: HttpRequest, obj: Any) -> RowAction | None:
        """Return the action that this user may take on the row now; None for none."""
        raise NotImplementedError

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        """Render the page."""
        if obj is not None:
            context["row_action"] = self.row_action(request, obj)
        return super().render_change_form(request, context, add, change, form_url, obj)
