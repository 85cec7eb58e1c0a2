"""Write a site as a document: TOML for people and version control, or data for JSON.

Values that are defaults are left out. Tables and names are sorted, so that the difference of two
documents is easy to read.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from licenses.models import Effect, MemberSource

from .description import ALLOWANCE_FIELDS, CONTRACT_FIELDS, TEAM_FIELDS, TOOL_FIELDS, Site, SiteTeam, SiteTool
from .parser import KEYS, LISTS, TEAMS, TOOLS
from .rows import members_elsewhere, one_moment, present

# Lists of names with at most this number of characters are on one line.
SHORT = 80


SOURCES = {MemberSource.OIDC: "the groups of the sign-in provider", MemberSource.CSV: "a CSV file"}


def exported() -> str:
    """Return the present site as a document in TOML."""
    with one_moment():
        site, elsewhere = present(), members_elsewhere()
    notes = [
        f"Memberships from {SOURCES[source]}, not in this file: {number:,}"
        for source, number in sorted(elsewhere.items())
    ]
    return toml(data_of(site), notes=["The site, for `manage.py apply`.", *notes])


def data_of(site: Site) -> dict[str, Any]:
    """Return a site as tables that ``toml`` and JSON can write: without None, and with days in place of times
    where they say the same."""
    return {
        TOOLS: {name: _tool(tool) for name, tool in sorted(site.tools.items())},
        TEAMS: {name: _team(team) for name, team in sorted(site.teams.items())},
    }


def _tool(tool: SiteTool) -> dict[str, Any]:
    table = _values(tool.values, TOOL_FIELDS)
    if tool.contracts is not None:
        table["contracts"] = [_values(contract, CONTRACT_FIELDS) for contract in _in_order(tool.contracts)]
    if tool.allowances:
        table[TEAMS] = {
            # A row without any limit is one too.
            team: _values(values, ALLOWANCE_FIELDS) or {"reservation": 0}
            for team, values in sorted(tool.allowances.items())
        }
    if tool.user_limits:
        table["user_limits"] = dict(sorted(tool.user_limits.items()))
    for effect in Effect.values:
        lists = {key: _names(tool, effect, kind) for key, kind in LISTS.items()}
        if any(lists.values()):
            table[effect] = {key: names for key, names in lists.items() if names}
    return table


def _in_order(contracts: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    def key(contract: Mapping[str, Any]) -> tuple[Any, ...]:
        values = [contract.get(name) for name in ("first_day", "last_day", "reference", "seats", "price", "note")]
        return tuple((value is not None, value) for value in values)

    return sorted(contracts, key=key)


def _names(tool: SiteTool, effect: str, kind: str) -> list[str]:
    return sorted(rule.name for rule in tool.access_rules if (rule.effect, rule.kind) == (effect, kind))


def _team(team: SiteTeam) -> dict[str, Any]:
    table = _values(team.values, TEAM_FIELDS)
    return table | ({"members": sorted(team.members)} if team.members else {})


def _values(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        KEYS.get(name, name): written(name, values[name])
        for name, default in fields.items()
        if name in values and values[name] != default
    }


def written(field: str, value: Any) -> Any:
    """Return the value of a field as a document has it."""
    match value:
        case None:
            return ""
        case timedelta():
            whole, rest = divmod(value, timedelta(seconds=1))
            return value.total_seconds() if rest else whole
        case datetime():
            return _moment(value.astimezone(UTC), is_end=field == "valid_until")
    return value


def _moment(value: datetime, *, is_end: bool) -> datetime | date:
    """Return a day if it means the same as a time (``parser.moment``)."""
    if value.time() != time.min or (is_end and value.date() == date.min):
        return value
    return value.date() - timedelta(days=is_end)


# --- TOML ---------------------------------------------------------------------


def toml(data: Mapping[str, Any], *, notes: Iterable[str] = ()) -> str:
    """Return tables as TOML, with notes at the beginning."""
    lines = [*(f"# {note}" for note in notes), *_lines((), data)]
    return "\n".join(lines).lstrip("\n") + "\n"


def _lines(path: tuple[str, ...], table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a table, its values first."""
    below = {key: value for key, value in table.items() if _is_table(value)}
    if path and (len(below) < len(table) or not table):
        yield from ("", f"[{_dotted(path)}]")
    for key, value in table.items():
        if key not in below:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in below.items():
        if isinstance(value, Mapping):
            yield from _lines((*path, key), value)
        else:
            for entry in value:
                yield from ("", f"[[{_dotted((*path, key))}]]")
                yield from (f"{_key(name)} = {_value(each)}" for name, each in entry.items())


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and isinstance(value[0], Mapping))


def _dotted(path: Iterable[str]) -> str:
    return ".".join(map(_key, path))


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(value: str) -> str:
    # TOML takes the escapes of JSON, but no DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return _text(value)
        case Decimal():
            return text if "." in (text := f"{value:f}") else f"{text}.0"
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case list():
            names = [_value(each) for each in value]
            short = f"[{', '.join(names)}]"
            return short if len(short) <= SHORT else "[\n" + "".join(f"    {name},\n" for name in names) + "]"
    # Whole numbers and days.
    return str(value)


def json_ready(value: Any) -> Any:
    """Return data with texts in place of dates, as JSON needs it."""
    match value:
        case Mapping():
            return {key: json_ready(each) for key, each in value.items()}
        case list():
            return [json_ready(each) for each in value]
        case date() | Decimal():
            return _value(value)
    return value
