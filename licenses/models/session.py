"""Link sessions to accounts, so that an account's sessions can be ended."""

from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import models


class AccountSessionQuerySet(models.QuerySet["AccountSession"]):
    def end(self, account: User) -> int:
        """Delete the sessions of an account and return their number. Part of the caller's transaction."""
        mine = self.filter(account=account)
        keys = list(mine.values_list("pk", flat=True))
        mine.delete()
        Session.objects.filter(pk__in=keys).delete()
        return len(keys)


class AccountSession(models.Model):
    """The account of a session.

    Neither reference is a constraint, because the previous version of the server
    deletes sessions and accounts without this table.
    """

    session = models.OneToOneField(
        Session, primary_key=True, on_delete=models.CASCADE, related_name="+", db_constraint=False
    )
    account = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", db_constraint=False
    )

    objects = AccountSessionQuerySet.as_manager()

    def __str__(self) -> str:
        return f"a session of account {self.account_id}"
