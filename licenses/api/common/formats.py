"""Define the string formats of the OpenAPI schema, for rules that a pattern cannot state."""

from typing import Any

from licenses.names import TOOL_NAME_PATTERN

MEANINGS = {
    "text": "characters on one line, none of them a control or an invisible character (Unicode categories Cc, Cf, "
    "Cs, Co, Zl and Zp). White space around the text is removed. A required text must have another character.",
    "tool-name": "the name of a tool, as `GET /api/v1/tools/` lists them.",
    "team-name": "the name of a team.",
    "time-zone": "a name of the IANA time zone database, such as `Europe/Berlin`.",
    "site": "the document of a site, in TOML.",
    "cursor": "a position in a list, copied from `next` or `previous` of a page.",
}

TEXT: dict[str, Any] = {"type": "string", "format": "text"}
TOOL_NAME: dict[str, Any] = {"type": "string", "format": "tool-name", "pattern": f"^{TOOL_NAME_PATTERN}$"}
TEAM_NAME: dict[str, Any] = TOOL_NAME | {"format": "team-name"}
TIME_ZONE: dict[str, Any] = {"type": "string", "format": "time-zone", "example": "Europe/Berlin"}
SITE: dict[str, Any] = {"type": "string", "format": "site", "minLength": 1}
CURSOR: dict[str, Any] = {"type": "string", "format": "cursor"}
IDEMPOTENCY_KEY: dict[str, Any] = {"type": "string", "pattern": "^[!-~]{1,255}$", "minLength": 1, "maxLength": 255}


def listed(*words: str, at_most: int | None = None) -> dict[str, Any]:
    """Return the schema of a string of words (regular expressions) separated by commas."""
    word = f"({'|'.join(words)})"
    more = "*" if at_most is None else f"{{0,{at_most - 1}}}"
    return {"type": "string", "pattern": f"^{word}(,{word}){more}$"}
