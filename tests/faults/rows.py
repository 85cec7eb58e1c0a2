"""The rows that a run left behind, as plain values; times are seconds since 1970.

Reads the tables by their names and nothing of the server's code, so that a
fault there cannot hide here.
"""

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from .stack import Postgres, Sqlite

Row = dict[str, Any]

QUERIES = {
    "tools": "SELECT id, name, capacity, overdraft, user_limit, enabled, valid_from, valid_until, in_use, kept_back,"
    " reserved, waiting, last_fence, returned_total, expired_total, forced_total, revoked_total, overdraft_total"
    " FROM licenses_tool",
    "teams": "SELECT id, name FROM licenses_team",
    "members": 'SELECT "user", team_id FROM licenses_teammember',
    "leases": 'SELECT id, tool_id, "user", team_id, project, part_of_id, place, fence, seats, overdraft_seats,'
    " borrowed_at, expires_at, ended_at, end_reason FROM licenses_lease",
    "tickets": 'SELECT number, id, "user", alternatives, state, created_at, alive_until, deadline, closed_at, lease_id'
    " FROM licenses_ticket",
    "claims": "SELECT ticket_id, tool_id, seats FROM licenses_ticketclaim",
    "allotments": "SELECT tool_id, team_id, quota, reservation, in_use FROM licenses_allotment",
    "keys": "SELECT caller, key, lease_id, ticket_id, refusal FROM licenses_borrowkey",
    "audit": "SELECT id, recorded_at, action, subject_kind, subject, before, after FROM licenses_auditrecord",
}
MOMENTS = {
    "valid_from",
    "valid_until",
    "borrowed_at",
    "expires_at",
    "ended_at",
    "created_at",
    "alive_until",
    "deadline",
    "closed_at",
    "recorded_at",
}
UUIDS = {"id", "part_of_id", "lease_id"}
DOCUMENTS = {"alternatives", "before", "after"}


def read(database: Postgres | Sqlite) -> dict[str, list[Row]]:
    """Every row that the promises are about, by table, all as of one moment."""
    with database.session() as connection:
        is_sqlite = isinstance(connection, sqlite3.Connection)
        connection.execute("BEGIN" if is_sqlite else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

        def ask(query: str) -> list[Row]:
            cursor: Any = connection.execute(query)
            names = [column[0] for column in cursor.description]
            return [_plain(dict(zip(names, values, strict=True))) for values in cursor.fetchall()]

        return {table: ask(query) for table, query in QUERIES.items()}


def _plain(row: Row) -> Row:
    return {name: _value(name, value) for name, value in row.items()}


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    convert: Callable[[Any], Any] | None = None
    if name in MOMENTS:
        convert = _moment
    elif name in DOCUMENTS and isinstance(value, str):
        convert = json.loads
    elif name in UUIDS and not isinstance(value, int):
        convert = _uuid
    return convert(value) if convert else value


def _uuid(value: Any) -> str:
    return str(value).replace("-", "")


def _moment(value: Any) -> float:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
