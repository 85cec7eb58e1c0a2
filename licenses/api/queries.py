"""Refuse unknown query parameters.

A client that sends one expects an effect that it would not have.
"""

from typing import Any

from rest_framework.exceptions import ValidationError
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request

from . import formats


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


class Pages(CursorPagination):
    """Paginate by cursor: pages stay stable while rows are added and removed."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """Return the parameters, for the OpenAPI schema."""
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        size = {"type": "integer", "minimum": 1, "maximum": self.max_page_size, "default": self.page_size}
        schemas = {self.cursor_query_param: formats.CURSOR, self.page_size_query_param: size}
        return [parameter | {"schema": schemas[parameter["name"]]} for parameter in parameters]

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the form of a page, for the OpenAPI schema."""
        link = {
            "type": "string",
            "nullable": True,
            "format": "uri",
            "example": "https://licenses.example.com/api/v1/leases/?cursor=cD0yMDI2",
        }
        pages = {"next": link, "previous": link, "results": schema}
        return {"type": "object", "required": list(pages), "properties": pages}

    def get_page_size(self, request: Request) -> int | None:
        """Return the number of rows of a page. Raises ValidationError if it is out of range."""
        text = request.query_params.get(self.page_size_query_param)
        if text is None:
            return self.page_size
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= self.max_page_size and len(text) < 9):
            raise ValidationError({self.page_size_query_param: [f"Give a number from 1 to {self.max_page_size}."]})
        return int(text)
