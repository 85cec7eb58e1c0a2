"""Read the endpoints and signing keys of the OpenID provider.

Both documents are cached in the process, fetched again when they are old, and
used for up to a day while the provider is away.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import requests
from django.conf import settings

from licenses.errors import ProviderAway
from licenseserver.environment import is_confidential

if TYPE_CHECKING:
    import jwt

logger = logging.getLogger(__name__)

T = TypeVar("T")
Clock = Callable[[], float]

# All in seconds.
FRESH = 600.0
USABLE = 24 * 3600.0
# After a failed fetch, and after a fetch for an unknown key.
PAUSE_AFTER_FAILURE = 10.0
PAUSE_AFTER_RENEWAL = 60.0
TIMEOUT = 3.0
LONGEST_FETCH = 6.0

SIZE_LIMIT = 1024 * 1024
KEYS_LIMIT = 100


def fetch_json(url: str) -> Any:
    """Return the JSON at a URL of the provider. Follows no redirect.

    Raises ValueError if it is not JSON, and OSError if the provider does not answer.
    """
    start = time.monotonic()
    with requests.get(url, timeout=TIMEOUT, allow_redirects=False, stream=True) as answer:
        if answer.status_code != 200:
            raise ValueError(f"{url} answered {answer.status_code}")
        body = b""
        for chunk in answer.iter_content(64 * 1024):
            body += chunk
            if len(body) > SIZE_LIMIT or time.monotonic() - start > LONGEST_FETCH:
                raise ValueError(f"{url} is too large or too slow")
    return json.loads(body)


class Document(Generic[T]):
    """One published document. Only one thread at a time fetches it.

    Other threads use the cached document meanwhile, and wait only if there is none.
    """

    def __init__(self, read: Callable[[], T], *, clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._fetching = threading.Lock()
        self._value: T | None = None
        self._read_at = self._failed_at = self._renewed_at = float("-inf")

    def get(self) -> T:
        """Return the document, at most a day old. Raises ProviderAway."""
        value, age = self._value, self._clock() - self._read_at
        if value is not None and age < FRESH:
            return value
        if self._fetching.acquire(blocking=value is None):
            try:
                self._refresh()
            finally:
                self._fetching.release()
        if self._value is None or self._clock() - self._read_at >= USABLE:
            raise ProviderAway
        return self._value

    def renew(self) -> T:
        """Fetch the document again for an entry that the cached one lacks, at most once a minute.

        Raises ProviderAway, also while another thread fetches it, because a waiting
        thread answers no requests.
        """
        if not self._fetching.acquire(blocking=False):
            raise ProviderAway
        try:
            if self._clock() - self._renewed_at >= PAUSE_AFTER_RENEWAL:
                self._renewed_at = self._clock()
                self._refresh(even_if_fresh=True)
        finally:
            self._fetching.release()
        return self.get()

    def _refresh(self, *, even_if_fresh: bool = False) -> None:
        now = self._clock()
        if now - self._failed_at < PAUSE_AFTER_FAILURE or (now - self._read_at < FRESH and not even_if_fresh):
            return
        try:
            self._value = self._read()
        except (OSError, ValueError, RecursionError, ProviderAway) as error:
            self._failed_at = self._clock()
            logger.warning("The sign-in provider does not answer: %s", error)
        else:
            self._read_at = self._clock()


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The part of the provider's metadata that this server needs."""

    authorization: str
    token: str
    userinfo: str
    keys: str
    end_session: str


class Provider:
    """The provider of this issuer. ``clock`` returns monotonic seconds."""

    def __init__(self, issuer: str, *, clock: Clock = time.monotonic) -> None:
        self.issuer = issuer
        self._metadata = Document(self._read_metadata, clock=clock)
        self._keys = Document(self._read_keys, clock=clock)

    @property
    def endpoints(self) -> Endpoints:
        """Return its addresses. Raises ProviderAway."""
        return self._metadata.get()

    def key(self, kid: str, alg: str) -> Any | None:
        """Return the public key of this id for this algorithm, or None.

        Raises ProviderAway without any keys, and for an unknown id while another thread
        fetches the keys.
        """
        found = self._keys.get().get((kid, alg)) or self._keys.renew().get((kid, alg))
        return found.key if found else None

    def _read_metadata(self) -> Endpoints:
        metadata = fetch_json(self.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if not isinstance(metadata, dict) or metadata.get("issuer") != self.issuer:
            raise ValueError(f"the metadata of {self.issuer} belongs to another issuer")
        names = {
            "authorization": "authorization_endpoint",
            "token": "token_endpoint",
            "userinfo": "userinfo_endpoint",
            "keys": "jwks_uri",
            "end_session": "end_session_endpoint",
        }
        found = {field: metadata.get(name, "") for field, name in names.items()}
        if not all(url == "" or is_confidential(url) for url in found.values()) or not found["keys"]:
            raise ValueError(f"the metadata of {self.issuer} lacks an address or has one without HTTPS")
        return Endpoints(**found)

    def _read_keys(self) -> "Mapping[tuple[str, str], jwt.PyJWK]":
        document = fetch_json(self.endpoints.keys)
        if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
            raise ValueError(f"{self.issuer} publishes no keys")
        keys: dict[tuple[str, str], jwt.PyJWK] = {}
        for entry in document["keys"][:KEYS_LIMIT]:
            if isinstance(entry, dict) and entry.get("use", "sig") == "sig" and isinstance(entry.get("kid"), str):
                keys |= {(entry["kid"], alg): key for alg, key in _public_keys(entry).items()}
        return keys


# The algorithms of each kind of key. A key for several algorithms lets the token
# choose one, which is safe only for the two RSA families.
ALGORITHMS: dict[tuple[Any, Any], tuple[str, ...]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}


def _public_keys(entry: dict[str, Any]) -> "dict[str, jwt.PyJWK]":
    """Return a published key by its algorithms; nothing if it can't be used."""
    # Import here for the reason in jwts.py.
    import jwt

    keys = {}
    for alg in ALGORITHMS.get((str(entry.get("kty")), entry.get("crv") and str(entry["crv"])), ()):
        if entry.get("alg", alg) == alg:
            try:
                keys[alg] = jwt.PyJWK(entry, alg)
            except (jwt.PyJWTError, ValueError, TypeError):
                return {}
    return keys


@lru_cache(maxsize=4)
def _provider(issuer: str) -> Provider:
    return Provider(issuer)


def provider() -> Provider:
    """Return the configured provider, one per process."""
    return _provider(settings.LICENSE_OIDC_ISSUER)
