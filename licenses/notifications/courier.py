"""Send notifications in a thread of its own, so that a slow receiver does not delay the sweeper."""

import logging
import threading
from contextvars import copy_context
from dataclasses import asdict

from django.db import DatabaseError, InterfaceError, close_old_connections, connection

from licenses import database
from licenses.errors import Refusal

from . import delivery

logger = logging.getLogger(__name__)

# Seconds that the end of the sweeper waits for an attempt that is under way.
PATIENCE = 15.0


class Courier:
    """A thread that sends what is due, every some seconds and when it is woken."""

    def __init__(self, *, every: float) -> None:
        self._every = every
        self._stopped = threading.Event()
        self._woken = threading.Event()
        # The copy has the path of the server (SCRIPT_NAME), which links need.
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="courier", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def wake(self) -> None:
        """Send what is due now."""
        self._woken.set()

    def stop(self) -> None:
        """End after the attempt that is under way. One that takes too long is sent again by the next sweeper."""
        self._stopped.set()
        self._woken.set()
        self._thread.join(PATIENCE)

    @property
    def is_alive(self) -> bool:
        """Return whether it works."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._woken.clear()
                self._round()
                self._woken.wait(self._every)
        finally:
            connection.close()

    def _round(self) -> None:
        try:
            close_old_connections()
            done = asdict(delivery.deliver(stopped=self._stopped.is_set))
        except (Refusal, DatabaseError, InterfaceError) as error:
            # The database may be back in the next round.
            logger.warning("Nothing sent: %s", database.reason(error.__cause__ or error))
            return
        if any(done.values()):
            logger.info("delivered", extra={"facts": done})
