"""Durations and seats as people write them."""

import re

from .api import Item

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str | float) -> float:
    """A duration in seconds: a number, or ``90``, ``90s``, ``30m``, ``1.5h``, ``2d``.

    Raises ValueError for anything else and for what is below 0.
    """
    if isinstance(text, int | float):
        number, unit = float(text), ""
    else:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
        if match is None:
            raise ValueError(f"{text!r} is no duration; write 90, 90s, 30m, 8h or 1d")
        number, unit = float(match[1]), match[2]
    if number < 0:
        raise ValueError("a duration can't be below 0")
    return number * UNITS[unit]


def item(text: str) -> Item:
    """Seats of a tool: ``cad_tool`` is one, ``cad_tool:2`` are two.

    Raises ValueError for anything else.
    """
    tool, colon, count = text.partition(":")
    if not tool or (colon and (not count.isascii() or not count.isdigit() or int(count) < 1)):
        raise ValueError(f"{text!r} is no tool; write NAME or NAME:SEATS")
    return Item(tool, int(count) if colon else 1)


def spoken(duration: float) -> str:
    """A duration as people read it."""
    whole = round(duration)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
