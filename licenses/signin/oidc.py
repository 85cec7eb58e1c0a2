"""Sign users in at the provider with mozilla-django-oidc.

Uses the authorization code flow with PKCE (S256), state and nonce, and checks
what the library does not check.
"""

import logging
from typing import Any
from urllib.parse import urlencode

import requests
from django.conf import settings
from django.contrib import admin, auth
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.core import signing
from django.core.exceptions import SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render, resolve_url
from django.urls import reverse
from django.views import View
from mozilla_django_oidc import views

from licenses.access.jwts import InvalidJwt
from licenses.access.provider import provider
from licenses.access.provider_accounts import SignInRefused
from licenses.errors import ProviderAway

logger = logging.getLogger(__name__)


def is_configured() -> bool:
    """Return whether a provider is configured."""
    return bool(settings.LICENSE_OIDC_ISSUER and settings.LICENSE_OIDC_CLIENT_ID)


class ProviderBackend(ModelBackend):
    """Authenticate users who come back from the provider. Their sessions name this class."""

    def authenticate(self, request: HttpRequest, nonce: str, code_verifier: str) -> User | None:  # type: ignore[override]
        """Return the account of the user who comes back from the provider.

        Accepts only the arguments of the callback, so that no password form leads here.
        """
        # Import here, because a server without a provider does not need it.
        from .exchange import CodeExchange

        user: User | None = CodeExchange().authenticate(request, nonce=nonce, code_verifier=code_verifier)
        return user


def refused(request: HttpRequest, why: str, *, status: int = 400) -> HttpResponse:
    """Return the page of a refused sign-in."""
    context = admin.site.each_context(request) | {"title": "Not signed in", "why": why}
    return render(request, "licenses/signin_refused.html", context, status=status)


class PendingSignIns(dict[str, Any]):
    """Pending sign-ins of a browser at the provider, in a signed cookie.

    Anybody can begin one, so it must not cost the database anything or extend a
    session. The entries are those that mozilla-django-oidc writes to a session.
    """

    # As for a session: only from this host, and only over HTTPS.
    COOKIE = "__Host-oidc" if settings.SECURE_SSL else "oidc"
    SALT = "licenses.signin.oidc"
    LIFE = 600
    # A cookie can have 4,096 bytes.
    LONGEST_NEXT = 600

    @classmethod
    def of(cls, request: HttpRequest) -> "PendingSignIns":
        """Return the pending sign-ins of a request's cookie, at most ``LIFE`` seconds old."""
        try:
            kept = signing.loads(request.COOKIES.get(cls.COOKIE, ""), salt=cls.SALT, max_age=cls.LIFE)
        except signing.BadSignature:
            return cls()
        return cls(kept)

    def keep(self, response: HttpResponseBase) -> None:
        """Write them to the cookie."""
        if len(self.get("oidc_login_next") or "") > self.LONGEST_NEXT:
            del self["oidc_login_next"]
        if not self.get("oidc_states"):
            response.delete_cookie(self.COOKIE, samesite="Lax")
            return
        response.set_cookie(
            self.COOKIE,
            signing.dumps(dict(self), salt=self.SALT, compress=True),
            max_age=self.LIFE,
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            # The browser comes back from the provider through a link.
            samesite="Lax",
        )

    def take(self, state: str) -> dict[str, Any] | None:
        """Return the sign-in of a state and remove it, because it is valid once."""
        found: dict[str, Any] | None = self.get("oidc_states", {}).pop(state, None)
        return found


class StartView(views.OIDCAuthenticationRequestView):
    """Send the browser to the provider."""

    def __init__(self, **kwargs: Any) -> None:
        views.View.__init__(self, **kwargs)
        self.OIDC_RP_CLIENT_ID = settings.LICENSE_OIDC_CLIENT_ID

    @property
    def OIDC_OP_AUTH_ENDPOINT(self) -> str:
        return provider().endpoints.authorization

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not is_configured():
            raise Http404
        try:
            answer: HttpResponseBase = super().dispatch(request, *args, **kwargs)
        except ProviderAway as error:
            return refused(request, error.detail, status=503)
        return answer

    def get(self, request: HttpRequest) -> HttpResponseBase:
        session, pending = request.session, PendingSignIns.of(request)
        # Let the library write to the cookie instead of the session.
        request.session = pending  # type: ignore[assignment]
        try:
            answer: HttpResponseBase = super().get(request)
        finally:
            request.session = session
        pending.keep(answer)
        return answer


class CallbackView(View):
    """Receive the browser from the provider."""

    http_method_names = ["get"]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not is_configured():
            raise Http404
        self.pending = PendingSignIns.of(request)
        try:
            answer = super().dispatch(request, *args, **kwargs)
        except SignInRefused as error:
            answer = refused(request, str(error), status=403)
        except (SuspiciousOperation, InvalidJwt, requests.HTTPError) as error:
            logger.warning("Sign-in failed: %s", error)
            answer = self.failed(request)
        except (ProviderAway, requests.RequestException):
            answer = refused(request, ProviderAway().detail, status=503)
        self.pending.keep(answer)
        return answer

    def get(self, request: HttpRequest) -> HttpResponseBase:
        asked = self.pending.take(request.GET.get("state", ""))
        if asked is None or "error" in request.GET:
            # Anybody can send a browser here, so keep an existing session.
            return self.failed(request)
        user = auth.authenticate(request, nonce=asked["nonce"], code_verifier=asked["code_verifier"])
        if user is None or not user.is_active:
            return self.failed(request)
        auth.login(request, user)
        # The provider needs it at the sign-out.
        request.session["oidc_id_token"] = request.oidc_id_token  # type: ignore[attr-defined]
        return HttpResponseRedirect(self.pending.get("oidc_login_next") or resolve_url(settings.LOGIN_REDIRECT_URL))

    def failed(self, request: HttpRequest) -> HttpResponse:
        return refused(request, "The sign-in failed. Start again.")


def sign_out_address(request: HttpRequest) -> str | None:
    """Return the provider's address that also ends its session (OpenID Connect RP-Initiated Logout).

    None if the user did not sign in there, or the provider does not support it. Call
    this before the session ends.
    """
    id_token = request.session.get("oidc_id_token")
    if not id_token or not is_configured():
        return None
    try:
        address = provider().endpoints.end_session
    except ProviderAway:
        return None
    if not address:
        return None
    back = request.build_absolute_uri(reverse("signin"))
    query = {
        "id_token_hint": id_token,
        "client_id": settings.LICENSE_OIDC_CLIENT_ID,
        "post_logout_redirect_uri": back,
    }
    return f"{address}?{urlencode(query)}"
