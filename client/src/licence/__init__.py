"""Client of the floating-licence server; needs nothing but Python.

from licence import Licence

with Licence("cad_tool", wait="30m") as lease:
    ...  # the seat is yours, and renewed, until the block ends
"""

from .api import Client, Item, Lease, LicenceError, Refused, Ticket, Unreachable
from .holding import Holding, Licence

__all__ = ["Client", "Holding", "Item", "Lease", "Licence", "LicenceError", "Refused", "Ticket", "Unreachable"]
