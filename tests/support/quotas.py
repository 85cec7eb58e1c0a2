"""Give teams quotas and reservations."""

from licenses.auditing import Actor
from licenses.models import Team
from licenses.tools import quotas

SOMEBODY = Actor.of_command("test")


def allot(tool: str, team: Team, *, quota: int | None = None, reservation: int = 0) -> None:
    """Let a team have so much of a tool."""
    quotas.allot(tool=tool, terms={team: quotas.AllotmentTerms(quota, reservation)}, by=SOMEBODY)
