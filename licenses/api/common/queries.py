"""Refuse unknown query parameters.

A client that sends one expects an effect that it would not have.
"""

from typing import Any

from rest_framework.exceptions import ValidationError
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request


class StrictQuery:
    """Refuse parameters that neither the view's filters nor its pages know.

    ``known_by_serializer`` are the actions whose serializer does this instead.
    """

    known_by_serializer: frozenset[str | None] = frozenset()
    query_names: frozenset[str] = frozenset()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Check the query after the credential and the rights."""
        super().initial(request, *args, **kwargs)  # type: ignore[misc]
        if not request.META.get("QUERY_STRING"):
            return
        if not hasattr(self, str(request.method).lower()):
            # DRF refuses this method.
            return
        if twice := [name for name, values in request.query_params.lists() if len(values) > 1]:
            raise ValidationError({name: ["Give this parameter only once."] for name in twice})
        action = getattr(self, "action", None)
        if action in self.known_by_serializer:
            return
        known = set(self.query_names)
        if action == "list":
            known |= getattr(getattr(self, "filterset_class", None), "base_filters", {}).keys()
            pages = getattr(self, "pagination_class", None)
            known |= {pages.cursor_query_param, pages.page_size_query_param} if pages else set()
        if wrong := {name: ["There is no such parameter."] for name in sorted(request.query_params.keys() - known)}:
            raise ValidationError(wrong)


class FormatNegotiation(DefaultContentNegotiation):
    """Accept ``?format=csv`` in links instead of ``Accept: text/csv``. The view refuses unknown formats."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        wanted = request.query_params.get("format")
        known = {renderer.format for renderer in renderers}
        return super().select_renderer(request, renderers, wanted if wanted in known else format_suffix)
