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
    """Serves like gunicorn's own. It notes the wait of each request, gives the address
    up as soon as it stops, and ends its connections when it is orphaned.

    gunicorn 27's worker takes no new connection while it stops, but holds the address
    until the last of its own is closed, which may take ``graceful_timeout``. New clients
    wait for nobody, and a new server can't listen there. Without a master it serves
    those connections as long as their clients go on.
    """

    def set_accept_enabled(self, enabled: bool) -> None:
        """Start or cease to take connections; when the worker stops, for good."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                self._accept_the_rest(listener)
                listener.close()

    def _accept_the_rest(self, listener: Any) -> None:
        """Take those who have connected already: the last worker's close would cut them."""
        listener.setblocking(False)
        before = -1
        while before < self.nr_conns:
            before = self.nr_conns
            self.accept(listener)

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
