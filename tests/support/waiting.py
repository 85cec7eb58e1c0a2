"""Wait for what another thread or process does."""

import time
from collections.abc import Callable

# Seconds, long enough for a slow machine.
PATIENCE = 60


def until(condition: Callable[[], bool], otherwise: str | Callable[[], str]) -> None:
    """Wait until the condition holds; fail with what ``otherwise`` says."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(otherwise if isinstance(otherwise, str) else otherwise())
        time.sleep(0.05)
