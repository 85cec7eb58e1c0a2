"""Which account is whose at the sign-in provider."""

from dataclasses import dataclass

from django.conf import settings
from django.db import connection, models
from django.db.models.functions import Now

from licenses.names import FOLDED_LENGTH, NAME_LENGTH

# The highest number counts: 3 is their own account; 2 is another's that has the name,
# or had it; 1 is the name that their first JWT bound.
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
    """An account that somebody from the provider has something to do with:
    their own, or one that has or had the name they claim; or, with no account, the
    name that is theirs."""

    username: str
    is_active: bool
    is_theirs: bool


class IdentityQuerySet(models.QuerySet["Identity"]):
    def account_of(self, *, issuer: str, subject: str, name: str) -> Account | None:
        """Return the account of this person, else the one with their name, else
        their name if a JWT has bound it, else None; one statement by unique indexes."""
        person = [issuer, subject]
        with connection.cursor() as cursor:
            cursor.execute(ACCOUNTS, [*person, name, *person, *person])
            found = cursor.fetchall()
        if not found:
            return None
        username, active, rank = max(found, key=lambda row: row[2])
        return Account(username, bool(active), rank != OTHERS)


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


class JwtCaller(models.Model):
    """The name of somebody who is known only by JWTs of the provider, and has no
    account here: the first JWT binds the name to its issuer and subject. Names change
    hands; whoever gets this one next must not get its leases."""

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
