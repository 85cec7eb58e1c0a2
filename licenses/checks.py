"""Check this server's settings, for ``manage.py check --deploy``."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import connection

from licenseserver import private

OPEN = (
    "LICENSE_AUTH is open: anyone who can reach this server can borrow and return any seat. "
    "Set LICENSE_AUTH=required outside a demo."
)

OPEN_TO_NETWORK = (
    "LICENSE_AUTH is open, and other machines can reach BIND. Set LICENSE_AUTH=required or "
    "BIND=127.0.0.1:8000, or LICENSE_OPEN_TO_NETWORK=true to let everybody borrow and return any seat."
)
# docker-compose.yml publishes it.
DEMO_KEY = "demo-only-this-key-is-public-set-SECRET_KEY-to-your-own"
PUBLIC_KEY = "SECRET_KEY is the public one of docker-compose.yml, so anyone can sign in as any user. Set your own."
READABLE = (
    "Other accounts of this machine can read %s, which contains sessions and password hashes. Run chmod 600 on it."
)


@register(Tags.security, deploy=True)
def auth_is_required(**options: Any) -> list[CheckMessage]:
    """Warn of a server without authentication."""
    return [Warning(OPEN, id="licenses.W001")] if settings.LICENSE_AUTH == "open" else []


@register(Tags.security, deploy=True)
def key_is_secret(**options: Any) -> list[CheckMessage]:
    """Warn of a public key."""
    return [Warning(PUBLIC_KEY, id="licenses.W002")] if settings.SECRET_KEY == DEMO_KEY else []


@register(Tags.security, deploy=True)
def database_is_private(**options: Any) -> list[CheckMessage]:
    """Warn of an SQLite database that others can read."""
    return [Warning(READABLE % path, id="licenses.W003") for path in readable_databases()]


def readable_databases() -> list[Path]:
    """Return the files of an SQLite database that other accounts of this machine can read or write."""
    if connection.vendor != "sqlite":
        return []
    name = str(connection.settings_dict["NAME"])
    return [path for path in (Path(name + end) for end in ("", "-wal", "-shm")) if private.open_to_others(path)]


UNLIMITED = (
    "PostgreSQL has no %s for this server, so a stuck client could hold a tool's lock without end. Behind a "
    "pooler, set the limit on the role or the database (docs/howto/scaling.md)."
)


def unlimited() -> list[str]:
    """Return the time limits that this server's sessions in PostgreSQL lack. Asks the database."""
    if connection.vendor != "postgresql":
        return []
    wanted = ["idle_in_transaction_session_timeout", "lock_timeout"]
    if settings.STATEMENT_TIMEOUT:
        wanted.append("statement_timeout")
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_settings WHERE name = ANY(%s) AND setting = '0' ORDER BY name", [wanted])
        return [name for (name,) in cursor.fetchall()]
