"""The document of a site: what it says, and the place of each mistake in it."""

import json
import tomllib
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from licenses.errors import InvalidSite
from licenses.site.description import Rule
from licenses.site.parser import read
from licenses.site.toml_lines import Path, lines_of
from licenses.site.writer import data_of, json_ready, toml

pytestmark = [pytest.mark.any_database]

WHOLE = """\
# Everything that a document can say.
[tools.cad]
capacity = 5
display_name = "CAD"
vendor = "acme"
overdraft = 1
user_limit = 2
ignores_case = true
seat_hour_price = 1.25
overdraft_hour_price = "2.5"
default_ttl_seconds = ""
max_ttl_seconds = 86400
enabled = false
valid_from = 2026-01-01
valid_until = 2026-12-31

[tools.cad.teams]
crash = { quota = 3, reservation = 1 }

[tools.cad.user_limits]
ana = 1

[tools.cad.include]
users = ["ana"]
teams = ["crash"]

[tools.cad.exclude]
hosts = ["old"]
projects = ["moon"]

[[mesh.contracts]]
seats = 3
last_day = 2026-12-31
price = 1200.50
reference = "PO-1"

[teams.crash]
display_name = "Crash"
ignores_case = true
members = ["ana", "ben"]
"""


def test_a_document_says_all_that_the_admin_can_set() -> None:
    site = read(WHOLE).site
    cad = site.tools["cad"]
    assert cad.values == {
        "capacity": 5,
        "display_name": "CAD",
        "vendor": "acme",
        "overdraft": 1,
        "user_limit": 2,
        "ignores_case": True,
        "seat_hour_price": Decimal("1.25"),
        "overdraft_hour_price": Decimal("2.5"),
        "default_ttl": None,
        "max_ttl": timedelta(days=1),
        "enabled": False,
        "valid_from": datetime(2026, 1, 1, tzinfo=UTC),
        # The last valid day.
        "valid_until": datetime(2027, 1, 1, tzinfo=UTC),
    }
    assert cad.allowances == {"crash": {"quota": 3, "reservation": 1}}
    assert cad.user_limits == {"ana": 1}
    assert cad.access_rules == {
        Rule("include", "user", "ana"),
        Rule("include", "team", "crash"),
        Rule("exclude", "host", "old"),
        Rule("exclude", "project", "moon"),
    }
    assert site.tools["mesh"].contracts == [
        {"seats": 3, "last_day": date(2026, 12, 31), "price": Decimal("1200.50"), "reference": "PO-1"}
    ]
    assert site.teams["crash"].values == {"display_name": "Crash", "ignores_case": True}
    assert site.teams["crash"].members == {"ana", "ben"}


def test_a_document_that_was_read_is_written_as_one_that_says_the_same() -> None:
    site = read(WHOLE).site
    data = data_of(site)
    assert read(toml(data)).site == site
    assert read(json.dumps(json_ready(data)), is_json=True).site == site


@pytest.mark.parametrize(
    ("text", "line", "where", "detail"),
    [
        ("[tools.cad]\ncapacity = 5\ncapacty = 6", 3, "tools.cad.capacty", "Did you mean capacity?"),
        ("[tools.cad]\ncapacity = 5\nin_use = 6", 3, "tools.cad.in_use", "Known keys: capacity, display_name"),
        ("[tools.cad]\n\ncapacity = 'many'", 3, "tools.cad.capacity", "Give a whole number."),
        ("[tools.cad]\ncapacity = 1000001", 2, "tools.cad.capacity", "less than or equal to 1000000"),
        ("[tools.cad]\nvendor = 'x'", 1, "tools.cad", "Give a capacity or contracts"),
        ("[tools.CAD]\ncapacity = 1", 1, "tools.CAD", "1 to 64 of a-z"),
        ("[tools.status]\ncapacity = 1", 1, "tools.status", "a call of the API"),
        ("[cad]\ncapacity = 1\n\n[tools.cad]\ncapacity = 2", 4, "tools.cad", "twice"),
        ("tools = 5", 1, "tools", "Give a table for each"),
        ("cad = 5", 1, "cad", "must be a table with a tool"),
        ("[[cad.contracts]]\nseats = 1\n[[cad.contracts]]\nseats = 0", 4, "cad.contracts[1].seats", "greater than"),
        ("[[cad.contracts]]\nlast_day = 2026-01-01", 1, "cad.contracts[0]", "needs seats"),
        (
            "[[cad.contracts]]\nseats = 1\nfirst_day = 2026-01-02\nlast_day = 2026-01-01",
            4,
            "cad.contracts[0].last_day",
            "before the first",
        ),
        ("[cad]\ncontracts = []", 2, "cad.contracts", "one contract or more"),
        ("[cad]\ncapacity = 1\n[cad.teams.a]\nquota = 1\nreservation = 2", 3, "cad.teams.a", "more than the quota"),
        ("[cad]\ncapacity = 1\n[cad.teams.a]", 3, "cad.teams.a", "Give a quota or a reservation."),
        ("[cad]\ncapacity = 1\n[cad.user_limits]\n'ana ' = 1", 4, 'cad.user_limits."ana "', "no blanks at the ends"),
        ("[cad]\ncapacity = 1\n[cad.user_limits]\nana = -1", 4, "cad.user_limits.ana", "greater than"),
        ("[cad]\ncapacity = 1\n[cad.include]\nuser = ['ana']", 4, "cad.include.user", "Did you mean users?"),
        ("[teams.crash]\nmembers = [\n 'ana',\n 'ben',\n 'ana']", 5, "teams.crash.members[2]", "twice"),
        ("[teams.crash]\nmembers = 'ana'", 2, "teams.crash.members", "a list of names"),
        ("[teams.crash]\nmembers = ['']", 2, "teams.crash.members[0]", "Give a name in quotes."),
        ("[tools.cad]\ncapacity = 5 6", 2, "column 14", "This is not TOML"),
        ("[tools.cad]\ncapacity = 1\nseat_hour_price = nan", 3, "tools.cad.seat_hour_price", "a number such as"),
        ("[cad]\ncapacity = 1\ndefault_ttl_seconds = 1e30", 3, "cad.default_ttl_seconds", "a number of seconds"),
        ('[cad]\ncapacity = 1\nvendor = "a\\u0000"', 3, "cad.vendor", "not allowed"),
    ],
)
def test_a_mistake_has_its_line_and_its_place(text: str, line: int, where: str, detail: str) -> None:
    with pytest.raises(InvalidSite) as refused:
        read(text)
    (found,) = refused.value.facts["errors"]
    assert (found["line"], found["where"]) == (line, where)
    assert detail in found["detail"]
    assert f"line {line}: {where}: " in refused.value.detail


def test_all_mistakes_are_shown_in_the_order_of_their_lines_up_to_20() -> None:
    lines = [f"[tools.t{number}]\ncapacity = 'x'" for number in range(25)]
    with pytest.raises(InvalidSite) as refused:
        read("\n".join(lines))
    errors = refused.value.facts["errors"]
    assert [error["line"] for error in errors] == list(range(2, 42, 2))
    assert refused.value.detail.endswith("and 5 more mistakes")


@pytest.mark.parametrize(
    "text",
    [
        "[",
        '{"tools": {"cad": {"capacity": 1}, "cad": {"capacity": 2}}}',
        '{"tools": {"cad": {"capacity": NaN}}}',
        '{"tools": []}',
        "[]",
        '{"teams": {"crash": {"members": ["\\ud800"]}}}',
        "[" * 100_000,
        '{"tools": {"cad": {"capacity": ' + "1" * 5000 + "}}}",
    ],
)
def test_json_with_a_mistake_is_refused(text: str) -> None:
    with pytest.raises(InvalidSite):
        read(text, is_json=True)


@pytest.mark.parametrize(
    "text", ["x = " + "[" * 100_000, "x = " + "1" * 5000, "x = 1e999999999", "\x00", "x = '\ufeff", "a.b = 1\na = 2"]
)
def test_toml_with_a_mistake_is_refused(text: str) -> None:
    with pytest.raises(InvalidSite):
        read(text)


def test_tools_called_tools_and_teams_can_be_written() -> None:
    """As ``manage.py seed`` reads them, and in the table of all tools."""
    short = read("[tools]\ncapacity = 1\n[teams]\ncontracts = [{seats = 2}]").site
    full = read("[tools.tools]\ncapacity = 1\n[tools.teams]\ncontracts = [{seats = 2}]").site
    assert short == full
    assert list(full.tools) == ["tools", "teams"]
    # Tables for a tool and a team with the names of keys.
    named = read("[tools.capacity]\ncapacity = 1\n[teams.contracts]").site
    assert (list(named.tools), list(named.teams)) == (["capacity"], ["contracts"])


# --- Places ------------------------------------------------------------------------


KEYS = some.text(min_size=1, max_size=6) | some.sampled_from(["a", "b-1", "tools", 'x"y', "é", "a.b"])
TEXTS = some.text(max_size=12).filter(lambda text: not any("\ud800" <= sign <= "\udfff" for sign in text))
DATA = some.recursive(
    some.booleans()
    | some.integers(-(2**40), 2**40)
    | some.dates(min_value=date(1000, 1, 1))
    | some.datetimes(min_value=datetime(1000, 1, 1), timezones=some.just(UTC))
    | some.decimals(allow_nan=False, allow_infinity=False, places=2)
    | TEXTS,
    lambda below: some.lists(below, max_size=4) | some.dictionaries(KEYS, below, max_size=4),
    max_leaves=12,
)


def paths_of(value: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    entries: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in entries:
        yield from paths_of(each, (*path, key))


def inline(value: Any) -> str:
    """Return a value in TOML, with line ends where they may be."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[ # more\n" + "".join(f"{inline(each)},\n\n" for each in value) + "]"
    if isinstance(value, str):
        marks = "\x7f" in value or any(ord(sign) < 32 for sign in value) or "'''" in value or value.endswith("'")
        return json.dumps(value).replace("\x7f", "\\u007f") if marks else f"'''\n{value}'''"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return str(value).lower() if isinstance(value, bool) else f"{value:f}" if isinstance(value, Decimal) else str(value)


@settings(max_examples=150, deadline=None)
@given(some.dictionaries(KEYS, DATA, max_size=4), some.sampled_from(["\n", "\r\n"]))
def test_every_value_of_a_document_has_a_line(data: dict[str, Any], end: str) -> None:
    try:
        text = "".join(f"# [x]\n{json.dumps(key)} = {inline(value)} # y\n" for key, value in data.items())
        text = text.replace("\n", end)
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeEncodeError):
        return
    lines = lines_of(text)
    assert set(lines) == set(paths_of(found))
    written = text.split(end)
    for path, line in lines.items():
        if len(path) == 1:
            assert written[line - 1].startswith(f"{json.dumps(path[0])} = ")


def test_headers_arrays_of_tables_and_dotted_keys_have_their_lines() -> None:
    text = '[a.b]\nc.d = 1\n[[a.e]]\nf = """\n]\n"""\n[[a.e]]\n[a.e.g]\nh = 2\n"i.j" = { k = [1,\n2] }\n'
    assert lines_of(text) == {
        ("a",): 1,
        ("a", "b"): 1,
        ("a", "b", "c"): 2,
        ("a", "b", "c", "d"): 2,
        ("a", "e"): 3,
        ("a", "e", 0): 3,
        ("a", "e", 0, "f"): 4,
        ("a", "e", 1): 7,
        ("a", "e", 1, "g"): 8,
        ("a", "e", 1, "g", "h"): 9,
        ("a", "e", 1, "g", "i.j"): 10,
        ("a", "e", 1, "g", "i.j", "k"): 10,
        ("a", "e", 1, "g", "i.j", "k", 0): 10,
        ("a", "e", 1, "g", "i.j", "k", 1): 11,
    }
