"""The outcome of one attempt to deliver."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Attempt:
    """The outcome of an attempt, with the ``answer`` for the log of deliveries, which has no secrets.

    After a failure that ``is_final`` there is no other attempt. One that ``is_of_channel`` would fail the other
    messages for the same webhook, or all mail, too. ``retry_after`` is the time that the receiver asks for. A
    webhook that ``is_gone`` wants no more messages. A message that ``is_withdrawn`` was not sent, because the
    person may not see it or does not want it any more.
    """

    succeeded: bool
    answer: str
    is_final: bool = False
    is_of_channel: bool = False
    is_gone: bool = False
    is_withdrawn: bool = False
    retry_after: timedelta | None = None
