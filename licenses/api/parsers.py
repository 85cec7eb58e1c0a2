"""JSON as the API takes it: one object, every key once, no NaN."""

import json
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ParseError("A key stands twice in the JSON object.")
    return result


def _no_constant(name: str) -> Any:
    raise ParseError(f"{name} is no JSON.")


class StrictJSONParser(JSONParser):
    """Refuses what the standard leaves open and two readers take differently
    (repeated keys), what only Python accepts (NaN, Infinity), and nesting
    deep enough to exhaust the stack."""

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
