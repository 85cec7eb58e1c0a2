"""The account of somebody whom the provider vouches for."""

import logging
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group, Permission, User
from django.db import IntegrityError, transaction

from licenses import accounts, auditing
from licenses.auditing import Actor
from licenses.models import ApiToken, Identity, TeamMember
from licenses.names import ACCOUNT_NAME_LENGTH, is_name

from .rights import GroupsMissing, Rights, claim, rights_of

logger = logging.getLogger(__name__)

# What staff may do who are no administrators: look, but at the audit, and force returns. The
# group is made at the first sign-in; the admin may change it.
OPERATORS = "Operators"


class SignInRefused(Exception):
    """Somebody whom the provider vouches for has no account here, and gets
    none. The message is for them."""


def account_of(claims: Mapping[str, Any], headers: Mapping[str, Any]) -> User:
    """The account that belongs to these verified claims, with the rights and
    teams that their groups give it now; made at the first sign-in.
    What that changes is recorded, with where they sign in from by ``headers``,
    WSGI's variables.

    Known only by issuer and subject. An account that has the name already, or one
    that differs from it in case or form, is somebody else's until an administrator
    says otherwise: raises SignInRefused.
    """
    try:
        with transaction.atomic():
            user, new = _account_of(claims)
            by = Actor.of_sign_in(user.username, headers)
            if new:
                ApiToken.objects.bind(user)
                auditing.created([user, user.identity], by=by)
            rights = _rights_of(user, claims)
            with auditing.changing(user, by=by):
                _follow_rights(user, rights)
            changes = TeamMember.objects.follow_provider(user=user.username, teams=rights.teams)
            auditing.membership(changes, by=by)
            return user
    except IntegrityError:
        # Signed in twice at once for the first time: the other one has it.
        raise SignInRefused("Your account was just created. Sign in again.") from None


def _account_of(claims: Mapping[str, Any]) -> tuple[User, bool]:
    """The account, locked, and whether it is new."""
    issuer, subject = claims["iss"], claims["sub"]
    identities = Identity.objects.select_related("user").select_for_update(no_key=True, of=("user",))
    identity = identities.filter(issuer=issuer, subject=subject).first()
    if identity is not None:
        if not identity.user.is_active:
            raise SignInRefused("Your account is deactivated.")
        return identity.user, False
    name = claim(claims, settings.LICENSE_OIDC_USERNAME_CLAIM)
    if isinstance(name, str) and len(name) > ACCOUNT_NAME_LENGTH:
        raise SignInRefused(f"The sign-in provider sent a name of more than {ACCOUNT_NAME_LENGTH} characters.")
    # As Django would store it: no two spellings of one name.
    if not is_name(name) or User.normalize_username(name) != name:
        raise SignInRefused("The sign-in provider sent no name that can hold a lease.")
    if why := accounts.why_not(name, issuer=issuer, subject=subject):
        logger.warning("Sign-in of %s at %s refused: %s", subject, issuer, why)
        raise SignInRefused(f"{why} Ask an administrator to link it to you.")
    user = User.objects.create_user(name)
    Identity.objects.create(user=user, issuer=issuer, subject=subject)
    return user, True


def _rights_of(user: User, claims: Mapping[str, Any]) -> Rights:
    """What the groups give; raises SignInRefused, which leaves everything as it is, if
    not all are known."""
    try:
        return rights_of(claims)
    except GroupsMissing as missing:
        logger.warning("Sign-in of %s refused, rights and teams stay: %s", user.username, missing)
        raise SignInRefused(str(missing)) from None


def _follow_rights(user: User, rights: Rights) -> None:
    """Give and take what the groups say, where groups are said to mean anything."""
    if not (settings.LICENSE_OIDC_ADMIN_GROUPS or settings.LICENSE_OIDC_STAFF_GROUPS):
        return
    if (user.is_superuser, user.is_staff) != (rights.admin, rights.staff):
        user.is_superuser, user.is_staff = rights.admin, rights.staff
        user.save(update_fields=["is_superuser", "is_staff"])
    if rights.staff:
        user.groups.add(_operators())
    else:
        user.groups.remove(*user.groups.filter(name=OPERATORS))


def _operators() -> Group:
    group, new = Group.objects.get_or_create(name=OPERATORS)
    if new:
        ours = Permission.objects.filter(content_type__app_label="licenses")
        looking = ours.filter(codename__startswith="view_").exclude(codename="view_auditrecord")
        group.permissions.set(looking | ours.filter(codename="change_lease"))
    return group
