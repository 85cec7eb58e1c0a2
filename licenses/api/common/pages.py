"""Answer before Django's views: with a page for a browser, and with a problem document for a program.

Such a page is complete: a server that refuses calls would refuse the files of a page too. It queries nothing,
and does not know who is signed in.
"""

import base64
import hashlib
from functools import cache, lru_cache
from pathlib import Path

from django.contrib.staticfiles import finders
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import get_script_prefix
from django.utils.html import escape

from licenses.errors import Refusal

from .problems import from_refusal, is_api_path

POLICY = "default-src 'none'; frame-ancestors 'none'"
# Where the text comes in.
DETAIL = "(detail)"


def refused(request: HttpRequest, refusal: Refusal) -> HttpResponse:
    """Answer with a refusal, which no cache keeps."""
    response = from_refusal(refusal)
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Cache-Control"] = "no-store"
    if is_for_a_person(request):
        write(response, title=refusal.title, detail=refusal.detail)
    return response


def write(response: HttpResponse, *, title: str, detail: str) -> None:
    """Make a response a page. A browser loads only the icon for it."""
    before, after = _around(title, get_script_prefix())
    response.content = f"{before}{escape(detail)}{after}".encode()
    response.headers["Content-Type"] = "text/html; charset=utf-8"
    response.headers["Content-Security-Policy"] = (
        f"{POLICY}; style-src '{_style()[1]}'; img-src 'self'; base-uri 'none'; form-action 'none'"
    )


def is_for_a_person(request: HttpRequest) -> bool:
    """Return whether a browser asks for a page."""
    return not is_api_path(request.path_info) and "text/html" in request.META.get("HTTP_ACCEPT", "")


@lru_cache(maxsize=16)
def _around(title: str, prefix: str) -> tuple[str, str]:
    """Return the page before and after its text. It is rendered once for each path of the server (``prefix``),
    so that it costs a flood's target nothing."""
    context = {"title": title, "detail": DETAIL, "style": _style()[0]}
    before, after = render_to_string("licenses/board/early.html", context).split(DETAIL)
    return before, after


@cache
def _style() -> tuple[str, str]:
    """Return the style sheet of these pages, and its hash for the Content-Security-Policy."""
    path = finders.find("licenses/page.css")
    text = Path(str(path)).read_text()
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return text, f"sha256-{digest}"
