"""Read environment variables.

Every value is typed and checked when the settings load, so that a wrong one stops the
start with one line that names the variable.
"""

import logging
import os
import re
import sys
from collections.abc import Collection
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.core.exceptions import ImproperlyConfigured


class SettingError(ImproperlyConfigured):
    """An environment variable is missing or has an invalid value."""


def settings_or_exit() -> None:
    """Load the settings. On a wrong value print one line and exit with 2.

    For manage.py and gunicorn, where a traceback would hide the message.
    """
    from django.conf import settings

    try:
        settings._setup()  # type: ignore[misc]
    except SettingError as error:
        print(f"licenseserver: {error}", file=sys.stderr)
        sys.exit(2)


def text(name: str, default: str | None = None, *, advice: str = "") -> str:
    """Return the variable unchanged. Without a default it must be set and not empty, or the error gives ``advice``."""
    value = os.environ.get(name, "")
    if value:
        return value
    if default is None:
        raise SettingError(f"{name} is not set. It has no safe default. {advice}".rstrip())
    return default


def key(name: str, value: str) -> str:
    """Return a secret for signatures. It must be long and not repeat a few characters."""
    if len(value) < 32:
        raise SettingError(f"{name}: a key must have at least 32 characters.")
    if len(set(value)) < 8:
        raise SettingError(f"{name}: a key must have at least 8 different characters.")
    return value


def boolean(name: str, default: bool) -> bool:
    """Read ``true`` or ``false`` (also 1/0, yes/no, on/off), in any case."""
    value = os.environ.get(name, "").strip().lower()
    if not value:
        return default
    if value in {"true", "1", "yes", "on"}:
        return True
    if value in {"false", "0", "no", "off"}:
        return False
    raise SettingError(f"{name} must be true or false, not {value!r}.")


def integer(name: str, default: int, *, minimum: int, maximum: int) -> int:
    """Read a whole number from ``minimum`` to ``maximum``, both included."""
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    try:
        number = int(value)
    except ValueError:
        raise SettingError(f"{name} must be a whole number, not {value!r}.") from None
    if not minimum <= number <= maximum:
        raise SettingError(f"{name} must be between {minimum} and {maximum}, not {number}.")
    return number


def limit(name: str, default: int, *, maximum: int) -> int:
    """Read a whole number up to ``maximum``; 0 or ``off`` is no limit."""
    if os.environ.get(name, "").strip().lower() == "off":
        return 0
    return integer(name, default, minimum=0, maximum=maximum)


def choice(name: str, default: str, *, among: Collection[str]) -> str:
    """Read one of the given words, in any case. Return it as listed."""
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    for word in among:
        if word.lower() == value.lower():
            return word
    raise SettingError(f"{name} must be one of {', '.join(among)}, not {value!r}.")


def words(name: str, default: str = "") -> list[str]:
    """Read a comma-separated list. Remove blanks around the words."""
    return [word.strip() for word in (os.environ.get(name) or default).split(",") if word.strip()]


def hosts(name: str, default: str) -> list[str]:
    """Read a list of host names without scheme and port. A leading dot includes the subdomains; ``*`` is
    every name."""
    found = words(name, default)
    for host in found:
        if not re.fullmatch(r"\*|\.?[\w-]+(\.[\w-]+)*\.?|\[[0-9a-fA-F:.]+\]", host):
            raise SettingError(f"{name} must be a list of host names, without scheme and port, not {host!r}.")
    return found


def origins(name: str) -> list[str]:
    """Read a list of origins, such as ``https://licenses.example.com``, without a path."""
    found = words(name)
    for origin in found:
        if "@" in origin:
            raise SettingError(f"{name} must be a list of origins without a user before the host.")
        if not re.fullmatch(r"https?://[^/\s]+", origin):
            raise SettingError(f"{name} must be a list of http:// or https:// and a host name, not {origin!r}.")
    return found


def origin(name: str) -> str:
    """Read one origin, such as ``https://licenses.example.com``; '' if it is not set."""
    found = origins(name)
    if len(found) > 1:
        raise SettingError(f"{name} must be one address.")
    return found[0] if found else ""


def secret(name: str) -> str:
    """Read a secret from the variable, or from the file that the variable with ``_FILE`` names; '' if
    neither is set. A line end at the end of the file is not part of it."""
    value, file = os.environ.get(name, ""), os.environ.get(f"{name}_FILE", "")
    if value and file:
        raise SettingError(f"Set {name} or {name}_FILE, not both.")
    if not file:
        return value
    try:
        return Path(file).read_text().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingError(f"{name}_FILE: cannot read {file!r}: {reason}.") from None


def mail_address(name: str) -> str:
    """Read a mail address, also with a name: ``Licenses <licenses@example.com>``; '' if it is not set."""
    value = os.environ.get(name, "").strip()
    if value and not re.fullmatch(r"([^<>@\x00-\x1f]+ <[^<>@\s]+@[^<>@\s]+>|[^<>@\s]+@[^<>@\s]+)", value):
        raise SettingError(f"{name} must be a mail address, not {value!r}.")
    return value


def time_zone(name: str, default: str) -> str:
    """Read the name of a time zone, such as ``Europe/Berlin``."""
    value = os.environ.get(name, "").strip() or default
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SettingError(f"{name} must be a time zone such as Europe/Berlin, not {value!r}.") from None
    return value


def address(name: str, default: str) -> str:
    """Read an address to listen on: ``host:port`` or ``unix:/path``."""
    value = text(name, default)
    _, _, port = value.rpartition(":")
    if not re.fullmatch(r"unix:.+|([\w.-]+|\[[0-9a-fA-F:]+\])?:\d{1,5}", value) or (
        port.isdigit() and int(port) > 65_535
    ):
        raise SettingError(f"{name} must be host:port or unix:/path, not {value!r}.")
    return value


def path(name: str) -> str:
    """Read a path such as ``/licenses``, or '' for the root."""
    value = os.environ.get(name, "").rstrip("/")
    if value and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
        raise SettingError(f"{name} must be a path such as /licenses, not {value!r}.")
    return value


def is_local(address: object) -> bool:
    """Return whether only this machine can reach an address of gunicorn: host and port, or a socket's
    path."""
    if isinstance(address, str):
        return True
    host = address[0] if isinstance(address, tuple) else ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def pairs(name: str) -> dict[str, str]:
    """Read a comma-separated list of ``left=right``. The last ``=`` separates."""
    found = {}
    for word in words(name):
        left, separator, right = word.rpartition("=")
        if not separator or not left.strip() or not right.strip():
            raise SettingError(f"{name} must be a list of left=right, not {word!r}.")
        found[left.strip()] = right.strip()
    return found


def is_confidential(address: object) -> bool:
    """Return whether secrets may go to this address: HTTPS, or plain HTTP on this machine."""
    if not isinstance(address, str):
        return False
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK))


def url(name: str) -> str:
    """Read a confidential address without a query; '' if it is not set."""
    value = os.environ.get(name, "").strip()
    if "@" in value:
        # Do not show the value, because it may contain a password.
        raise SettingError(f"{name} must be an https:// address without a user and a password.")
    if value and (not is_confidential(value) or "?" in value or "#" in value):
        raise SettingError(f"{name} must be an https:// address, not {value!r}.")
    return value


WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def weekdays(name: str, default: str) -> list[int]:
    """Read days of the week and ranges of them, such as ``mon-thu,sat``. Return numbers; Monday is 0."""
    found: set[int] = set()
    for word in words(name, default):
        first, _, last = word.lower().partition("-")
        if first not in WEEKDAYS or (last or first) not in WEEKDAYS:
            raise SettingError(f"{name} must be days such as mon-fri or mon,wed, not {word!r}.")
        start, end = WEEKDAYS.index(first), WEEKDAYS.index(last or first)
        found |= {day % 7 for day in range(start, end + 1 + (7 if end < start else 0))}
    return sorted(found)


def hours(name: str, default: str) -> tuple[int, int]:
    """Read a part of the day, such as ``08:00-18:00``. Return its first minute, and the one after its last."""
    value = os.environ.get(name, "").strip() or default
    match = re.fullmatch(r"(\d{2}):([0-5]\d)-(\d{2}):([0-5]\d)", value, re.ASCII)
    if match:
        hour, minute, last_hour, last_minute = map(int, match.groups())
        start, end = hour * 60 + minute, last_hour * 60 + last_minute
        if start < end <= 24 * 60:
            return start, end
    raise SettingError(f"{name} must be a part of a day such as 08:00-18:00, not {value!r}.")


def currency(name: str) -> str:
    """Read the code of a currency (ISO 4217), such as ``EUR``; '' if it is not set."""
    value = os.environ.get(name, "").strip()
    if value and not re.fullmatch(r"[A-Z]{3}", value):
        raise SettingError(f"{name} must be the code of a currency such as EUR, not {value!r}.")
    return value


def tracing() -> bool:
    """Return whether OpenTelemetry's variables enable traces.

    An endpoint must be set, and neither the SDK nor the exporter be disabled. See
    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
    """
    both = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    endpoints = [name for name in both if text(name, "")]
    off = boolean("OTEL_SDK_DISABLED", False)
    exporter = choice("OTEL_TRACES_EXPORTER", "otlp", among=("otlp", "none"))
    if not endpoints or off or exporter == "none":
        return False
    for name in endpoints:
        if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", text(name)):
            raise SettingError(f"{name} must be an http:// or https:// address.")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        choice(name, "http/protobuf", among=("http/protobuf",))
    try:
        installed = find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        installed = False
    if not installed:
        raise SettingError(f"{endpoints[0]} needs the packages of requirements/tracing.txt.")
    return True


LOOPBACK = {"localhost", "127.0.0.1", "::1"}
LOG_LEVELS = [name for name in logging.getLevelNamesMapping() if name not in {"NOTSET", "WARN", "FATAL"}]
