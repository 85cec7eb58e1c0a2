"""Write every error of the API as a problem document (RFC 9457)."""

import json
import logging
import re
import sys
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import NON_FIELD_ERRORS, DisallowedHost, PermissionDenied
from django.core.exceptions import ValidationError as InvalidValue
from django.db import DatabaseError, InterfaceError
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.shortcuts import render
from django.views import defaults
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response

from licenses import database, readiness
from licenses.api.hints import hint_for
from licenses.errors import ReadOnly, Refusal, StorageFull
from licenseserver import logs

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    415: "Unsupported media type",
    429: "Too many requests",
}


def is_api_path(path: str) -> bool:
    """Return whether the errors of this path are for a program, not for a person."""
    return path.startswith(("/licenses/", "/borrows", "/api/"))


def problem(
    *, status: int, code: str, title: str, detail: str, headers: dict[str, str] | None = None, **facts: Any
) -> HttpResponse:
    """Return a problem document as a response. ``facts`` become its members.

    A server error has the id of its request in the log. A refusal has not, so that
    a repeated refusal is identical.
    """
    logs.note(code=code)
    body = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail} | facts
    if status >= 500 and (event := logs.current()):
        body["request_id"] = event.request_id
    response = HttpResponse(json.dumps(body), status=status, content_type=CONTENT_TYPE, headers=headers)
    # Django's own line about it, which configuration() drops unless it is a defect's.
    response._has_been_logged = status != 500  # type: ignore[attr-defined]
    return response


def from_refusal(refusal: Refusal) -> HttpResponse:
    """Return the problem document of a refusal."""
    headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else None
    hint = {"hint": text} if (text := hint_for(refusal)) else {}
    database.log_failure(refusal)
    if isinstance(refusal, StorageFull):
        readiness.disk_is_full()
    if refusal.tool:
        logs.note(tool=refusal.tool)
    return problem(
        status=refusal.status,
        code=refusal.code,
        title=refusal.title,
        detail=refusal.detail,
        headers=headers,
        **hint,
        **refusal.facts,
    )


def handle_exception(error: Exception, context: dict[str, Any]) -> Response | HttpResponse | None:
    """Handle an exception for DRF: refusals, DRF's own errors, a database that does not answer.

    Return None for any other exception: it is a defect, which Django reports.
    """
    if isinstance(error, Refusal):
        return from_refusal(error)
    if isinstance(error, (DatabaseError, InterfaceError)):
        refusal = database.refusal(error)
        if not isinstance(refusal, ReadOnly):
            logger.error("The database failed: %s", database.reason(error))
        return from_refusal(refusal)
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    elif isinstance(error, InvalidValue):
        error = _invalid(error)
    elif isinstance(error, UnreadablePostError):
        error = exceptions.ParseError("The body breaks off.")
    if not isinstance(error, exceptions.APIException):
        return None
    if isinstance(error, exceptions.NotAuthenticated) and _is_person(context["request"]):
        return redirect_to_login(context["request"].get_full_path())
    headers, hint = {}, ""
    if allow := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = allow
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = str(int(wait))
    if isinstance(error, exceptions.MethodNotAllowed):
        methods = context["view"].allowed_methods
        headers["Allow"] = ", ".join(methods)
        hint = f"Use {' or '.join(method for method in methods if method not in {'HEAD', 'OPTIONS'})}."
    elif isinstance(error, exceptions.UnsupportedMediaType):
        types = dict.fromkeys(parser.media_type for parser in context["view"].get_parsers())
        hint = f"Send the header Content-Type: {' or '.join(types)}."
    title = TITLES.get(error.status_code, "Request failed")
    if isinstance(error, exceptions.ValidationError):
        return problem(
            status=error.status_code,
            code="invalid",
            title=title,
            detail="; ".join(_sentences(error.detail)),
            headers=headers,
            errors=error.detail,
        )
    return problem(
        status=error.status_code,
        code=str(getattr(error.detail, "code", error.default_code)),
        title=title,
        detail=str(error.detail),
        headers=headers,
        **({"hint": hint} if hint else {}),
    )


def _invalid(error: InvalidValue) -> exceptions.ValidationError:
    """Return DRF's error for one of a service."""
    if not hasattr(error, "error_dict"):
        return exceptions.ValidationError({"non_field_errors": error.messages})
    return exceptions.ValidationError(
        {"non_field_errors" if name == NON_FIELD_ERRORS else name: texts for name, texts in error.message_dict.items()}
    )


def _is_person(request: Request) -> bool:
    """Return whether a browser asks for a page."""
    return request.method == "GET" and "text/html" in request.META.get("HTTP_ACCEPT", "")


def _sentences(detail: Any, field: str = "") -> list[str]:
    if isinstance(detail, dict):
        return [sentence for key, value in detail.items() for sentence in _sentences(value, str(key))]
    if isinstance(detail, list):
        return [sentence for value in detail for sentence in _sentences(value, field)]
    return [f"{field}: {detail}" if field and field != "non_field_errors" else str(detail)]


# Handlers of Django, for failures outside a DRF view.


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, DisallowedHost):
        return _unknown_host(request)
    if not is_api_path(request.path_info):
        return render(request, "400.html", status=400)
    return problem(status=400, code="bad_request", title=TITLES[400], detail="The request can't be read.")


def _unknown_host(request: HttpRequest) -> HttpResponse:
    """Name the host that was called and the setting that lists the allowed ones."""
    raw = request.META.get("HTTP_HOST") or request.META["SERVER_NAME"]
    host = re.sub(r":[0-9]*$", "", raw)[:255]
    detail = f'"{host}" is not in ALLOWED_HOSTS.'
    logger.warning("Refused a request: %s", detail)
    if is_api_path(request.path_info):
        return problem(status=400, code="unknown_host", title=TITLES[400], detail=detail, host=host)
    return render(request, "400.html", {"detail": detail, "asks_no_database": True}, status=400)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not is_api_path(request.path_info):
        return defaults.page_not_found(request, exception)
    return problem(
        status=404, code="not_found", title=TITLES[404], detail="No such address. /api/docs/ lists the calls."
    )


def server_error(request: HttpRequest) -> HttpResponse:
    error = sys.exception()
    if isinstance(error, (DatabaseError, InterfaceError)) and database.fault(error) is not None:
        return _database_away(request, error)
    if not is_api_path(request.path_info):
        return render(request, "500.html", {"asks_no_database": True}, status=500)
    return problem(
        status=500,
        code="internal",
        title="Server error",
        detail="The server failed. Its log has the error under this request_id.",
    )


def _database_away(request: HttpRequest, error: DatabaseError | InterfaceError) -> HttpResponse:
    """Answer 503 with the time of a retry if the database does not answer, in the admin's pages and before a view."""
    refusal = database.refusal(error)
    refusal.__cause__ = error
    if is_api_path(request.path_info):
        return from_refusal(refusal)
    database.log_failure(refusal)
    context = {"title": refusal.title, "detail": refusal.detail, "asks_no_database": True}
    answer = render(request, "licenses/board/error.html", context, status=refusal.status)
    if refusal.retry_after:
        answer["Retry-After"] = str(refusal.retry_after)
    return answer
