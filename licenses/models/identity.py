"""Which account is whose at the sign-in provider."""

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import models
from django.db.models import BooleanField, Value


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
        one query by two unique indexes."""
        accounts = get_user_model().objects.order_by()

        def found(theirs: bool, **condition: str) -> models.QuerySet[Any, Any]:
            rows = accounts.filter(**condition).annotate(is_theirs=Value(theirs, BooleanField()))
            return rows.values_list("username", "is_active", "is_theirs")

        either = found(True, identity__issuer=issuer, identity__subject=subject).union(
            found(False, username=name), all=True
        )
        return max((Account(*row) for row in either), key=lambda account: account.is_theirs, default=None)


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
