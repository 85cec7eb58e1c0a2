"""Client of the floating-license server. It needs only Python.

from license_client import License

with License("cad_tool", wait="30m") as lease:
    ...  # the seat is yours, and renewed, until the block ends
"""

__version__ = "0.1.0"

from .api import Client, ConfigError, Item, Lease, LicenseError, Refused, Ticket, ToolStatus, Unreachable
from .holding import Holding, License, acquire

__all__ = [
    "Client",
    "ConfigError",
    "Holding",
    "Item",
    "Lease",
    "License",
    "LicenseError",
    "Refused",
    "Ticket",
    "ToolStatus",
    "Unreachable",
    "acquire",
]
