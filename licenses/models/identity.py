"""Which account is whose at the sign-in provider."""

from dataclasses import dataclass

from django.conf import settings
from django.db import connection, models

ACCOUNTS = """
    SELECT username, is_active, TRUE FROM auth_user JOIN licenses_identity ON user_id = auth_user.id
        WHERE issuer = %s AND subject = %s
    UNION ALL
    SELECT username, is_active, FALSE FROM auth_user WHERE username = %s
"""


@dataclass(frozen=True, slots=True)
class Account:
    """An account that somebody from the provider has something to do with:
    their own, or one that has the name they claim."""

    username: str
    is_active: bool
    is_theirs: bool


class IdentityQuerySet(models.QuerySet["Identity"]):
    def account_of(self, *, issuer: str, subject: str, name: str) -> Account | None:
        """The account of this person, else the one with this name, else None;
        one statement by two unique indexes."""
        with connection.cursor() as cursor:
            cursor.execute(ACCOUNTS, [issuer, subject, name])
            found = [Account(username, bool(active), bool(theirs)) for username, active, theirs in cursor.fetchall()]
        return max(found, key=lambda account: account.is_theirs, default=None)


class Identity(models.Model):
    """A person as the provider knows them: by issuer and subject, which are
    theirs for ever. Names and addresses of mail change hands."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="identity")
    issuer = models.CharField(max_length=255)
    subject = models.CharField(max_length=255)

    objects = IdentityQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "identities"
        constraints = [models.UniqueConstraint(fields=["issuer", "subject"], name="identity_is_one_account")]

    def __str__(self) -> str:
        return f"{self.subject} at {self.issuer}"
