"""Write results to standard output: tables, JSON, colors."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import platforms

STDOUT, STDERR = 1, 2
# Control sequences of terminals (ECMA-48), by what they say.
STYLES = {"heading": "1", "good": "32", "caution": "33", "bad": "31", "quiet": "2"}


class Unwritable(Exception):
    """Writing to standard output failed."""

    def __init__(self, why: OSError) -> None:
        super().__init__(why)
        self.why = why


class Cell(NamedTuple):
    """A text in a table, and its style."""

    text: str
    style: str = ""


class Colors:
    """Add colors to texts, if the reader wants them."""

    def __init__(self, *, on: bool) -> None:
        self.on = on

    def paint(self, style: str, text: str) -> str:
        """Return the text in one of STYLES; as it is without a style or colors."""
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if self.on and style else text


def colors_for(stream: int, choice: str = "auto", environment: Mapping[str, str] = os.environ) -> Colors:
    """Return the colors for a file descriptor.

    ``auto`` means colors on a terminal, unless NO_COLOR is set (no-color.org).
    """
    if choice == "auto":
        return Colors(on=not environment.get("NO_COLOR") and platforms.CURRENT.rewrites_lines(stream))
    return Colors(on=choice == "always")


def show(text: str) -> None:
    """Print and flush, so that a failure shows here and not at the exit. Raises Unwritable."""
    if sys.stdout is None:
        # The caller closed it: command >&-
        raise Unwritable(OSError(errno.EBADF, os.strerror(errno.EBADF)))
    try:
        print(text.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding), flush=True)
    except OSError as error:
        # Discard the buffer, or it would fail again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Unwritable(error) from None


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    show(json.dumps(value))


def show_table(options: argparse.Namespace, heads: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> None:
    """Print a table with a line of headings."""
    colors = colors_for(STDOUT, options.color)
    table = [[Cell(head, "heading") for head in heads]]
    table += [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    widths = [max(len(cell.text) for cell in column) for column in zip(*table)]
    lines = []
    for row in table:
        gaps = [" " * (width - len(cell.text)) for cell, width in zip(row, widths)]
        texts = [colors.paint(cell.style, cell.text) if cell.text else "" for cell in row]
        lines.append("  ".join(text + gap for text, gap in zip(texts, gaps)).rstrip())
    show("\n".join(lines))
