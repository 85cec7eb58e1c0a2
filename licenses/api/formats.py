"""Formats of strings that the OpenAPI schema names: the rules that no pattern can state."""

from typing import Any

from licenses.names import TOOL_NAME_PATTERN

MEANINGS = {
    "text": "characters on one line, none of them a control or an invisible character (Unicode categories Cc, Cf, "
    "Cs, Co, Zl and Zp). White space around the text is removed; where a text must not be empty, something is left.",
    "tool-name": "the name of a tool, as `GET /api/v1/tools/` lists them.",
    "team-name": "the name of a team.",
    "time-zone": "a name of the IANA time zone database, as `Europe/Berlin`.",
    "cursor": "a place in a list, as it stands in the `next` or `previous` of a page.",
}

TEXT: dict[str, Any] = {"type": "string", "format": "text"}
TOOL_NAME: dict[str, Any] = {"type": "string", "format": "tool-name", "pattern": f"^{TOOL_NAME_PATTERN}$"}
TEAM_NAME: dict[str, Any] = TOOL_NAME | {"format": "team-name"}
TIME_ZONE: dict[str, Any] = {"type": "string", "format": "time-zone", "example": "Europe/Berlin"}
CURSOR: dict[str, Any] = {"type": "string", "format": "cursor"}
IDEMPOTENCY_KEY: dict[str, Any] = {"type": "string", "pattern": "^[!-~]{1,255}$", "minLength": 1, "maxLength": 255}


def listed(*words: str, at_most: int | None = None) -> dict[str, Any]:
    """Return the schema of a string that lists words (regular expressions) with commas between them."""
    word = f"({'|'.join(words)})"
    more = "*" if at_most is None else f"{{0,{at_most - 1}}}"
    return {"type": "string", "pattern": f"^{word}(,{word}){more}$"}
