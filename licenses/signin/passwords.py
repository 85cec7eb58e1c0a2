"""Check the passwords of this server's accounts."""

import hmac
import os
import threading
import time
from collections import OrderedDict
from typing import Any

from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.http import HttpRequest

from licenses.access import throttling
from licenses.client_addresses import client_address
from licenses.names import ACCOUNT_NAME_LENGTH, is_clean

# Seconds for which a correct password is not hashed again.
REMEMBERED = 300
REMEMBERED_AT_MOST = 1000


class Verified:
    """Correct passwords of the last ``REMEMBERED`` seconds, in this process.

    Stored as MACs of the account with its hash in the database and of the password,
    under a random key of the process. So a change of either invalidates it, and the
    memory holds no secret.
    """

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._ends: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, mac: bytes) -> bool:
        with self._lock:
            return self._ends.get(mac, 0) > time.monotonic()

    def add(self, mac: bytes) -> None:
        """Remember a password. Forget the oldest one if there are too many."""
        with self._lock:
            self._ends[mac] = time.monotonic() + REMEMBERED
            self._ends.move_to_end(mac)
            while len(self._ends) > REMEMBERED_AT_MOST:
                self._ends.popitem(last=False)

    def mac(self, user: User, password: str) -> bytes:
        """Return the MAC of an account and a password."""
        known = b"\0".join(part.encode("utf-8", "surrogatepass") for part in (str(user.pk), user.password, password))
        return hmac.digest(self._key, known, "sha256")


verified = Verified()
# Hashing takes 0.1 s of a core. Hash one at a time per process, so that of many
# simultaneous calls with one password only the first hashes.
_hashing = threading.Lock()


class PasswordBackend(ModelBackend):
    """Authenticate Django's accounts by password, unless passwords are disabled.

    The admin, the sign-in page and HTTP Basic all use this. Raises TooManyFailures.
    """

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> User | None:
        if not settings.LICENSE_LOCAL_PASSWORDS or not username or password is None:
            return None
        # PostgreSQL accepts no NUL, and no name has one.
        if not is_clean(username) or len(username) > ACCOUNT_NAME_LENGTH:
            return None
        if request is None:
            # Only the server itself calls this without a request.
            user: User | None = super().authenticate(request, username=username, password=password)
            return user
        throttle = throttling.of_passwords(client_address(request.META), username)
        # Check the throttle first: a remembered password must not reveal to an attacker that it is correct.
        failed_before = throttle.check()
        if (user := self._remembered(username, password)) is None:
            with _hashing:
                user = self._remembered(username, password) or self._looked_at(request, throttle, username, password)
        if user is not None and failed_before:
            throttling.forget_account(username)
        return user

    def _remembered(self, username: str, password: str) -> User | None:
        user = User.objects.filter(username=username).first()
        known = user is not None and self.user_can_authenticate(user) and verified.mac(user, password) in verified
        return user if known else None

    def _looked_at(
        self, request: HttpRequest, throttle: throttling.Throttle, username: str, password: str
    ) -> User | None:
        throttle.reserve()
        try:
            user: User | None = super().authenticate(request, username=username, password=password)
        except BaseException:
            throttle.release()
            raise
        if user is None:
            throttle.failed()
        else:
            throttle.release()
            verified.add(verified.mac(user, password))
        return user
