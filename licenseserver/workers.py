"""gunicorn's threaded worker, which knows how long a request stood in its queue."""

import select
import threading
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

# In milliseconds: a thread waits this long for the next request of a connection.
LINGER = 2

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
        """Answer a connection's next request in one of the threads, and those that follow at once."""
        _this_thread.waited = time.monotonic() - conn.queued_at
        kept = super().handle(conn)
        while kept is True and self._goes_on(conn):
            _this_thread.waited = 0.0
            kept = super().handle(conn)
        return kept

    def _goes_on(self, conn: Any) -> bool:
        """Return whether the next request comes within ``LINGER`` and no other waits for a thread.

        gunicorn gives the connection back to its loop, which gives it to a thread again: two
        wake-ups, which cost as much as a short answer.
        """
        if not self.alive or self.tpool._work_queue.qsize() or conn.parser.unreader.buf.getvalue():
            return False
        ready = select.poll()
        ready.register(conn.sock, select.POLLIN)
        return bool(ready.poll(LINGER))

    def is_parent_alive(self) -> bool:
        """Return whether the master lives; if not, answer with ``Connection: close``."""
        is_alive: bool = super().is_parent_alive()
        if not is_alive:
            self.alive = False
        return is_alive
