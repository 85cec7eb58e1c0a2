"""Decisions about seats, pure: numbers and rules in, a refusal or None out."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from .errors import Disabled, Exhausted, Expired, NotStarted, Refusal, TtlTooLong


@dataclass(frozen=True, slots=True)
class Item:
    """So many seats of one tool, as part of a borrow."""

    tool: str
    seats: int = 1


@dataclass(frozen=True, slots=True)
class Pool:
    """What a decision needs to know of a tool, read under its lock.

    ``set_aside`` are the seats wanted by those who wait and come first.
    """

    tool: str
    capacity: int
    in_use: int
    set_aside: int
    max_ttl: timedelta | None
    enabled: bool
    valid_from: datetime | None
    valid_until: datetime | None


def refusal(pool: Pool, *, seats: int, ttl: timedelta | None, now: datetime) -> Refusal | None:
    """Why this pool can't give ``seats`` seats at ``now``; None if it can.

    ``ttl`` is what was asked for, None if nothing was. The licence is valid
    from ``valid_from`` on and until just before ``valid_until``.
    """
    if not pool.enabled:
        return Disabled(tool=pool.tool)
    if pool.valid_from is not None and now < pool.valid_from:
        return NotStarted(tool=pool.tool, valid_from=pool.valid_from)
    if pool.valid_until is not None and now >= pool.valid_until:
        return Expired(tool=pool.tool, valid_until=pool.valid_until)
    if ttl is not None and pool.max_ttl is not None and ttl > pool.max_ttl:
        return TtlTooLong(tool=pool.tool, asked=ttl, maximum=pool.max_ttl)
    if pool.in_use + pool.set_aside + seats > pool.capacity:
        return Exhausted(
            tool=pool.tool, total=pool.capacity, borrowed=pool.in_use, set_aside=pool.set_aside, seats=seats
        )
    return None
