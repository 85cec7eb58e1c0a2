"""Slow down callers that send wrong credentials.

Passwords can be guessed: after too many failures even the correct one is
refused. Tokens can't be guessed: a valid one always works, but a caller with
many invalid ones must wait. The database counts, for all workers.
"""

import logging
from collections.abc import Mapping
from datetime import timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import salted_hmac

from licenses.client_addresses import network_of
from licenses.errors import TooManyFailures
from licenses.models import FailureCount

logger = logging.getLogger(__name__)

WINDOW = timedelta(minutes=15)


class Throttle:
    """The failures of one kind of credential: the keys that count them, and the limit of each."""

    def __init__(self, limits: Mapping[str, int], account: str = "") -> None:
        self.limits = limits
        self.account = account

    def check(self) -> bool:
        """Raise TooManyFailures after too many failures. Otherwise return whether there were any.

        Only reads, so that repeated attempts cost no writes.
        """
        now = timezone.now()
        counts = list(FailureCount.objects.filter(key__in=self.limits, since__gt=now - WINDOW))
        for count in counts:
            if count.failures >= self.limits[count.key]:
                raise TooManyFailures(wait=count.since + WINDOW - now)
        return any(count.failures for count in counts)

    def reserve(self) -> None:
        """Reserve a failure under each key before the credential is checked.

        So of many simultaneous attempts only as many are checked as may fail. Raises
        TooManyFailures, for a second, if pending attempts have reserved all.
        """
        now = timezone.now()
        with transaction.atomic():
            # Use one order, so that two attempts can't wait for each other.
            for key, limit in sorted(self.limits.items()):
                if not FailureCount.objects.reserve(key, limit=limit, now=now, window=WINDOW):
                    # The transaction undoes the earlier reservations.
                    raise TooManyFailures(wait=timedelta(0))

    def failed(self) -> None:
        """Count the reserved attempt as a failure."""
        FailureCount.objects.failed(self.limits)
        for count in FailureCount.objects.filter(key__in=self.limits):
            if count.failures == self.limits[count.key]:
                logger.warning(
                    "Too many failed credentials: %s. Further attempts must wait.", self._described(count.key)
                )

    def release(self) -> None:
        """Release the reserved attempt."""
        FailureCount.objects.release(self.limits)

    def _described(self, key: str) -> str:
        """Return the description of a key for the log.

        Users often type a password as a name, so show a name only if it is an account's.
        """
        if not self.account or key != _account(self.account):
            return key
        known = User.objects.filter(username=self.account).exists()
        return f"account {self.account}" if known else "an account that does not exist"


def of_bearer(address: str) -> Throttle:
    """Return the throttle of tokens from one address."""
    network = network_of(address)
    return Throttle({f"bearer {network}": settings.LICENSE_FAILURES_PER_ADDRESS})


def of_passwords(address: str, username: str) -> Throttle:
    """Return the throttle of passwords from one address or for one account.

    It does not reveal whether the account exists.
    """
    network = network_of(address)
    return Throttle(
        {
            f"password {network}": settings.LICENSE_FAILURES_PER_ADDRESS,
            _account(username): settings.LICENSE_FAILURES_PER_ACCOUNT,
        },
        account=username,
    )


def of_user_codes(address: str, account: User) -> Throttle:
    """Return the throttle of codes of `license login` that an account types, from one address."""
    return Throttle(
        {
            f"user code {network_of(address)}": settings.LICENSE_FAILURES_PER_ADDRESS,
            f"user code of account {account.pk}": settings.LICENSE_FAILURES_PER_ACCOUNT,
        }
    )


def forget_account(username: str) -> None:
    """Reset the failures of an account after a correct password."""
    FailureCount.objects.forget(_account(username))


def _account(username: str) -> str:
    """Return the key of an account's failures: a keyed hash, because the name may be a mistyped password."""
    return f"account {salted_hmac('licenses.failures', username, algorithm='sha256').hexdigest()}"
