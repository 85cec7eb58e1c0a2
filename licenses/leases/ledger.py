"""The only writer of seats and of what tools count.

A ledger belongs to one batch. It changes the snapshot in memory at each decision, and
keeps the writes until ``write``, which sends all of them in one round trip.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, models

from licenses import auditing
from licenses.auditing import Actor
from licenses.models import AuditRecord, BorrowKey, EndReason, Lease, Team, Tool
from licenses.models.denial import EPISODE_WINDOW
from licenses.policy import Item, Subject

from .snapshot import Snapshot
from .sql import is_postgresql

# The columns of a tool that only this module changes.
COUNTED = (
    "in_use",
    "kept_back",
    "waiting",
    "last_fence",
    "overdraft_total",
    "holding_time",
    *(f"{reason}_total" for reason in EndReason.values),
)


@dataclass(frozen=True, slots=True)
class _Episode:
    """What refusals of one kind have in common."""

    tool: int
    user: str
    code: str


@dataclass(slots=True)
class _Denied:
    host: str
    team: int | None
    seats: int
    attempts: int = 0


class Ledger:
    """What a batch changes of seats. All tools of the snapshot are locked."""

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
        """Lend seats: return one lease for each item, the head first. ``tools`` are all
        that were asked for: the subject's episodes of denials there are over."""
        now = self.snapshot.now
        leases: list[Lease] = []
        for item in items:
            tool = self.snapshot.tools[item.tool]
            tool.last_fence += 1
            tool.in_use += item.seats
            above = min(max(tool.in_use - tool.capacity, 0), item.seats)
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
        """Take the seats of an open lease of a locked tool back. A lease whose time is
        over already ends as of then, for that reason."""
        tool, now = self.snapshot.by_id[lease.tool_id], self.snapshot.now
        lease.end_when_over(now)
        if lease.ended_at is None:
            # A clock that was set back must not end a lease before it began.
            lease.ended_at, lease.end_reason, lease.end_note = max(now, lease.borrowed_at), reason, note
            lease.ended_by = by.label if by else ""
        tool.in_use -= lease.seats
        tool.held_for(lease.duration(now))
        total = f"{EndReason(lease.end_reason)}_total"
        setattr(tool, total, getattr(tool, total) + 1)
        self._count_for(tool, lease, -lease.seats)
        self._ended.append(lease)
        if lease.part_of_id is None:
            self.snapshot.change_borrows(lease.user, borrowed=-1)

    def extend(self, leases: Iterable[Lease], expires_at: datetime | None) -> None:
        """Let the live leases of one borrow last until then; None is without an end."""
        for lease in leases:
            lease.expires_at = expires_at
            self._extended.append(lease)

    def change_waiting(self, tool: Tool, change: int) -> None:
        """Count the tickets that wait for a tool."""
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
        """Keep what the first call with an idempotency key is answered."""
        self._keys.append(key)
        self.snapshot.keys[key.caller, key.key] = key

    def record(self, by: Actor, **what: Any) -> None:
        """Record an act for somebody else in the audit, as ``auditing.record`` does."""
        self._records.append(auditing.made(by, at=self.snapshot.now, **what))

    def _count_for(self, tool: Tool, lease: Lease, seats: int) -> None:
        self._tools[tool.pk] = tool
        team = lease.team.name if lease.team is not None else None
        is_shared = self.snapshot.share(tool, team) is not None
        tool.kept_back += self.snapshot.count(tool, user=lease.user, team=team, seats=seats)
        if is_shared and lease.team_id is not None:
            self._teams[tool.pk, lease.team_id] += seats

    # --- Writing --------------------------------------------------------------------

    def write(self) -> None:
        """Send all that was changed. On PostgreSQL the caller may have begun a pipeline."""
        now = self.snapshot.now
        if self._denied:
            _write_denials(self._denied, now)
        if self._granted:
            _insert(Lease, self._granted)
        if self._ended:
            _update_rows(Lease, self._ended, ("ended_at", "end_reason", "end_note", "ended_by"))
        if self._extended:
            _update_rows(Lease, self._extended, ("expires_at",))
        if changes := [(tool, team, seats) for (tool, team), seats in self._teams.items() if seats]:
            _run(
                "UPDATE licenses_allotment SET in_use = in_use + {2} WHERE tool_id = {0} AND team_id = {1}",
                ("bigint", "bigint", "integer"),
                changes,
            )
        if self._tools:
            _update_rows(Tool, list(self._tools.values()), COUNTED)
        if self._resolved:
            _resolve_denials(self._resolved, now)
        if self._keys:
            _insert(BorrowKey, self._keys, without=("created_at",))
        if self._records:
            _insert(AuditRecord, self._records, without=("id",))
        self._tools, self._granted, self._ended, self._extended = {}, [], [], []
        self._teams, self._denied, self._resolved = Counter(), {}, []
        self._keys, self._records = [], []


def _columns(model: type[models.Model], names: Iterable[str]) -> list[Any]:
    return [model._meta.get_field(name) for name in names]


def _values(rows: Sequence[models.Model], fields: Sequence[Any]) -> list[list[Any]]:
    """Return the values of each row as the database's driver takes them."""
    if is_postgresql():
        # psycopg knows every type that these have, but for JSON.
        return [
            [
                field.get_db_prep_save(getattr(row, field.attname), connection)
                if field.get_internal_type() == "JSONField"
                else getattr(row, field.attname)
                for field in fields
            ]
            for row in rows
        ]
    return [[field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields] for row in rows]


def _insert(model: type[models.Model], rows: Sequence[models.Model], *, without: Sequence[str] = ()) -> None:
    fields = [field for field in model._meta.concrete_fields if field.name not in without]
    columns = ", ".join(connection.ops.quote_name(str(field.column)) for field in fields)
    table = model._meta.db_table
    values = _values(rows, fields)
    with connection.cursor() as cursor:
        if is_postgresql():
            arrays = ", ".join(f"%s::{_type(field)}[]" for field in fields)
            cursor.execute(
                f"INSERT INTO {table} ({columns}) SELECT * FROM unnest({arrays})",
                _transposed(values),
            )
        else:
            slots = ", ".join(["%s"] * len(fields))
            cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({slots})", values)


def _update_rows(model: type[models.Model], rows: Sequence[models.Model], names: Sequence[str]) -> None:
    """Write these columns of rows, by their key."""
    key: Any = model._meta.pk
    fields = [key, *_columns(model, names)]
    sets = ", ".join(f"{field.column} = {{{number}}}" for number, field in enumerate(fields) if number)
    statement = f"UPDATE {model._meta.db_table} SET {sets} WHERE {model._meta.db_table}.{key.column} = {{0}}"
    _run(statement, [_type(field) for field in fields], _values(rows, fields))


def _run(statement: str, types: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Run an UPDATE for each row of values. ``{n}`` in the statement is value n, of type
    n. One statement for all rows where the database can."""
    with connection.cursor() as cursor:
        if is_postgresql():
            before, _, after = statement.partition(" WHERE ")
            arrays = ", ".join(f"%s::{name}[]" for name in types)
            names = [f"value.c{number}" for number in range(len(types))]
            columns = ", ".join(f"c{number}" for number in range(len(types)))
            cursor.execute(
                f"{before.format(*names)} FROM unnest({arrays}) AS value ({columns}) WHERE {after.format(*names)}",
                _transposed(rows),
            )
        else:
            order = [int(part) for part in _slots(statement)]
            text = statement.format(*["%s"] * len(types))
            cursor.executemany(text, [[row[number] for number in order] for row in rows])


def _slots(statement: str) -> Iterable[str]:
    return (part.partition("}")[0] for part in statement.split("{")[1:])


def _transposed(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _type(field: Any) -> str:
    """Return PostgreSQL's name of a field's type, without its length."""
    kind: str = field.db_type(connection) or ""
    return {"varchar": "text", "serial": "integer", "bigserial": "bigint"}.get(
        kind.partition("(")[0], kind.partition("(")[0]
    )


def _write_denials(denied: dict[_Episode, _Denied], now: datetime) -> None:
    rows = [
        (episode.tool, episode.user, episode.code, one.host, one.team, one.seats, one.attempts)
        for episode, one in denied.items()
    ]
    columns = 'tool_id, "user", code, host, team_id, seats, attempts, first_at, last_at'
    types = ("bigint", "text", "text", "text", "bigint", "integer", "integer")
    moment, since = (connection.ops.adapt_datetimefield_value(at) for at in (now, now - EPISODE_WINDOW))
    with connection.cursor() as cursor:
        if is_postgresql():
            arrays = ", ".join(f"%s::{name}[]" for name in types)
            # One statement: which episodes go on, and rows for those that begin.
            cursor.execute(
                "WITH denied AS (SELECT * FROM unnest("
                f"{arrays}) AS denied (tool_id, name, code, host, team_id, seats, attempts)), "
                "going_on AS (UPDATE licenses_denial episode SET attempts = episode.attempts + denied.attempts, "
                "last_at = %s FROM denied WHERE episode.tool_id = denied.tool_id AND episode.user = denied.name "
                "AND episode.code = denied.code AND episode.resolved_at IS NULL AND episode.last_at > %s "
                "RETURNING denied.tool_id, denied.name, denied.code) "
                f"INSERT INTO licenses_denial ({columns}) "
                "SELECT denied.*, %s::timestamptz, %s::timestamptz FROM denied "
                "WHERE (tool_id, name, code) NOT IN (SELECT tool_id, name, code FROM going_on)",
                [*_transposed(rows), now, now - EPISODE_WINDOW, now, now],
            )
            return
        for tool, user, code, host, team, seats, attempts in rows:
            cursor.execute(
                "UPDATE licenses_denial SET attempts = attempts + %s, last_at = %s WHERE tool_id = %s "
                'AND "user" = %s AND code = %s AND resolved_at IS NULL AND last_at > %s',
                [attempts, moment, tool, user, code, since],
            )
            if not cursor.rowcount:
                cursor.execute(
                    f"INSERT INTO licenses_denial ({columns}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                    [tool, user, code, host, team, seats, attempts, moment, moment],
                )


def _resolve_denials(resolved: Sequence[tuple[str, int, Lease]], now: datetime) -> None:
    moment, since = (connection.ops.adapt_datetimefield_value(at) for at in (now, now - EPISODE_WINDOW))
    id_of: Any = Lease._meta.pk
    rows = [(user, tool, id_of.get_db_prep_save(lease.pk, connection), moment, since) for user, tool, lease in resolved]
    _run(
        "UPDATE licenses_denial SET resolved_at = {3}, resolved_by_id = {2} "
        'WHERE licenses_denial."user" = {0} AND tool_id = {1} AND resolved_at IS NULL AND last_at > {4}',
        ("text", "bigint", "uuid", "timestamptz", "timestamptz"),
        rows,
    )
