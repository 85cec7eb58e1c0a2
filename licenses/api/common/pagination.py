"""Paginate lists by cursor."""

from typing import Any

from django.utils.dateparse import parse_datetime
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request

from licenses.clock import is_in_calendar

from . import formats


class Pages(CursorPagination):
    """Paginate by cursor: pages stay stable while rows are added and removed."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200
    # A cursor counts the rows with the same position that it has passed. DRF stops at 1000, and shows them again.
    offset_cutoff = 1_000_000

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


def _is_time(value: str) -> bool:
    """Return whether the value is a moment in the form of our cursors, with an offset from UTC."""
    try:
        moment = parse_datetime(value)
    except ValueError:
        return False
    return moment is not None and moment.tzinfo is not None and is_in_calendar(moment)


INVALID_CURSOR = ValidationError({"cursor": ["Use the address in next or previous as it is."]})


class StablePagination(Pages):
    """``ordering`` begins with a time."""

    def decode_cursor(self, request: Request) -> Any:
        """Return the cursor. Raises ValidationError for a cursor that this server did not make."""
        try:
            cursor = super().decode_cursor(request)
        except NotFound:
            raise INVALID_CURSOR from None
        if cursor is not None and cursor.position is not None and not _is_time(str(cursor.position)):
            raise INVALID_CURSOR
        return cursor
