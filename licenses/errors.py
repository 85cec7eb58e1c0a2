"""What the domain refuses, each with a stable code that clients may rely on.

The codes are part of the API and of the metrics' ``reason`` label: add, never
rename.
"""

from datetime import datetime
from typing import Any, ClassVar


class Refusal(Exception):
    """A request that was understood and is not granted.

    ``facts`` are the numbers behind the refusal, for the client's program;
    ``retry_after`` is in seconds, where trying again makes sense.
    """

    code: ClassVar[str]
    title: ClassVar[str]
    retry_after: int | None = None

    def __init__(self, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts


class UnknownTool(Refusal):
    code = "unknown_tool"
    title = "No such tool"

    def __init__(self) -> None:
        super().__init__("There is no tool of this name. GET /licenses/status lists the tools.")


class UnknownLease(Refusal):
    code = "unknown_lease"
    title = "No such lease"

    def __init__(self) -> None:
        super().__init__("There is no lease with this id. GET /borrows?user=NAME lists what somebody holds.")


class Exhausted(Refusal):
    code = "exhausted"
    title = "No seat left"
    retry_after = 10

    def __init__(self, *, tool: str, total: int, borrowed: int, seats: int) -> None:
        available = max(total - borrowed, 0)
        asked = "a seat was" if seats == 1 else f"{seats} seats were"
        super().__init__(
            f"{asked.capitalize()} asked for, but {borrowed} of {total} seats of {tool} are out. "
            f"Try again later; GET /borrows shows who holds them.",
            tool=tool,
            total=total,
            borrowed=borrowed,
            available=available,
            seats=seats,
        )


class Disabled(Refusal):
    code = "disabled"
    title = "Tool is disabled"

    def __init__(self, *, tool: str) -> None:
        super().__init__(f"{tool} is switched off by its administrators and grants no seats.", tool=tool)


class NotStarted(Refusal):
    code = "not_started"
    title = "Licence not yet valid"

    def __init__(self, *, tool: str, valid_from: datetime) -> None:
        super().__init__(
            f"The licence of {tool} is valid from {valid_from:%Y-%m-%d %H:%M} UTC.",
            tool=tool,
            valid_from=valid_from.isoformat(),
        )


class Expired(Refusal):
    code = "expired"
    title = "Licence has expired"

    def __init__(self, *, tool: str, valid_until: datetime) -> None:
        super().__init__(
            f"The licence of {tool} ended at {valid_until:%Y-%m-%d %H:%M} UTC; ask its administrators to renew it.",
            tool=tool,
            valid_until=valid_until.isoformat(),
        )


class Busy(Refusal):
    """The database could not do it in time; nothing was changed, or, if the
    connection broke in the commit, it is not known."""

    code = "busy"
    title = "Server is busy"
    retry_after = 1

    def __init__(self) -> None:
        super().__init__("The database did not answer in time. Try again in a moment.")


# The reasons a borrow can fail with, for metrics that start at 0.
BORROW_FAILURE_REASONS = (Exhausted.code, Disabled.code, NotStarted.code, Expired.code, Busy.code, "error")
