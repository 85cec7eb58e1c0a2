"""Find out who calls: a credential in, a Caller out."""

import logging
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from licenses import database
from licenses.lanes import Reading
from licenses.leases import sql
from licenses.models import ApiToken, Identity
from licenses.models.token import TOKEN_PREFIX, is_token, token_hash
from licenses.names import NAME_LENGTH, is_name
from licenseserver.hub import aside

from . import accounts, jwts, throttling
from .callers import Caller, Kind, Scope
from .rights import GroupsMissing, rights_of

logger = logging.getLogger(__name__)

EVERYONE = frozenset({Scope.READ, Scope.BORROW})


class InvalidCredential(Exception):
    """A credential that is not valid here. The message is for the caller."""

    def __init__(self, detail: str = "This credential is not valid on this server.") -> None:
        super().__init__(detail)


ANONYMOUS = {"open": Caller(Kind.ANONYMOUS, scopes=EVERYONE), "required": Caller(Kind.ANONYMOUS)}


def anonymous() -> Caller:
    """Return the caller without a credential, who may do what ``LICENSE_AUTH`` leaves open."""
    return ANONYMOUS[settings.LICENSE_AUTH]


def caller_of_account(user: User, kind: Kind) -> Caller:
    """Return the caller who signed in to an account. Staff are administrators, as far as their permissions go."""
    return Caller(
        kind,
        # An account may have a name that no lease can be held under.
        name=user.username if is_name(user.username) else "",
        scopes=EVERYONE | {Scope.ADMIN} if user.is_staff else EVERYONE,
        user=user,
    )


def caller_of_bearer(credential: str, *, address: str) -> Caller:
    """Return the caller with an API token or a JWT of the provider.

    Raises InvalidCredential; or TooManyFailures, after too many of them from this address.
    """
    try:
        return caller_of_token(credential) if credential.startswith(TOKEN_PREFIX) else caller_of_jwt(credential)
    except InvalidCredential:
        aside(_count_failure, address)
        raise


def _count_failure(address: str) -> None:
    throttle = throttling.of_bearer(address)
    throttle.check()
    throttle.reserve()
    throttle.failed()


# By the hash of the secret.
TOKENS: Reading[str, ApiToken] = Reading(lambda hashes: {token.hash: token for token in sql.tokens_of_hashes(hashes)})


def caller_of_token(secret: str) -> Caller:
    """Return the owner of an API token. Raises InvalidCredential."""
    token = TOKENS.of(token_hash(secret)) if is_token(secret) else None
    if token is None:
        raise InvalidCredential
    # Explain only to a caller who holds the secret.
    if why := token.why_unusable():
        raise InvalidCredential(why)
    _remember_use(token)
    return Caller(
        Kind.TOKEN,
        name=token.user,
        teams=frozenset({token.team_name} if token.team_name else ()),
        scopes=token.effective_scopes,
        credential=f"token {token.pk}",
        expires_at=token.expires_at,
        ends_soon=token.ends_soon(timezone.now()),
    )


def caller_of_jwt(token: str) -> Caller:
    """Return the caller that the provider's JWT names. Raises InvalidCredential or ProviderAway.

    A person who has signed in here is known by that account. A name of another account
    is refused, whatever the provider calls the person.
    """
    if not settings.LICENSE_JWT_AUDIENCE:
        raise InvalidCredential
    try:
        claims = jwts.verified_claims(token, audience=settings.LICENSE_JWT_AUDIENCE)
    except jwts.InvalidJwt as error:
        logger.info("Refused a JWT: %s", error)
        raise InvalidCredential from None
    name = next((claims[claim] for claim in settings.LICENSE_JWT_USERNAME_CLAIMS if claim in claims), "")
    if not is_name(name) or User.normalize_username(name) != name:
        raise InvalidCredential(f"The name in this token must be 1 to {NAME_LENGTH} visible characters.")
    account = Identity.objects.account_of(issuer=claims["iss"], subject=claims["sub"], name=name)
    if account is None:
        _bind(claims, name)
    elif not (account.is_active and account.is_theirs):
        raise InvalidCredential("The account of this name is deactivated or belongs to another person.")
    try:
        rights = rights_of(claims)
    except GroupsMissing as missing:
        logger.warning("Refused a JWT of %s: %s", name, missing)
        raise InvalidCredential(str(missing)) from None
    return Caller(
        Kind.JWT,
        name=account.username if account else name,
        teams=rights.teams,
        scopes=scopes_of(claims, admin=rights.admin),
        credential="JWT",
        expires_at=datetime.fromtimestamp(claims["exp"], UTC),
    )


def _bind(claims: dict[str, Any], name: str) -> None:
    """Let the subject of a JWT have its name, which nobody has yet; raises
    InvalidCredential."""
    try:
        why = accounts.bind(issuer=claims["iss"], subject=claims["sub"], name=name)
    except DatabaseError as error:
        if database.fault(error) is not database.Fault.READ_ONLY:
            raise
        # A standby only answers questions: there the name gives nothing.
        return
    if why:
        logger.warning("Refused a JWT of %s: %s", claims["sub"], why)
        raise InvalidCredential(why)


def scopes_of(claims: dict[str, Any], *, admin: bool) -> frozenset[Scope]:
    """Return the scopes of a JWT: those of its holder, or the ones among them that the JWT names. Raises
    InvalidCredential.

    Providers send scopes as ``scope`` (RFC 8693, 4.2) or ``scp`` (Entra ID, Okta),
    as text or as a list.
    """
    rights = EVERYONE | {Scope.ADMIN} if admin else EVERYONE
    prefix = settings.LICENSE_JWT_SCOPE_PREFIX.lower()
    words = [word.lower() for name in ("scope", "scp") for word in _words_of(claims.get(name, ""))]
    named = {word.removeprefix(prefix) for word in words if word.startswith(prefix)}
    if not named and not settings.LICENSE_JWT_SCOPE_REQUIRED:
        return rights
    return frozenset(scope for scope in rights if scope in named)


def _words_of(claim: object) -> list[str]:
    """Return the words of a claim; raises InvalidCredential unless it is text or
    a list of texts: a limit that can't be read must not become no limit."""
    texts: list[Any] = claim if isinstance(claim, list) else [claim]
    if not all(isinstance(text, str) for text in texts):
        logger.info("Refused a JWT: its scopes are neither text nor a list of texts")
        raise InvalidCredential("The scopes of this token can't be read.")
    return [word for text in texts for word in text.split()]


# The use of a token is noted after its request was answered.
_to_note: ContextVar[int | None] = ContextVar("token_to_note", default=None)


def _remember_use(token: ApiToken) -> None:
    _to_note.set(token.pk if token.used_long_ago else None)


def note_use(**signal: Any) -> None:
    """Record that the token of a finished request was used. Receives a signal."""
    token, _ = _to_note.get(), _to_note.set(None)
    if token is not None:
        # If it can't be written, the next use will be.
        with suppress(DatabaseError, InterfaceError):
            aside(ApiToken.objects.used, token)
