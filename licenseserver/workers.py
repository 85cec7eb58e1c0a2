"""gunicorn's threaded worker, with the time that a request waited for a thread."""

import select
import threading
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

# In milliseconds: a thread waits this long for the next request of a connection.
LINGER = 2

_this_thread = threading.local()


def waited() -> float:
    """Return the seconds that this thread's request waited for a thread; 0 outside gunicorn."""
    return getattr(_this_thread, "waited", 0.0)


class Worker(ThreadWorker):
    """Serve like gunicorn's worker, but note the wait of each request, and give the address up at a stop.

    A worker of gunicorn 27 that stops accepts no new connection but holds the address until
    its last connection is closed, for up to ``graceful_timeout``. Meanwhile new clients get no
    answer, and a new server can't listen there. Without a master it serves open connections
    while clients use them.
    """

    def set_accept_enabled(self, enabled: bool) -> None:
        """Start or stop to accept connections. Give the addresses up when the worker stops."""
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                self._accept_the_rest(listener)
                listener.close()

    def _accept_the_rest(self, listener: Any) -> None:
        """Accept waiting connections, because closing the last listener would cut them."""
        listener.setblocking(False)
        before = -1
        while before < self.nr_conns:
            before = self.nr_conns
            self.accept(listener)

    def enqueue_req(self, conn: Any) -> None:
        """Pass a connection with a request to the threads."""
        conn.queued_at = time.monotonic()
        super().enqueue_req(conn)

    def handle(self, conn: Any) -> Any:
        """Answer the next request of a connection in one of the threads, and those that follow at once."""
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
        """Return whether the master lives. If not, answer with ``Connection: close`` from now on."""
        is_alive: bool = super().is_parent_alive()
        if not is_alive:
            self.alive = False
        return is_alive
