"""Create and revoke API tokens: any token for superusers, and their own tokens for everybody.

The site's limits (``LICENSE_OWN_TOKEN*``) hold for every token that a person makes for themselves: on the page, by
``license login``, and with the right to add tokens in the admin and the API. There a superuser has no limits, and the
command ``token create`` has none.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from licenses import auditing
from licenses.auditing import Actor
from licenses.errors import MoreRights, TooManyTokens, UnknownRow
from licenses.models import Action, ActorKind, ApiToken
from licenses.models.token import DEFAULT_LIFETIME, is_token, token_hash
from licenses.names import is_name
from licenses.preconditions import Check, accept

from .callers import Caller, Kind, Scope

# Expired tokens stay on their owner's page for this time, to explain why a program fails.
SHOWN_EXPIRED = timedelta(days=30)
# The most tokens on that page.
SHOWN_AT_MOST = 200


@dataclass(frozen=True, slots=True)
class Maker:
    """Who creates a token: an account, or a caller of the API with the rights of one.

    ``name`` is the user whose tokens the maker may create; a superuser creates those of
    everybody. A token administers only while ``account`` is a superuser. ``token`` is the one
    that the maker calls with.
    """

    name: str
    is_superuser: bool
    account: User | None = None
    token: ApiToken | None = None


def maker_of(caller: Caller) -> Maker:
    """Return the maker that a caller is. A token acts for its user's account or, without one, for the account
    that created it."""
    token = None
    account = caller.user
    if account is None and caller.name:
        account = User.objects.filter(username=caller.name).first()
    if caller.kind == Kind.TOKEN:
        token = ApiToken.objects.get(pk=int(caller.credential.removeprefix("token ")))
        if account is None and token.created_by_id is not None:
            account = User.objects.filter(pk=token.created_by_id).first()
    return Maker(caller.name, caller.acts_for_all, account, token)


@transaction.atomic
def issue_as(maker: Maker, token: ApiToken, *, by: Actor) -> str:
    """Save a new token of a maker (``issue``).

    Raises MoreRights if it would give rights that the maker lacks; for a maker who is no superuser also
    TooManyTokens, and ValidationError for a longer life or other scopes than the site allows.
    """
    is_own = token.user == maker.name and token.user != "" and not token.may_administer
    if not (is_own or maker.is_superuser):
        raise MoreRights("Only a superuser creates tokens of administrators, of teams and of other users.")
    if not maker.is_superuser:
        _limit_own(maker, token)
    if token.may_administer:
        _limit_administrator(maker, token)
    token.created_by = maker.account
    return issue(token, by=by)


def usual_end(maker: Maker, created_at: datetime) -> datetime:
    """Return the end of a maker's new token that names none."""
    longest = timedelta(days=settings.LICENSE_OWN_TOKEN_DAYS)
    return created_at + (DEFAULT_LIFETIME if maker.is_superuser else min(DEFAULT_LIFETIME, longest))


def _limit_own(maker: Maker, token: ApiToken) -> None:
    """Refuse a token beyond the site's limits. Part of the caller's transaction, under the lock of the account."""
    if maker.account is None:
        raise MoreRights("Only a caller with an account creates tokens of its own.")
    try:
        current = locked_for_own(maker.account)
    except NoOwnTokens as why:
        raise MoreRights(str(why)) from None
    days = settings.LICENSE_OWN_TOKEN_DAYS
    if token.expires_at - token.created_at > timedelta(days=days):
        raise ValidationError({"expires_at": f"On this server a token of your own lives at most {days} days."})
    allowed = own_scopes(current)
    if not token.scopes <= set(allowed):
        raise ValidationError({"scopes": f"On this server your own tokens have these scopes: {', '.join(allowed)}."})


def _limit_administrator(maker: Maker, token: ApiToken) -> None:
    """Refuse an administrator's token that would outlive the rights that it is created with."""
    if maker.account is None and maker.token is None:
        raise MoreRights("Only a caller with an account or a token creates tokens of administrators.")
    if maker.token is not None and token.expires_at > maker.token.expires_at:
        raise MoreRights(
            "A token of an administrator that is created with a token expires no later than that one: "
            f"at {maker.token.expires_at:%Y-%m-%d %H:%M} UTC."
        )


@transaction.atomic
def issue(token: ApiToken, *, by: Actor, note: str = "") -> str:
    """Save a new token and return its secret, which cannot be read again.

    ``note`` is for the audit. Raises ValidationError.
    """
    secret = ApiToken.objects.issue(token)
    auditing.record(by, action=Action.CREATED, subject=token, after=auditing.state(token), note=note)
    return secret


@transaction.atomic
def revoke(token: ApiToken, *, by: Actor) -> bool:
    """Revoke a token. Return False if it was revoked before."""
    if not token.revoke():
        return False
    token.refresh_from_db(fields=["revoked_at"])
    auditing.record(
        by,
        action=Action.REVOKED,
        subject=token,
        before={"revoked_at": None},
        after={"revoked_at": token.revoked_at},
    )
    return True


@transaction.atomic
def revoke_token(*, key: int, by: Actor, check: Check = accept) -> bool:
    """Revoke the token with this key. Return False if it was revoked before.

    Raises UnknownRow, or what ``check`` raises.
    """
    token = ApiToken.objects.select_for_update(no_key=True).filter(pk=key).first()
    check(token)
    if token is None:
        raise UnknownRow(kind="token", name=str(key))
    return revoke(token, by=by)


def revoke_secret(secret: str, *, address: str) -> None:
    """Revoke the token with this secret, if there is one. The secret is right enough: it allows
    more than its own end."""
    token = ApiToken.objects.filter(hash=token_hash(secret)).first() if is_token(secret) else None
    if token is not None:
        revoke(token, by=Actor(ActorKind.TOKEN, f"token {token.pk}", address))


# --- Own tokens of a user ------------------------------------------------------


class NoOwnTokens(Exception):
    """The account can't make tokens of its own. The text is for the person."""


def why_no_own(account: User) -> str | None:
    """Return why an account can't make tokens of its own, or None if it can."""
    if settings.LICENSE_OWN_TOKENS == "nobody":
        return "On this server only administrators create tokens."
    if settings.LICENSE_OWN_TOKENS == "staff" and not account.is_staff:
        return "On this server only staff create tokens of their own."
    if not is_name(account.username):
        return "The name of your account is not a valid name for leases, so it can have no token."
    return None


def own_scopes(account: User) -> tuple[Scope, ...]:
    """Return the scopes that an account's own tokens can have: those that the site allows, and ``admin`` only
    for a superuser."""
    allowed = [Scope(scope) for scope in settings.LICENSE_OWN_TOKEN_SCOPES]
    return tuple(scope for scope in allowed if scope != Scope.ADMIN or account.is_superuser)


def own(account: User, now: datetime) -> list[ApiToken]:
    """Return the tokens that act as an account and are valid or expired lately, the soonest end first."""
    mine = ApiToken.objects.acting_as(account).filter(revoked_at__isnull=True, expires_at__gt=now - SHOWN_EXPIRED)
    return list(mine.order_by("expires_at", "pk")[:SHOWN_AT_MOST])


def locked_for_own(account: User) -> User:
    """Lock an account that can have one more token of its own, and return it. Part of the caller's transaction.

    Under the lock simultaneous requests can't exceed the limit, and no token outlives the account. Raises
    NoOwnTokens or TooManyTokens.
    """
    current = User.objects.select_for_update(no_key=True).filter(pk=account.pk, is_active=True).first()
    if current is None:
        raise NoOwnTokens("Your account is deactivated.")
    if why := why_no_own(current):
        raise NoOwnTokens(why)
    valid = ApiToken.objects.acting_as(current).filter(revoked_at__isnull=True, expires_at__gt=timezone.now())
    limit = settings.LICENSE_OWN_TOKENS_PER_USER
    if valid.count() >= limit:
        raise TooManyTokens(limit=limit)
    return current


@transaction.atomic
def make_own(
    account: User, *, name: str, days: int, scopes: Collection[Scope], by: Actor, note: str = ""
) -> tuple[ApiToken, str]:
    """Create a token that acts as this account, and return it with its secret.

    It lives for ``days``, at most ``LICENSE_OWN_TOKEN_DAYS``. It gets the ``scopes`` that ``own_scopes`` has
    too. Raises NoOwnTokens, TooManyTokens or ValidationError.
    """
    current = locked_for_own(account)
    now = timezone.now()
    given = set(scopes).intersection(own_scopes(current))
    token = ApiToken(
        name=name,
        user=current.username,
        may_read=Scope.READ in given,
        may_borrow=Scope.BORROW in given,
        may_administer=Scope.ADMIN in given,
        created_at=now,
        created_by=current,
        expires_at=now + timedelta(days=min(days, settings.LICENSE_OWN_TOKEN_DAYS)),
    )
    return token, issue(token, by=by, note=note)


def revoke_own(account: User, token_id: int, *, by: Actor) -> ApiToken | None:
    """Revoke a token that acts as this account, and return it; None if there is no such token. Harmless if it
    was revoked before."""
    token = ApiToken.objects.acting_as(account).filter(pk=token_id).first()
    if token is not None:
        revoke(token, by=by)
    return token
