"""Describe a site: its tools with contracts and rules, and its teams with members.

A description may have only some values: what it does not mention, it leaves open.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from licenses.models.tool import DEFAULT_TTL


class Rule(NamedTuple):
    """An access rule of a tool. ``name`` is that of the user, team, host or project."""

    effect: str
    kind: str
    name: str

    def __str__(self) -> str:
        """Return it as a line of text."""
        return " ".join(self)


@dataclass(slots=True)
class SiteTool:
    """A tool. ``values`` are its own fields. ``contracts`` is None if the capacity is plain.

    ``allowances`` have the quota and the reservation of teams, ``user_limits`` the seats of users.
    """

    values: dict[str, Any] = field(default_factory=dict)
    contracts: list[dict[str, Any]] | None = None
    allowances: dict[str, dict[str, Any]] = field(default_factory=dict)
    user_limits: dict[str, int] = field(default_factory=dict)
    access_rules: set[Rule] = field(default_factory=set)


@dataclass(slots=True)
class SiteTeam:
    """A team. ``members`` are those that were added by hand, because only these stay in a file."""

    values: dict[str, Any] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Site:
    """Tools and teams by their names."""

    tools: dict[str, SiteTool] = field(default_factory=dict)
    teams: dict[str, SiteTeam] = field(default_factory=dict)


# The fields that a document can set, with the value of a field that is not there. The capacity has no default.
TOOL_FIELDS: Mapping[str, Any] = {
    "capacity": None,
    "display_name": "",
    "vendor": "",
    "overdraft": 0,
    "user_limit": None,
    "ignores_case": False,
    "seat_hour_price": None,
    "overdraft_hour_price": None,
    "default_ttl": DEFAULT_TTL,
    "max_ttl": None,
    "enabled": True,
    "valid_from": None,
    "valid_until": None,
}
CONTRACT_FIELDS: Mapping[str, Any] = {
    "seats": None,
    "first_day": None,
    "last_day": None,
    "price": None,
    "reference": "",
    "note": "",
}
ALLOWANCE_FIELDS: Mapping[str, Any] = {"quota": None, "reservation": 0}
TEAM_FIELDS: Mapping[str, Any] = {"display_name": "", "ignores_case": False}
