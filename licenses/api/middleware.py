"""Handle requests before Django's views: the line in the log, probes, overload, and the limit on bodies."""

import io
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import User
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.http.request import split_domain_port, validate_host
from django.middleware.common import CommonMiddleware
from django.utils.module_loading import import_string
from gunicorn.http.errors import ParseException

from licenses import metrics
from licenses.access.callers import Caller
from licenses.client_addresses import client_address
from licenses.errors import Overloaded, RateLimited
from licenseserver import logs, workers

from . import probes, urls
from .common.pages import refused, write
from .common.problems import is_api_path, problem
from .rate_limits import KEEPING

logger = logging.getLogger("licenses.request")

# The document of a site is longer than the body of another call.
SITE_APPLY = "/api/v1/site/apply"

# The methods of this server's calls and pages. A client can invent others.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

# If a body is not read, the kernel resets the connection, and the client does not get the
# answer. So read up to this many bytes and drop them.
DISCARD_LIMIT = 16 * 1024 * 1024
CHUNK = 64 * 1024
# gunicorn raises these for a body that breaks off, or for invalid chunks.
UNREADABLE = (OSError, ParseException)


class EventMiddleware:
    """Give every request an id, count it while it is being answered, and log one line at its end. Refuse a method
    that no call has.

    A valid id in ``X-Request-ID`` is kept, and the answer has it in the same header. The line
    leaves out the query, because it may contain secrets.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        start = time.perf_counter()
        request_id = request.META.get("HTTP_X_REQUEST_ID", "")
        if not logs.REQUEST_ID.fullmatch(request_id):
            request_id = os.urandom(16).hex()
        with logs.Event(request_id) as event:
            metrics.REQUESTS_IN_FLIGHT.inc()
            try:
                response = self.get_response(request) if request.method in METHODS else _method_not_allowed()
            finally:
                metrics.REQUESTS_IN_FLIGHT.dec()
            response.headers["X-Request-ID"] = request_id
            caller = getattr(request, "auth", None)
            if isinstance(caller, Caller) and caller.ends_soon:
                response.headers["License-Token-Expires"] = f"{caller.expires_at:%Y-%m-%dT%H:%M:%SZ}"
            # Django adds the length in an inner middleware. Answers of outer ones would go out in chunks.
            if isinstance(response, HttpResponse) and "Content-Length" not in response.headers:
                response.headers["Content-Length"] = str(len(response.content))
            # Too many calls must not fill the log.
            is_one_of_many = event.facts.get("code") in {RateLimited.code, Overloaded.code}
            level = logging.DEBUG if is_one_of_many else _level(request, response.status_code)
            if logger.isEnabledFor(level):
                facts = {
                    "method": request.method,
                    "path": request.path_info,
                    "status": response.status_code,
                    "duration_seconds": round(time.perf_counter() - start, 6),
                    "client": client_address(request.META),
                }
                logger.log(level, "request", extra={"facts": facts | _caller(request) | event.facts})
        return response


def _method_not_allowed() -> HttpResponseBase:
    return problem(
        status=405,
        code="method_not_allowed",
        title="Method not allowed",
        detail=f"Use one of {', '.join(METHODS)}.",
        headers={"Allow": ", ".join(METHODS)},
    )


class RequestMetricsMiddleware:
    """Count requests by view, with labels from closed sets only."""

    UNNAMED = "<unnamed view>"

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        self.metrics = metrics.HttpMetrics.get_instance()

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        start = time.perf_counter()
        response = self.get_response(request)
        self.metrics.answered(
            transport="https" if request.is_secure() else "http",
            status=response.status_code,
            view=self._view(request),
            # EventMiddleware accepts only known methods.
            method=str(request.method),
            seconds=time.perf_counter() - start,
        )
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        """Count a defect. Django answers it."""
        self.metrics.failed(view=self._view(request), error=exception)

    def _view(self, request: HttpRequest) -> str:
        match = request.resolver_match
        return match.view_name or self.UNNAMED if match else self.UNNAMED


def _level(request: HttpRequest, status: int) -> int:
    if status >= 500:
        # A defect, or a server that can't answer for now.
        return logging.ERROR if status == 500 else logging.WARNING
    by_a_machine = request.path_info in ProbeMiddleware.probes or request.path.startswith(settings.STATIC_URL)
    return logging.DEBUG if by_a_machine else logging.INFO


def _caller(request: HttpRequest) -> dict[str, Any]:
    """Return the facts about the caller that are known so far."""
    caller = getattr(request, "auth", None)
    if isinstance(caller, Caller):
        facts = {"caller": caller.name, "caller_kind": caller.kind.value, "credential": caller.credential}
        if not caller.name:
            # A team's token has one team. A JWT may have dozens of the provider's groups.
            facts["caller_team"] = ",".join(sorted(caller.teams))
        return {name: value for name, value in facts.items() if value}
    # The account of a page. request.user itself would query the database.
    user = getattr(request, "_cached_user", None)
    return {"caller": user.get_username(), "caller_kind": "session"} if isinstance(user, User) else {}


class OverloadMiddleware:
    """Answer 503 to a request that waited too long for a thread of its worker, or for its loop.

    Such an answer costs almost nothing, so the queue gets short again. Probes, and calls that
    keep or return seats, are always answered.
    """

    # Seconds between two lines in the log.
    PAUSE = 10.0

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        self.said_at = float("-inf")

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if workers.waited() <= settings.LICENSE_LONGEST_WAIT or _is_vital(request):
            response = self.get_response(request)
        else:
            response = refused(request, Overloaded())
        # A borrow can also wait too long for its batch.
        event = logs.current()
        if event is not None and event.facts.get("code") == Overloaded.code:
            self._say()
        return response

    def _say(self) -> None:
        if time.monotonic() - self.said_at > self.PAUSE:
            self.said_at = time.monotonic()
            logger.warning(
                "Overloaded: a request waited longer than %d s for its turn, and was refused, like those behind it.",
                settings.LICENSE_LONGEST_WAIT,
            )


def _is_vital(request: HttpRequest) -> bool:
    path = request.path_info
    return path in ProbeMiddleware.probes or KEEPING.fullmatch(f"{request.method} {path}") is not None


class ProbeMiddleware:
    """Answer probes and scrapes, also over plain HTTP and for any host name.

    Kubernetes and Prometheus call the address of a pod, which is not in ALLOWED_HOSTS. /metrics
    needs an IP address, or a name in that list.
    """

    probes: ClassVar[dict[str, Callable[[HttpRequest], HttpResponseBase]]] = {
        f"/{address.pattern}": address.callback for address in urls.probe_urls
    }

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        probe = self.probes.get(request.path_info)
        if probe is None or (probe is probes.prometheus and not _is_own_host(request.META.get("HTTP_HOST", ""))):
            return self.get_response(request)
        return probe(request)


def _is_own_host(host: str) -> bool:
    """Return whether the host is a name of this server, or an IP address.

    Another name belongs to a page in a user's browser, which would read the metrics there.
    """
    domain, _ = split_domain_port(host)
    try:
        ip_address(domain.strip("[]"))
    except ValueError:
        return not host or validate_host(domain, settings.ALLOWED_HOSTS)
    return True


class PlainHttpMiddleware:
    """Refuse a call of the API, or a credential in a header, over plain HTTP if HTTPS is required.

    A redirect would hide the mistake: the program would go on to send its token in plain text.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if settings.SECURE_SSL_REDIRECT and not request.is_secure():
            with_credential = "HTTP_AUTHORIZATION" in request.META
            if with_credential or is_api_path(request.path_info):
                revoke = " Revoke the token that you sent: others may have read it." if with_credential else ""
                return problem(
                    status=403,
                    code="https_required",
                    title="HTTPS required",
                    detail=f"Use https:// for this server.{revoke}",
                )
        return self.get_response(request)


class ForkMiddleware:
    """Answer calls of the API that have no cookie without the middleware for pages: sessions, CSRF, messages.

    They pass ``settings.API_MIDDLEWARE``, and then the middleware that every request passes
    last. A call with a cookie can come from a page: it has a session, and needs the CSRF token.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.of_pages = get_response
        handler = _handler_of(RequestMetricsMiddleware, get_response)
        for path in reversed(settings.API_MIDDLEWARE):
            handler = convert_exception_to_response(import_string(path)(handler))
        self.of_calls: Callable[[HttpRequest], HttpResponseBase] = handler

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return (self.of_calls if is_call(request) else self.of_pages)(request)


def is_call(request: HttpRequest) -> bool:
    """Return whether this is a program's call of the API, and not a browser's."""
    headers = request.META
    return (
        is_api_path(request.path_info)
        and not headers.get("HTTP_COOKIE")
        and "text/html" not in headers.get("HTTP_ACCEPT", "")
    )


def _handler_of(middleware: type, chain: Any) -> Any:
    """Return where Django's chain enters this middleware. Each of its handlers wraps a
    middleware, which has the next one."""
    while not isinstance(chain.__wrapped__, middleware):
        chain = chain.__wrapped__.get_response
    return chain


class CallMiddleware(CommonMiddleware):
    """Do for a program's call what CommonMiddleware and SecurityMiddleware do for pages: check
    the host, redirect to the address with a slash, and set headers."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        super().__init__(get_response)
        self.respond = get_response
        self.headers = {
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
            # The answer is only for its caller.
            "Cache-Control": "no-store",
        }
        self.secure_headers = dict(self.headers)
        if settings.SECURE_HSTS_SECONDS:
            include = "; includeSubDomains" if settings.SECURE_HSTS_INCLUDE_SUBDOMAINS else ""
            preload = "; preload" if settings.SECURE_HSTS_PRELOAD else ""
            self.secure_headers["Strict-Transport-Security"] = (
                f"max-age={settings.SECURE_HSTS_SECONDS}{include}{preload}"
            )

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        # It raises DisallowedHost.
        request.get_host()
        response = self.respond(request)
        if response.status_code == 404:
            response = self.process_response(request, response)
        for name, value in (self.secure_headers if request.is_secure() else self.headers).items():
            response.headers.setdefault(name, value)
        return response


class BodyLimitMiddleware:
    """Answer 413 to a body over the limit of its path. Read the body of a call of the API that comes in chunks.

    WSGI takes a body without a length for empty.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        in_chunks = "HTTP_TRANSFER_ENCODING" in request.META and not request.META.get("CONTENT_LENGTH")
        if in_chunks and is_api_path(request.path_info):
            try:
                _read_chunks(request)
            except UNREADABLE:
                return problem(
                    status=400, code="parse_error", title="Bad request", detail="The body's chunks are broken."
                )
        limit = _limit_of(request.path_info)
        if _content_length(request) > limit:
            _discard_body(request)
            return _too_large(request.path_info, limit)
        return self.get_response(request)


def _limit_of(path: str) -> int:
    """Return the largest body of a call or a form, in bytes."""
    limit: int
    if path == SITE_APPLY or path.startswith("/admin/"):
        limit = settings.ADMIN_BODY_LIMIT
    else:
        limit = settings.API_BODY_LIMIT if is_api_path(path) else settings.PAGE_BODY_LIMIT
    return limit


def _too_large(path: str, limit: int) -> HttpResponseBase:
    if not is_api_path(path):
        response = HttpResponse(status=413)
        most = f"{limit // 1024:,} KiB"
        write(response, title="Too large", detail=f"Go back and send less: this page accepts at most {most}.")
        return response
    detail = f"The body can have at most {limit} bytes."
    return problem(status=413, code="too_large", title="Body too large", detail=detail)


def _content_length(request: HttpRequest) -> int:
    try:
        return int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return 0


def _read_chunks(request: HttpRequest) -> None:
    """Give the request the body that the server unchunked, or, of one that is over
    the limit, the part that shows that."""
    limit = _limit_of(request.path_info)
    body = request.META["wsgi.input"].read(limit + 1)
    request.META["CONTENT_LENGTH"] = str(len(body))
    # Like the stream of WSGIRequest. _discard_body reads the rest.
    rest = request.META["wsgi.input"] if len(body) > limit else io.BytesIO(body)
    request._stream = rest


def _discard_body(request: HttpRequest) -> None:
    left = DISCARD_LIMIT
    with suppress(*UNREADABLE):
        while left > 0 and (chunk := request.read(min(CHUNK, left))):
            left -= len(chunk)
