"""Passwords that this server keeps."""

from typing import Any

from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.http import HttpRequest

from licenses.names import ACCOUNT_NAME_LENGTH, is_clean

from . import throttling


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
        # Whoever calls without a request is the server itself.
        throttle = throttling.of_passwords(request.META, username) if request is not None else None
        if throttle:
            throttle.check()
        user: User | None = super().authenticate(request, username=username, password=password)
        if throttle and user is None:
            throttle.failed()
        elif user is not None:
            throttling.forget_account(username)
        return user
