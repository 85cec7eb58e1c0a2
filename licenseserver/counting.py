"""Cursors that count what they execute: django-prometheus' metrics, with their labels resolved once.

The library makes a class for each cursor of SQLite, and resolves the labels for each statement.
"""

import time
from functools import cache
from typing import Any

from django_prometheus.db import errors_total, execute_many_total, execute_total, query_duration_seconds


@cache
def counted(cursor: type[Any], alias: str, vendor: str) -> type[Any]:
    """Return the class of cursors that counts for a database of this alias and vendor."""
    executed = execute_total.labels(alias, vendor)
    executed_many = execute_many_total.labels(alias, vendor)
    duration = query_duration_seconds.labels(alias, vendor)

    class Cursor(cursor):
        def execute(self, *args: Any, **kwargs: Any) -> Any:
            executed.inc()
            return self._timed(super().execute, args, kwargs)

        def executemany(self, query: Any, param_list: Any, *args: Any, **kwargs: Any) -> Any:
            executed.inc(len(param_list))
            executed_many.inc(len(param_list))
            return self._timed(super().executemany, (query, param_list, *args), kwargs)

        def _timed(self, execute: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            start = time.perf_counter()
            try:
                return execute(*args, **kwargs)
            except Exception as error:
                errors_total.labels(alias, vendor, type(error).__name__).inc()
                raise
            finally:
                duration.observe(time.perf_counter() - start)

    return Cursor
