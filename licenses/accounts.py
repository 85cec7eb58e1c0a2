"""The services that save, deactivate and delete accounts, and with an account end
all that acts for it: its tokens, its sessions and its places in the queue.

Leases, memberships and tokens go by names. So a name that was an account's is
retired when the account is renamed or deleted, and whoever gets it next is asked for.
"""

import uuid
from dataclasses import dataclass, field

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from . import auditing, tokens
from .auditing import Actor
from .leases import services
from .models import AccountSession, Action, ApiToken, Identity, JwtCaller, RetiredName, TeamMember
from .names import folded


@dataclass(frozen=True, slots=True)
class Ended:
    """What ended with an account: ids of tokens, tickets and leases, and how many
    sessions."""

    tokens: list[int] = field(default_factory=list)
    sessions: int = 0
    tickets: list[uuid.UUID] = field(default_factory=list)
    leases: list[uuid.UUID] = field(default_factory=list)


@transaction.atomic
def save(account: User, *, by: Actor, force_note: str = "") -> Ended:
    """Save an account, new or changed, and return what that ended: everything that
    acts for it, if it is now deactivated or has another name.

    With a ``force_note``, the reason, its open leases are forced back too.
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
    ended = _end(before, by=by, force_note=force_note)
    if renamed:
        RetiredName.objects.filter(name=account.username, account_id=account.pk).delete()
        _retire(before)
        ApiToken.objects.bind(account)
        _move_memberships(before.username, account.username, by=by)
    return ended


@transaction.atomic
def delete(account: User, *, by: Actor, force_note: str = "") -> Ended:
    """Delete an account and its memberships of teams; return what ended with it, as
    ``save`` does."""
    ended = _end(account, by=by, force_note=force_note)
    _retire(account)
    for member in TeamMember.objects.filter(user=account.username).select_related("team"):
        with auditing.deleting(member, by=by):
            member.delete()
    with auditing.deleting(account, by=by):
        account.delete()
    return ended


@transaction.atomic
def deactivate(account: User, *, by: Actor, force_note: str = "") -> Ended:
    """Deactivate an account; return what ended with it, as ``save`` does."""
    account = User.objects.select_for_update(no_key=True).get(pk=account.pk)
    account.is_active = False
    return save(account, by=by, force_note=force_note)


def why_not(name: str, *, account: User | None = None, issuer: str = "", subject: str = "") -> str | None:
    """Return why an account can't have a name, None if it can: another account's
    name is the same but for case or form, or the name was one's that is gone.

    ``account`` is the one that would be renamed; ``issuer`` and ``subject`` are the
    person's at the provider, who may have back what was theirs.
    """
    others = User.objects.exclude(pk=account.pk) if account and account.pk else User.objects.all()
    # Neither database compares names so; a new name is a rare thing.
    names = others.values_list("username", flat=True).iterator()
    if other := next((other for other in names if folded(other) == folded(name)), None):
        return f"There is another account called {other}."
    bound = JwtCaller.objects.filter(folded=folded(name)).first()
    if subject and bound and (bound.issuer, bound.subject) != (issuer, subject):
        return f"{bound.name} is the name of somebody else at the sign-in provider."
    for retired in RetiredName.objects.filter(folded=folded(name)):
        is_back = (account is not None and retired.account_id == account.pk) or (
            bool(subject) and (retired.issuer, retired.subject) == (issuer, subject)
        )
        if not is_back:
            return f"The name {retired.name} was another account's until {retired.retired_at:%Y-%m-%d}."
    return None


def bind(*, issuer: str, subject: str, name: str) -> str | None:
    """Let somebody who is known only by JWTs have a name from now on. Return why not,
    None if they have it."""
    if why := why_not(name, issuer=issuer, subject=subject):
        return why
    caller = JwtCaller(issuer=issuer, subject=subject, name=name, folded=folded(name))
    JwtCaller.objects.bulk_create([caller], ignore_conflicts=True)
    if JwtCaller.objects.filter(issuer=issuer, subject=subject, name=name).exists():
        return None
    # Bound to another at the same moment.
    return why_not(name, issuer=issuer, subject=subject) or "You are known by another name here."


def _end(account: User, *, by: Actor, force_note: str) -> Ended:
    valid = ApiToken.objects.acting_as(account).filter(revoked_at__isnull=True).order_by("pk")
    revoked = [token.pk for token in valid if tokens.revoke(token, by=by)]
    sessions = AccountSession.objects.end(account)
    tickets, leases = services.end_all_of(user=account.username, by=by, force_note=force_note)
    ended = Ended(revoked, sessions, tickets, leases)
    if revoked or sessions or tickets or leases:
        auditing.record(
            by,
            action=Action.ENDED,
            subject=account,
            before={"tokens": revoked, "sessions": sessions, "tickets": tickets, "leases": leases},
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
    """Let a person stay in their teams under their new name."""
    mine = set(TeamMember.objects.filter(user=new).values_list("team", flat=True))
    for member in TeamMember.objects.filter(user=old).select_related("team"):
        if member.team_id in mine:
            with auditing.deleting(member, by=by):
                member.delete()
            continue
        member.user = new
        with auditing.changing(member, by=by):
            member.save()
