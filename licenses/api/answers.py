"""The answers to the calls that programs make most, written out.

DRF builds an answer field by field, which takes several times as long. Its serializers
declare the same fields for the schema; a test compares both.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rest_framework.utils.encoders import JSONEncoder

from licenses.leases.requests import Waiting
from licenses.models import Lease, Tool

# As DRF's renderer sets it up for each answer.
_ENCODER = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encoded(data: Any) -> bytes:
    """Return data as JSON, to the byte as DRF's renderer writes it."""
    # Both end a line for JavaScript, but not for JSON.
    return _ENCODER.encode(data).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").encode()


def tool_status(tool: Tool, *, now: datetime) -> dict[str, Any]:
    """Return a tool and its seats."""
    levels = tool.levels
    return {
        "tool": tool.name,
        "display_name": tool.display_name,
        "total": tool.capacity,
        "borrowed": levels.borrowed,
        "available": levels.available,
        "reserved_idle": levels.reserved_idle,
        "set_aside": levels.set_aside,
        "overdraft": tool.overdraft,
        "overdrawn": tool.overdrawn,
        "state": tool.state,
        "queued": tool.queued,
        "oldest_wait_seconds": round(tool.oldest_wait_seconds(now), 1),
        "enabled": tool.enabled,
        "valid_from": tool.valid_from,
        "valid_until": tool.valid_until,
    }


def lease_item(lease: Lease) -> dict[str, Any]:
    """Return the seats of one tool in a borrow."""
    return {
        "tool": lease.tool.name,
        "seats": lease.seats,
        "overdraft_seats": lease.overdraft_seats,
        "fence": lease.fence,
    }


def lease(head: Lease, items: Iterable[Lease], *, now: datetime, shown: bool = True) -> dict[str, Any]:
    """Return a borrow, by its head and all its leases; without its people if it is not ``shown``."""
    head.end_when_over(now)
    return {
        "id": str(head.pk),
        "tool": head.tool.name,
        "user": head.user if shown else "",
        "team": head.team.name if head.team is not None else None,
        "project": head.project,
        "host": head.host if shown else "",
        "seats": head.seats,
        "overdraft_seats": head.overdraft_seats,
        "borrowed_at": head.borrowed_at,
        "expires_at": head.expires_at,
        # A third: two heartbeats may get lost before the lease ends.
        "heartbeat_seconds": round(head.ttl.total_seconds() / 3, 3) if head.ttl is not None else None,
        "server_time": now,
        "fence": head.fence,
        "items": [lease_item(item) for item in items],
        "ended_at": head.ended_at,
        "end_reason": head.end_reason,
        "end_note": head.end_note if shown else "",
        "borrowed_by": head.borrowed_by if shown else "",
        "ended_by": head.ended_by if shown else "",
    }


def waiting(place: Waiting) -> dict[str, Any]:
    """Return a place in the queue."""
    return {
        "ticket": str(place.ticket.id),
        "position": place.position,
        "eta_seconds": round(place.eta.total_seconds()) if place.eta is not None else None,
        "poll_after": max(round(place.poll_after.total_seconds()), 1),
        "deadline": place.ticket.deadline,
    }
