"""Find or create the account of a user whom the provider has authenticated."""

import logging
from collections.abc import Collection, Mapping
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group, Permission, User
from django.core.exceptions import ValidationError
from django.core.validators import EmailValidator
from django.db import IntegrityError, transaction

from licenses import auditing
from licenses.auditing import Actor
from licenses.models import ApiToken, Identity, TeamMember
from licenses.names import ACCOUNT_NAME_LENGTH, is_name

from . import accounts
from .rights import OPERATORS, GroupsMissing, Rights, claim, rights_of, roles_by_group

# The limit of Django's table.
LONGEST_ADDRESS = 254

logger = logging.getLogger(__name__)


class SignInRefused(Exception):
    """The user gets no account here. The message is for the user."""


def account_of(claims: Mapping[str, Any], *, address: str) -> User:
    """Return the account of these verified claims, created at the first sign-in.

    The account gets the rights and teams of the user's groups, and the mail address. The changes are
    recorded with the caller's ``address``.

    Issuer and subject identify the user. An existing account with the same name, in
    any case or Unicode form, belongs to another user until an administrator links
    it: then this raises SignInRefused.
    """
    try:
        with transaction.atomic():
            user, new = _account_of(claims)
            by = Actor.of_sign_in(user.username, address)
            if new:
                ApiToken.objects.bind(user)
                auditing.created([user, user.identity], by=by)
            rights = _rights_of(user, claims)
            with auditing.changing(user, by=by):
                _follow_rights(user, rights)
                _follow_mail_address(user, claims)
            changes = TeamMember.objects.follow_provider(user=user.username, teams=rights.teams)
            auditing.membership(changes, by=by)
            return user
    except IntegrityError:
        # Two first sign-ins at once: the other one created the account.
        raise SignInRefused("Your account was just created. Sign in again.") from None


def _account_of(claims: Mapping[str, Any]) -> tuple[User, bool]:
    """Return the account, locked, and whether it is new."""
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
    # Accept a name only as Django would store it, so that it has one spelling.
    if not is_name(name) or User.normalize_username(name) != name:
        raise SignInRefused("The sign-in provider sent no name that can hold a lease.")
    if why := accounts.why_not(name, issuer=issuer, subject=subject):
        logger.warning("Sign-in of %s at %s refused: %s", subject, issuer, why)
        raise SignInRefused(f"{why} Ask an administrator to link it to you.")
    user = User.objects.create_user(name)
    Identity.objects.create(user=user, issuer=issuer, subject=subject)
    return user, True


def _rights_of(user: User, claims: Mapping[str, Any]) -> Rights:
    """Return the rights of the groups. Raises SignInRefused if not all groups are known; then nothing changes."""
    try:
        return rights_of(claims)
    except GroupsMissing as missing:
        logger.warning("Sign-in of %s refused, rights and teams stay: %s", user.username, missing)
        raise SignInRefused(str(missing)) from None


def _follow_rights(user: User, rights: Rights) -> None:
    """Give and remove rights and roles as the groups say, if groups are configured.

    Roles that the settings do not name stay as an administrator gave them.
    """
    if not (settings.LICENSE_OIDC_ADMIN_GROUPS or settings.LICENSE_OIDC_STAFF_GROUPS):
        return
    if (user.is_superuser, user.is_staff) != (rights.admin, rights.staff):
        user.is_superuser, user.is_staff = rights.admin, rights.staff
        user.save(update_fields=["is_superuser", "is_staff"])
    of_provider = {OPERATORS, *(role for _, role in roles_by_group())}
    user.groups.remove(*user.groups.filter(name__in=of_provider - rights.roles))
    user.groups.add(*_groups(rights.roles))


def _groups(roles: Collection[str]) -> list[Group]:
    """Return the groups of these roles. Only operators are created, because another group may have been deleted."""
    groups = list(Group.objects.filter(name__in=roles))
    missing = set(roles) - {group.name for group in groups}
    if OPERATORS in missing:
        groups.append(_operators())
    for role in sorted(missing - {OPERATORS}):
        logger.warning("LICENSE_OIDC_STAFF_GROUPS names the role %r, and the admin has no group of this name", role)
    return groups


def _follow_mail_address(user: User, claims: Mapping[str, Any]) -> None:
    """Take over the user's mail address, if the provider sends one and does not doubt it."""
    address = claims.get("email")
    if not isinstance(address, str) or address == user.email or claims.get("email_verified") is False:
        return
    try:
        EmailValidator()(address)
    except ValidationError:
        return
    if len(address) <= LONGEST_ADDRESS:
        user.email = address
        user.save(update_fields=["email"])


def _operators() -> Group:
    group, new = Group.objects.get_or_create(name=OPERATORS)
    if new:
        ours = Permission.objects.filter(content_type__app_label="licenses")
        looking = ours.filter(codename__startswith="view_").exclude(codename="view_auditrecord")
        group.permissions.set(looking | ours.filter(codename="change_lease"))
    return group
