"""Get a token that a person approves in a browser, revoke it, and warn before a token ends."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone

from . import credentials, platforms, units
from .api import Client, DeviceCodes, LicenseError, Refused, SignedIn, Unreachable
from .credentials import Credential
from .messages import Messages

# Seconds between two polls become this much more if the server says so (RFC 8628, 3.5).
SLOWER = 5.0
WARN_EVERY = 24 * 3600.0
DEVICE_NAME_LENGTH = 64


def sign_in(
    client: Client,
    *,
    scopes: Sequence[str],
    messages: Messages,
    browser: bool,
    environment: Mapping[str, str] = os.environ,
) -> SignedIn:
    """Show a code, wait until a person approves it, and store the token for the client's server.

    The token of a former sign-in is revoked. With ``browser``, open the address here. Raises ConfigError, Refused
    or Unreachable.
    """
    former = credentials.find(client.server, environment)
    codes = client.begin_login(device=socket.gethostname()[:DEVICE_NAME_LENGTH], scopes=scopes)
    messages.say(
        "login",
        f"Open {codes.complete_address} and approve the code {codes.user_code}, within "
        f"{units.spoken(codes.expires_in)}.",
        {
            "verification_uri": codes.address,
            "verification_uri_complete": codes.complete_address,
            "user_code": codes.user_code,
            "expires_in": codes.expires_in,
        },
    )
    if browser and not webbrowser.open(codes.complete_address):
        messages.say("no_browser", "There is no browser here. Open the address on another machine.")
    signed = _wait(client, codes)
    try:
        credentials.store(client.server, Credential(signed.token, signed.user, signed.expires_at), environment)
    except BaseException:
        # Nobody has the token, so nobody could revoke it.
        with contextlib.suppress(LicenseError):
            client.revoke(signed.token)
        raise
    if former is not None and former.token != signed.token:
        with contextlib.suppress(LicenseError):
            client.revoke(former.token)
    return signed


def _wait(client: Client, codes: DeviceCodes) -> SignedIn:
    """Poll until the person has answered. A server that is away meanwhile is no reason to give up."""
    end, interval = time.monotonic() + codes.expires_in, codes.interval
    while True:
        platforms.CURRENT.sleep(interval)
        try:
            return client.poll_login(codes.device_code)
        except Refused as refused:
            if refused.code == "slow_down":
                interval += SLOWER
            elif refused.code != "authorization_pending":
                raise
        except Unreachable as error:
            if error.hopeless or time.monotonic() > end:
                raise
            interval = max(interval, error.retry_after or 0)


def sign_out(client: Client, environment: Mapping[str, str] = os.environ) -> bool:
    """Revoke and remove the stored token for the client's server. Return False if there is none.

    Raises ConfigError, Refused or Unreachable; then the token is still stored.
    """
    kept = credentials.find(client.server, environment)
    if kept is None:
        return False
    client.revoke(kept.token)
    credentials.remove(client.server, environment)
    return True


class TokenWarning:
    """Say once a day that a token ends soon. Can be called by several threads."""

    def __init__(
        self,
        say: Callable[[str, str, Mapping[str, object]], None],
        client: Client,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._say = say
        self._server = client.server
        self._token = hashlib.sha256((client.token or "").encode()).hexdigest()[:16]
        self._path = credentials.folder(environment) / "warned.json"
        self._lock = threading.Lock()
        self._said_at = float("-inf")

    def __call__(self, ends: str) -> None:
        """Warn of the end, a text of the server."""
        with self._lock:
            now = time.monotonic()
            if now < self._said_at + WARN_EVERY:
                return
            self._said_at = now
        if self._was_said_today():
            return
        with contextlib.suppress(ValueError):
            end = datetime.fromisoformat(ends.replace("Z", "+00:00"))
            left = max((end - datetime.now(timezone.utc)).total_seconds(), 0)
            span = f"{left // 86400:.0f} days" if left >= 2 * 86400 else units.spoken(left)
            self._say(
                "token_ends",
                f"Your token ends in {span}, on {ends[:10]}. Get a new one with `license login`, or on "
                f"{self._server}/tokens/.",
                {"expires_at": ends},
            )

    def _was_said_today(self) -> bool:
        """Note that the warning is said now. Return True if it was said less than a day ago."""
        now, said = time.time(), {}
        with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError, TypeError):
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            said = {token: at for token, at in kept.items() if 0 <= now - float(at) < WARN_EVERY}
        if self._token in said:
            return True
        # If it can't be written, the next command warns again.
        with contextlib.suppress(OSError):
            credentials.write_private(self._path, json.dumps({**said, self._token: now}))
        return False
