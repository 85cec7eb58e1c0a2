"""Parse JSON for the API: one object, each key once, no NaN."""

import json
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ParseError("A JSON object has the same key twice.")
    return result


def _no_constant(name: str) -> Any:
    raise ParseError(f"{name} is not JSON.")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def parsed(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body. Raises ParseError for any other body.

    Refuses repeated keys, which two readers may take differently, NaN and Infinity, which only
    Python accepts, and nesting deep enough to exhaust the stack.
    """
    try:
        text = body.decode("utf-8")
        if text.startswith("\ufeff"):
            raise json.JSONDecodeError("Unexpected UTF-8 BOM (decode using utf-8-sig)", text, 0)
        data = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise ParseError(f"The body is not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise ParseError("The body must be a JSON object.")
    return data


class StrictJSONParser(JSONParser):
    """A parser that accepts only what ``parsed`` accepts."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        return parsed(stream.read())
