"""Exchange the code with which a user comes back from the provider for an account.

A separate module, because mozilla-django-oidc imports cryptography: 9 MB that a server without a provider does
not need.
"""

import secrets
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from mozilla_django_oidc.auth import OIDCAuthenticationBackend

from licenses.access.jwts import InvalidJwt, verified_claims
from licenses.access.provider import provider
from licenses.access.provider_accounts import account_of
from licenses.client_addresses import client_address


class CodeExchange(OIDCAuthenticationBackend):
    """Exchange a code for claims, and claims for an account."""

    def __init__(self) -> None:
        self.OIDC_RP_CLIENT_ID = settings.LICENSE_OIDC_CLIENT_ID
        self.OIDC_RP_CLIENT_SECRET = settings.LICENSE_OIDC_CLIENT_SECRET

    @property
    def OIDC_OP_TOKEN_ENDPOINT(self) -> str:
        return provider().endpoints.token

    @property
    def OIDC_OP_USER_ENDPOINT(self) -> str:
        return provider().endpoints.userinfo

    def get_token(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Return the provider's tokens for a code. Raises requests.RequestException or InvalidJwt."""
        tokens = super().get_token(payload)
        if not isinstance(tokens, dict):
            raise InvalidJwt("the provider returned no tokens")
        return tokens

    def verify_token(self, token: str, **kwargs: Any) -> dict[str, Any]:
        """Return the claims of an ID token. Raises InvalidJwt."""
        claims = verified_claims(token, audience=settings.LICENSE_OIDC_CLIENT_ID)
        nonce = kwargs.get("nonce")
        if not nonce or not secrets.compare_digest(str(claims.get("nonce")).encode(), nonce.encode()):
            raise InvalidJwt("this server did not request it")
        return claims

    def store_tokens(self, access_token: str, id_token: str) -> None:
        """Keep the ID token for the session that this sign-in begins."""
        self.request.oidc_id_token = id_token

    def get_or_create_user(self, access_token: str, id_token: str, payload: dict[str, Any]) -> User:
        """Return the account of these claims and of the userinfo, which must be about the same subject
        (OpenID Connect Core 5.3.2)."""
        claims = payload
        if self.OIDC_OP_USER_ENDPOINT:
            userinfo = self.get_userinfo(access_token, id_token, payload)
            if not isinstance(userinfo, dict) or userinfo.get("sub") != payload["sub"]:
                raise InvalidJwt("the provider answered about another subject")
            claims = userinfo | payload
        return account_of(claims, address=client_address(self.request.META))
