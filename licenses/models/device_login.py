"""Sign-ins of programs that a person approves in a browser (RFC 8628)."""

import hashlib
import secrets
import string
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.db import connection, models
from django.utils.crypto import salted_hmac

from licenses.names import NAME_LENGTH

from .fields import optional_account

# Without vowels, so that no code is a word, and without characters that look like others
# (RFC 8628, 6.1). 20^8 codes are 34 bits.
USER_CODE_ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
USER_CODE_LENGTH = 8
# 43 of 62 characters are 256 bits.
DEVICE_CODE_ALPHABET = string.ascii_letters + string.digits
DEVICE_CODE_LENGTH = 43

LIFE = timedelta(minutes=10)
# Expired rows stay for this time, so that a program learns why its code is not valid.
KEPT = timedelta(minutes=10)
DEVICE_NAME_LENGTH = 64
BATCH = 1000


def new_device_code() -> str:
    """Return a random device code."""
    return "".join(secrets.choice(DEVICE_CODE_ALPHABET) for _ in range(DEVICE_CODE_LENGTH))


def new_user_code() -> str:
    """Return a random user code, without the dash that people see."""
    return "".join(secrets.choice(USER_CODE_ALPHABET) for _ in range(USER_CODE_LENGTH))


def read_user_code(text: str) -> str | None:
    """Return the user code that a person typed, in any case and with any blanks and dashes; None if it can't be
    one."""
    code = "".join(character for character in text.upper() if character not in " -\u2013\u2014")
    is_code = len(code) == USER_CODE_LENGTH and set(code) <= set(USER_CODE_ALPHABET)
    return code if is_code else None


def shown_user_code(code: str) -> str:
    """Return a user code as people see it, such as ``WDJB-MJHT``."""
    return f"{code[:4]}-{code[4:]}"


def device_hash(code: str) -> str:
    """Return the stored hash of a device code. A fast hash is enough for 256 random bits."""
    return hashlib.sha256(code.encode()).hexdigest()


def user_hash(code: str) -> str:
    """Return the stored hash of a user code: keyed, because 34 bits are few."""
    return salted_hmac("licenses.device_login", code, algorithm="sha256").hexdigest()


class DeviceLoginQuerySet(models.QuerySet["DeviceLogin"]):
    def lock(self) -> None:
        """Make other new sign-ins wait until this transaction ends. SQLite has one writer in any case."""
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('licenses device logins', 0))")

    def open(self, now: datetime) -> "DeviceLoginQuerySet":
        """Return the sign-ins that have not expired."""
        return self.filter(expires_at__gt=now)

    def forget_expired(self, now: datetime) -> int:
        """Delete rows that expired ``KEPT`` ago, at most ``BATCH``. Part of the caller's transaction. Return their
        number."""
        expired = self.filter(expires_at__lte=now - KEPT).select_for_update(skip_locked=True)
        keys = list(expired.values_list("pk", flat=True)[:BATCH])
        self.filter(pk__in=keys).delete()
        return len(keys)

    def end(self, account: User) -> int:
        """Delete the sign-ins that an account approved. Return their number."""
        deleted, _ = self.filter(account=account).delete()
        return deleted


class DeviceLogin(models.Model):
    """A program that asks for a token, from ``license login`` until it gets the token.

    Only hashes of its codes are stored. The row is deleted when the token is issued.
    """

    class State(models.TextChoices):
        PENDING = "pending"
        APPROVED = "approved"
        DENIED = "denied"

    device_hash = models.CharField(max_length=64, unique=True, editable=False)
    user_hash = models.CharField(max_length=64, unique=True, editable=False)
    device = models.CharField(
        max_length=DEVICE_NAME_LENGTH, blank=True, help_text="The name of the machine, from the program."
    )
    address = models.CharField(max_length=NAME_LENGTH, help_text="The address that it asks from.")
    network = models.CharField(max_length=NAME_LENGTH, db_index=True, editable=False)
    scopes = models.CharField(max_length=32, help_text="Separated by blanks.")
    state = models.CharField(max_length=16, choices=State, default=State.PENDING, editable=False)
    created_at = models.DateTimeField(editable=False)
    expires_at = models.DateTimeField(db_index=True, editable=False)
    # In seconds; it grows when the program polls too often.
    interval = models.PositiveSmallIntegerField(editable=False)
    polled_at = models.DateTimeField(null=True, editable=False)
    account = optional_account(models.CASCADE)

    objects = DeviceLoginQuerySet.as_manager()

    def __str__(self) -> str:
        return f"sign-in {self.pk} from {self.address}"
