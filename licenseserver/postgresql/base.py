"""What Django imports for ``ENGINE = "licenseserver.postgresql"``."""

from typing import Any

from django.db.backends.postgresql import base as django_base
from django_prometheus.db.backends.postgresql import base

from licenseserver.counting import counted


class DatabaseWrapper(base.DatabaseWrapper):
    def get_connection_params(self) -> dict[str, Any]:
        """Return Django's parameters, with cursors that count what they execute."""
        parameters: dict[str, Any] = django_base.DatabaseWrapper.get_connection_params(self)
        parameters["cursor_factory"] = counted(parameters["cursor_factory"], self.alias, self.vendor)
        return parameters
