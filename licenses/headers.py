"""What browsers are told about every answer."""

from collections.abc import Callable
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

from licenses.api.problems import is_api_path

# Pages of libraries, and those in the admin's dress.
OF_LIBRARIES = ("/admin/", "/api/", "/signin/", "/oidc/")
# Those of them that have scripts and styles in their text: the browsable API
# and Swagger UI.
WITH_INLINE = ("/api/v1/", "/api/docs/")


def content_security_policy(path: str) -> str:
    """Everything from this server alone, no page in a frame, and forms to
    nobody but this server and the provider, where a sign-out ends. Our own pages
    may load no more than they do."""
    forms = ["'self'"]
    if settings.LICENSE_OIDC_ISSUER:
        issuer = urlsplit(settings.LICENSE_OIDC_ISSUER)
        forms.append(f"{issuer.scheme}://{issuer.netloc}")
    if path.startswith(OF_LIBRARIES):
        inline = " 'unsafe-inline'" if path.startswith(WITH_INLINE) else ""
        sources = [
            "default-src 'self'",
            f"script-src 'self'{inline}",
            f"style-src 'self'{inline}",
            "img-src 'self' data:",
            "object-src 'none'",
        ]
    else:
        sources = [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
        ]
    return "; ".join([*sources, "base-uri 'none'", "frame-ancestors 'none'", f"form-action {' '.join(forms)}"])


# What no page here needs of the machine that shows it.
PERMISSIONS_POLICY = ", ".join(
    f"{feature}=()"
    for feature in (
        "accelerometer",
        "autoplay",
        "camera",
        "display-capture",
        "encrypted-media",
        "fullscreen",
        "geolocation",
        "gyroscope",
        "magnetometer",
        "microphone",
        "midi",
        "payment",
        "publickey-credentials-get",
        "screen-wake-lock",
        "usb",
        "xr-spatial-tracking",
    )
)


class HeadersMiddleware:
    """Adds the policies for contents and for the browser's machine, and keeps answers
    of the API, which are for their caller only, out of caches."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", content_security_policy(request.path_info))
        response.headers.setdefault("Permissions-Policy", PERMISSIONS_POLICY)
        if is_api_path(request.path_info):
            response.headers.setdefault("Cache-Control", "no-store")
        return response
