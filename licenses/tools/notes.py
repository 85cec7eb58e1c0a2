"""Note what an administrator should know after a change."""

from collections.abc import Iterable

from licenses.models import Tool


def of_capacities(changed: Iterable[Tool], *, for_people: bool = False) -> list[str]:
    """Return a note for each of these tools, whose capacity changed, of which more seats are borrowed than that;
    with its display name ``for_people``."""
    keys = [tool.pk for tool in changed]
    tools = Tool.objects.with_current_counts().filter(pk__in=keys).order_by("name") if keys else []
    return [_borrowed(tool, str(tool) if for_people else tool.name) for tool in tools if tool.overdrawn]


def _borrowed(tool: Tool, name: str) -> str:
    seats = f"1 seat of {name} is" if tool.borrowed_now == 1 else f"{tool.borrowed_now:,} seats of {name} are"
    limit = tool.capacity + tool.overdraft
    if tool.borrowed_now < limit:
        then = f"The overdraft allows {limit - tool.borrowed_now:,} more."
    elif limit:
        then = f"New borrows are refused or wait until {tool.borrowed_now - limit + 1:,} are returned."
    else:
        then = "New borrows are refused."
    over = f"{tool.overdrawn:,} more than its capacity of {tool.capacity:,}"
    return f"{seats} borrowed, {over}. Nobody loses a seat. {then}"
