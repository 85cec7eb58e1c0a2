"""What ``manage.py check --deploy`` says of this server's own settings."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register

OPEN = (
    "LICENSE_AUTH is open: whoever reaches this server can borrow, and can return what others have borrowed. "
    "Set LICENSE_AUTH=required where that is not everybody's friend."
)


@register(Tags.security, deploy=True)
def auth_is_required(**options: Any) -> list[CheckMessage]:
    """Warn of a server that asks nobody who they are."""
    return [Warning(OPEN, id="licenses.W001")] if settings.LICENSE_AUTH == "open" else []
