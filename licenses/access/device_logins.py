"""Sign programs in that have no browser: the device authorization grant (RFC 8628).

A program begins a sign-in and shows a code. A person approves it in a browser, and
the program gets a token of that person. The codes are random, stored as hashes,
valid once and for ten minutes.
"""

import math
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet

from licenses import auditing
from licenses.auditing import Actor
from licenses.client_addresses import network_of
from licenses.clock import database_now
from licenses.errors import TooManyTokens
from licenses.models import Action, ApiToken, DeviceLogin
from licenses.models.device_login import (
    DEVICE_NAME_LENGTH,
    LIFE,
    device_hash,
    new_device_code,
    new_user_code,
    read_user_code,
    shown_user_code,
    user_hash,
)
from licenses.names import is_clean

from . import throttling, tokens
from .callers import Scope

# Seconds between two polls. A program that polls sooner must wait longer each time.
INTERVAL, SLOWER, LONGEST_INTERVAL = 5, 5, 60
# A poll may come early by this much, because the network delays some more than others.
EARLY = timedelta(seconds=1)
# The codes of RFC 6749 5.2, RFC 8628 3.5 and RFC 6749 4.1.2.1.
CODES = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "authorization_pending",
        "slow_down",
        "access_denied",
        "expired_token",
        "temporarily_unavailable",
    }
)


class LoginError(Exception):
    """The error of a sign-in, for the program. ``code`` is one of ``CODES``; ``wait`` is in seconds."""

    def __init__(self, code: str, detail: str, *, wait: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Begun:
    """The codes of a new sign-in. Durations are in seconds."""

    device_code: str
    user_code: str
    expires_in: int
    interval: int


@dataclass(frozen=True, slots=True)
class Signed:
    """The token that a sign-in led to."""

    token: ApiToken
    secret: str
    expires_in: int


@transaction.atomic
def begin(*, device: str, scopes: str, address: str) -> Begun:
    """Begin a sign-in of a program. Raises LoginError.

    Anybody can call this, so the number of open sign-ins is limited, of all and of an
    address. ``device`` and ``scopes`` are texts of the program.
    """
    if settings.LICENSE_OWN_TOKENS == "nobody":
        raise LoginError("unauthorized_client", "On this server only administrators create tokens.")
    device = unicodedata.normalize("NFC", device.strip())
    if len(device) > DEVICE_NAME_LENGTH or not is_clean(device):
        raise LoginError("invalid_request", f"device_name must have at most {DEVICE_NAME_LENGTH} visible characters.")
    wanted = _scopes(scopes)
    DeviceLogin.objects.lock()
    now = database_now()
    DeviceLogin.objects.forget_expired(now)
    network = network_of(address)
    running = DeviceLogin.objects.open(now)
    _require_room(running, settings.LICENSE_LOGINS, now)
    _require_room(running.filter(network=network), settings.LICENSE_LOGINS_PER_ADDRESS, now)
    device_code, user_code = new_device_code(), new_user_code()
    while DeviceLogin.objects.filter(user_hash=user_hash(user_code)).exists():
        user_code = new_user_code()
    DeviceLogin.objects.create(
        device_hash=device_hash(device_code),
        user_hash=user_hash(user_code),
        device=device,
        address=address,
        network=network,
        scopes=" ".join(wanted),
        created_at=now,
        expires_at=now + LIFE,
        interval=INTERVAL,
    )
    return Begun(device_code, shown_user_code(user_code), int(LIFE.total_seconds()), INTERVAL)


def _scopes(text: str) -> list[Scope]:
    """Return the scopes that a program asks for; without any, all that are not ``admin``. Raises LoginError."""
    allowed = [Scope(scope) for scope in settings.LICENSE_OWN_TOKEN_SCOPES]
    names = set(text.split())
    if not names <= set(allowed):
        raise LoginError("invalid_scope", f"This server gives these scopes: {', '.join(allowed)}.")
    wanted = [scope for scope in allowed if (scope in names if names else scope != Scope.ADMIN)]
    if not wanted:
        raise LoginError("invalid_scope", f"Ask for one of these scopes: {', '.join(allowed)}.")
    return wanted


def _require_room(running: QuerySet[DeviceLogin], limit: int, now: datetime) -> None:
    """Raise LoginError if the limit of open sign-ins is reached."""
    if running.count() < limit:
        return
    oldest = running.order_by("expires_at").values_list("expires_at", flat=True).first()
    wait = max(math.ceil((oldest - now).total_seconds()), 1) if oldest else 1
    raise LoginError(
        "temporarily_unavailable", f"Too many sign-ins are open. Approve or wait, and try again in {wait} s.", wait=wait
    )


@transaction.atomic
def forget_expired() -> int:
    """Delete old sign-ins, and return their number."""
    return DeviceLogin.objects.forget_expired(database_now())


def find(text: str, *, account: User, address: str) -> DeviceLogin | None:
    """Return the pending sign-in of a user code that a person typed, or None.

    Guesses are counted by the account and by the address. Raises TooManyFailures.
    """
    throttle = throttling.of_user_codes(address, account)
    throttle.check()
    code = read_user_code(text)
    if code is None:
        return None
    # Before the look, so that of many guesses at once only as many are looked at as may fail.
    throttle.reserve()
    try:
        login = DeviceLogin.objects.filter(user_hash=user_hash(code)).first()
    except BaseException:
        throttle.release()
        raise
    if login is None:
        throttle.failed()
        return None
    throttle.release()
    return login if _is_pending(login, database_now()) else None


def _is_pending(login: DeviceLogin, now: datetime) -> bool:
    return login.state == DeviceLogin.State.PENDING and login.expires_at > now


def scopes_to_give(login: DeviceLogin, account: User) -> list[Scope]:
    """Return the scopes that the program would get from this account."""
    asked = login.scopes.split()
    return [scope for scope in tokens.own_scopes(account) if scope in asked]


def approve(login: DeviceLogin, account: User, *, by: Actor) -> bool:
    """Let a program have a token of this account. Return False if somebody answered before, or it expired.

    Raises NoOwnTokens or TooManyTokens.
    """
    with transaction.atomic():
        current = tokens.locked_for_own(account)
        if not scopes_to_give(login, current):
            raise tokens.NoOwnTokens("You can give none of the scopes that it asks for.")
        return _answer(login, DeviceLogin.State.APPROVED, Action.APPROVED, current, by)


@transaction.atomic
def deny(login: DeviceLogin, account: User, *, by: Actor) -> bool:
    """Refuse a program. Return False if somebody answered before, or it expired."""
    return _answer(login, DeviceLogin.State.DENIED, Action.DENIED, account, by)


def _answer(login: DeviceLogin, state: DeviceLogin.State, action: Action, account: User, by: Actor) -> bool:
    current = DeviceLogin.objects.select_for_update().filter(pk=login.pk).first()
    if current is None or not _is_pending(current, database_now()):
        return False
    current.state, current.account = state, account
    current.save(update_fields=["state", "account"])
    auditing.record(by, action=action, subject=current, after=auditing.state(current))
    return True


def redeem(device_code: str, *, address: str) -> Signed:
    """Return the token of an approved sign-in, once. Raises LoginError while there is none, and if there will be
    none."""
    with transaction.atomic():
        outcome = _redeem(device_code, address)
    # Outside of the transaction: what a poll writes must stay.
    if isinstance(outcome, LoginError):
        raise outcome
    return outcome


def _redeem(device_code: str, address: str) -> Signed | LoginError:
    of_code = DeviceLogin.objects.filter(device_hash=device_hash(device_code))
    seen = of_code.first()
    if seen is not None and seen.account_id is not None:
        # Accounts are always locked before their sign-ins.
        User.objects.select_for_update(no_key=True).filter(pk=seen.account_id).first()
    login = of_code.select_for_update().first()
    if seen is None or login is None:
        return LoginError("invalid_grant", "This device code is not valid, or was used. Begin a new sign-in.")
    now = database_now()
    if login.expires_at <= now:
        return LoginError("expired_token", "Nobody approved the code in time. Begin a new sign-in.")
    if login.state == DeviceLogin.State.DENIED:
        return LoginError("access_denied", "The person denied the sign-in.")
    # One that was approved just now is issued at the next poll.
    if login.state == DeviceLogin.State.APPROVED and seen.account_id is not None:
        return _issue(login, address)
    return _pending(login, now)


def _pending(login: DeviceLogin, now: datetime) -> LoginError:
    polled_at, interval = login.polled_at, login.interval
    if polled_at is not None and now < polled_at + timedelta(seconds=interval) - EARLY:
        if interval < LONGEST_INTERVAL:
            login.polled_at, login.interval = now, min(interval + SLOWER, LONGEST_INTERVAL)
            login.save(update_fields=["polled_at", "interval"])
        return LoginError("slow_down", f"Poll at most every {login.interval} s.")
    login.polled_at = now
    login.save(update_fields=["polled_at"])
    return LoginError("authorization_pending", "Nobody has approved the code yet.")


def _issue(login: DeviceLogin, address: str) -> Signed | LoginError:
    DeviceLogin.objects.filter(pk=login.pk).delete()
    account = login.account
    if account is None:
        return LoginError("access_denied", "The account is gone.")
    name = f"license login on {login.device}" if login.device else "license login"
    by = Actor.of_address(account.get_username(), address)
    try:
        token, secret = tokens.make_own(
            account,
            name=name[:64].strip(),
            days=settings.LICENSE_OWN_TOKEN_DAYS,
            scopes=scopes_to_give(login, account),
            by=by,
            note=f"license login from {login.address}",
        )
    except (tokens.NoOwnTokens, TooManyTokens) as why:
        return LoginError("access_denied", str(why))
    except ValidationError as error:
        return LoginError("access_denied", "; ".join(error.messages))
    return Signed(token, secret, int((token.expires_at - token.created_at).total_seconds()))
