"""Create and revoke API tokens."""

from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db import transaction

from licenses import auditing
from licenses.auditing import Actor
from licenses.errors import MoreRights, UnknownRow
from licenses.models import Action, ApiToken
from licenses.preconditions import Check, accept

from .callers import Caller, Kind


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
    """Save a new token of a maker (``issue``). Raises MoreRights if it would give rights that the maker lacks."""
    is_own = token.user == maker.name and token.user != "" and not token.may_administer
    if not (is_own or maker.is_superuser):
        raise MoreRights("Only a superuser creates tokens of administrators, of teams and of other users.")
    if token.may_administer:
        _limit_administrator(maker, token)
    token.created_by = maker.account
    return issue(token, by=by)


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
def issue(token: ApiToken, *, by: Actor) -> str:
    """Save a new token and return its secret, which cannot be read again.

    Raises ValidationError.
    """
    secret = ApiToken.objects.issue(token)
    auditing.created([token], by=by)
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
