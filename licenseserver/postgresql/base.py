"""What Django imports for ``ENGINE = "licenseserver.postgresql"``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db.backends.postgresql import base as django_base
from django_prometheus.db.backends.postgresql import base

from licenseserver.counting import counted

from .round_trip import RoundTrip


class DatabaseWrapper(base.DatabaseWrapper):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The statements that wait to be sent together.
        self.round_trip: RoundTrip | None = None
        # The names of the statements that ``RoundTrip`` has prepared on this connection.
        self.prepared: dict[Any, bytes] = {}
        self.prepares = bool(self.settings_dict["OPTIONS"].get("server_side_binding"))

    def get_connection_params(self) -> dict[str, Any]:
        """Return Django's parameters, with cursors that count what they execute."""
        parameters: dict[str, Any] = django_base.DatabaseWrapper.get_connection_params(self)
        parameters["cursor_factory"] = counted(parameters["cursor_factory"], self.alias, self.vendor)
        return parameters

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect. Nothing is prepared on a new connection."""
        self.prepared.clear()
        return super().get_new_connection(conn_params)

    @contextmanager
    def together(self) -> Iterator[RoundTrip]:
        """Collect statements, and send them at the end of the block. A transaction may begin in it."""
        self.close_if_health_check_failed()
        self.ensure_connection()
        self.round_trip = round_trip = RoundTrip(self)
        try:
            yield round_trip
        finally:
            self.round_trip = None
        round_trip.send()

    def _start_transaction_under_autocommit(self) -> None:
        """Begin a transaction, as Django asks for it. BEGIN goes with the statements that are sent together."""
        if self.round_trip is None:
            self._set_autocommit(False)
            return
        level = self.connection.isolation_level.name.replace("_", " ")
        self.round_trip.add(f"BEGIN ISOLATION LEVEL {level}", prepare=False)

    def _set_autocommit(self, autocommit: bool) -> None:
        """Change psycopg's mode, unless a transaction began with other statements."""
        if self.connection.autocommit != autocommit:
            super()._set_autocommit(autocommit)
