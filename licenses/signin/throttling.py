"""Failed credentials slow down who sends them.

Passwords can be guessed: while too many have failed even the right one is
refused. Tokens can't be guessed: a good one always passes, and whoever keeps
sending bad ones is told to wait. Counted in the database, for all workers.
"""

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import salted_hmac

from licenses.addresses import client_address, network_of
from licenses.errors import TooManyFailures
from licenses.models import FailureCount

logger = logging.getLogger(__name__)

WINDOW = timedelta(minutes=15)


class Throttle:
    """Failures of one kind of credential, under the keys that they count for,
    each with how many are too many."""

    def __init__(self, limits: Mapping[str, int], account: str = "") -> None:
        self.limits = limits
        self.account = account

    def check(self) -> bool:
        """Raise TooManyFailures where there were too many; else say whether there
        were any. Reads only: who goes on trying costs no writing."""
        now = timezone.now()
        counts = list(FailureCount.objects.filter(key__in=self.limits, since__gt=now - WINDOW))
        for count in counts:
            if count.failures >= self.limits[count.key]:
                raise TooManyFailures(wait=count.since + WINDOW - now)
        return any(count.failures for count in counts)

    def reserve(self) -> None:
        """Take a place for a failure under each key, before the credential is
        looked at: of many at once no more are looked at than may fail. Raises
        TooManyFailures, for a second, where those under way have all places."""
        now = timezone.now()
        with transaction.atomic():
            # In one order, so that two attempts can't wait for each other.
            for key, limit in sorted(self.limits.items()):
                if not FailureCount.objects.reserve(key, limit=limit, now=now, window=WINDOW):
                    # Those that were reserved before are undone with the transaction.
                    raise TooManyFailures(wait=timedelta(0))

    def failed(self) -> None:
        """Count the attempt that was reserved as a failure."""
        FailureCount.objects.failed(self.limits)
        for count in FailureCount.objects.filter(key__in=self.limits):
            if count.failures == self.limits[count.key]:
                logger.warning("Too many failed credentials: %s. Further attempts must wait.", self._told(count.key))

    def release(self) -> None:
        """Give the places of the attempt back."""
        FailureCount.objects.release(self.limits)

    def _told(self, key: str) -> str:
        """Return what the log may say of a key. What was typed as a name is often a
        password; so a name is told only if it is an account's."""
        if not self.account or key != _account(self.account):
            return key
        known = User.objects.filter(username=self.account).exists()
        return f"account {self.account}" if known else "an account that does not exist"


def of_bearer(headers: Mapping[str, Any]) -> Throttle:
    """For tokens that come from one address."""
    network = network_of(client_address(headers))
    return Throttle({f"bearer {network}": settings.LICENSE_FAILURES_PER_ADDRESS})


def of_passwords(headers: Mapping[str, Any], username: str) -> Throttle:
    """For passwords that come from one address, or are for one account,
    whether or not there is such an account: that must not show."""
    network = network_of(client_address(headers))
    return Throttle(
        {
            f"password {network}": settings.LICENSE_FAILURES_PER_ADDRESS,
            _account(username): settings.LICENSE_FAILURES_PER_ACCOUNT,
        },
        account=username,
    )


def forget_account(username: str) -> None:
    """Its password was right: its failures don't count any more."""
    FailureCount.objects.forget(_account(username))


def _account(username: str) -> str:
    """Return the key of an account's failures: a keyed hash, so that the table
    never holds a password that was typed as a name."""
    return f"account {salted_hmac('licenses.failures', username, algorithm='sha256').hexdigest()}"
