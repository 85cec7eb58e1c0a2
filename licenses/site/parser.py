"""Parse the document of a site, and name the place of each mistake.

A document is TOML or JSON. ``[tools.NAME]`` is a tool and ``[teams.NAME]`` a team; ``[NAME]`` is a
tool too, as in the files of ``manage.py seed``. A date is a whole day in UTC, as in a FlexNet file:
``valid_until`` is the last valid day. A time without a zone is UTC. ``""`` is no value.
"""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.dateparse import parse_date, parse_datetime

from licenses.errors import InvalidSite
from licenses.models import AccessRule, Allotment, Contract, Effect, SubjectKind, Team, TeamMember, Tool, UserLimit

from .description import ALLOWANCE_FIELDS, CONTRACT_FIELDS, TEAM_FIELDS, TOOL_FIELDS, Rule, Site, SiteTeam, SiteTool
from .toml_lines import Path, lines_of

TOOLS, TEAMS = "tools", "teams"
# The most mistakes that are shown.
MAX_SHOWN = 20
# Far above every lease. SQLite counts microseconds in 63 bits.
LONGEST = timedelta(days=36_600)

# Fields with another name in a document, because their unit is in it.
KEYS = {"default_ttl": "default_ttl_seconds", "max_ttl": "max_ttl_seconds"}
# The lists of access rules, by the kind of their subjects.
LISTS = {f"{kind}s": kind for kind in SubjectKind.values}


class Mistake(NamedTuple):
    """A mistake in a document. ``line`` is None in JSON; ``where`` names the table and the key."""

    line: int | None
    where: str
    detail: str

    def __str__(self) -> str:
        """Return it on one line."""
        return self._after(f"line {self.line}" if self.line else "")

    def in_file(self, name: str) -> str:
        """Return it on one line as compilers do, with the name of the file."""
        return self._after(f"{name}:{self.line}" if self.line else name)

    def _after(self, place: str) -> str:
        return ": ".join(filter(None, [place, self.where, self.detail]))


def invalid(mistakes: Iterable[Mistake]) -> InvalidSite:
    """Return the refusal of a document with these mistakes, in the order of their lines."""
    every = sorted(mistakes, key=lambda mistake: (mistake.line or 0, mistake.where))
    shown = every[:MAX_SHOWN]
    more = [f"and {len(every) - MAX_SHOWN} more mistakes"] if len(every) > MAX_SHOWN else []
    return InvalidSite("; ".join([*map(str, shown), *more]), errors=[mistake._asdict() for mistake in shown])


class Document(NamedTuple):
    """A document that was read: the site, and the place of each table and key in the text. ``is_empty``: it
    says nothing at all."""

    site: Site
    lines: Mapping[Path, int]
    is_empty: bool

    def mistake(self, path: Path, detail: str) -> Mistake:
        """Return a mistake at the nearest place that the text has."""
        return _mistake(self.lines, path, detail)


def place_of(document: Document, tool: str) -> Path:
    """Return the place of the table of a tool."""
    is_short = (tool,) in document.lines and (TOOLS, tool) not in document.lines
    return (tool,) if is_short else (TOOLS, tool)


def read(text: str, *, is_json: bool = False) -> Document:
    """Read a document. Raises InvalidSite with every mistake."""
    data, lines = _json(text) if is_json else _toml(text)
    reader = _Reader(lines)
    site = reader.site(data)
    if reader.mistakes:
        raise invalid(reader.mistakes)
    return Document(site, lines, is_empty=not data)


def _toml(text: str) -> tuple[dict[str, Any], Mapping[Path, int]]:
    text = text.removeprefix("\ufeff")
    try:
        data = tomllib.loads(text, parse_float=Decimal)
    except RecursionError:
        raise invalid([Mistake(None, "", "The document has too many levels.")]) from None
    # A number with thousands of digits is a ValueError too.
    except (ValueError, ArithmeticError) as error:
        found = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        line = int(found[1]) if found else None
        said = str(error)[: found.start()] if found else str(error)
        where = f"column {found[2]}" if found else ""
        raise invalid([Mistake(line, where, f"This is not TOML: {said}.")]) from None
    return data, lines_of(text)


def _json(text: str) -> tuple[dict[str, Any], Mapping[Path, int]]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, number in Counter(key for key, _ in pairs).items() if number > 1]
        if twice:
            raise ValueError(f"an object has the key {twice[0]!r} twice")
        return dict(pairs)

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is no number")

    try:
        data = json.loads(text, parse_float=Decimal, parse_constant=no_constant, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise invalid([Mistake(error.lineno, f"column {error.colno}", f"This is not JSON: {error.msg}.")]) from None
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise invalid([Mistake(None, "", f"This is not JSON: {error}.")]) from None
    if not isinstance(data, dict):
        raise invalid([Mistake(None, "", "The document must be a JSON object.")])
    return data, {}


def _mistake(lines: Mapping[Path, int], path: Path, detail: str) -> Mistake:
    known = next((path[:length] for length in range(len(path), 0, -1) if path[:length] in lines), None)
    return Mistake(lines[known] if known else None, _written(path), detail)


def _written(path: Path) -> str:
    """Return a path as TOML writes it, such as ``tools.cad_tool.contracts[0].seats``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = re.fullmatch(r"[A-Za-z0-9_-]+", part)
            text += ("." if text else "") + (part if plain else json.dumps(part[:300], ensure_ascii=False))
    return text


# --- Values -------------------------------------------------------------------


def whole(value: Any) -> int:
    """Return a whole number of a document. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("Give a whole number.")
    return value


def optional_whole(value: Any) -> int | None:
    """Return a whole number of a document, or None for "". Raises ValueError."""
    return None if value in ("", None) else whole(value)


def text(value: Any) -> str:
    """Return a text of a document. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("Give a text in quotes.")
    # Databases take neither.
    if any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in value):
        raise ValueError("The text has a character that is not allowed.")
    return value


def truth(value: Any) -> bool:
    """Return a truth value of a document. Raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError("Give true or false.")
    return value


def price(value: Any) -> Decimal | None:
    """Return a price of a document, or None for "". Raises ValueError."""
    if value in ("", None):
        return None
    with suppress(ArithmeticError):
        if not isinstance(value, bool) and isinstance(value, int | str | Decimal):
            found = Decimal(str(value))
            if found.is_finite() and abs(found.adjusted()) < 30:
                return found
    raise ValueError("Give a number such as 1200.50.")


def seconds(value: Any) -> timedelta | None:
    """Return a span of time in a document, in seconds, or None for "". Raises ValueError."""
    if value in ("", None):
        return None
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        with suppress(ArithmeticError, ValueError):
            span = timedelta(microseconds=int(value * 1_000_000))
            if timedelta(0) <= span <= LONGEST:
                return span
    raise ValueError('Give a number of seconds such as 3600, or "" for no limit.')


def day(value: Any) -> date | None:
    """Return a day of a document, or None for "". Raises ValueError."""
    if value in ("", None):
        return None
    with suppress(ValueError):
        found = parse_date(value) if isinstance(value, str) else value
        if isinstance(found, date) and not isinstance(found, datetime):
            return found
    raise ValueError("Give a date such as 2026-12-31.")


def moment(value: Any, *, is_end: bool) -> datetime | None:
    """Return a time of a document in UTC, or None for "". A date is the start of its day or, with ``is_end``,
    its end. Raises ValueError if it is not in the years 1 to 9999."""
    if value in ("", None):
        return None
    with suppress(ValueError, OverflowError):
        found = (parse_date(value) or parse_datetime(value)) if isinstance(value, str) else value
        if isinstance(found, datetime):
            return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
        if isinstance(found, date):
            return datetime.combine(found + timedelta(days=is_end), time.min, UTC)
    raise ValueError("Give a date or a time such as 2026-12-31 or 2026-12-31T18:00:00Z.")


def start(value: Any) -> datetime | None:
    """Return the start of a license (``moment``)."""
    return moment(value, is_end=False)


def end(value: Any) -> datetime | None:
    """Return the end of a license (``moment``)."""
    return moment(value, is_end=True)


Read = Callable[[Any], Any]
READERS: Mapping[str, Read] = {
    "capacity": whole,
    "overdraft": whole,
    "user_limit": optional_whole,
    "seats": whole,
    "quota": optional_whole,
    "reservation": whole,
    "display_name": text,
    "vendor": text,
    "reference": text,
    "note": text,
    "ignores_case": truth,
    "enabled": truth,
    "seat_hour_price": price,
    "overdraft_hour_price": price,
    "price": price,
    "default_ttl": seconds,
    "max_ttl": seconds,
    "valid_from": start,
    "valid_until": end,
    "first_day": day,
    "last_day": day,
}


# --- Tables -------------------------------------------------------------------


class _Reader:
    """Read the tables of a document, and collect all mistakes."""

    def __init__(self, lines: Mapping[Path, int]) -> None:
        self.lines = lines
        self.mistakes: list[Mistake] = []

    def site(self, data: dict[str, Any]) -> Site:
        site = Site()
        tools: dict[Path, Any] = {}
        for key, value in data.items():
            if key in (TOOLS, TEAMS) and not _is_tool(value):
                continue
            tools[key,] = value
        tools |= self._named(data, TOOLS)
        for path, value in tools.items():
            name = str(path[-1])
            if name in site.tools:
                self._wrong(path, f"The document has the tool {name} twice.")
            site.tools[name] = self._tool(path, name, value)
        for path, value in self._named(data, TEAMS).items():
            site.teams[str(path[-1])] = self._team(path, str(path[-1]), value)
        return site

    def _named(self, data: dict[str, Any], section: str) -> dict[Path, Any]:
        """Return the tables in [tools] or in [teams]."""
        tables = data.get(section, {})
        if not isinstance(tables, dict):
            self._wrong((section,), f"Give a table for each, such as [{section}.NAME].")
            return {}
        return {} if _is_tool(tables) else {(section, name): value for name, value in tables.items()}

    def _tool(self, path: Path, name: str, data: Any) -> SiteTool:
        tool = SiteTool()
        parts = ("contracts", TEAMS, "user_limits", *Effect.values)
        table = self._table(path, data, [*map(_key, TOOL_FIELDS), *parts], "a tool")
        if table is None:
            return tool
        tool.values = self._values(path, table, TOOL_FIELDS)
        self._check(path, Tool(name=name, **tool.values), {"name", *tool.values})
        if "contracts" in table:
            tool.contracts = self._contracts((*path, "contracts"), table["contracts"])
        if ("capacity" in table) == ("contracts" in table):
            self._wrong(path, "Give a capacity or contracts, one of them.")
        for team, values in self._items((*path, TEAMS), table.get(TEAMS, {}), "team"):
            tool.allowances[team] = self._allowance((*path, TEAMS, team), values)
        for user, seats in self._items((*path, "user_limits"), table.get("user_limits", {}), "user"):
            place = (*path, "user_limits", user)
            if (limit := self._value(place, whole, seats)) is not None:
                tool.user_limits[user] = limit
                self._check(place, UserLimit(user=user, seats=limit), {"user", "seats"}, has_keys=False)
        for effect in Effect.values:
            tool.access_rules |= self._rules((*path, effect), effect, table.get(effect, {}))
        return tool

    def _contracts(self, path: Path, data: Any) -> list[dict[str, Any]]:
        if not isinstance(data, list) or not data:
            self._wrong(path, "Give one contract or more: a table [[...contracts]] for each.")
            return []
        contracts = []
        for number, entry in enumerate(data):
            place = (*path, number)
            if (table := self._table(place, entry, CONTRACT_FIELDS, "a contract")) is None:
                continue
            if "seats" not in table:
                self._wrong(place, "A contract needs seats, a whole number.")
            values = self._values(place, table, CONTRACT_FIELDS)
            self._check(place, Contract(**values), values)
            first, last = values.get("first_day"), values.get("last_day")
            if first and last and last < first:
                self._wrong((*place, "last_day"), "The last day must not be before the first.")
            contracts.append(values)
        return contracts

    def _allowance(self, path: Path, data: Any) -> dict[str, Any]:
        if (table := self._table(path, data, ALLOWANCE_FIELDS, "the quota of a team")) is None:
            return {}
        values = self._values(path, table, ALLOWANCE_FIELDS)
        self._check(path, Allotment(**values), values)
        if not table:
            self._wrong(path, "Give a quota or a reservation.")
        quota, reservation = values.get("quota"), values.get("reservation", 0)
        if quota is not None and reservation > quota:
            self._wrong(path, f"{reservation} seats are reserved, more than the quota of {quota}.")
        return values

    def _rules(self, path: Path, effect: str, data: Any) -> set[Rule]:
        rules: set[Rule] = set()
        for key, names in (self._table(path, data, LISTS, "access rules") or {}).items():
            for place, name in self._names((*path, key), names):
                kind = LISTS[key]
                if kind != SubjectKind.TEAM:
                    self._check(place, AccessRule(name=name), {"name"})
                rules.add(Rule(effect, kind, name))
        return rules

    def _team(self, path: Path, name: str, data: Any) -> SiteTeam:
        team = SiteTeam()
        if (table := self._table(path, data, [*TEAM_FIELDS, "members"], "a team")) is None:
            return team
        team.values = self._values(path, table, TEAM_FIELDS)
        self._check(path, Team(name=name, **team.values), {"name", *team.values})
        for place, user in self._names((*path, "members"), table.get("members", [])):
            self._check(place, TeamMember(user=user), {"user"})
            team.members.add(user)
        return team

    # --- What tables have in common

    def _wrong(self, path: Path, detail: str) -> None:
        self.mistakes.append(_mistake(self.lines, path, detail))

    def _table(self, path: Path, data: Any, known: Collection[str], what: str) -> dict[str, Any] | None:
        """Return the known keys of a table, or None if it is none."""
        if not isinstance(data, dict):
            self._wrong(path, f"This must be a table with {what}.")
            return None
        for key in data.keys() - set(known):
            near = get_close_matches(key, known, 1, cutoff=0.7)
            hint = f"Did you mean {near[0]}?" if near else f"Known keys: {', '.join(known)}."
            self._wrong((*path, key), f"There is no such key. {hint}")
        return {key: value for key, value in data.items() if key in known}

    def _items(self, path: Path, data: Any, what: str) -> Iterable[tuple[str, Any]]:
        if not isinstance(data, dict):
            self._wrong(path, f"This must be a table with a {what} in each line.")
            return ()
        return data.items()

    def _values(self, path: Path, table: dict[str, Any], fields: Iterable[str]) -> dict[str, Any]:
        """Return the values of a table, by field. A value that is no value of its field is left out."""
        values = {}
        for field in fields:
            key = _key(field)
            if key in table:
                try:
                    values[field] = READERS[field](table[key])
                except ValueError as error:
                    self._wrong((*path, key), str(error))
        return values

    def _value(self, path: Path, reader: Read, value: Any) -> Any:
        try:
            return reader(value)
        except ValueError as error:
            self._wrong(path, str(error))
            return None

    def _names(self, path: Path, data: Any) -> Iterable[tuple[Path, str]]:
        """Return the names in a list, each once, with their places."""
        if not isinstance(data, list):
            self._wrong(path, 'This must be a list of names, such as ["ana", "ben"].')
            return
        seen: set[str] = set()
        for number, name in enumerate(data):
            if not isinstance(name, str) or not name:
                self._wrong((*path, number), "Give a name in quotes.")
            elif name in seen:
                self._wrong((*path, number), f"{name} is in this list twice.")
            else:
                seen.add(name)
                yield (*path, number), name

    def _check(self, path: Path, row: models.Model, fields: Collection[str], *, has_keys: bool = True) -> None:
        """Check fields of an unsaved row as the model does. ``has_keys``: the place is a table with these keys."""
        every = {field.name for field in row._meta.concrete_fields}
        try:
            row.clean_fields(exclude=every - set(fields))
        except ValidationError as error:
            for field, messages in error.message_dict.items():
                in_table = has_keys and field not in ("name", "user")
                self._wrong((*path, _key(field)) if in_table else path, " ".join(messages))


def _is_tool(value: Any) -> bool:
    """Return whether the table [tools] or [teams] is a tool of this name, as ``manage.py seed`` reads it."""
    if not isinstance(value, dict):
        return False
    return not isinstance(value.get("capacity", {}), dict) or not isinstance(value.get("contracts", {}), dict)


def _key(field: str) -> str:
    """Return the key of a field in a document."""
    return KEYS.get(field, field)
