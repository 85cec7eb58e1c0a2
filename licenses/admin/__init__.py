"""The Django admin of the server, one file a subject."""

from . import lease, tool  # noqa: F401
