"""Sign programs in over the API: the device authorization grant (RFC 8628), and revocation (RFC 7009).

These calls take forms and have no credential, as the standards say. Their errors are
problem documents that are OAuth's error documents too: ``error`` repeats ``code``.
So the errors of this server have one form, and OAuth libraries work.
"""

from typing import Any

from django.http import HttpResponse, QueryDict
from django.urls import reverse
from rest_framework import exceptions
from rest_framework.parsers import FormParser
from rest_framework.permissions import BasePermission
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from licenses.access import device_logins, tokens
from licenses.access.device_logins import LoginError
from licenses.client_addresses import client_address
from licenses.errors import RateLimited

from .authentication import caller_of
from .common.problems import problem
from .common.queries import StrictQuery
from .permissions import require_own_page

# The one client. It has no secret, so the name proves nothing.
CLIENT_ID = "license"
DEVICE_CODE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
TITLE = "Not signed in"


def error_answer(error: LoginError) -> HttpResponse:
    """Return the error of a sign-in as a document for this API's clients and for OAuth's."""
    status = RateLimited.status if error.code == "temporarily_unavailable" else 400
    headers = {"Retry-After": str(error.wait)} if error.wait else None
    detail = str(error)
    return problem(
        status=status,
        code=error.code,
        title=TITLE,
        detail=detail,
        headers=headers,
        error=error.code,
        error_description=detail,
    )


class FromOwnPage(BasePermission):
    """Let everybody call, except pages of other sites."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if "HTTP_ORIGIN" in request.META:
            require_own_page(request, caller_of(request))
        return True


class LoginView(StrictQuery, APIView):
    """A call that anybody can send, with a form."""

    authentication_classes: list[Any] = []
    permission_classes = [FromOwnPage]
    parser_classes = [FormParser]
    renderer_classes = [JSONRenderer]
    schema = None

    def handle_exception(self, exc: Exception) -> Any:
        if isinstance(exc, LoginError):
            return error_answer(exc)
        if isinstance(exc, exceptions.UnsupportedMediaType):
            exc.detail = exceptions.ErrorDetail(
                "The body must be a form (application/x-www-form-urlencoded).", exc.default_code
            )
        return super().handle_exception(exc)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        answer = super().finalize_response(request, response, *args, **kwargs)
        answer["Cache-Control"] = "no-store"
        return answer


def value(request: Request, name: str, *, required: bool = False) -> str:
    """Return a parameter, '' without one. Raises LoginError if it comes twice, or is missing but required."""
    # Without a body DRF returns a dict.
    values = request.data.getlist(name) if isinstance(request.data, QueryDict) else []
    if len(values) > 1:
        raise LoginError("invalid_request", f"{name} must come only once.")
    if required and not (values and values[0]):
        raise LoginError("invalid_request", f"{name} is missing.")
    return str(values[0]) if values else ""


def require_client(request: Request) -> None:
    """Raise LoginError for another client."""
    if value(request, "client_id", required=True) != CLIENT_ID:
        raise LoginError("invalid_client", f"client_id must be {CLIENT_ID}.")


class DeviceView(LoginView):
    """Begin a sign-in."""

    def post(self, request: Request) -> Response:
        require_client(request)
        begun = device_logins.begin(
            device=value(request, "device_name"),
            scopes=value(request, "scope"),
            address=client_address(request.META),
        )
        page = request.build_absolute_uri(reverse("device"))
        return Response(
            {
                "device_code": begun.device_code,
                "user_code": begun.user_code,
                "verification_uri": page,
                "verification_uri_complete": f"{page}?code={begun.user_code}",
                "expires_in": begun.expires_in,
                "interval": begun.interval,
            }
        )


class TokenView(LoginView):
    """Ask for the token of a sign-in."""

    def post(self, request: Request) -> Response:
        if value(request, "grant_type", required=True) != DEVICE_CODE_GRANT:
            raise LoginError("unsupported_grant_type", f"grant_type must be {DEVICE_CODE_GRANT}.")
        require_client(request)
        signed = device_logins.redeem(
            value(request, "device_code", required=True), address=client_address(request.META)
        )
        return Response(
            {
                "access_token": signed.secret,
                "token_type": "Bearer",
                "expires_in": signed.expires_in,
                "scope": " ".join(sorted(signed.token.scopes)),
                "user": signed.token.user,
                "expires_at": signed.token.expires_at,
            }
        )


class RevokeView(LoginView):
    """Revoke the token of a caller who has its secret. An unknown token gets the same answer (RFC 7009, 2.2)."""

    def post(self, request: Request) -> Response:
        tokens.revoke_secret(value(request, "token", required=True), address=client_address(request.META))
        return Response({})
