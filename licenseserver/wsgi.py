"""The WSGI application that gunicorn serves."""

import os
from collections.abc import Iterable
from importlib import import_module
from typing import Any
from wsgiref.types import StartResponse

from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "licenseserver.settings")

django_application = get_wsgi_application()

# Import what requests will need now: gunicorn forks afterwards, and its workers share it.
import_module(settings.ROOT_URLCONF)
if settings.LICENSE_OIDC_ISSUER:
    import_module("licenses.signin.exchange")


def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Serve under the path SCRIPT_NAME, also if a proxy has removed it or a probe or scrape lacks it."""
    root, path = settings.SCRIPT_NAME, environ["PATH_INFO"]
    if root and (path == root or path.startswith(f"{root}/")):
        environ["PATH_INFO"] = path.removeprefix(root) or "/"
    return django_application(environ, start_response)
