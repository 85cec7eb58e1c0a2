"""Find out who calls for DRF, with the credentials of ``licenses.access``.

``request.auth`` is always a Caller, ``request.user`` the account where there is
one. A credential that is sent is checked, also where none is needed.
"""

from django.conf import settings
from django.contrib.auth.models import User
from django.core.signals import request_finished
from rest_framework import authentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from licenses.access.callers import Caller, Kind
from licenses.access.credentials import InvalidCredential, caller_of_account, caller_of_bearer, note_use
from licenses.client_addresses import client_address

REALM = 'realm="licenses"'

Known = tuple[User | None, Caller]


def caller_of(request: Request) -> Caller:
    """Return who sent this request."""
    caller = request.auth
    assert isinstance(caller, Caller)  # noqa: S101
    return caller


class SessionAuthentication(authentication.SessionAuthentication):
    """People with a browser; calls that change something need the CSRF token."""

    def authenticate(self, request: Request) -> Known | None:
        known = super().authenticate(request)
        return (known[0], caller_of_account(known[0], Kind.SESSION)) if known else None


class PasswordAuthentication(authentication.BasicAuthentication):
    """People with a local password (HTTP Basic), where there are such."""

    www_authenticate_realm = "licenses"

    def authenticate(self, request: Request) -> Known | None:
        if not settings.LICENSE_LOCAL_PASSWORDS:
            return None
        known = super().authenticate(request)
        return (known[0], caller_of_account(known[0], Kind.PASSWORD)) if known else None


class BearerAuthentication(authentication.BaseAuthentication):
    """Programs and people, by an API token or a JWT of the provider's."""

    def authenticate_header(self, request: Request) -> str:
        return f"Bearer {REALM}"

    def authenticate(self, request: Request) -> Known | None:
        scheme, _, credential = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            return None, caller_of_bearer(credential, address=client_address(request.META))
        except InvalidCredential as error:
            raise AuthenticationFailed(str(error), code="invalid_credential") from None


request_finished.connect(note_use, dispatch_uid="licenses.note_use_of_token")
