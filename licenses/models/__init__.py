"""Tables and their constraints, one file a subject."""

from .lease import EndReason, Lease
from .tool import Tool

__all__ = ["EndReason", "Lease", "Tool"]
