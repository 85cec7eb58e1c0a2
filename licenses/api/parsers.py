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


class StrictJSONParser(JSONParser):
    """Refuse JSON that parsers read differently.

    Repeated keys, NaN and Infinity, and nesting deep enough to exhaust the stack.
    """

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        try:
            data = json.loads(
                stream.read().decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant
            )
        except (ValueError, RecursionError) as error:
            raise ParseError(f"The body is not JSON: {error}.") from None
        if not isinstance(data, dict):
            raise ParseError("The body must be a JSON object.")
        return data
