"""API tokens: credentials of programs."""

import hashlib
import re
import secrets
import string
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Exists, F, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from licenses.access.callers import Scope
from licenses.names import NAME_LENGTH, is_name

from .fields import optional_account
from .retired_name import RetiredName
from .team import Team, validate_name

# People and scanners for leaked secrets recognize this prefix.
TOKEN_PREFIX = "lic_"  # noqa: S105
# Only letters and digits, so that a double click selects all. 43 of 62 are 256 bits.
TOKEN_ALPHABET = string.ascii_letters + string.digits
TOKEN_LENGTH = 43
TOKEN_PATTERN = re.compile(rf"{TOKEN_PREFIX}[A-Za-z0-9]{{{TOKEN_LENGTH}}}")

DEFAULT_LIFETIME = timedelta(days=90)
MAX_LIFETIME = timedelta(days=366)
# A token ends soon in its last week, or in the last quarter of a shorter life.
SOON = timedelta(days=7)
MONTH = timedelta(days=30)
# A token that lives no longer is renewed by a program.
SHORT_LIFE = timedelta(days=14)
# The precision of ``last_used_at``.
LAST_USED_STEP = timedelta(minutes=1)


def is_token(text: str) -> bool:
    """Return whether the text has the form of a token's secret."""
    return TOKEN_PATTERN.fullmatch(text) is not None


def token_hash(secret: str) -> str:
    """Return the stored hash of a secret. A fast hash is enough for 256 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def default_expiry() -> datetime:
    return timezone.now() + DEFAULT_LIFETIME


def _used_long_ago() -> Q:
    return Q(last_used_at__isnull=True) | Q(last_used_at__lt=Now() - LAST_USED_STEP)


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    def issue(self, token: "ApiToken") -> str:
        """Save a new token and return its secret, which cannot be read again.

        Raises ValidationError.
        """
        secret = TOKEN_PREFIX + "".join(secrets.choice(TOKEN_ALPHABET) for _ in range(TOKEN_LENGTH))
        token.hash = token_hash(secret)
        token.hint = secret[: len(TOKEN_PREFIX) + 4]
        token.full_clean()
        token.account = User.objects.filter(username=token.user).first() if token.user else None
        token.save(force_insert=True)
        return secret

    def with_rights(self) -> "ApiTokenQuerySet":
        """Add what a token's rights depend on: its team and accounts, and whether it has expired."""
        named = User.objects.filter(username=OuterRef("user"))
        return self.annotate(  # type: ignore[no-redef]
            team_name=F("team__name"),
            account_name=F("account__username"),
            account_is_active=F("account__is_active"),
            account_is_superuser=F("account__is_superuser"),
            name_is_locked=Exists(named.filter(is_active=False)),
            name_is_superuser=Exists(named.filter(is_active=True, is_superuser=True)),
            maker_is_active=F("created_by__is_active"),
            maker_is_superuser=F("created_by__is_superuser"),
            expired=Q(expires_at__lte=Now()),
            used_long_ago=_used_long_ago(),
        )

    def with_makers(self) -> "ApiTokenQuerySet":
        """Add ``maker_name``, the account that created each token; None without one."""
        # The account may be deleted.
        maker = User.objects.filter(pk=OuterRef("created_by_id")).values("username")
        return self.select_related("team").annotate(maker_name=Subquery(maker))  # type: ignore[no-redef]

    def used(self, token_id: int) -> None:
        """Record the use of a token, at most once a minute. Bind it to the account of its user, if there is
        one now."""
        named = User.objects.filter(username=OuterRef("user")).values("pk")
        account = Coalesce(F("account_id"), Subquery(named))
        self.filter(_used_long_ago(), pk=token_id).update(last_used_at=Now(), account=account)

    def acting_as(self, account: User) -> "ApiTokenQuerySet":
        """Return the tokens that act as an account: bound ones, and those for its name from before it
        existed."""
        return self.filter(Q(account=account) | Q(account__isnull=True, user=account.username))

    def in_use_and_ending(self, now: datetime) -> "ApiTokenQuerySet":
        """Return the tokens of programs that are used and end soon: used within a month, ending within a month, the
        soonest first. Without those that people made for themselves, who are warned, and those with a short life."""
        in_use = self.filter(revoked_at__isnull=True, last_used_at__gt=now - MONTH)
        ending = in_use.filter(expires_at__gt=now, expires_at__lte=now + MONTH)
        long = ending.filter(expires_at__gt=F("created_at") + SHORT_LIFE)
        return long.exclude(created_by=F("account")).order_by("expires_at", "pk")

    def bind(self, account: User) -> None:
        """Bind the tokens for an account's name to the account."""
        self.filter(account__isnull=True, user=account.username).update(account=account)


class ApiToken(models.Model):
    """A credential for CI jobs and other programs. Only a hash of its secret is stored.

    It belongs to a team and acts for its members, or to a user and acts as the user,
    or to neither and only reads or administers. A user needs no account; with an
    account, the token ends with it. Rows are never deleted, as a record of access.
    """

    name = models.CharField(max_length=64, validators=[validate_name], help_text="The purpose of the token.")
    team = models.ForeignKey(
        Team,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="tokens",
        help_text="The token acts for the members of this team.",
    )
    user = models.CharField(
        max_length=NAME_LENGTH, blank=True, validators=[validate_name], help_text="The token acts as this user."
    )
    # The account of the user; empty while there is none. The value stays when the account
    # is deleted, and then the token is not valid.
    account = optional_account(models.DO_NOTHING)
    may_read = models.BooleanField("read", default=True)
    may_borrow = models.BooleanField("borrow", default=True, help_text="Borrow, renew, wait and return.")
    may_administer = models.BooleanField("admin", default=False, help_text="Do everything, for all users.")
    hash = models.CharField(max_length=64, unique=True, editable=False)
    hint = models.CharField(max_length=16, editable=False, help_text="The first characters of the secret.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    # This value stays too. A token without it was created by a command.
    created_by = optional_account(models.DO_NOTHING)
    expires_at = models.DateTimeField(default=default_expiry, help_text="In UTC, at most a year from now.")
    last_used_at = models.DateTimeField(null=True, editable=False, help_text="Precise to a minute.")
    revoked_at = models.DateTimeField(null=True, editable=False)

    objects = ApiTokenQuerySet.as_manager()

    # with_rights() adds these.
    team_name: str | None
    account_name: str | None
    account_is_active: bool | None
    account_is_superuser: bool | None
    name_is_locked: bool
    name_is_superuser: bool
    maker_is_active: bool | None
    maker_is_superuser: bool | None
    expired: bool
    used_long_ago: bool
    # with_makers() adds this.
    maker_name: str | None

    class Meta:
        ordering = ["-created_at", "-pk"]
        verbose_name = "API token"
        constraints = [
            models.CheckConstraint(condition=Q(team__isnull=True) | Q(user=""), name="apitoken_one_owner"),
            models.CheckConstraint(
                condition=Q(may_read=True) | Q(may_borrow=True) | Q(may_administer=True), name="apitoken_has_a_scope"
            ),
            models.CheckConstraint(
                condition=Q(expires_at__gt=F("created_at")),
                name="apitoken_expires_after_it_begins",
                violation_error_message="The expiry is in the past.",
            ),
        ]
        # Ended tokens stay in the table.
        indexes = [
            models.Index(fields=["expires_at"], condition=Q(revoked_at__isnull=True), name="apitoken_valid_by_end")
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}...)"

    def clean(self) -> None:
        retired = is_name(self.user) and RetiredName.objects.filter(name=self.user).exists()
        if retired and not User.objects.filter(username=self.user).exists():
            raise ValidationError({"user": "This was the name of an account that was deleted or renamed."})
        if self.team is not None and self.user:
            raise ValidationError("A token belongs to a team or to a user, not to both.")
        if self.expires_at is not None and not timedelta(0) < self.expires_at - self.created_at <= MAX_LIFETIME:
            raise ValidationError({"expires_at": "A token must expire in the future, at most a year from now."})
        if not self.scopes:
            raise ValidationError("A token needs a scope.")
        if self.may_borrow and not (self.may_administer or self.team or self.user):
            raise ValidationError("A token that borrows needs a team or a user to borrow for.")

    def revoke(self) -> bool:
        """Revoke it. Return False if it was revoked before."""
        return ApiToken.objects.filter(pk=self.pk, revoked_at__isnull=True).update(revoked_at=Now()) == 1

    def ends_soon(self, now: datetime) -> bool:
        """Return whether to warn the holder of the end."""
        left = self.expires_at - now
        return left < SOON and left < (self.expires_at - self.created_at) / 4

    @property
    def scopes(self) -> frozenset[Scope]:
        """Return the scopes that it was created with."""
        given = {Scope.READ: self.may_read, Scope.BORROW: self.may_borrow, Scope.ADMIN: self.may_administer}
        return frozenset(scope for scope, yes in given.items() if yes)

    @property
    def effective_scopes(self) -> frozenset[Scope]:
        """Return the scopes that are valid now, for a token from with_rights().

        A token loses the scope admin when its user or creator is no administrator any more.
        """
        owner_is_superuser = self.account_is_superuser if self.account_id is not None else self.name_is_superuser
        owner_may = not self.user or owner_is_superuser
        maker_may = self.created_by_id is None or (self.maker_is_active and self.maker_is_superuser)
        return self.scopes if owner_may and maker_may else self.scopes - {Scope.ADMIN}

    def why_unusable(self) -> str | None:
        """Return why a token from with_rights() is not valid, or None if it is. The text is for its holder."""
        if self.revoked_at is not None:
            return "This token was revoked."
        if self.expired:
            return "This token has expired."
        if self.account_id is not None and self.account_name != self.user:
            return f"The account {self.user} of this token was deleted. Create a new token."
        if self.user and (self.name_is_locked or self.account_is_active is False):
            return f"The account {self.user} of this token is deactivated."
        return None
