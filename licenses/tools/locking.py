"""Lock tools by name."""

from collections.abc import Iterable

from licenses.clock import database_now
from licenses.errors import UnknownTool
from licenses.leases import capacity
from licenses.models import Tool


def lock_known(names: Iterable[str]) -> dict[str, Tool]:
    """Lock those of these tools that exist, in the order that every caller uses, with the capacity that is
    valid now. Part of the caller's transaction."""
    # PostgreSQL takes no text with a NUL.
    tools = {tool.name: tool for tool in Tool.objects.locked(name for name in names if "\0" not in name)}
    if any(tool.capacity_changes_at is not None for tool in tools.values()):
        capacity.apply(tools.values(), database_now())
    return tools


def lock(names: Iterable[str]) -> dict[str, Tool]:
    """Lock these tools (``lock_known``). Raises UnknownTool."""
    wanted = set(names)
    tools = lock_known(wanted)
    if missing := wanted - tools.keys():
        raise UnknownTool(tool=min(missing))
    return tools
