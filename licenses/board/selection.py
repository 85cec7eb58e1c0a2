"""Read from the address which tools the board shows, and in which order."""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import BadRequest
from django.http import QueryDict

from licenses.models import Tool
from licenses.names import is_clean

from .queries import Entry

LONGEST_SEARCH = 64
# Tools whose details are shown at most.
SHOWN_AT_MOST = 20
# What the tools can be sorted by. Free tools come first, then those whose seat is expected soonest.
SORTS = {
    "name": "Name",
    "free": "Free seats",
    "queue": "Longest queue",
    "expected": "Next seat",
    "use": "Use",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """The tools to show: those with ``search`` in a name, of a ``vendor``, of a ``team``, with a ``free``
    seat, and the reader's (``mine``). ``shown`` are the names of those with details."""

    search: str = ""
    vendor: str = ""
    team: str = ""
    free: bool = False
    mine: bool = False
    sort: str = "name"
    shown: frozenset[str] = frozenset()

    @classmethod
    def of(cls, parameters: QueryDict) -> "Selection":
        """Read the parameters of an address. Raises BadRequest."""
        sort = parameters.get("sort", "name")
        if sort not in SORTS:
            raise BadRequest(f"Sort by one of: {', '.join(SORTS)}.")
        return cls(
            search=_text(parameters, "q", "A search"),
            vendor=_text(parameters, "vendor", "A vendor"),
            team=_text(parameters, "team", "A team"),
            free="free" in parameters,
            mine="mine" in parameters,
            sort=sort,
            shown=frozenset(parameters.getlist("show")[:SHOWN_AT_MOST]),
        )

    @property
    def is_narrow(self) -> bool:
        """Return whether it may leave out tools."""
        return bool(self.search or self.vendor or self.team or self.free or self.mine)

    def matches(self, entry: Entry, of_team: Collection[int]) -> bool:
        """Return whether to show a tool; ``of_team`` are the keys of the team's tools."""
        tool = entry.tool
        return (
            _has(tool, self.search)
            and (not self.vendor or tool.vendor == self.vendor)
            and (not self.team or tool.pk in of_team)
            and (not self.free or entry.free > 0)
            and (not self.mine or entry.is_mine)
        )

    def ordered(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return these tools in their order, the starred ones first."""
        key = KEYS[self.sort]
        return sorted(entries, key=lambda entry: (not entry.starred, key(entry), entry.name.casefold()))


def _text(parameters: QueryDict, name: str, what: str) -> str:
    text = parameters.get(name, "").strip()
    if len(text) > (LONGEST_SEARCH if name == "q" else 128) or not is_clean(text):
        raise BadRequest(f"{what} has at most {LONGEST_SEARCH if name == 'q' else 128} characters, on one line.")
    return text


def _has(tool: Tool, search: str) -> bool:
    wanted = search.casefold()
    return any(wanted in text.casefold() for text in (tool.name, tool.display_name, tool.vendor))


def _until_free(entry: Entry) -> float:
    if entry.free:
        return 0
    return entry.expected.total_seconds() if entry.expected is not None and entry.grants else math.inf


KEYS: dict[str, Callable[[Entry], Any]] = {
    "name": lambda entry: 0,
    "free": lambda entry: -entry.free,
    "queue": lambda entry: -entry.tool.queued,
    "expected": _until_free,
    "use": lambda entry: -(entry.tool.levels.borrowed / max(entry.tool.capacity, 1)),
}
