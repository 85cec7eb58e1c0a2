"""Write seats and the counters of tools. No other module writes them.

A ledger belongs to one batch. Each decision changes the snapshot in memory. ``write`` sends
all changes in one round trip.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import F, Sum

from licenses import auditing
from licenses.auditing import Actor
from licenses.models import Action, AuditRecord, BorrowKey, EndReason, Lease, Team, Tool
from licenses.models.denial import EPISODE_WINDOW
from licenses.policy import Item, Subject

from . import sql
from .snapshot import Snapshot

# The columns of a tool that only this module changes.
COUNTED = (
    "borrowed",
    "reserved_idle",
    "waiting",
    "last_fence",
    "overdraft_total",
    "holding_time",
    *(f"{reason}_total" for reason in EndReason.values),
)


@dataclass(frozen=True, slots=True)
class _Episode:
    """The key of an episode: refusals of one kind of a user at a tool."""

    tool: int
    user: str
    code: str


@dataclass(slots=True)
class _Denied:
    host: str
    team: int | None
    seats: int
    attempts: int = 0


def settle(tool: Tool) -> None:
    """Count the quotas, reservations, limits and access rules of a locked tool, after the
    caller's transaction has changed them."""
    allotments = [allotment.for_policy for allotment in tool.allotments.all()]
    tool.reserved = sum(allotment.reservation for allotment in allotments)
    tool.reserved_idle = sum(allotment.reserved_idle for allotment in allotments)
    tool.has_rules = bool(allotments) or tool.user_limits.exists() or tool.access_rules.exists()
    tool.save(update_fields=["reserved", "reserved_idle", "has_rules"])


def seats_of_team(tool: Tool, team: Team) -> int:
    """Return the seats of a locked tool that a team has borrowed, for a new allotment."""
    open_leases = Lease.objects.open().filter(tool=tool, team=team)
    seats: int = open_leases.aggregate(seats=Sum("seats", default=0))["seats"]
    return seats


def skip_fences(number: int) -> None:
    """Raise the last fence of every tool by this number. Part of the caller's transaction."""
    Tool.objects.update(last_fence=F("last_fence") + number)


def end_with_license(tool: Tool, now: datetime) -> None:
    """Let the live leases of a locked tool end with its license at the latest.

    Leases without a heartbeat end exactly then. If the license has ended, leases end at
    ``now``. The caller has locked them.
    """
    live = Lease.objects.filter(tool=tool).active(now)
    end = max(tool.valid_until, now) if tool.valid_until is not None else None
    live.filter(ttl__isnull=True).update(expires_at=end)
    if end is not None:
        live.filter(expires_at__gt=end).update(expires_at=end)


class Ledger:
    """The changes of a batch to seats. All tools of the snapshot are locked."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._tools: dict[int, Tool] = {}
        self._granted: list[Lease] = []
        self._ended: list[Lease] = []
        self._extended: list[Lease] = []
        self._teams: Counter[tuple[int, int]] = Counter()
        self._denied: dict[_Episode, _Denied] = {}
        # Who got seats: their episodes at these tools are over.
        self._resolved: list[tuple[str, int, Lease]] = []
        self._keys: list[BorrowKey] = []
        self._records: list[AuditRecord] = []

    # --- Changes --------------------------------------------------------------------

    def grant(
        self,
        items: Sequence[Item],
        *,
        subject: Subject,
        team: Team | None,
        tools: Iterable[str],
        ttl: timedelta | None,
        expires_at: datetime | None,
        by: Actor | None,
    ) -> list[Lease]:
        """Lend seats: return one lease for each item, the head first.

        ``tools`` are all tools of the borrow request. The subject's episodes of denials at
        these tools end.
        """
        now = self.snapshot.now
        leases: list[Lease] = []
        for item in items:
            tool = self.snapshot.tools[item.tool]
            tool.last_fence += 1
            tool.borrowed += item.seats
            above = min(max(tool.borrowed - tool.capacity, 0), item.seats)
            tool.overdraft_total += above > 0
            lease = Lease(
                tool=tool,
                part_of=leases[0] if leases else None,
                place=len(leases),
                fence=tool.last_fence,
                user=subject.user,
                team=team,
                project=subject.project,
                host=subject.host,
                seats=item.seats,
                overdraft_seats=above,
                borrowed_at=now,
                ttl=ttl,
                expires_at=expires_at,
                borrowed_by=by.label if by else "",
            )
            self._count_for(tool, lease, item.seats)
            leases.append(lease)
        self._granted += leases
        self._resolved += [(subject.user, self.snapshot.tools[name].pk, leases[0]) for name in tools]
        self.snapshot.change_borrows(subject.user, borrowed=+1)
        return leases

    def end(self, lease: Lease, reason: EndReason, *, note: str = "", by: Actor | None = None) -> None:
        """End an open lease of a locked tool for a reason. If the lease has expired already, it
        ends as of then, with that reason."""
        tool, now = self.snapshot.by_id[lease.tool_id], self.snapshot.now
        lease.end_when_over(now)
        if lease.ended_at is None:
            # A clock that was set back must not end a lease before it began.
            lease.ended_at, lease.end_reason, lease.end_note = max(now, lease.borrowed_at), reason, note
            lease.ended_by = by.label if by else ""
        tool.borrowed -= lease.seats
        tool.held_for(lease.duration(now))
        total = f"{EndReason(lease.end_reason)}_total"
        setattr(tool, total, getattr(tool, total) + 1)
        self._count_for(tool, lease, -lease.seats)
        self._ended.append(lease)
        if lease.part_of_id is None and self.snapshot.has_counted(lease.expires_at):
            self.snapshot.change_borrows(lease.user, borrowed=-1)

    def extend(self, leases: Iterable[Lease], expires_at: datetime | None) -> None:
        """Extend the live leases of one borrow to ``expires_at``; None is without an end."""
        for lease in leases:
            lease.expires_at = expires_at
            self._extended.append(lease)

    def change_waiting(self, tool: Tool, change: int) -> None:
        """Change the number of tickets that wait for a tool."""
        tool.waiting += change
        self._tools[tool.pk] = tool

    def deny(self, tool: Tool, *, user: str, team: Team | None, host: str, code: str, seats: int) -> None:
        """Add a refusal to its episode, or begin one."""
        if any(user == granted for granted, _, _ in self._resolved):
            # The episode that the grant ends is an earlier one.
            self.write()
        episode = _Episode(tool.pk, user, code)
        denied = self._denied.setdefault(episode, _Denied(host, team.pk if team else None, seats))
        denied.attempts += 1

    def keep(self, key: BorrowKey) -> None:
        """Store the answer to the first call with an idempotency key."""
        self._keys.append(key)
        self.snapshot.keys[key.caller, key.key] = key

    def record(self, by: Actor, **what: Any) -> None:
        """Record in the audit what an actor did for another user, as ``auditing.record`` does."""
        self._records.append(auditing.made(by, at=self.snapshot.now, **what))

    def has_recorded(self, by: Actor, action: Action, lease: Lease) -> bool:
        """Return whether the records of this batch have this action of this actor."""
        _, name = auditing.subject_of(lease)
        acts = ((record.actor_kind, record.actor, record.action, record.subject) for record in self._records)
        return (by.kind, by.name, action, name) in acts

    def _count_for(self, tool: Tool, lease: Lease, seats: int) -> None:
        self._tools[tool.pk] = tool
        team = lease.team.name if lease.team is not None else None
        has_allotment = self.snapshot.allotment(tool, team) is not None
        tool.reserved_idle += self.snapshot.count(tool, user=lease.user, team=team, seats=seats)
        if has_allotment and lease.team_id is not None:
            self._teams[tool.pk, lease.team_id] += seats

    # --- Writing --------------------------------------------------------------------

    def write(self) -> None:
        """Send all changes. On PostgreSQL the caller may have begun a pipeline."""
        now, since = self.snapshot.now, self.snapshot.now - EPISODE_WINDOW
        if self._denied:
            rows = [
                (episode.tool, episode.user, episode.code, one.host, one.team, one.seats, one.attempts)
                for episode, one in self._denied.items()
            ]
            sql.write_denials(rows, now=now, since=since)
        writes: list[Any] = []
        if self._granted:
            writes.append(sql.insert(Lease).of(self._granted))
        if self._ended:
            writes.append(sql.update(Lease, "ended_at", "end_reason", "end_note", "ended_by").of(self._ended))
        if self._extended:
            writes.append(sql.update(Lease, "expires_at").of(self._extended))
        if changes := [(tool, team, seats) for (tool, team), seats in self._teams.items() if seats]:
            writes.append((sql.change_allotments(), changes))
        if self._resolved:
            times = sql.parameters(now, since)
            grants = [(user, tool, *sql.parameters(lease.pk), *times) for user, tool, lease in self._resolved]
            writes.append((sql.resolve_denials(), grants))
        if self._keys:
            writes.append(sql.insert(BorrowKey, without=("created_at",)).of(self._keys))
        if self._records:
            writes.append(sql.insert(AuditRecord, without=("id",)).of(self._records))
        if self._tools:
            writes.append(sql.update(Tool, *COUNTED).of(self._tools.values()))
        sql.write(*writes)
        self._tools, self._granted, self._ended, self._extended = {}, [], [], []
        self._teams, self._denied, self._resolved = Counter(), {}, []
        self._keys, self._records = [], []
