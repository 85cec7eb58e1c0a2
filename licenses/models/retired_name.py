"""Former names of accounts."""

from django.db import models

from licenses.names import ACCOUNT_NAME_LENGTH, FOLDED_LENGTH


class RetiredName(models.Model):
    """The former name of a renamed or deleted account.

    Leases and memberships store names, so a new owner of the name would get the
    former one's. To allow that, an administrator deletes this row. The former owner,
    known by issuer and subject, may use the name again.
    """

    name = models.CharField(max_length=ACCOUNT_NAME_LENGTH, unique=True)
    folded = models.CharField(
        max_length=FOLDED_LENGTH,
        db_index=True,
        editable=False,
        help_text="The name without differences of case and Unicode form.",
    )
    # These are not foreign keys, because the rows may be deleted.
    account_id = models.BigIntegerField(editable=False)
    issuer = models.CharField(max_length=255, blank=True)
    subject = models.CharField(max_length=255, blank=True)
    retired_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
