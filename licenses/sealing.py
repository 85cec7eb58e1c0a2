"""Encrypt values that the server must read again, such as the secrets of webhooks."""

import base64
from typing import TYPE_CHECKING

from django.conf import settings
from django.utils.crypto import salted_hmac

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet


class Unreadable(Exception):
    """A value was sealed under a key that is in neither SECRET_KEY nor SECRET_KEY_FALLBACKS."""


def seal(text: str) -> str:
    """Return a text encrypted under ``SECRET_KEY``."""
    return _keys().encrypt(text.encode()).decode()


def unseal(sealed: str) -> str:
    """Return a sealed text, also one of a former key that is in ``SECRET_KEY_FALLBACKS``. Raises Unreadable."""
    from cryptography.fernet import InvalidToken

    try:
        return _keys().decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise Unreadable from None


def _keys() -> "MultiFernet":
    # Import here, because cryptography takes 9 MB and few processes seal anything.
    from cryptography.fernet import Fernet, MultiFernet

    return MultiFernet([Fernet(_key(secret)) for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)])


def _key(secret: str) -> bytes:
    derived = salted_hmac("licenses.sealing", "", secret=secret, algorithm="sha256").digest()
    return base64.urlsafe_b64encode(derived)
