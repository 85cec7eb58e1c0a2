"""Describe the caller of a request and the scopes of its credential."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.contrib.auth.models import User


class Scope(StrEnum):
    """What a credential allows. ``admin`` includes the other scopes."""

    READ = "read"
    BORROW = "borrow"
    ADMIN = "admin"


class Kind(StrEnum):
    """How a caller was identified."""

    ANONYMOUS = "anonymous"
    SESSION = "session"  # signed in with a browser
    PASSWORD = "password"  # noqa: S105
    TOKEN = "token"  # noqa: S105
    JWT = "jwt"


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request.

    ``name`` is the user of its leases; a team's token and an anonymous caller have
    none. ``teams`` are those that the credential asserts: the team of a token, the
    groups of a JWT. A user's other teams are in the table of members. ``user`` is the
    account whose permissions limit an administrator's credential. ``credential``
    names the credential in logs; it is valid until ``expires_at``, if it ends. A token that
    ``ends_soon`` warns its program.
    """

    kind: Kind
    name: str = ""
    teams: frozenset[str] = frozenset()
    scopes: frozenset[Scope] = frozenset()
    user: User | None = None
    credential: str = ""
    expires_at: datetime | None = None
    ends_soon: bool = False

    def has(self, scope: Scope) -> bool:
        """Return whether the credential has this scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def is_admin(self, permission: str) -> bool:
        """Return whether this is an administrator with this Django permission.

        A credential without an account needs only the scope.
        """
        return Scope.ADMIN in self.scopes and (self.user is None or self.user.has_perm(permission))

    @property
    def acts_for_all(self) -> bool:
        """Return whether the caller may borrow and return for everybody: a superuser, or a
        credential with the scope ``admin`` and without an account."""
        return Scope.ADMIN in self.scopes and (self.user is None or self.user.is_superuser)

    @property
    def of_team(self) -> str | None:
        """Return the team of a team's token, or None."""
        if self.kind != Kind.TOKEN or self.name or not self.teams or self.acts_for_all:
            return None
        (team,) = self.teams
        return team

    def __str__(self) -> str:
        known = " ".join(filter(None, [self.name, self.credential]))
        return f"{known} ({self.kind})" if known else str(self.kind)
