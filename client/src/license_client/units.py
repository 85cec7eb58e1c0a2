"""Read durations and seats as people write them, and show times as people read them."""

from __future__ import annotations

import re
from datetime import timedelta

from .api import Item, time_of

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
# A longer duration is a mistake, and clocks cannot represent it.
LONGEST = 100 * 365 * 86400


def seconds(text: str | float | timedelta) -> float:
    """Return a duration in seconds.

    ``text`` is a number, a timedelta, or a text: ``90``, ``90s``, ``30m``,
    ``1.5h``, ``2d``. Raises ValueError for anything else, and for a duration below
    0 or above 100 years.
    """
    if isinstance(text, timedelta):
        number, unit = text.total_seconds(), ""
    elif isinstance(text, (int, float)):
        number, unit = float(text), ""
    else:
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a duration; write 90, 90s, 30m, 8h or 1d")
        number, unit = float(match[1]), match[2]
    duration = number * UNITS[unit]
    if not 0 <= duration <= LONGEST:
        raise ValueError("a duration must be 0 to 100 years")
    return duration


def item(text: str) -> Item:
    """Read seats of a tool: ``cad_tool`` is one seat, ``cad_tool:2`` are two.

    Raises ValueError for anything else.
    """
    match = re.fullmatch(r"([^:]+)(?::0*([1-9][0-9]{0,8}))?", text)
    if match is None:
        raise ValueError(f"{text!r} is not a tool; write NAME or NAME:SEATS")
    return Item(match[1], int(match[2] or 1))


def spoken(duration: float) -> str:
    """Return a duration as people read it."""
    whole = round(duration)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def clock_time(text: str) -> str:
    """Return a time of the server on this machine's clock, with the zone. Raises ValueError."""
    time = time_of(text).astimezone()
    name, offset = time.strftime("%Z"), time.strftime("%z")
    # Windows has long names in the language of the user.
    zone = name if re.fullmatch("[A-Z]{2,5}", name) else f"{offset[:3]}:{offset[3:5]}"
    return f"{time:%Y-%m-%d %H:%M:%S} {zone}"
