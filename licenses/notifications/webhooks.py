"""Post notifications to webhooks, signed.

The signature is that of Standard Webhooks (https://www.standardwebhooks.com): a receiver checks it with one of
their libraries, and finds the message's id, which is the same at each attempt, in the header ``webhook-id``.

A webhook is an address that an administrator enters and the server calls. So that it is no way into the network,
it follows no redirect, reads little of the answer, and connects only to public addresses, unless
``LICENSE_WEBHOOK_HOSTS`` names the host. The address is checked once it is connected: what a name means can
change between a check and the connection.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import requests
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from django.http.request import validate_host
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NewConnectionError

from licenses import auditing
from licenses.auditing import Actor
from licenses.models import Action, Notification, Webhook, WebhookKind
from licenses.sealing import Unreadable, seal, unseal
from licenseserver import __version__

from . import messages
from .attempts import Attempt

SECRET_PREFIX = "whsec_"  # noqa: S105
LONGEST_URL = 2000
# In seconds: to connect, between two bytes, and for a whole attempt.
TIMEOUT = 5.0
DEADLINE = 10.0
# Bytes of an answer that are read, and characters of it that the log keeps.
ANSWER_LIMIT = 1024
ANSWER_SHOWN = 120
# Statuses that refuse one message: the next one may be accepted.
ABOUT_THE_MESSAGE = {400, 413, 422}
LONGEST_RETRY_AFTER = timedelta(hours=1)
# Networks whose addresses end in an IPv4 address: NAT64 (RFC 6052) and IPv4-compatible addresses (RFC 4291, 2.5.5.1).
ENDS_IN_IPV4 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
# The third quarter of an ISATAP address, before the IPv4 address at its end (RFC 5214, 6.1).
ISATAP = (0x0000_5EFE, 0x0200_5EFE)
# NAT64 inside a site (RFC 8215).
LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")


def new_secret() -> str:
    """Return a secret for signatures, in the form of Standard Webhooks."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_url(url: str) -> str:
    """Return the host of an address that a webhook may have. Raises ValidationError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValidationError("This is not an address.") from None
    if parts.scheme not in {"http", "https"} or not host or len(url) > LONGEST_URL or not url.isascii():
        raise ValidationError("Enter an address that begins with https:// or http://.")
    if any(character.isspace() for character in url) or "\\" in url:
        raise ValidationError("An address has no blanks and no backslashes.")
    if parts.username is not None or parts.password is not None:
        raise ValidationError("An address with a user or a password is not possible.")
    if parts.fragment:
        raise ValidationError("An address with a # is not possible.")
    if settings.LICENSE_WEBHOOK_HOSTS:
        bracketed = f"[{host}]" if ":" in host else host
        if not validate_host(bracketed, settings.LICENSE_WEBHOOK_HOSTS):
            raise ValidationError(f"{host} is not in LICENSE_WEBHOOK_HOSTS.")
    elif _is_private(host):
        raise ValidationError(f"{host} is not a public address. LICENSE_WEBHOOK_HOSTS can allow it.")
    return host


def _is_private(host: str) -> bool:
    """Return whether this is an IP address that is not public, or a name of this machine."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return not _is_public(host)
    except ValueError:
        return False


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return _is_public(str(found.ipv4_mapped))
        if found.is_site_local or found in LOCAL_NAT64 or not all(map(_is_public, _embedded_in(found))):
            return False
    return found.is_global and not found.is_multicast


def _embedded_in(address: ipaddress.IPv6Address) -> list[str]:
    """Return the IPv4 addresses to which a gateway can pass on what is sent to this address."""
    found = [address.sixtofour, *(address.teredo or ())]
    is_isatap = int(address) >> 32 & 0xFFFFFFFF in ISATAP
    if is_isatap or any(address in network for network in ENDS_IN_IPV4):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [str(ipv4) for ipv4 in found if ipv4 is not None]


def save(webhook: Webhook, *, url: str = "", by: Actor) -> str:
    """Save a webhook, with a new address if there is a ``url``, and return the secret of a new one, else ''.

    The secret cannot be shown again. Raises ValidationError.
    """
    secret = ""
    if url:
        webhook.host, webhook.sealed_url = check_url(url), seal(url)
    if webhook.pk is None:
        secret = new_secret()
        webhook.sealed_secret = seal(secret)
    with transaction.atomic():
        replaced = url and webhook.pk is not None
        with auditing.changing(webhook, by=by):
            webhook.save()
        if replaced:
            # Its host is a field; the rest is not shown.
            auditing.record(by, action=Action.CHANGED, subject=webhook, after={"address": "changed"})
    return secret


@transaction.atomic
def renew_secret(webhook: Webhook, *, by: Actor) -> str:
    """Give a webhook a new secret and return it. The former one is not valid any more."""
    secret = new_secret()
    Webhook.objects.filter(pk=webhook.pk).update(sealed_secret=seal(secret))
    auditing.record(by, action=Action.CHANGED, subject=webhook, after={"secret": "changed"})
    return secret


# --- One post ---------------------------------------------------------------


def send(webhook: Webhook, notifications: Sequence[Notification], *, message_id: str) -> Attempt:
    """Post notifications of one event to a webhook, as one message; one for ``WebhookKind.JSON``.

    Ends after ``DEADLINE`` seconds and the time that the resolver takes.
    """
    try:
        url, secret = unseal(webhook.sealed_url), unseal(webhook.sealed_secret)
        check_url(url)
    except Unreadable:
        return Attempt(False, "SECRET_KEY has changed. Enter the address again.", is_of_channel=True)
    except ValidationError as error:
        return Attempt(False, " ".join(error.messages), is_of_channel=True)
    body = json.dumps(payload(webhook, notifications), cls=DjangoJSONEncoder).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"licenseserver/{__version__}",
        **signed(body, secret=secret, message_id=message_id, timestamp=int(time.time())),
    }
    return _post(url, body, headers)


def signed(body: bytes, *, secret: str, message_id: str, timestamp: int) -> dict[str, str]:
    """Return the headers that sign a body: HMAC-SHA256 of id, time and body, under the secret's bytes."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    content = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signature}"}


class Watch:
    """The connections of one attempt: refuses those to private addresses, and ends all at the deadline."""

    def __init__(self, *, public_only: bool) -> None:
        self.public_only = public_only
        self.is_over = False
        self._connected: list[socket.socket] = []
        self._timer = threading.Timer(DEADLINE, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> "Watch":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        for duplicate in self._connected:
            duplicate.close()

    def connected(self, connection: socket.socket) -> bool:
        """Take note of a new connection, and return whether it may be used."""
        if self.public_only and not _is_public(connection.getpeername()[0]):
            return False
        # A duplicate, because TLS takes the socket itself away.
        self._connected.append(connection.dup())
        return True

    def _cut(self) -> None:
        self.is_over = True
        for duplicate in self._connected:
            try:
                duplicate.shutdown(socket.SHUT_RDWR)
            except OSError:
                # It has ended by itself.
                continue


class PrivateAddress(NewConnectionError):
    """The host has an address that is not public."""


def _session(watch: Watch) -> requests.Session:
    """Return a session whose direct connections are watched. A proxy of the environment (HTTPS_PROXY) decides
    itself whom it calls."""

    class Watched:
        def _new_conn(self) -> socket.socket:
            connection: socket.socket = super()._new_conn()  # type: ignore[misc]
            if not watch.connected(connection):
                connection.close()
                raise PrivateAddress(self, "not a public address")  # type: ignore[arg-type]
            return connection

    class WatchedHttp(Watched, HTTPConnection):
        pass

    class WatchedHttps(Watched, HTTPSConnection):
        pass

    class HttpPool(HTTPConnectionPool):
        ConnectionCls = WatchedHttp

    class HttpsPool(HTTPSConnectionPool):
        ConnectionCls = WatchedHttps

    class WatchedAdapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, **options)
            self.poolmanager.pool_classes_by_scheme = {"http": HttpPool, "https": HttpsPool}

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, WatchedAdapter(max_retries=0))
    # Otherwise requests would look for a password in ~/.netrc.
    session.auth = lambda request: request
    return session


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> Attempt:
    with Watch(public_only=not settings.LICENSE_WEBHOOK_HOSTS) as watch, _session(watch) as session:
        try:
            with session.post(
                url, data=body, headers=headers, timeout=TIMEOUT, allow_redirects=False, stream=True
            ) as answer:
                outcome = _outcome(answer, answer.raw.read(ANSWER_LIMIT))
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            outcome = Attempt(False, _reason(error), is_of_channel=True)
        # What was cut off can look complete.
        return Attempt(False, f"No answer within {DEADLINE:.0f} s", is_of_channel=True) if watch.is_over else outcome


def _reason(error: BaseException) -> str:
    """Return why there was no answer, without the address, which can be a secret."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, PrivateAddress):
            return "The host has an address that is not public. LICENSE_WEBHOOK_HOSTS can allow it."
        link = getattr(link, "reason", None) or next((arg for arg in link.args if isinstance(arg, Exception)), None)
    kinds = [
        (requests.exceptions.SSLError, "The certificate or the TLS connection is not valid"),
        (requests.exceptions.ProxyError, "The proxy does not connect"),
        (requests.exceptions.ConnectTimeout, f"No connection within {TIMEOUT:.0f} s"),
        (requests.exceptions.Timeout, f"No answer within {TIMEOUT:.0f} s"),
        (requests.exceptions.ConnectionError, "No connection: the name is unknown, or the host refused or closed it"),
    ]
    return next((text for kind, text in kinds if isinstance(error, kind)), type(error).__name__)


def _outcome(answer: requests.Response, beginning: bytes) -> Attempt:
    status = answer.status_code
    text = " ".join(beginning.decode(errors="replace").split())
    shown = "".join(character for character in text if character.isprintable())[:ANSWER_SHOWN]
    if 200 <= status < 300:
        return Attempt(True, f"HTTP {status}")
    if 300 <= status < 400:
        return Attempt(False, f"HTTP {status}: a redirect is not followed. Enter the new address.", is_of_channel=True)
    if status == 410:
        return Attempt(False, "HTTP 410: the receiver wants no more messages", is_final=True, is_gone=True)
    return Attempt(
        False,
        f"HTTP {status}{': ' if shown else ''}{shown}",
        is_of_channel=status not in ABOUT_THE_MESSAGE,
        retry_after=_retry_after(answer.headers.get("Retry-After", "")),
    )


def _retry_after(header: str) -> timedelta | None:
    seconds = header.strip()
    if not (seconds.isascii() and seconds.isdecimal() and len(seconds) < 7):
        return None
    return min(timedelta(seconds=int(seconds)), LONGEST_RETRY_AFTER)


# --- What is posted ---------------------------------------------------------


def payload(webhook: Webhook, notifications: Sequence[Notification]) -> dict[str, Any]:
    """Return the JSON that a webhook of this kind understands."""
    message = messages.write_all(notifications)
    users = sorted({notification.user for notification in notifications if notification.user})
    match WebhookKind(webhook.kind):
        case WebhookKind.JSON:
            return _standard(notifications[0], message)
        case WebhookKind.SLACK:
            # https://docs.slack.dev/messaging/formatting-message-text/
            return {"text": _chat(message, users, bold="*", escape=_for_slack, link="<{}|Open the page>")}
        case WebhookKind.MATTERMOST:
            return {"text": _chat(message, users, bold="**", escape=_for_markdown, link="[Open the page]({})")}
        case WebhookKind.TEAMS:
            return _adaptive_card(message, users)


def _standard(notification: Notification, message: messages.Message) -> dict[str, Any]:
    return {
        "type": notification.event,
        "timestamp": notification.created_at,
        "data": {
            "id": str(notification.pk),
            "user": notification.user,
            "tool": notification.tool,
            "title": message.title,
            "text": message.text,
            "url": message.url,
            **notification.facts,
        },
    }


def _chat(message: messages.Message, users: Sequence[str], *, bold: str, escape: Any, link: str) -> str:
    lines = [f"{bold}{escape(message.title)}{bold}", *([f"For {escape(', '.join(users))}"] if users else [])]
    lines += [escape(message.text), *(f"{escape(name)}: {escape(value)}" for name, value in message.facts)]
    return "\n".join([*lines, *([link.format(message.url)] if message.url else [])])


def _for_slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _for_markdown(text: str) -> str:
    """Escape what Markdown or a mention (@all) would make of names that users choose."""
    escaped = "".join(f"\\{character}" if character in "\\`*_{}[]()#+!|<>~" else character for character in text)
    return escaped.replace("@", "@\N{ZERO WIDTH SPACE}")


def _adaptive_card(message: messages.Message, users: Sequence[str]) -> dict[str, Any]:
    """Return a card for a workflow of Teams ("When a Teams webhook request is received")."""
    facts = [*([("For", ", ".join(users))] if users else []), *message.facts]
    body: list[dict[str, Any]] = [
        {"type": "TextBlock", "text": _for_markdown(message.title), "weight": "Bolder", "wrap": True},
        {"type": "TextBlock", "text": _for_markdown(message.text).replace("\n", "\n\n"), "wrap": True},
        {"type": "FactSet", "facts": [{"title": name, "value": _for_markdown(value)} for name, value in facts]},
    ]
    actions = [{"type": "Action.OpenUrl", "title": "Open the page", "url": message.url}] if message.url else []
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [part for part in body if part.get("facts", True)],
        "actions": actions,
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}
