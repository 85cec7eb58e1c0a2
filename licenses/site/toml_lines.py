"""Find the line of each value of a TOML document, which Python's parser does not keep."""

import re
import tomllib
from collections.abc import Mapping

# The way to a value: keys of tables, and numbers of elements from 0.
Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")' + r"|'''.*?'{3,5}(?!')" + r'|"(?:[^"\\\n]|\\.)*"' + r"|'[^'\n]*'",
    re.DOTALL,
)
_BARE = re.compile(r"[A-Za-z0-9_-]+")
# A number, true, false, or a date; a blank may stand between a date and its time.
_PLAIN = re.compile(r"[^\s,\]}#]+(?: [0-9]{2}:[^\s,\]}#]+)?")


def lines_of(text: str) -> Mapping[Path, int]:
    """Return the line of each table, value and element of a valid TOML document."""
    return _Scan(text).lines


class _Scan:
    """One pass over a document that ``tomllib`` has accepted, so that nothing needs to be checked."""

    def __init__(self, text: str) -> None:
        # As tomllib does.
        self.text = text.replace("\r\n", "\n")
        self.at = 0
        self.line, self._counted = 1, 0
        self.lines: dict[Path, int] = {}
        # The number of tables in each array of tables.
        self._arrays: dict[Path, int] = {}
        self._document()

    def _document(self) -> None:
        table: Path = ()
        while self._skip(_BLANK) < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Path:
        line, is_array = self._line(), self.text.startswith("[[", self.at)
        self.at += 2 if is_array else 1
        *parents, last = self._key()
        self.at += 2 if is_array else 1
        path: Path = ()
        for key in parents:
            path = self._element((*path, key))
            self.lines.setdefault(path, line)
        path = (*path, last)
        if is_array:
            self.lines.setdefault(path, line)
            self._arrays[path] = self._arrays.get(path, -1) + 1
            path = self._element(path)
        self.lines[path] = line
        return path

    def _element(self, path: Path) -> Path:
        """Return the latest table of an array of tables, or another path as it is."""
        return (*path, self._arrays[path]) if path in self._arrays else path

    def _pair(self, table: Path) -> None:
        line, path = self._line(), table
        for key in self._key():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self.at += 1  # the sign =
        self._value(path)

    def _key(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            if self.text[self.at] in "\"'":
                keys.append(next(iter(tomllib.loads(f"{self._take(_STRING)} = 0"))))
            else:
                keys.append(self._take(_BARE))
            self._skip(_SPACE)
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        self.lines[path] = self._line() if isinstance(path[-1], int) else self.lines[path]
        if self.text[self.at] in "\"'":
            self._take(_STRING)
        elif self.text[self.at] in "[{":
            is_array = self.text[self.at] == "["
            self.at += 1
            number = 0
            while True:
                self._skip(_BLANK)
                if self.text[self.at] in "]}":
                    break
                if is_array:
                    self._value((*path, number))
                    number += 1
                else:
                    self._pair(path)
                self._skip(_BLANK)
                if self.text[self.at] == ",":
                    self.at += 1
            self.at += 1
        else:
            self._take(_PLAIN)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        self._take(pattern)
        return self.at

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        assert found is not None  # noqa: S101 - tomllib has read it
        self.at = found.end()
        return found[0]

    def _line(self) -> int:
        """Return the line of the current character."""
        self.line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self.line
