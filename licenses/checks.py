"""What ``manage.py check --deploy`` says of this server's own settings."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import connection

OPEN = (
    "LICENSE_AUTH is open: whoever reaches this server can borrow, and can return what others have borrowed. "
    "Set LICENSE_AUTH=required where that is not everybody's friend."
)


@register(Tags.security, deploy=True)
def auth_is_required(**options: Any) -> list[CheckMessage]:
    """Warn of a server that asks nobody who they are."""
    return [Warning(OPEN, id="licenses.W001")] if settings.LICENSE_AUTH == "open" else []


UNLIMITED = (
    "PostgreSQL sets no %s for this server: a stuck client could hold a tool's lock for as long as it likes. Behind a "
    "pooler the limits have to be the role's or the database's (docs/scaling.md)."
)


def unlimited() -> list[str]:
    """The time limits that PostgreSQL's sessions of this server ought to have, and
    don't. Asks the database."""
    if connection.vendor != "postgresql":
        return []
    wanted = ["idle_in_transaction_session_timeout", "lock_timeout"]
    if settings.STATEMENT_TIMEOUT:
        wanted.append("statement_timeout")
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_settings WHERE name = ANY(%s) AND setting = '0' ORDER BY name", [wanted])
        return [name for (name,) in cursor.fetchall()]
