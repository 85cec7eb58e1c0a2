"""Show the secret of a new row, once."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.response import TemplateResponse


def secret_page(
    of: admin.ModelAdmin[Any], request: HttpRequest, row: Any, *, secret: str, use: str
) -> TemplateResponse:
    """Return the page with a secret. ``use`` says what it is for.

    Answer a form with it: a redirect would have to store the secret.
    """
    context = {
        "title": f"Secret of {row.name}",
        "opts": of.opts,
        "row": row,
        "secret": secret,
        "use": use,
    }
    return TemplateResponse(request, "licenses/admin_secret.html", of.admin_site.each_context(request) | context)
