"""Link accounts to users of the sign-in provider."""

from dataclasses import dataclass

from django.conf import settings
from django.db import connection, models
from django.db.models.functions import Now

from licenses.names import FOLDED_LENGTH, NAME_LENGTH

# The highest number wins: 3 is the user's own account; 2 is another account that has or
# had the name; 1 is the name that the user's first JWT bound.
OTHERS = 2
ACCOUNTS = """
    WITH bound AS (SELECT name FROM licenses_jwtcaller WHERE issuer = %s AND subject = %s),
        wanted AS (SELECT COALESCE((SELECT name FROM bound), %s) AS name)
    SELECT username, is_active, 3 FROM auth_user JOIN licenses_identity ON user_id = auth_user.id
        WHERE issuer = %s AND subject = %s
    UNION ALL
    SELECT username, is_active, 2 FROM auth_user WHERE username = (SELECT name FROM wanted)
    UNION ALL
    SELECT name, FALSE, 2 FROM licenses_retiredname
        WHERE name = (SELECT name FROM wanted) AND NOT (issuer = %s AND subject = %s)
    UNION ALL
    SELECT name, TRUE, 1 FROM bound
"""


@dataclass(frozen=True, slots=True)
class Account:
    """The account for a user of the provider: the user's own, or another one that has or had the claimed
    name. Without an account, the name that belongs to the user."""

    username: str
    is_active: bool
    is_theirs: bool


class IdentityQuerySet(models.QuerySet["Identity"]):
    def account_of(self, *, issuer: str, subject: str, name: str) -> Account | None:
        """Return the user's account, or the one with the name, or the name that a JWT bound, or None.

        One statement, with unique indexes.
        """
        person = [issuer, subject]
        with connection.cursor() as cursor:
            cursor.execute(ACCOUNTS, [*person, name, *person, *person])
            found = cursor.fetchall()
        if not found:
            return None
        username, active, rank = max(found, key=lambda row: row[2])
        return Account(username, bool(active), rank != OTHERS)


class Identity(models.Model):
    """A user of the provider. Issuer and subject never change; names and mail addresses can be reused."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="identity")
    issuer = models.CharField(max_length=255)
    subject = models.CharField(max_length=255)

    objects = IdentityQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "identities"
        constraints = [models.UniqueConstraint(fields=["issuer", "subject"], name="identity_is_one_account")]

    def __str__(self) -> str:
        return f"{self.user}: {self.subject} at {self.issuer}"


class JwtCaller(models.Model):
    """The name of a user who has no account and is known only by JWTs.

    The first JWT binds the name to its issuer and subject, so that a later user with
    the same name does not get the leases.
    """

    issuer = models.CharField(max_length=255)
    subject = models.CharField(max_length=255)
    name = models.CharField(max_length=NAME_LENGTH)
    folded = models.CharField(max_length=FOLDED_LENGTH, unique=True, editable=False)
    bound_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name = "JWT caller"
        constraints = [models.UniqueConstraint(fields=["issuer", "subject"], name="jwtcaller_has_one_name")]

    def __str__(self) -> str:
        return self.name
