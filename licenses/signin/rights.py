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


class GroupsMissing(Exception):
    """Claims without all the groups of their subject. To read them as the groups there
    are would take rights away. The message is for the subject, and for the log."""


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
    """The groups in these claims; what isn't a list of names is none.

    Raises GroupsMissing where groups have a meaning here and these aren't all of them.
    """
    groups = claim(claims, settings.LICENSE_OIDC_GROUPS_CLAIM)
    if isinstance(groups, str):
        groups = [groups]
    if not isinstance(groups, list):
        if _are_elsewhere(claims) and _groups_matter():
            raise GroupsMissing(
                "The sign-in provider left the groups out of the token, since there are too many. "
                "Let it send only the groups that are assigned to this application."
            )
        return []
    if len(groups) > GROUPS_LIMIT and _groups_matter():
        raise GroupsMissing(f"The sign-in provider named {len(groups)} groups; {GROUPS_LIMIT} are read at most.")
    return [group for group in groups[:GROUPS_LIMIT] if isinstance(group, str)]


def _are_elsewhere(claims: Mapping[str, Any]) -> bool:
    """Whether a token only says where to ask for the groups (OpenID Connect Core 5.6.2;
    Entra ID does so above 200 groups, or says ``hasgroups``)."""
    elsewhere = claims.get("_claim_names")
    return (isinstance(elsewhere, Mapping) and settings.LICENSE_OIDC_GROUPS_CLAIM in elsewhere) or claims.get(
        "hasgroups"
    ) in (True, "true")


def _groups_matter() -> bool:
    return bool(
        settings.LICENSE_OIDC_ADMIN_GROUPS
        or settings.LICENSE_OIDC_STAFF_GROUPS
        or settings.LICENSE_OIDC_TEAM_PREFIX
        or settings.LICENSE_OIDC_TEAM_GROUPS
    )


def rights_of(claims: Mapping[str, Any]) -> Rights:
    """What the groups in these claims give; raises GroupsMissing."""
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
