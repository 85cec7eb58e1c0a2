"""Limit the calls of each caller, so that all get their share of the server.

A caller is known by its credential after it was found valid, and before by its
address. A call counts as one, and as one more for each ``WORTH`` seconds of its
work. Calls that begin together must have tokens for all of them. Renewals and
returns have their own limit, so that a caller with too many other calls can still
keep and return seats. So have scrapes of the metrics: they show a flood, also one
from the address of the scraper.
"""

import hashlib
import logging
import math
import os
import re
import time
from collections.abc import Callable

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from licenses import metrics
from licenses.access.buckets import Buckets
from licenses.access.callers import Caller, Kind
from licenses.client_addresses import client_address, network_of
from licenses.errors import RateLimited

from .common.pages import refused

logger = logging.getLogger(__name__)

# Seconds of work that count as one call.
WORTH = 0.0025
WAITING = 0.5
UNLIMITED = 1e12
EXEMPT = {"/livez", "/readyz"}
METRICS = "/metrics"
# Calls that keep or return seats.
KEEPING = re.compile(
    r"POST (/licenses/(renew|return)|/api/v1/leases/[^/]+/renew/|/leases/[^/]+/return/)|DELETE /licenses/queue/[^/]+"
)
# Calls that wait for locks of other calls: only half of their time counts.
LOCKING = re.compile(r"/licenses/(borrow|renew|return|queue/[^/]*)|/api/v1/leases/[^/]+/[^/]+/|/leases/[^/]+/return/")

# Buckets of credentials and of addresses, each for calls that keep seats and for others;
# those of addresses for scrapes too.
credentials = Buckets()
addresses = Buckets()
# Hash the credentials: none stays in memory, and nobody can choose the key of a bucket.
_KEY = os.urandom(32)


class Limit:
    """Limit one caller to ``setting`` calls per second; 0 is no limit."""

    def __init__(self, name: str, buckets: Buckets, caller: bytes, setting: int) -> None:
        self.name = name
        self.buckets = buckets
        self.caller = caller
        self.rate = setting or UNLIMITED
        self.size = self.rate * settings.LICENSE_RATE_BURST

    def enter(self) -> float:
        """Count one call. Return 0, or the seconds to wait if it is one too many."""
        return self.buckets.enter(self.caller, rate=self.rate, size=self.size, now=time.monotonic())

    def leave(self, calls: float) -> None:
        """Count a call that entered as this many calls."""
        self.buckets.leave(self.caller, calls, rate=self.rate, size=self.size, now=time.monotonic())

    def charge(self, calls: float) -> None:
        """Count a call that entered elsewhere."""
        self.buckets.charge(self.caller, calls, rate=self.rate, size=self.size, now=time.monotonic())


class RateLimitMiddleware:
    """Answer 429 to a caller over its limit, before anything is read, logged or looked up."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        path = request.path_info
        if path in EXEMPT:
            return self.get_response(request)
        keeping = request.method != "GET" and KEEPING.fullmatch(f"{request.method} {path}") is not None
        mine = _of_credential(request, keeping)
        known = mine is not None and mine.caller in mine.buckets
        limit = mine if mine is not None and known else _of_address(request, keeping)
        if wait := limit.enter():
            return _refused(request, limit, wait)
        start = time.perf_counter()
        response = self.get_response(request)
        work = (time.perf_counter() - start) * (WAITING if LOCKING.fullmatch(path) else 1)
        cost = max(round(work / WORTH, 3), 1)
        if known and mine is not None and response.status_code == 401:
            # The credential was valid before, but no longer.
            mine.buckets.forget(mine.caller)
            _of_address(request, keeping).charge(cost)
        elif not known and mine is not None and _is_somebody(request):
            limit.leave(0)
            mine.charge(cost)
        else:
            limit.leave(cost)
        return response


def _of_credential(request: HttpRequest, keeping: bool) -> Limit | None:
    secret = request.META.get("HTTP_AUTHORIZATION")
    if not secret and request.META.get("HTTP_COOKIE"):
        secret = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if not secret:
        return None
    digest = hashlib.blake2b(secret.encode("utf-8", "replace"), key=_KEY, digest_size=16).digest()
    if keeping:
        return Limit("heartbeats", credentials, b"k" + digest, settings.LICENSE_RATE_HEARTBEATS)
    return Limit("credential", credentials, digest, settings.LICENSE_RATE_PER_CREDENTIAL)


def _of_address(request: HttpRequest, keeping: bool) -> Limit:
    network = network_of(client_address(request.META)).encode()
    if keeping:
        return Limit("heartbeats", addresses, b"k" + network, settings.LICENSE_RATE_HEARTBEATS)
    if request.path_info == METRICS:
        network = b"m" + network
    return Limit("address", addresses, network, settings.LICENSE_RATE_PER_ADDRESS)


def _is_somebody(request: HttpRequest) -> bool:
    """Return whether the credential of an answered request was found valid."""
    caller = getattr(request, "auth", None)
    if isinstance(caller, Caller):
        return caller.kind != Kind.ANONYMOUS
    # For pages. request.user itself would ask the database.
    return isinstance(getattr(request, "_cached_user", None), User)


def _refused(request: HttpRequest, limit: Limit, wait: float) -> HttpResponse:
    metrics.RATE_LIMITED.labels(limit.name).inc()
    if limit.buckets.worth_a_line(limit.caller, now=time.monotonic()):
        logger.warning("Too many calls from %s, by the limit per %s.", client_address(request.META), limit.name)
    return refused(request, RateLimited(wait=math.ceil(wait)))
