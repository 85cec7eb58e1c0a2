"""Save, deactivate and delete accounts. The end of an account ends its tokens, sessions and tickets.

Leases, memberships and tokens store the name of an account. So a name is retired
when its account is renamed or deleted, and only an administrator gives it to
another account.
"""

import uuid
from dataclasses import dataclass, field

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from licenses import auditing
from licenses.auditing import Actor
from licenses.leases import services
from licenses.models import (
    AccountSession,
    Action,
    ApiToken,
    DeviceLogin,
    Identity,
    JwtCaller,
    RetiredName,
    Team,
    TeamMember,
)
from licenses.names import folded
from licenses.preconditions import Check, accept

from . import teams, tokens


@dataclass(frozen=True, slots=True)
class Ended:
    """What ended with an account: ids of tokens, tickets and leases, and the number of sessions and of sign-ins of
    programs that it approved."""

    tokens: list[int] = field(default_factory=list)
    sessions: int = 0
    tickets: list[uuid.UUID] = field(default_factory=list)
    leases: list[uuid.UUID] = field(default_factory=list)
    logins: int = 0


@dataclass(frozen=True, slots=True)
class Left:
    """What ended when a user left, and the teams that the user was in."""

    ended: Ended
    teams: list[str] = field(default_factory=list)


@transaction.atomic
def save(account: User, *, by: Actor, force_note: str = "") -> Ended:
    """Save a new or changed account and return what ended.

    If it is now deactivated or has another name, its tokens, sessions and tickets
    end. With ``force_note``, the reason, its open leases are force-returned too.
    """
    before = User.objects.filter(pk=account.pk).select_for_update(no_key=True).first() if account.pk else None
    with auditing.changing(account, by=by):
        account.save()
    if before is None:
        ApiToken.objects.bind(account)
        return Ended()
    renamed = account.username != before.username
    if not renamed and (account.is_active or not before.is_active):
        return Ended()
    ended = _end(before.username, before, by=by, force_note=force_note)
    if renamed:
        RetiredName.objects.filter(name=account.username, account_id=account.pk).delete()
        _retire(before)
        ApiToken.objects.bind(account)
        _move_memberships(before.username, account.username, by=by)
    return ended


@transaction.atomic
def delete(account: User, *, by: Actor, force_note: str = "") -> Ended:
    """Delete an account and its team memberships. Return what ended, as ``save`` does."""
    ended = _end(account.username, account, by=by, force_note=force_note)
    _retire(account)
    teams.delete_members(TeamMember.objects.filter(user=account.username).select_related("team"), by=by)
    with auditing.deleting(account, by=by):
        account.delete()
    return ended


@transaction.atomic
def deactivate(account: User, *, by: Actor, force_note: str = "", check: Check = accept) -> Ended:
    """Deactivate an account. Return what ended, as ``save`` does. Raises what ``check`` raises."""
    account = User.objects.select_for_update(no_key=True).get(pk=account.pk)
    check(account)
    account.is_active = False
    return save(account, by=by, force_note=force_note)


@transaction.atomic
def leave(user: str, *, by: Actor, force_note: str = "", keep_teams: bool = False) -> Left:
    """End everything of a user who left for good, with or without an account. Return what ended.

    Deactivates the account, ends tokens, sessions and tickets as ``save`` does, and removes the user from
    all teams unless ``keep_teams``. A name without an account is not blocked: only the sign-in provider can.
    """
    account = User.objects.filter(username=user).select_for_update(no_key=True).first()
    if account is None or not account.is_active:
        ended = _end(user, account, by=by, force_note=force_note)
    else:
        account.is_active = False
        ended = save(account, by=by, force_note=force_note)
    if keep_teams:
        return Left(ended)
    members = TeamMember.objects.of_users([user])
    Team.objects.filter(pk__in=members.order_by().values("team")).lock()
    teams = []
    for member in members.select_related("team").order_by("team__name"):
        with auditing.deleting(member, by=by):
            member.delete()
        teams.append(member.team.name)
    return Left(ended, teams)


def why_not(name: str, *, account: User | None = None, issuer: str = "", subject: str = "") -> str | None:
    """Return why an account can't have a name, or None if it can.

    Another account may have the name, in any case or Unicode form, or had it before.
    ``account`` is the account to rename. ``issuer`` and ``subject`` identify the
    user at the provider, who may get back a name of their own.
    """
    others = User.objects.exclude(pk=account.pk) if account and account.pk else User.objects.all()
    # Compare here, because the databases can't. New names are rare.
    names = others.values_list("username", flat=True).iterator()
    if other := next((other for other in names if folded(other) == folded(name)), None):
        return f"There is another account called {other}."
    bound = JwtCaller.objects.filter(folded=folded(name)).first()
    if subject and bound and (bound.issuer, bound.subject) != (issuer, subject):
        return f"{bound.name} is the name of another user at the sign-in provider."
    for retired in RetiredName.objects.filter(folded=folded(name)):
        is_back = (account is not None and retired.account_id == account.pk) or (
            bool(subject) and (retired.issuer, retired.subject) == (issuer, subject)
        )
        if not is_back:
            return f"Another account had the name {retired.name} until {retired.retired_at:%Y-%m-%d}."
    return None


def bind(*, issuer: str, subject: str, name: str) -> str | None:
    """Give a name to a user who is known only by JWTs. Return why not, or None if they have it."""
    if why := why_not(name, issuer=issuer, subject=subject):
        return why
    caller = JwtCaller(issuer=issuer, subject=subject, name=name, folded=folded(name))
    JwtCaller.objects.bulk_create([caller], ignore_conflicts=True)
    if JwtCaller.objects.filter(issuer=issuer, subject=subject, name=name).exists():
        return None
    # Another request gave the name away at the same moment.
    return why_not(name, issuer=issuer, subject=subject) or "You have another name on this server."


def _end(user: str, account: User | None, *, by: Actor, force_note: str) -> Ended:
    """End what acts for a user, who may have an account."""
    acting = ApiToken.objects.acting_as(account) if account else ApiToken.objects.filter(account=None, user=user)
    valid = acting.filter(revoked_at__isnull=True).order_by("pk")
    revoked = [token.pk for token in valid if tokens.revoke(token, by=by)]
    sessions = AccountSession.objects.end(account) if account else 0
    logins = DeviceLogin.objects.end(account) if account else 0
    tickets, leases = services.end_all_of(user=user, by=by, force_note=force_note)
    ended = Ended(revoked, sessions, tickets, leases, logins)
    if account is None:
        # The audit has the tokens and the leases themselves.
        return ended
    if ended != Ended():
        auditing.record(
            by,
            action=Action.ENDED,
            subject=account,
            before={
                "tokens": revoked,
                "sessions": sessions,
                "tickets": tickets,
                "leases": leases,
                "logins": logins,
            },
        )
    return ended


def _retire(account: User) -> None:
    identity = Identity.objects.filter(user=account).first()
    RetiredName.objects.update_or_create(
        name=account.username,
        defaults={
            "folded": folded(account.username),
            "account_id": account.pk,
            "issuer": identity.issuer if identity else "",
            "subject": identity.subject if identity else "",
            "retired_at": timezone.now(),
        },
    )


def _move_memberships(old: str, new: str, *, by: Actor) -> None:
    """Keep a renamed user in their teams."""
    mine = set(TeamMember.objects.filter(user=new).values_list("team", flat=True))
    for member in TeamMember.objects.filter(user=old).select_related("team"):
        if member.team_id in mine:
            with auditing.deleting(member, by=by):
                member.delete()
            continue
        member.user = new
        with auditing.changing(member, by=by):
            member.save()
