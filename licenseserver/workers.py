"""gunicorn's threaded worker, which knows how long a request stood in its queue."""

import threading
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

_this_thread = threading.local()


def waited() -> float:
    """Return for how long, in seconds, the request that this thread answers was
    ready before a thread was free for it; 0 outside gunicorn."""
    return getattr(_this_thread, "waited", 0.0)


class Worker(ThreadWorker):
    """Serves like gunicorn's own. It notes the wait of each request, and ends its
    connections when it is orphaned.

    Without a master, gunicorn 27's worker takes no new connection but serves
    those that are open as long as their clients go on, for ``graceful_timeout``
    at most. All that time it holds the address: a new master can't listen there,
    and new clients wait for nobody.
    """

    def enqueue_req(self, conn: Any) -> None:
        """Hand a connection with a request to the threads."""
        conn.queued_at = time.monotonic()
        super().enqueue_req(conn)

    def handle(self, conn: Any) -> Any:
        """Answer a connection's next request, in one of the threads."""
        _this_thread.waited = time.monotonic() - conn.queued_at
        return super().handle(conn)

    def is_parent_alive(self) -> bool:
        """Return whether the master lives; if not, answer with ``Connection: close``."""
        is_alive: bool = super().is_parent_alive()
        if not is_alive:
            self.alive = False
        return is_alive
