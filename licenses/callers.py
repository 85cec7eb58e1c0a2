"""Who calls, and what their credential is good for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.contrib.auth.models import User


class Scope(StrEnum):
    """What a credential is good for. ``admin`` includes the others."""

    READ = "read"
    BORROW = "borrow"
    ADMIN = "admin"


class Kind(StrEnum):
    """By what a caller is known."""

    ANONYMOUS = "anonymous"
    SESSION = "session"  # signed in with a browser
    PASSWORD = "password"  # noqa: S105
    TOKEN = "token"  # noqa: S105
    JWT = "jwt"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from.

    ``name`` is the one their leases are held under; a team's token and an
    anonymous caller have none. ``teams`` are those that the credential itself
    vouches for: a team token's team, the groups in a JWT; a person's other teams
    are in the table of members. ``user`` is the account whose permissions limit
    an administrator's credential. ``credential`` names it in logs.
    """

    kind: Kind
    name: str = ""
    teams: frozenset[str] = frozenset()
    scopes: frozenset[Scope] = frozenset()
    user: User | None = None
    credential: str = ""

    def has(self, scope: Scope) -> bool:
        """Whether the credential is good for calls that need this scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def is_admin(self, permission: str) -> bool:
        """Whether this is an administrator with this permission of Django's.

        A credential that belongs to no account isn't limited by one.
        """
        return Scope.ADMIN in self.scopes and (self.user is None or self.user.has_perm(permission))

    @property
    def acts_for_all(self) -> bool:
        """Whether this borrows and returns for everybody: a superuser, or a
        credential with the scope ``admin`` that belongs to no account."""
        return Scope.ADMIN in self.scopes and (self.user is None or self.user.is_superuser)

    @property
    def of_team(self) -> str | None:
        """The team whose token this is, and which is all that it is for; else None."""
        if self.kind != Kind.TOKEN or self.name or not self.teams or self.acts_for_all:
            return None
        (team,) = self.teams
        return team

    def __str__(self) -> str:
        known = " ".join(filter(None, [self.name, self.credential]))
        return f"{known} ({self.kind})" if known else str(self.kind)
