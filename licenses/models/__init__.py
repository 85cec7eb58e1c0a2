"""Tables and their constraints, one file a subject."""

from .denial import Denial
from .lease import EndReason, Lease
from .retry import BorrowKey
from .sweep import Sweep
from .tool import Tool
from .waiting import Ticket, TicketClaim, TicketState

__all__ = ["BorrowKey", "Denial", "EndReason", "Lease", "Sweep", "Ticket", "TicketClaim", "TicketState", "Tool"]
