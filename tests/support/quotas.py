"""Give teams quotas and reservations."""

from licenses import rationing
from licenses.auditing import Actor
from licenses.models import Team

SOMEBODY = Actor.of_command("test")


def allot(tool: str, team: Team, *, quota: int | None = None, reservation: int = 0) -> None:
    """Let a team have so much of a tool."""
    rationing.allot(tool=tool, allowances={team: rationing.Allowance(quota, reservation)}, by=SOMEBODY)
