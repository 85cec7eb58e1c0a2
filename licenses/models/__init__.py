"""Tables and their constraints, one file per subject."""

from .allotment import AccessRule, Allotment, Effect, SubjectKind, UserLimit
from .audit import Action, ActorKind, AuditedKind, AuditRecord
from .borrow_key import BorrowKey
from .contract import Contract, ContractSource
from .denial import Denial
from .device_login import DeviceLogin
from .failure_count import FailureCount
from .history import DenialDay, HistoryMark, TeamHour, ToolHour, UsageDay
from .identity import Identity, JwtCaller
from .lease import EndReason, Lease
from .notification import (
    ChannelLevels,
    Delivery,
    DeliveryState,
    Event,
    Notification,
    NotificationPreference,
    Webhook,
    WebhookKind,
)
from .retired_name import RetiredName
from .session import AccountSession
from .star import Star
from .sweep import Sweep
from .team import MemberSource, Team, TeamMember
from .ticket import Ticket, TicketClaim, TicketState
from .token import ApiToken
from .tool import Tool

__all__ = [
    "AccessRule",
    "AccountSession",
    "Action",
    "ActorKind",
    "Allotment",
    "ApiToken",
    "AuditRecord",
    "AuditedKind",
    "BorrowKey",
    "ChannelLevels",
    "Contract",
    "ContractSource",
    "Delivery",
    "DeliveryState",
    "Denial",
    "DenialDay",
    "DeviceLogin",
    "Effect",
    "EndReason",
    "Event",
    "FailureCount",
    "HistoryMark",
    "Identity",
    "JwtCaller",
    "Lease",
    "MemberSource",
    "Notification",
    "NotificationPreference",
    "RetiredName",
    "Star",
    "SubjectKind",
    "Sweep",
    "Team",
    "TeamHour",
    "TeamMember",
    "Ticket",
    "TicketClaim",
    "TicketState",
    "Tool",
    "ToolHour",
    "UsageDay",
    "UserLimit",
    "Webhook",
    "WebhookKind",
]
