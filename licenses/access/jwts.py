"""Verify JSON Web Tokens of the provider: signature, audience, validity."""

import math
from typing import Any

from django.conf import settings

from licenses.names import is_clean

from .provider import provider

LONGEST_TOKEN = 8 * 1024
LONGEST_LIFE = 24 * 3600
TYPES = {"jwt", "at+jwt", "application/at+jwt"}
# With these headers a token brings its own key or says where to find one.
FOREIGN_KEYS = {"jku", "jwk", "x5u", "x5c", "crit"}


class InvalidJwt(Exception):
    """A token that is not valid here. The message is for the log."""


def verified_claims(token: object, *, audience: str) -> dict[str, Any]:
    """Return the claims of a token that the provider signed for this audience and that is valid
    now, within the leeway.

    Raises InvalidJwt, or ProviderAway while there is no key to check it with.
    The rules are those of RFC 8725 (best current practices) and RFC 9068.
    """
    # Import here: PyJWT brings cryptography, 9 MB that a server without a provider does not need.
    import jwt

    if not isinstance(token, str) or len(token) > LONGEST_TOKEN:
        raise InvalidJwt("not a text, or too long")
    try:
        header = jwt.get_unverified_header(token)
        alg, kid = header.get("alg"), header.get("kid")
        if FOREIGN_KEYS & header.keys():
            raise InvalidJwt("brings its own key")
        if str(header.get("typ", "jwt")).lower() not in TYPES:
            raise InvalidJwt("has another type")
        if alg not in settings.LICENSE_OIDC_ALGORITHMS or not isinstance(kid, str):
            raise InvalidJwt("has another algorithm or no key id")
        key = provider().key(kid, alg)
        if key is None:
            raise InvalidJwt("is signed with an unknown key")
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[alg],
            audience=audience,
            issuer=settings.LICENSE_OIDC_ISSUER,
            leeway=settings.LICENSE_OIDC_LEEWAY,
            options={"require": ["exp", "iat", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
        )
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
        raise InvalidJwt(str(error)) from None
    _check(claims, audience)
    return claims


def _check(claims: dict[str, Any], audience: str) -> None:
    """Check what PyJWT does not check. Raises InvalidJwt."""
    for name in ("exp", "iat", "nbf"):
        moment = claims.get(name, 0)
        if isinstance(moment, bool) or not isinstance(moment, int | float) or not math.isfinite(moment):
            raise InvalidJwt(f"{name} is not a number")
    if claims["exp"] - claims["iat"] > LONGEST_LIFE:
        raise InvalidJwt("is valid for too long")
    if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and claims.get("azp", audience) != audience:
        # Of several audiences, this is the one that received the token.
        raise InvalidJwt("was issued to another party")
    if not claims["sub"] or len(claims["sub"]) > 255 or not is_clean(claims["sub"]):
        raise InvalidJwt("sub does not identify a user")
