"""The OpenID provider: where its endpoints are, and the keys it signs with.

Both are documents that it publishes. They are kept in the process, fetched anew
when they are old, and go on being used for a day when the provider is away.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

import jwt
import requests
from django.conf import settings

from licenses.errors import ProviderAway
from licenseserver.environment import is_confidential

logger = logging.getLogger(__name__)

T = TypeVar("T")
Clock = Callable[[], float]

# All in seconds.
FRESH = 600.0
USABLE = 24 * 3600.0
# After a fetch that failed, and after one for a key that nobody knew.
PAUSE_AFTER_FAILURE = 10.0
PAUSE_AFTER_RENEWAL = 60.0
TIMEOUT = 3.0
LONGEST_FETCH = 6.0

SIZE_LIMIT = 1024 * 1024
KEYS_LIMIT = 100


def fetch_json(url: str) -> Any:
    """The JSON at a URL of the provider's; raises ValueError for anything
    else, and OSError when it can't be had. Follows no redirect."""
    start = time.monotonic()
    with requests.get(url, timeout=TIMEOUT, allow_redirects=False, stream=True) as answer:
        if answer.status_code != 200:
            raise ValueError(f"{url} answered {answer.status_code}")
        body = b""
        for chunk in answer.iter_content(64 * 1024):
            body += chunk
            if len(body) > SIZE_LIMIT or time.monotonic() - start > LONGEST_FETCH:
                raise ValueError(f"{url} is too large, or comes too slowly")
    return json.loads(body)


class Document(Generic[T]):
    """One published document, never fetched twice at once.

    Who needs it while another thread fetches it goes on with what is there, and
    waits only where nothing is.
    """

    def __init__(self, read: Callable[[], T], *, clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._fetching = threading.Lock()
        self._value: T | None = None
        self._read_at = self._failed_at = self._renewed_at = float("-inf")

    def get(self) -> T:
        """The document, at most a day old; raises ProviderAway."""
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
        """Return the document as it is now, for something that isn't in the one at
        hand; but no more than once a minute, whoever asks. Raises ProviderAway, also
        while another thread fetches it: threads that wait answer nobody else."""
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
    """What of the provider's metadata is needed here."""

    authorization: str
    token: str
    userinfo: str
    keys: str
    end_session: str


class Provider:
    """The provider with this issuer's address; ``clock`` gives seconds that
    only grow."""

    def __init__(self, issuer: str, *, clock: Clock = time.monotonic) -> None:
        self.issuer = issuer
        self._metadata = Document(self._read_metadata, clock=clock)
        self._keys = Document(self._read_keys, clock=clock)

    @property
    def endpoints(self) -> Endpoints:
        """Its addresses; raises ProviderAway."""
        return self._metadata.get()

    def key(self, kid: str, alg: str) -> Any | None:
        """The public key that signs with this algorithm under this id, or None.

        Raises ProviderAway while no keys are at hand, and for an id that is not
        among them while another thread fetches them.
        """
        found = self._keys.get().get((kid, alg)) or self._keys.renew().get((kid, alg))
        return found.key if found else None

    def _read_metadata(self) -> Endpoints:
        metadata = fetch_json(self.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if not isinstance(metadata, dict) or metadata.get("issuer") != self.issuer:
            raise ValueError(f"the metadata of {self.issuer} is another issuer's")
        names = {
            "authorization": "authorization_endpoint",
            "token": "token_endpoint",
            "userinfo": "userinfo_endpoint",
            "keys": "jwks_uri",
            "end_session": "end_session_endpoint",
        }
        found = {field: metadata.get(name, "") for field, name in names.items()}
        if not all(url == "" or is_confidential(url) for url in found.values()) or not found["keys"]:
            raise ValueError(f"the metadata of {self.issuer} lacks an address, or has one that isn't HTTPS")
        return Endpoints(**found)

    def _read_keys(self) -> Mapping[tuple[str, str], jwt.PyJWK]:
        document = fetch_json(self.endpoints.keys)
        if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
            raise ValueError(f"{self.issuer} publishes no keys")
        keys: dict[tuple[str, str], jwt.PyJWK] = {}
        for entry in document["keys"][:KEYS_LIMIT]:
            if isinstance(entry, dict) and entry.get("use", "sig") == "sig" and isinstance(entry.get("kid"), str):
                keys |= {(entry["kid"], alg): key for alg, key in _public_keys(entry).items()}
        return keys


# Which algorithms a kind of key signs with. A key for two would let a token
# choose; the two RSA families are both as good.
ALGORITHMS: dict[tuple[Any, Any], tuple[str, ...]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}


def _public_keys(entry: dict[str, Any]) -> dict[str, jwt.PyJWK]:
    """A published key by the algorithms it is for; what can't be used is none."""
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
    """The configured provider, one a process."""
    return _provider(settings.LICENSE_OIDC_ISSUER)
