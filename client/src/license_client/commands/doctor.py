"""Check all that a borrow needs: configuration, network, server, clock and token."""

from __future__ import annotations

import argparse
import email.utils
import os
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import NamedTuple

from license_client import __version__
from license_client.api import Answer, Client, ConfigError, LicenseError, Refused, Unreachable
from license_client.calling import in_time
from license_client.config import Config, load, usual_place
from license_client.output import STDOUT, colors_for, show, show_json
from license_client.parsing import Commands
from license_client.proxies import is_loopback, proxy_for
from license_client.units import clock_time, spoken

EX_UNREACHABLE, EX_NOT_ALLOWED, EX_CONFIG = 69, 77, 78
# Seconds that one call may take.
PATIENCE = 5.0
# A larger difference of the clocks, in seconds, makes tokens and certificates fail. The server's Date has no fractions.
SKEW = 30.0
# Warn of a token or certificate that ends in this many days.
SOON_DAYS = 14
DAY = 86400.0
SIGN_IN = "run `license login`"
STYLES = {"ok": "good", "info": "quiet", "warn": "caution", "FAIL": "bad"}


class Check(NamedTuple):
    """The result of a check. ``state`` is ok, info, warn or FAIL; ``fix`` says what to do."""

    check: str
    state: str
    detail: str
    fix: str = ""
    # Of the command, for a failure.
    exit_code: int = 0


def register(commands: Commands) -> None:
    """Add the command."""
    commands.add_local(
        "doctor",
        _doctor,
        "Check the configuration, the server, the clock and the token. Prints no secret.",
        examples=["license doctor", "license doctor --server https://licenses.example.com", "license doctor --json"],
    )


def _doctor(options: argparse.Namespace) -> int:
    colors = colors_for(STDOUT, options.color)
    found: list[Check] = []
    for check in _checks(options):
        found.append(check)
        if not options.json:
            state = colors.paint(STYLES[check.state], f"{check.state:4}")
            show(f"{state}  {check.check:9}  {check.detail}" + (f" -> {check.fix}" if check.fix else ""))
    if options.json:
        show_json([check._asdict() for check in found])
    return next((check.exit_code for check in found if check.state == "FAIL"), 0)


def _checks(options: argparse.Namespace) -> Iterator[Check]:
    """Make the checks in an order in which one explains the next; stop where the next can't work."""
    yield Check("client", "info", f"license {__version__}")
    renamed: list[tuple[str, str]] = []
    try:
        config = load(
            server=options.server,
            token=options.token,
            user=options.user,
            allow_http=options.allow_http,
            file=options.config,
            on_former_name=lambda old, new: renamed.append((old, new)),
        )
    except ConfigError as error:
        yield Check("config", "FAIL", str(error), "correct it, or choose another file with --config", EX_CONFIG)
        return
    yield from _configuration(config)
    for old, new in renamed:
        yield Check("config", "warn", f"{old} is a former name", f"rename it to {new}")
    yield from _proxies(config)
    try:
        client = config.client(patience=0, timeout=PATIENCE)
    except LicenseError as error:
        yield Check("config", "FAIL", str(error), "see the lines above for where it comes from", EX_CONFIG)
        return
    yield from _encryption(config, client)
    started = time.monotonic()
    try:
        answer = in_time(client, client.alive)
    except LicenseError as error:
        yield Check("server", "FAIL", str(error), _way_to_reach(config, error), EX_UNREACHABLE)
        return
    yield Check("server", "ok", f"{config.server} answers in {time.monotonic() - started:.2f} s")
    yield _clock(answer, time.monotonic() - started)
    yield from _token(config, client)


def _configuration(config: Config) -> Iterator[Check]:
    if config.file is not None:
        yield Check("config", "ok", f"{config.file} was read")
    else:
        yield Check("config", "info", f"there is no file {usual_place(os.environ)}, and none is needed")
    values = {
        "server": config.server,
        "token": "set (not shown)" if config.token else "",
        "user": config.user,
        "team": config.team or "",
        "project": config.project,
        "allow_http": "true" if config.allow_http else "",
    }
    defaults = {"server": "the default", "user": "your login name"}
    for name, value in values.items():
        source = config.sources.get(name, defaults.get(name, ""))
        yield Check("config", "info", f"{name} = {value} ({source})" if value else f"{name} is not set")


def _proxies(config: Config) -> Iterator[Check]:
    names = sorted(name for name in os.environ if name.lower() in {"http_proxy", "https_proxy", "no_proxy"})
    proxy = proxy_for(config.server)
    if proxy is None:
        seen = f"none for this server (set: {', '.join(names)})" if names else "none"
        yield Check("proxy", "ok", seen)
    elif not proxy.is_supported:
        yield Check("proxy", "FAIL", f"{proxy} is not an HTTP proxy", "correct the variable", EX_UNREACHABLE)
    else:
        host = urllib.parse.urlsplit(config.server).hostname or ""
        fix = "add the server to no_proxy" if is_loopback(host) else ""
        yield Check("proxy", "warn" if fix else "info", f"calls go through {proxy}", fix)


def _encryption(config: Config, client: Client) -> Iterator[Check]:
    parts = urllib.parse.urlsplit(config.server)
    host = parts.hostname or ""
    if parts.scheme == "http":
        if is_loopback(host):
            yield Check("tls", "ok", "none, and none is needed: the server is on this machine")
        else:
            yield Check("tls", "warn", "none: anyone on the network can read what is sent", "use https")
        return
    if proxy_for(config.server) is not None:
        # The proxy opens the connection; the call to the server checks the certificate.
        yield Check("tls", "info", "the certificate is checked through the proxy")
        return

    def shake_hands() -> tuple[str, float]:
        context = ssl.create_default_context()
        plain = socket.create_connection((host, parts.port or 443), PATIENCE)
        with plain, context.wrap_socket(plain, server_hostname=host) as secure:
            certificate = secure.getpeercert() or {}
            end = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
            return secure.version() or "", end - time.time()

    try:
        version, left = in_time(client, shake_hands)
    except ssl.SSLCertVerificationError as error:
        fix = "let SSL_CERT_FILE name the certificate of your authority (PEM)"
        yield Check("tls", "FAIL", f"the certificate is not trusted: {error.verify_message}", fix, EX_UNREACHABLE)
    except (OSError, LicenseError) as error:
        yield Check(
            "tls", "FAIL", f"no encrypted connection: {error}", "check the address and its port", EX_UNREACHABLE
        )
    else:
        soon = left < SOON_DAYS * DAY
        fix = "tell the administrator to renew it" if soon else ""
        yield Check("tls", "warn" if soon else "ok", f"{version}, the certificate ends in {left / DAY:.0f} days", fix)


def _way_to_reach(config: Config, error: LicenseError) -> str:
    if config.server_is_default:
        return "set LICENSE_SERVER to the address of your server"
    if isinstance(error, Refused) or (isinstance(error, Unreachable) and "license server?" in str(error)):
        return "check the address: this is another server"
    return "check the address, the network and the proxy"


def _clock(answer: Answer, took: float) -> Check:
    try:
        date = email.utils.parsedate_to_datetime(answer.headers.get("Date", ""))
        skew = (datetime.now(timezone.utc) - date).total_seconds()
    except (TypeError, ValueError, IndexError):
        return Check("clock", "info", "the server sends no date")
    if abs(skew) <= SKEW + took:
        return Check("clock", "ok", "this machine and the server agree")
    way = "ahead of" if skew > 0 else "behind"
    fix = "switch on the synchronization of the clock (NTP) here or on the server"
    return Check("clock", "warn", f"this machine is {spoken(abs(skew))} {way} the server", fix)


def _token(config: Config, client: Client) -> Iterator[Check]:
    """Check the credential; the version of the server is for callers that may read."""
    try:
        caller = in_time(client, client.caller)
    except Refused as refused:
        if refused.status == 404:
            yield Check("token", "warn", "the server is older than this client", "update the server")
        elif config.token:
            yield Check("token", "FAIL", f"the server refuses it: {refused.detail}", _renew(config), EX_NOT_ALLOWED)
        else:
            fix = f"{SIGN_IN}, or set LICENSE_TOKEN"
            yield Check("token", "FAIL", "the server needs a token", fix, EX_NOT_ALLOWED)
        return
    except LicenseError as error:
        yield Check("token", "FAIL", str(error), "try again", EX_UNREACHABLE)
        return
    if caller.kind == "anonymous":
        yield Check("token", "ok", "none, and this server needs none")
    else:
        who = f"user {caller.name}" if caller.name else f"team {', '.join(caller.teams)}" if caller.teams else "no user"
        yield Check("token", "ok", f"valid, for {who}; scopes: {', '.join(caller.scopes) or 'none'}")
        if not {"borrow", "admin"} & set(caller.scopes):
            yield Check("token", "warn", "it may not borrow", "get a token with the scope borrow")
        if caller.expires_at is not None and caller.left_seconds is not None:
            soon = caller.left_seconds < SOON_DAYS * DAY
            end = f"ends {clock_time(caller.expires_at)}, in {_days(caller.left_seconds)}"
            # Users get a token by themselves; that of a team comes from an administrator.
            fix = _renew(config) if caller.name else "ask an administrator for a new one"
            yield Check("token", "warn" if soon else "ok", end, fix if soon else "")
        if caller.name and caller.name != config.user and "admin" not in caller.scopes:
            fix = f"set LICENSE_USER={caller.name}"
            yield Check("token", "warn", f"it is for {caller.name}, but you borrow as {config.user}", fix)
    yield from _version(client)


def _renew(config: Config) -> str:
    """Return how to get another token. One that is set hides the one of `license login`."""
    if config.token_is_stored:
        return SIGN_IN
    return f"{SIGN_IN} and remove the token from {config.sources['token']}, or set another one there"


def _days(seconds: float) -> str:
    return f"{seconds / DAY:.0f} days" if seconds >= 2 * DAY else spoken(seconds)


def _version(client: Client) -> Iterator[Check]:
    try:
        version = in_time(client, client.version)
    except LicenseError:
        # Not for a token that may only borrow.
        return
    same = version == __version__
    fix = "" if same else "use the client of the server's release"
    yield Check("version", "ok" if same else "info", f"server {version}, client {__version__}", fix)
