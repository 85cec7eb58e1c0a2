"""Add security headers to every answer."""

from collections.abc import Callable
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

from licenses.api.common.problems import is_api_path

# Pages of libraries, and pages in the style of the admin.
OF_LIBRARIES = ("/admin/", "/api/", "/signin/", "/oidc/")
# Pages of these with inline scripts and styles: the browsable API and Swagger UI.
WITH_INLINE = ("/api/v1/", "/api/docs/")


def content_security_policy(path: str) -> str:
    """Return the Content-Security-Policy of a path.

    Load only from this server, no frames, and forms only to this server and the
    provider, where a sign-out ends. Our own pages may load only what they need.
    """
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


# No page needs these features of the browser.
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


class SecurityHeadersMiddleware:
    """Add the policies for content and browser features, and keep answers of the API out of caches."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", content_security_policy(request.path_info))
        response.headers.setdefault("Permissions-Policy", PERMISSIONS_POLICY)
        if is_api_path(request.path_info):
            response.headers.setdefault("Cache-Control", "no-store")
        return response
