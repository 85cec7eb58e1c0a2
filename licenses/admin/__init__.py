"""The Django admin of the server, one file a subject."""

from . import denial, lease, tool, waiting  # noqa: F401
