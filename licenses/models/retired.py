"""Names that were an account's, and are nobody's now."""

from django.db import models

from licenses.names import ACCOUNT_NAME_LENGTH, FOLDED_LENGTH


class RetiredName(models.Model):
    """The former name of an account that was renamed or deleted.

    Leases and memberships go by names, so whoever is given this one would get what
    was another's. An administrator who means that deletes the row first. The person
    who had the name may come back: known by issuer and subject.
    """

    name = models.CharField(max_length=ACCOUNT_NAME_LENGTH, unique=True)
    folded = models.CharField(
        max_length=FOLDED_LENGTH, db_index=True, editable=False, help_text="Without case and form."
    )
    # Neither refers to a row: those may be gone.
    account_id = models.BigIntegerField(editable=False)
    issuer = models.CharField(max_length=255, blank=True)
    subject = models.CharField(max_length=255, blank=True)
    retired_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
