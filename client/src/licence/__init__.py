"""Client of the floating-licence server; needs nothing but Python.

from licence import Licence

with Licence("cad_tool", wait="30m") as lease:
    ...  # the seat is yours, and renewed, until the block ends
"""

from .api import Client, Item, Lease, LicenceError, Refused, Ticket, ToolStatus, Unreachable
from .config import ConfigError
from .holding import Holding, Licence, acquire

__all__ = [
    "Client",
    "ConfigError",
    "Holding",
    "Item",
    "Lease",
    "Licence",
    "LicenceError",
    "Refused",
    "Ticket",
    "ToolStatus",
    "Unreachable",
    "acquire",
]
