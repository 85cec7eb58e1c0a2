"""What Django imports for ``ENGINE = "licenseserver.postgresql"``."""

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db.backends.postgresql import base as django_base
from django.db.backends.postgresql import operations
from django_prometheus.db.backends.postgresql import base

from licenseserver.counting import counted
from licenseserver.hub import is_leader

from .round_trip import WITH_INDEXES, Prepared, RoundTrip


class DatabaseOperations(operations.DatabaseOperations):
    def adapt_datetimefield_value(self, value: Any) -> Any:
        """Return a time in UTC: PostgreSQL reads offsets of less than 16 hours, and RFC 3339 has up to 23:59."""
        return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo is not None else value


class DatabaseWrapper(base.DatabaseWrapper):
    ops_class = DatabaseOperations

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The statements that wait to be sent together.
        self.round_trip: RoundTrip | None = None
        # The statements that ``RoundTrip`` has prepared on this connection, if it may.
        self.prepared: dict[Any, Prepared] = {}
        self.prepares: bool = self.settings_dict.get("PREPARE", False)
        # Whether the connection plans everything ``WITH_INDEXES``.
        self.prefers_indexes = False

    def get_connection_params(self) -> dict[str, Any]:
        """Return Django's parameters, with cursors that count what they execute."""
        parameters: dict[str, Any] = django_base.DatabaseWrapper.get_connection_params(self)
        parameters["cursor_factory"] = counted(parameters["cursor_factory"], self.alias, self.vendor)
        self.prefers_indexes = is_leader() and not settings.LICENSE_DB_POOLER
        if self.prefers_indexes:
            parameters["options"] = f"{parameters.get('options', '')} -c {WITH_INDEXES}".lstrip()
        return parameters

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect. Nothing is prepared on a new connection."""
        self.prepared.clear()
        return super().get_new_connection(conn_params)

    def together(self) -> RoundTrip:
        """Return a ``with`` block whose statements are sent together at its end."""
        return RoundTrip(self)

    def _start_transaction_under_autocommit(self) -> None:
        """Begin a transaction, as Django asks for it. BEGIN goes with the statements that are sent together."""
        if self.round_trip is None:
            self._set_autocommit(False)
            return
        self.round_trip.begin()

    def _set_autocommit(self, autocommit: bool) -> None:
        """Change psycopg's mode, unless a transaction began with other statements."""
        if self.connection.autocommit != autocommit:
            super()._set_autocommit(autocommit)
