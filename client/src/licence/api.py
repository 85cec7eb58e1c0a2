"""The server's calls, one method each, with retries where they are safe."""

import http.client
import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

T = TypeVar("T")

ANSWER_LIMIT = 16 * 1024 * 1024
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0


class LicenceError(Exception):
    """What this package raises."""


class Refused(LicenceError):
    """The server understood and said no: final, until something changes.

    ``code`` is stable, ``facts`` are the other members of the answer.
    """

    def __init__(self, status: int, code: str, detail: str, facts: dict[str, Any]) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.facts = facts


class Unreachable(LicenceError):
    """No answer, or one that says nothing (a proxy's, an overloaded server's).
    Whether the call took effect is unknown. ``retry_after`` is in seconds."""

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Item:
    """So many seats of one tool."""

    tool: str
    seats: int = 1


@dataclass(frozen=True)
class Lease:
    """Seats that are held. ``ends`` is on this machine's monotonic clock, no
    later than the server's ``expires_at``; None is never."""

    id: str
    items: tuple[Item, ...]
    expires_at: str | None
    heartbeat_seconds: float | None
    fence: int | None
    alternative: int
    ends: float | None
    raw: dict[str, Any] = field(repr=False)

    @property
    def tools(self) -> str:
        return ", ".join(item.tool if item.seats == 1 else f"{item.seats} x {item.tool}" for item in self.items)


@dataclass(frozen=True)
class Ticket:
    """A place in the queue; ``position`` 1 is the next, ``poll_after`` seconds
    are the pause until one asks again."""

    id: str
    position: int
    eta_seconds: float | None
    poll_after: float
    raw: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: Any
    sent: float  # monotonic


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could carry the token to another server."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Client:
    """Calls to one server.

    ``timeout`` is for one try, ``patience`` for all tries of one call that gets
    no answer; both in seconds. Every call raises Refused or Unreachable.
    """

    def __init__(self, server: str, *, token: str | None = None, timeout: float = 10, patience: float = 60) -> None:
        parts = urllib.parse.urlsplit(server)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
            raise LicenceError(f"{server!r} is no server's address; write https://licences.example.com")
        self.server = server.rstrip("/")
        self.token = token
        self.timeout = timeout
        self.patience = patience
        self._opener = urllib.request.build_opener(_NoRedirect)

    # --- calls

    def status(self, tool: str | None = None) -> list[dict[str, Any]]:
        """The seats of one tool, or of all."""
        path = f"/licenses/{urllib.parse.quote(tool, safe='')}/status" if tool is not None else "/licenses/status"
        body = self._again(lambda: self._call("GET", path)).body
        return body if isinstance(body, list) else [body]

    def borrow(
        self,
        alternatives: Sequence[Sequence[Item]],
        *,
        user: str,
        host: str = "",
        ttl: float | None = None,
        wait: float = 0,
        key: str | None = None,
    ) -> Lease | Ticket:
        """Take the first set of seats that is free, or, with ``wait``, a place
        in the queue. Sent again under one key until there is an answer, so that
        it takes no second seat."""
        body: dict[str, Any] = {
            "user": user,
            "alternatives": [[{"tool": item.tool, "seats": item.seats} for item in items] for items in alternatives],
        }
        if host:
            body["host"] = host
        if ttl is not None:
            body["ttl_seconds"] = round(ttl)
        if wait:
            body["wait_seconds"] = max(round(wait), 1)
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        answer = self._again(lambda: self._call("POST", "/licenses/borrow", body, headers))
        outcome = _outcome(answer)
        if isinstance(outcome, Lease) and answer.headers.get("Idempotent-Replayed"):
            # The answer is as old as the first call: see what has become of it.
            return replace(self.renew(outcome.id), alternative=outcome.alternative)
        return outcome

    def poll(self, ticket: str, *, patience: float | None = None) -> Lease | Ticket:
        """Ask for the seats that a ticket waits for."""
        return _outcome(self._again(lambda: self._call("GET", _ticket(ticket)), patience))

    def leave(self, ticket: str) -> None:
        """Leave the queue; what the ticket has become is returned."""
        try:
            self._again(lambda: self._call("DELETE", _ticket(ticket)))
        except Refused as refused:
            if refused.code != "granted":
                raise
            self.give_back(str(refused.facts["lease"]))

    def renew(self, lease: str, *, patience: float | None = None) -> Lease:
        """Extend a lease; Refused with status 410 if it has ended."""
        call = lambda: self._call("POST", "/licenses/renew", {"id": lease})  # noqa: E731
        return _lease(self._again(call, patience))

    def give_back(self, lease: str) -> None:
        """Return a lease's seats; harmless if they are back."""
        self._again(lambda: self._call("POST", "/licenses/return", {"id": lease}))

    def borrows(self, *, user: str | None = None, host: str | None = None) -> list[dict[str, Any]]:
        """The active leases, newest first."""
        query = urllib.parse.urlencode({name: value for name, value in (("user", user), ("host", host)) if value})
        body = self._again(lambda: self._call("GET", "/borrows" + (f"?{query}" if query else ""))).body
        if not isinstance(body, list):
            raise Unreachable("the server's answer is no list of leases")
        return body

    # --- how they are made

    def _again(self, call: Callable[[], T], patience: float | None = None) -> T:
        """Make a call until there is an answer, for as long as one has patience."""
        end = time.monotonic() + (self.patience if patience is None else patience)
        pause = FIRST_PAUSE
        while True:
            try:
                return call()
            except Unreachable as error:
                # Spread out, or all clients would come back at the same moment.
                wanted = max(error.retry_after or 0, pause * random.uniform(0.5, 1))  # noqa: S311
                if time.monotonic() + wanted > end:
                    raise
                time.sleep(wanted)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        request = urllib.request.Request(  # noqa: S310 - http or https, see __init__
            self.server + path,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Accept": "application/json", **(headers or {})},
            method=method,
        )
        if body is not None:
            request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        sent = time.monotonic()
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return Answer(response.status, _json(response.read(ANSWER_LIMIT)), response.headers, sent)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise Unreachable(f"{self.server} can't be reached: {reason}") from None


def _ticket(ticket: str) -> str:
    return f"/licenses/queue/{urllib.parse.quote(ticket, safe='')}"


def _json(text: bytes) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        raise Unreachable("the answer is no JSON; is this a licence server?") from None


def _refusal(error: urllib.error.HTTPError) -> LicenceError:
    """What an answer that isn't 2xx means."""
    try:
        text = error.read(ANSWER_LIMIT)
        body = json.loads(text)
    except (OSError, ValueError, http.client.HTTPException):
        body = None
    problem = body if isinstance(body, dict) else {}
    detail = str(problem.get("detail") or f"the server answered {error.code} {error.reason}")
    if error.code >= 500 or error.code == 429:
        wait = error.headers.get("Retry-After", "") if error.headers else ""
        return Unreachable(detail, float(wait) if wait.isascii() and wait.isdigit() else None)
    facts = {
        name: value for name, value in problem.items() if name not in {"type", "title", "status", "code", "detail"}
    }
    return Refused(error.code, str(problem.get("code") or error.code), detail, facts)


def _outcome(answer: Answer) -> Lease | Ticket:
    if answer.status != 202:
        return _lease(answer)
    body = answer.body
    try:
        return Ticket(
            id=body["ticket"],
            position=body["position"],
            eta_seconds=body["eta_seconds"],
            poll_after=float(body["poll_after"]),
            raw=body,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LicenceError(f"the server's answer is no ticket ({error!r}); is it older than this client?") from None


def _lease(answer: Answer) -> Lease:
    body = answer.body
    try:
        expires_at = body["expires_at"]
        ends = None
        if expires_at is not None:
            # By the server's clock alone, and from before the call: never too late.
            left = datetime.fromisoformat(expires_at) - datetime.fromisoformat(body["server_time"])
            ends = answer.sent + left.total_seconds()
        return Lease(
            id=body["id"],
            items=tuple(Item(item["tool"], item["seats"]) for item in body["items"]),
            expires_at=expires_at,
            heartbeat_seconds=body["heartbeat_seconds"],
            fence=body["fence"],
            alternative=body.get("alternative", 0),
            ends=ends,
            raw=body,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LicenceError(f"the server's answer is no lease ({error!r}); is it older than this client?") from None
