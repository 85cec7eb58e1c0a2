"""Make read-only calls that end in time, whatever delays them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from . import units
from .api import Client, Unreachable

T = TypeVar("T")


def in_time(client: Client, ask: Callable[[], T]) -> T:
    """Return the result of a read-only call; raise Unreachable after the client's patience.

    This also limits what no timeout limits: name resolution, many addresses.
    """
    outcomes: queue.SimpleQueue[T | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcomes.put(ask())
        except BaseException as error:  # noqa: BLE001 - raised below
            outcomes.put(error)

    worker = threading.Thread(target=work, name="license-call", daemon=True)
    worker.start()
    end = time.monotonic() + max(client.patience, 1)
    # Join in short slices, because a join blocks signals on Windows.
    while worker.is_alive() and time.monotonic() < end:
        worker.join(0.1)
    try:
        outcome = outcomes.get_nowait()
    except queue.Empty:
        raise Unreachable(f"{client} can't be reached: no answer within {units.spoken(client.patience)}") from None
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
