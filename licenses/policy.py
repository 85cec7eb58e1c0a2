"""Decisions about seats, pure: numbers and rules in, a refusal or None out."""

from dataclasses import dataclass
from datetime import datetime

from .errors import Disabled, Exhausted, Expired, NotStarted, Refusal


@dataclass(frozen=True, slots=True)
class Pool:
    """What a decision needs to know of a tool, read under its lock."""

    tool: str
    capacity: int
    in_use: int
    enabled: bool
    valid_from: datetime | None
    valid_until: datetime | None


def refusal(pool: Pool, *, seats: int, now: datetime) -> Refusal | None:
    """Why this pool can't give ``seats`` seats at ``now``; None if it can.

    The licence is valid from ``valid_from`` on and until just before
    ``valid_until``.
    """
    if not pool.enabled:
        return Disabled(tool=pool.tool)
    if pool.valid_from is not None and now < pool.valid_from:
        return NotStarted(tool=pool.tool, valid_from=pool.valid_from)
    if pool.valid_until is not None and now >= pool.valid_until:
        return Expired(tool=pool.tool, valid_until=pool.valid_until)
    if pool.in_use + seats > pool.capacity:
        return Exhausted(tool=pool.tool, total=pool.capacity, borrowed=pool.in_use, seats=seats)
    return None
