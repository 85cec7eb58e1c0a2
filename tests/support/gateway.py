"""Stand between the client and the server, and lose or change what passes."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.servers import Server


@dataclass(frozen=True)
class Call:
    """A call that has come to a gateway."""

    method: str
    path: str
    headers: Any
    at: float  # monotonic


@dataclass(frozen=True)
class Reply:
    """What a gateway answers in the server's place."""

    status: int
    body: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lost:
    """The call reaches the server, but its reply never the client; which hears
    nothing at all until ``silence`` is over."""

    silence: threading.Event | None = None


@dataclass
class Gateway:
    """What stands between the client and the server, and has its faults:
    ``fault`` decides for each call; None passes it on."""

    server: Server
    url: str
    calls: list[Call] = field(default_factory=list)
    fault: Callable[[Call], Reply | Lost | None] = lambda call: None

    def to(self, name: str) -> list[Call]:
        """Return the calls so far whose path has this end."""
        return [call for call in self.calls if call.path.endswith(name)]


def problem(status: int, code: str) -> Reply:
    """Return a refusal in the server's form."""
    return Reply(status, json.dumps({"status": status, "code": code, "detail": f"This is {code}."}))
