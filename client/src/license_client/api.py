"""Call the server: one method for each call, with retries where they are safe."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import math
import random
import re
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from . import platforms
from .proxies import Proxy, is_loopback, proxy_for

# Says when a token ends that ends soon.
TOKEN_ENDS = "License-Token-Expires"  # noqa: S105
CLIENT_ID = "license"
DEVICE_CODE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
ANSWER_LIMIT = 16 * 1024 * 1024
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
# A call that takes longer than this is reported.
QUIET_SECONDS = 3.0
# A proxy gives these answers while the server starts or is away.
PASSING = {404, 408, 425, 429}


class LicenseError(Exception):
    """Base class of the errors that this package raises."""


class ConfigError(LicenseError):
    """The configuration has a fault."""


class Refused(LicenseError):
    """The server refused the call with a problem document. A retry does not help.

    ``code`` is stable. ``facts`` has the other members of the document.
    """

    def __init__(self, status: int, code: str, detail: str, facts: dict[str, Any]) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.facts = facts


class Unreachable(LicenseError):
    """The server did not answer, or was too busy, or a proxy answered for it.

    The call may have taken effect. ``retry_after`` is in seconds. ``hopeless`` is
    True if a retry cannot help, as after a redirect or with a certificate that is
    not trusted. ``code`` is the server's own, such as ``rate_limited``, or
    ``unreachable``.
    """

    def __init__(
        self,
        detail: str,
        *,
        retry_after: float | None = None,
        hopeless: bool = False,
        code: str = "unreachable",
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.retry_after = retry_after
        self.hopeless = hopeless


@dataclass(frozen=True)
class ToolStatus:
    """The seats of a tool and its queue.

    ``state`` is ``open``, or the reason why the tool grants no seat: ``disabled``,
    ``not_started`` or ``expired``.
    """

    tool: str
    total: int
    borrowed: int
    available: int
    queued: int
    oldest_wait_seconds: float
    raw: dict[str, Any] = field(repr=False)
    state: str = "open"


@dataclass(frozen=True)
class Item:
    """A number of seats of one tool."""

    tool: str
    seats: int = 1


@dataclass(frozen=True)
class Lease:
    """A lease. Its times are texts of the server.

    ``ends`` is the time on this machine's monotonic clock when the lease ends, at
    the latest the server's ``expires_at``; None if it has no end.
    ``heartbeat_seconds`` is None if the lease needs no heartbeats.
    ``last_heartbeat_at`` is known only in lists.
    """

    id: str
    user: str
    host: str
    items: tuple[Item, ...]
    borrowed_at: str
    expires_at: str | None
    heartbeat_seconds: float | None
    fence: int | None
    alternative: int
    ends: float | None
    raw: dict[str, Any] = field(repr=False)
    last_heartbeat_at: str | None = None

    @property
    def tools(self) -> str:
        """Return the items as a text."""
        return ", ".join(item.tool if item.seats == 1 else f"{item.seats} x {item.tool}" for item in self.items)


@dataclass(frozen=True)
class Ticket:
    """A ticket of the queue.

    ``position`` 1 is the next. Poll again after ``poll_after`` seconds.
    """

    id: str
    position: int
    eta_seconds: float | None
    poll_after: float
    raw: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class DeviceCodes:
    """The codes of a sign-in that a person must approve. Durations are in seconds."""

    device_code: str = field(repr=False)
    user_code: str
    address: str
    complete_address: str
    expires_in: float
    interval: float


@dataclass(frozen=True)
class SignedIn:
    """A token that a person approved. Its end is a text of the server."""

    token: str = field(repr=False)
    user: str
    expires_at: str
    scopes: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """A place in the queue, as a list shows it. ``eta_seconds`` is None if nothing is known."""

    ticket: str
    alternatives: tuple[tuple[Item, ...], ...]
    position: int
    eta_seconds: float | None
    waiting_since: str
    deadline: str
    waited_seconds: float
    # The end of the offer, if the seats are there and wait for their user.
    offered_until: str | None
    raw: dict[str, Any] = field(repr=False)

    @property
    def tools(self) -> set[str]:
        """Return the names of all tools that the ticket waits for."""
        return {item.tool for items in self.alternatives for item in items}


@dataclass(frozen=True)
class Caller:
    """Who the server takes this client for, and what its credential may do.

    ``kind`` is ``anonymous``, ``token`` or ``jwt``. ``name`` is the user of its leases,
    empty for the token of a team. ``expires_at`` is a text of the server.
    """

    kind: str
    name: str
    teams: tuple[str, ...]
    scopes: tuple[str, ...]
    expires_at: str | None
    left_seconds: float | None
    raw: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: Any
    sent: float  # monotonic


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirect, because it could carry the token to another server."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> None:
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class Client:
    """Call one server.

    ``timeout`` limits one try. A call without an answer is tried again for
    ``patience``. Both are in seconds. ``on_retry`` is called at most once in a
    call, perhaps from another thread, with the reason for the delay and the
    seconds that are left for retries. ``note`` explains the server's address in
    messages. ``allow_http`` lets a token go to another machine without https.
    ``on_token_ends`` is called, perhaps from another thread, with the end of a token
    that ends soon, a text.
    Every call raises Refused or Unreachable.
    """

    def __init__(
        self,
        server: str,
        *,
        token: str | None = None,
        timeout: float = 10,
        patience: float = 60,
        on_retry: Callable[[Unreachable, float], None] | None = None,
        note: str = "",
        allow_http: bool = False,
        on_token_ends: Callable[[str], None] | None = None,
    ) -> None:
        if not _is_address(server):
            raise LicenseError(f"{server!r} is not the address of a server; write it like https://licenses.example.com")
        if token and not _is_visible(token):
            raise LicenseError("the token contains a space, a line end or a non-ASCII character; copy it again")
        self.server = server.rstrip("/")
        self.token = token
        self.timeout = timeout
        self.patience = patience
        self.on_retry = on_retry
        self.note = note
        self.allow_http = allow_http
        self.on_token_ends = on_token_ends
        self._proxy = proxy_for(self.server)
        if token and not allow_http and not _is_private(self.server, self._proxy):
            raise ConfigError(
                f"{self.server} is not https: anyone on the network could read the token. "
                "Use https, or accept this with --allow-http or LICENSE_ALLOW_HTTP=true"
            )
        through = {urllib.parse.urlsplit(self.server).scheme: self._proxy.address} if self._proxy else {}
        self._opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler(through))

    def but(self, *, timeout: float, patience: float) -> Client:
        """Return a copy with another timeout and patience."""
        return Client(
            self.server,
            token=self.token,
            timeout=timeout,
            patience=patience,
            on_retry=self.on_retry,
            note=self.note,
            allow_http=self.allow_http,
            on_token_ends=self.on_token_ends,
        )

    def __str__(self) -> str:
        """Return the server's address as messages name it."""
        return f"{self.server} ({self.note})" if self.note else self.server

    # --- calls

    def status(self) -> list[ToolStatus]:
        """Return the seats of every tool, sorted by name."""
        answer = self._again("GET", "/licenses/status")
        return [_status(entry) for entry in _list(answer)]

    def tool_status(self, tool: str) -> ToolStatus:
        """Return the seats of one tool."""
        return _status(self._again("GET", f"/licenses/{_quote(tool)}/status").body)

    def borrow(
        self,
        alternatives: Sequence[Sequence[Item]],
        *,
        user: str,
        team: str | None = None,
        project: str = "",
        host: str = "",
        ttl: float | None = None,
        wait: float = 0,
        key: str | None = None,
    ) -> Lease | Ticket:
        """Borrow the first alternative that is free; with ``wait``, join the queue if none is.

        Durations are in seconds. If ``team`` is None, the server chooses the team.
        Retries use one Idempotency-Key, so that they take no second seat. ``key`` sets
        that key, of visible ASCII characters. If the lease of an earlier call with the
        same key has ended, this raises Refused with status 410.
        """
        if key is not None and not _is_visible(key):
            raise ValueError("a key has only visible ASCII characters")
        body: dict[str, Any] = {
            "user": user,
            "alternatives": [[{"tool": item.tool, "seats": item.seats} for item in items] for items in alternatives],
        }
        if team is not None:
            body["team"] = team
        if project:
            body["project"] = project
        if host:
            body["host"] = host
        if ttl is not None:
            body["ttl_seconds"] = round(ttl)
        if wait:
            body["wait_seconds"] = max(round(wait), 1)
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        answer = self._again("POST", "/licenses/borrow", body, headers=headers)
        outcome = _outcome(answer)
        # A replayed answer is as old as the first one.
        return self._as_it_is_now(outcome) if answer.headers.get("Idempotent-Replayed") else outcome

    def poll(self, ticket: str) -> Lease | Ticket:
        """Ask for the seats of a ticket.

        If the ticket became a lease that has ended, this raises Refused with status 410.
        """
        outcome = _outcome(self._again("GET", f"/licenses/queue/{_quote(ticket)}"))
        return self._as_it_is_now(outcome) if outcome.raw.get("ended_at") else outcome

    def leave(self, ticket: str) -> None:
        """Leave the queue. If the ticket became a lease, return the lease."""
        try:
            self._again("DELETE", f"/licenses/queue/{_quote(ticket)}")
        except Refused as refused:
            if refused.code != "granted":
                raise
            self.give_back(str(refused.facts.get("lease")))

    def renew(self, lease: str) -> Lease:
        """Extend a lease. Raises Refused with status 410 if it has ended."""
        return _lease(self._again("POST", "/licenses/renew", {"id": lease}))

    def give_back(self, lease: str) -> None:
        """Return the seats of a lease. Harmless if it was returned before."""
        self._again("POST", "/licenses/return", {"id": lease})

    def borrows(self, *, user: str | None = None, host: str | None = None, tool: str | None = None) -> list[Lease]:
        """Return the active leases, newest first: of a user, a host, or with seats of a tool."""
        asked = {name: value for name, value in (("user", user), ("host", host), ("tool", tool)) if value}
        query = urllib.parse.urlencode(asked, errors="replace")
        answer = self._again("GET", "/borrows" + (f"?{query}" if query else ""))
        return [_lease(replace(answer, body=entry)) for entry in _list(answer)]

    def begin_login(self, *, device: str = "", scopes: Sequence[str] = ()) -> DeviceCodes:
        """Begin a sign-in that a person approves in a browser (RFC 8628). Raises ConfigError if the token would come
        over plain HTTP."""
        if not self.allow_http and not _is_private(self.server, self._proxy):
            raise ConfigError(
                f"{self.server} is not https: anyone on the network could read the token. "
                "Use https, or accept this with --allow-http or LICENSE_ALLOW_HTTP=true"
            )
        form = {"client_id": CLIENT_ID, "device_name": device, "scope": " ".join(scopes)}
        body = self._again("POST", "/api/v1/login/device", form=form).body
        with _understanding("sign-in"):
            return DeviceCodes(
                device_code=str(body["device_code"]),
                user_code=str(body["user_code"]),
                address=str(body["verification_uri"]),
                complete_address=str(body["verification_uri_complete"]),
                expires_in=_number(body["expires_in"]) or 0,
                interval=_number(body["interval"]) or 5,
            )

    def poll_login(self, device_code: str) -> SignedIn:
        """Return the token of a sign-in. Raises Refused with the code ``authorization_pending`` until the person has
        answered, or ``slow_down``, ``access_denied``, ``expired_token``."""
        form = {"client_id": CLIENT_ID, "grant_type": DEVICE_CODE_GRANT, "device_code": device_code}
        body = self._again("POST", "/api/v1/login/token", form=form).body
        with _understanding("token"):
            return SignedIn(
                token=str(body["access_token"]),
                user=str(body["user"]),
                expires_at=str(body["expires_at"]),
                scopes=tuple(str(body["scope"]).split()),
            )

    def revoke(self, token: str) -> None:
        """Revoke a token. Harmless if it is not valid."""
        self._again("POST", "/api/v1/login/revoke", form={"token": token})

    def places(self, *, user: str) -> list[Place]:
        """Return the places of a user in the queue, the oldest first. This does not keep them."""
        query = urllib.parse.urlencode({"user": user}, errors="replace")
        return [_place(entry) for entry in _list(self._again("GET", f"/licenses/queue?{query}"))]

    def caller(self) -> Caller:
        """Return who the server takes this client for."""
        body = self._again("GET", "/api/v1/caller/").body
        with _understanding("caller"):
            end = body["expires_at"]
            left = (time_of(end) - time_of(body["server_time"])).total_seconds() if end is not None else None
            return Caller(
                kind=str(body["kind"]),
                name=str(body["name"]),
                teams=tuple(map(str, body["teams"])),
                scopes=tuple(map(str, body["scopes"])),
                expires_at=end,
                left_seconds=left,
                raw=body,
            )

    def version(self) -> str:
        """Return the version of the server."""
        body = self._again("GET", "/version").body
        with _understanding("version"):
            return str(body["version"])

    def alive(self) -> Answer:
        """Return the server's answer to a probe, which needs no credential."""
        return self._again("GET", "/livez")

    def apply_site(self, document: str, *, dry_run: bool = False, prune: bool = False) -> dict[str, Any]:
        """Bring the site from a document in TOML, and return the answer: ``changes``, ``unlisted``, ``warnings``.

        Needs the scope ``admin``. A retry is harmless, because a second time changes nothing.
        """
        query = urllib.parse.urlencode({name: "true" for name, on in (("dry_run", dry_run), ("prune", prune)) if on})
        answer = self._again("POST", "/api/v1/site/apply" + (f"?{query}" if query else ""), {"document": document})
        with _understanding("difference of a site"):
            return {name: answer.body[name] for name in ("dry_run", "changes", "unlisted", "warnings")}

    def export_site(self) -> str:
        """Return the site as a document in TOML. Needs the scope ``admin``."""
        answer = self._again("GET", "/api/v1/site")
        with _understanding("site"):
            return str(answer.body["document"])

    # --- how they are made

    def _as_it_is_now(self, outcome: Lease | Ticket) -> Lease | Ticket:
        """Extend a lease and return it. Raises Refused if it has ended."""
        if isinstance(outcome, Ticket):
            return outcome
        return replace(self.renew(outcome.id), alternative=outcome.alternative)

    def _again(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        """Repeat a call until the server answers or ``patience`` is over."""
        start = time.monotonic()
        end = start + self.patience
        pause, timeout = FIRST_PAUSE, self.timeout
        with _Notice(self.on_retry, Unreachable(f"{self._route()} has not answered yet."), end) as notice:
            while True:
                try:
                    return self._call(method, path, body, headers or {}, timeout, form)
                except Unreachable as error:
                    # Spread the retries, or all clients would come back at the same moment.
                    wanted = max(error.retry_after or 0, pause * random.uniform(0.5, 1))  # noqa: S311
                    now = time.monotonic()
                    if error.hopeless or now + wanted > end:
                        raise
                    notice.error = error
                    if now + wanted > start + QUIET_SECONDS:
                        notice.give()
                platforms.CURRENT.sleep(wanted)
                pause = min(2 * pause, LONGEST_PAUSE)
                timeout = min(self.timeout, max(end - time.monotonic(), 1))

    def _route(self) -> str:
        return f"{self} through {self._proxy}" if self._proxy is not None else str(self)

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        headers: Mapping[str, str],
        timeout: float,
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        if self._proxy is not None and not self._proxy.is_supported:
            raise Unreachable(f"{self._proxy} is not an HTTP proxy: give the address of one", hopeless=True)
        request = urllib.request.Request(  # noqa: S310 - http or https, see __init__
            self.server + path,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Accept": "application/json", **headers},
            method=method,
        )
        if body is not None:
            request.add_header("Content-Type", "application/json")
        if form is not None:
            # The calls of a sign-in need no token.
            request.data = urllib.parse.urlencode(form, errors="replace").encode()
            request.add_header("Content-Type", "application/x-www-form-urlencoded")
        elif self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        sent = time.monotonic()
        try:
            with self._opener.open(request, timeout=timeout) as response:
                answer = Answer(response.status, _json(response.read(ANSWER_LIMIT)), response.headers, sent)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(self._route(), error) from None
        # A proxy from the environment may have an invalid name.
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            untrusted = isinstance(reason, ssl.SSLCertVerificationError)
            through = f" through {self._proxy}" if self._proxy is not None else ""
            raise Unreachable(f"{self} can't be reached{through}: {_in_words(reason)}", hopeless=untrusted) from None
        ends = answer.headers.get(TOKEN_ENDS)
        if ends and self.on_token_ends is not None:
            self.on_token_ends(ends)
        return answer


class _Notice:
    """Report once, after QUIET_SECONDS or earlier, that a call is slow, and why."""

    def __init__(self, on_retry: Callable[[Unreachable, float], None] | None, error: Unreachable, end: float) -> None:
        self.error = error
        self._on_retry = on_retry
        self._end = end
        self._lock = threading.Lock()
        self._given = on_retry is None or end - time.monotonic() <= QUIET_SECONDS
        self._timer = threading.Timer(QUIET_SECONDS, self.give)
        self._timer.daemon = True

    def give(self) -> None:
        with self._lock:
            given, self._given = self._given, True
        if not given and self._on_retry is not None:
            self._on_retry(self.error, self._end - time.monotonic())

    def __enter__(self) -> _Notice:
        if not self._given:
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._given = True
        self._timer.cancel()


def _is_private(server: str, proxy: Proxy | None) -> bool:
    """Return whether nobody on the network can read what is sent."""
    parts = urllib.parse.urlsplit(server)
    if parts.scheme == "https":
        return True
    return is_loopback(parts.hostname or "") and (proxy is None or is_loopback(proxy.host))


def _in_words(reason: object) -> str:
    """Return why the connection failed, without Python's error numbers."""
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {reason.verify_message}"
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__)


def _is_address(server: str) -> bool:
    """Return whether this is the address of an HTTP server, without user, query or fragment."""
    try:
        parts = urllib.parse.urlsplit(server)
        # The port raises ValueError if it is invalid.
        name, _ = parts.hostname or "", parts.port
        # Find empty and overlong labels here, because urllib finds them only later.
        name.encode("idna")
    except ValueError:
        return False
    extra = parts.username is not None or parts.query or parts.fragment
    return parts.scheme in {"http", "https"} and bool(name) and not extra and _is_visible(server)


def _is_visible(text: str) -> bool:
    return re.fullmatch(r"[!-~]+", text) is not None


def _quote(name: str) -> str:
    # A name from the command line may be invalid Unicode. The server will not know it.
    return urllib.parse.quote(name, safe="", errors="replace")


def _json(text: bytes) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Unreachable("the answer is not JSON; is this a license server?") from None


def _refusal(server: str, error: urllib.error.HTTPError) -> LicenseError:
    """Return the error that an answer other than 2xx stands for."""
    try:
        body = json.loads(error.read(ANSWER_LIMIT))
    except (OSError, ValueError, RecursionError, http.client.HTTPException):
        body = None
    problem = body if isinstance(body, dict) else {}
    detail = str(problem.get("detail") or f"{server} answered {error.code} {error.reason}")
    if 400 <= error.code < 500 and error.code != 429 and "code" in problem:
        standard = {"type", "title", "status", "code", "detail", "hint"}
        facts = {name: problem[name] for name in problem.keys() - standard}
        return Refused(error.code, str(problem["code"]), detail, facts)
    if 300 <= error.code < 400:
        detail = f"{server} redirects to {error.headers.get('Location')}; use that address"
    return Unreachable(
        detail,
        retry_after=_retry_after(error.headers.get("Retry-After", "")),
        hopeless=error.code < 500 and error.code not in PASSING,
        code=str(problem.get("code") or "unreachable"),
    )


def _retry_after(text: str) -> float | None:
    """Return the seconds of a Retry-After, which is a number or a date."""
    if re.fullmatch(r"[0-9]{1,6}", text):
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
        return max((date - datetime.now(timezone.utc)).total_seconds(), 0)
    except (TypeError, ValueError, IndexError):
        # Python before 3.10 raises TypeError; a date without a zone can't be compared.
        return None


def _outcome(answer: Answer) -> Lease | Ticket:
    if answer.status != 202:
        return _lease(answer)
    body = answer.body
    with _understanding("ticket"):
        return Ticket(
            id=str(body["ticket"]),
            position=int(body["position"]),
            eta_seconds=_number(body["eta_seconds"]),
            poll_after=_number(body["poll_after"]) or 0,
            raw=body,
        )


def _lease(answer: Answer) -> Lease:
    body = answer.body
    with _understanding("lease"):
        expires_at = body["expires_at"]
        ends = None
        if expires_at is not None:
            # Count the server's time from before the call, so that the end is never too late.
            left = time_of(expires_at) - time_of(body["server_time"])
            ends = answer.sent + left.total_seconds()
        return Lease(
            id=str(body["id"]),
            user=str(body["user"]),
            host=str(body["host"]),
            items=tuple(Item(str(item["tool"]), int(item["seats"])) for item in body["items"]),
            borrowed_at=str(body["borrowed_at"]),
            expires_at=expires_at,
            heartbeat_seconds=_number(body["heartbeat_seconds"]),
            fence=body["fence"],
            alternative=body.get("alternative", 0),
            ends=ends,
            raw=body,
            last_heartbeat_at=body.get("last_heartbeat_at"),
        )


def time_of(text: str) -> datetime:
    """Return a time of the server. Raises ValueError."""
    # Python before 3.11 reads no Z.
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _status(body: Any) -> ToolStatus:
    with _understanding("tool's status"):
        return ToolStatus(
            tool=str(body["tool"]),
            total=int(body["total"]),
            borrowed=int(body["borrowed"]),
            available=int(body["available"]),
            queued=int(body["queued"]),
            oldest_wait_seconds=float(body["oldest_wait_seconds"]),
            raw=body,
            # An older server says only whether it is enabled.
            state=str(body.get("state", "open" if body.get("enabled", True) else "disabled")),
        )


def _place(body: Any) -> Place:
    with _understanding("place in the queue"):
        return Place(
            ticket=str(body["ticket"]),
            alternatives=tuple(
                tuple(Item(str(item["tool"]), int(item["seats"])) for item in items) for items in body["alternatives"]
            ),
            position=int(body["position"]),
            eta_seconds=_number(body["eta_seconds"]),
            waiting_since=str(body["waiting_since"]),
            deadline=str(body["deadline"]),
            waited_seconds=_number(body["waited_seconds"]) or 0,
            offered_until=body.get("offered_until"),
            raw=body,
        )


def _list(answer: Answer) -> list[Any]:
    if not isinstance(answer.body, list):
        raise Unreachable("the answer is not a list; is this a license server?")
    return answer.body


def _number(value: Any) -> float | None:
    """Return a number of seconds. Raises ValueError if nobody could wait that time."""
    number = float(value) if value is not None else None
    if number is not None and not 0 <= number < math.inf:
        raise ValueError(f"{value!r} is not a time")
    return number


@contextlib.contextmanager
def _understanding(what: str) -> Iterator[None]:
    """Raise Unreachable for an answer that has not the expected form, as a proxy's."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise Unreachable(f"the answer is not a {what} ({error!r}); is the server older than this client?") from None
