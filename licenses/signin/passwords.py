"""Passwords that this server keeps."""

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

from licenses.names import ACCOUNT_NAME_LENGTH, is_clean

from . import throttling

# Seconds for which a right password isn't hashed again.
REMEMBERED = 300
REMEMBERED_AT_MOST = 1000


class Verified:
    """Passwords that were right, for ``REMEMBERED`` seconds, in this process.

    Kept as MACs under a key that the process makes up: of the account with the
    hash that it has in the database, and of the password. So a change of either
    forgets it, and nothing here is worth stealing.
    """

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._ends: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, mac: bytes) -> bool:
        with self._lock:
            return self._ends.get(mac, 0) > time.monotonic()

    def add(self, mac: bytes) -> None:
        """Remember a password; forget the oldest where there are too many."""
        with self._lock:
            self._ends[mac] = time.monotonic() + REMEMBERED
            self._ends.move_to_end(mac)
            while len(self._ends) > REMEMBERED_AT_MOST:
                self._ends.popitem(last=False)

    def mac(self, user: User, password: str) -> bytes:
        """What an account and a password are known by here."""
        known = b"\0".join(part.encode("utf-8", "surrogatepass") for part in (str(user.pk), user.password, password))
        return hmac.digest(self._key, known, "sha256")


verified = Verified()
# To hash takes a tenth of a second of a core: one at a time in a process, so that
# of many calls at once with one password only the first has to.
_hashing = threading.Lock()


class PasswordBackend(ModelBackend):
    """Django's accounts with their passwords, unless they are switched off.
    Raises TooManyFailures.

    The one place where passwords are checked: the admin, the sign-in page and
    HTTP Basic all come by here.
    """

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> User | None:
        if not settings.LICENSE_LOCAL_PASSWORDS or not username or password is None:
            return None
        # PostgreSQL takes no NUL; nobody's name has one.
        if not is_clean(username) or len(username) > ACCOUNT_NAME_LENGTH:
            return None
        if request is None:
            # Whoever calls without a request is the server itself.
            user: User | None = super().authenticate(request, username=username, password=password)
            return user
        throttle = throttling.of_passwords(request.META, username)
        # First: a remembered password must not tell who guesses that it is right.
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
