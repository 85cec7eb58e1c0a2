"""gunicorn's threaded worker, which leaves at once when its master is gone."""

from gunicorn.workers.gthread import ThreadWorker


class Worker(ThreadWorker):
    """Serves like gunicorn's own, and ends its connections when it is orphaned.

    Without a master, gunicorn 27's worker takes no new connection but serves
    those that are open as long as their clients go on, for ``graceful_timeout``
    at most. All that time it holds the address: a new master can't listen there,
    and new clients wait for nobody.
    """

    def is_parent_alive(self) -> bool:
        """Whether the master lives; if not, answer with ``Connection: close``."""
        is_alive: bool = super().is_parent_alive()
        if not is_alive:
            self.alive = False
        return is_alive
