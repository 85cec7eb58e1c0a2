"""What Django imports for ``ENGINE = "licenseserver.postgresql"``."""

from typing import Any

from django.db.backends.postgresql import base as django_base
from django_prometheus.db.backends.postgresql import base
from psycopg import pq

from licenseserver.counting import counted


class DatabaseWrapper(base.DatabaseWrapper):
    def get_connection_params(self) -> dict[str, Any]:
        """Return Django's parameters, with cursors that count what they execute."""
        parameters: dict[str, Any] = django_base.DatabaseWrapper.get_connection_params(self)
        parameters["cursor_factory"] = counted(parameters["cursor_factory"], self.alias, self.vendor)
        return parameters

    def _start_transaction_under_autocommit(self) -> None:
        """Begin a transaction, as Django asks for it. In a pipeline, send BEGIN and do not wait:
        psycopg's own BEGIN waits for its answer there, which costs a round trip."""
        connection = self.connection
        if connection.pgconn.pipeline_status == pq.PipelineStatus.OFF:
            self._set_autocommit(False)
            return
        level = connection.isolation_level.name.replace("_", " ")
        connection.execute(f"BEGIN ISOLATION LEVEL {level}", prepare=False)

    def _set_autocommit(self, autocommit: bool) -> None:
        """Change psycopg's mode, unless a transaction began in a pipeline."""
        if self.connection.autocommit != autocommit:
            super()._set_autocommit(autocommit)
