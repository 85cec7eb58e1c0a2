"""Translate the provider's groups to rights, roles and teams, as configured."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from licenses.models.team import TEAM_NAME_PATTERN

GROUPS_LIMIT = 1000
# The role of administrators, and of staff whose group names no other. It may view everything except the audit, and
# force-return leases. The first sign-in creates it; the admin can change it.
OPERATORS = "Operators"


@dataclass(frozen=True, slots=True)
class Rights:
    """The rights, roles and teams of a user's groups. A role is the name of a group of accounts in the admin."""

    admin: bool
    roles: frozenset[str]
    teams: frozenset[str]

    @property
    def staff(self) -> bool:
        """Return whether the user may enter the admin."""
        return bool(self.roles)


class GroupsMissing(Exception):
    """The claims do not contain all groups of the user, so reading them would remove rights.

    The message is for the user and for the log.
    """


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return the claim of this name, or the nested one that its dots lead to, such as
    ``realm_access.roles``."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def groups_of(claims: Mapping[str, Any]) -> list[str]:
    """Return the groups in these claims; none unless they are a list of names.

    Raises GroupsMissing if groups are configured and the claims do not have all.
    """
    groups = claim(claims, settings.LICENSE_OIDC_GROUPS_CLAIM)
    if isinstance(groups, str):
        groups = [groups]
    if not isinstance(groups, list):
        if _are_elsewhere(claims) and _groups_matter():
            raise GroupsMissing(
                "The sign-in provider did not send your groups, because there are too many. "
                "Configure it to send only the groups that are assigned to this application."
            )
        return []
    if len(groups) > GROUPS_LIMIT and _groups_matter():
        raise GroupsMissing(f"The sign-in provider sent {len(groups)} groups. At most {GROUPS_LIMIT} are read.")
    return [group for group in groups[:GROUPS_LIMIT] if isinstance(group, str)]


def _are_elsewhere(claims: Mapping[str, Any]) -> bool:
    """Return whether the token only refers to the groups (OpenID Connect Core 5.6.2).

    Entra ID does that above 200 groups, or sends ``hasgroups``.
    """
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
    """Return the rights of the groups in these claims. Raises GroupsMissing."""
    groups = groups_of(claims)
    admin = bool(set(groups) & set(settings.LICENSE_OIDC_ADMIN_GROUPS))
    roles = {role for group, role in roles_by_group() if group in groups} | ({OPERATORS} if admin else set())
    return Rights(admin, frozenset(roles), frozenset(filter(None, map(_team, groups))))


def roles_by_group() -> list[tuple[str, str]]:
    """Return the groups of the provider whose members are staff, each with a role. The last ``=`` separates."""
    found = []
    for word in settings.LICENSE_OIDC_STAFF_GROUPS:
        group, separator, role = word.rpartition("=")
        found.append((group.strip(), role.strip()) if separator else (word, OPERATORS))
    return found


def _team(group: str) -> str | None:
    """Return the team of a group, or None."""
    if group in settings.LICENSE_OIDC_TEAM_GROUPS:
        return str(settings.LICENSE_OIDC_TEAM_GROUPS[group])
    prefix = settings.LICENSE_OIDC_TEAM_PREFIX
    name = group.removeprefix(prefix).lower()
    return name if prefix and group.startswith(prefix) and re.fullmatch(TEAM_NAME_PATTERN, name) else None
