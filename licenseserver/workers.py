"""gunicorn's threaded worker, with the time that a request waited for a thread."""

import threading
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

_this_thread = threading.local()


def waited() -> float:
    """Return the seconds that this thread's request waited for a thread; 0 outside gunicorn."""
    return getattr(_this_thread, "waited", 0.0)


class Worker(ThreadWorker):
    """Serve like gunicorn's worker, note the wait of each request, and stop if the master is gone.

    Without a master, the worker of gunicorn 27 accepts no new connections, but serves open
    ones while clients use them, for at most ``graceful_timeout``. Meanwhile it holds the
    address: a new master can't listen there, and new clients get no answer.
    """

    def enqueue_req(self, conn: Any) -> None:
        """Pass a connection with a request to the threads."""
        conn.queued_at = time.monotonic()
        super().enqueue_req(conn)

    def handle(self, conn: Any) -> Any:
        """Answer the next request of a connection, in one of the threads."""
        _this_thread.waited = time.monotonic() - conn.queued_at
        return super().handle(conn)

    def is_parent_alive(self) -> bool:
        """Return whether the master lives. If not, answer with ``Connection: close`` from now on."""
        is_alive: bool = super().is_parent_alive()
        if not is_alive:
            self.alive = False
        return is_alive
