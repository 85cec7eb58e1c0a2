"""Lock tools by name."""

from collections.abc import Iterable

from licenses.errors import UnknownTool
from licenses.models import Tool


def lock(names: Iterable[str]) -> dict[str, Tool]:
    """Lock these tools, in the order that every caller uses. Part of the caller's transaction. Raises UnknownTool."""
    wanted = set(names)
    tools = {tool.name: tool for tool in Tool.objects.locked(wanted)}
    if missing := wanted - tools.keys():
        raise UnknownTool(tool=min(missing))
    return tools
