"""What the provider's groups mean here, by configuration."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from licenses.models.team import TEAM_NAME_PATTERN

GROUPS_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Rights:
    """What somebody may be, by their groups."""

    admin: bool
    staff: bool
    teams: frozenset[str]


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of this name, or, where there is none, the one that its dots
    lead to: ``realm_access.roles``."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def groups_of(claims: Mapping[str, Any]) -> list[str]:
    """The groups in these claims; what isn't a list of names is none."""
    groups = claim(claims, settings.LICENSE_OIDC_GROUPS_CLAIM)
    if isinstance(groups, str):
        groups = [groups]
    if not isinstance(groups, list):
        return []
    return [group for group in groups[:GROUPS_LIMIT] if isinstance(group, str)]


def rights_of(claims: Mapping[str, Any]) -> Rights:
    """What the groups in these claims give."""
    groups = groups_of(claims)
    admin = bool(set(groups) & set(settings.LICENSE_OIDC_ADMIN_GROUPS))
    staff = bool(set(groups) & set(settings.LICENSE_OIDC_STAFF_GROUPS))
    return Rights(admin, admin or staff, frozenset(filter(None, map(_team, groups))))


def _team(group: str) -> str | None:
    """The team that a group is, if it is one."""
    if group in settings.LICENSE_OIDC_TEAM_GROUPS:
        return str(settings.LICENSE_OIDC_TEAM_GROUPS[group])
    prefix = settings.LICENSE_OIDC_TEAM_PREFIX
    name = group.removeprefix(prefix).lower()
    return name if prefix and group.startswith(prefix) and re.fullmatch(TEAM_NAME_PATTERN, name) else None
