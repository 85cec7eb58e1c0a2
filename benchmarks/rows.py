"""Rows by SQL: a site's past, open leases, teams with quotas, people who wait; and whether they agree.

The names of the people who load the server begin with ``bench``, those of the site's
own with ``site``: what the load leaves behind can be deleted.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

YEAR = 365 * 24 * 3600
# What the load writes.
TABLES = (
    "licenses_tool",
    "licenses_lease",
    "licenses_denial",
    "licenses_borrowkey",
    "licenses_ticket",
    "licenses_ticketclaim",
    "licenses_allotment",
)
MINE = "\"user\" LIKE 'bench%'"
# With {0}, a number: so many seconds ago, and from now; an interval of so many hours.
DIALECTS = {
    "postgresql": {
        "id": "gen_random_uuid()",
        "ago": "clock_timestamp() - ({0}) * interval '1 second'",
        "ahead": "clock_timestamp() + ({0}) * interval '1 second'",
        "hours": "({0}) * interval '1 hour'",
    },
    "sqlite": {
        "id": "lower(hex(randomblob(16)))",
        "ago": "strftime('%Y-%m-%d %H:%M:%f', 'now', printf('%+.3f seconds', -({0})))",
        "ahead": "strftime('%Y-%m-%d %H:%M:%f', 'now', printf('%+.3f seconds', {0}))",
        "hours": "({0}) * 3600000000",
    },
}


@dataclass(frozen=True)
class Sql:
    """A connection that commits each statement."""

    vendor: str
    connection: Any

    def __call__(self, statement: str) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []

    def write(self, name: str, number: object = "") -> str:
        """An expression as this database has it."""
        return DIALECTS[self.vendor][name].format(number)


@contextmanager
def connected(database: str) -> Iterator[Sql]:
    """A connection to a database of this URL or path."""
    if database.startswith("postgres"):
        with psycopg.connect(database, autocommit=True) as connection:
            yield Sql("postgresql", connection)
    else:
        file = sqlite3.connect(database, isolation_level=None, timeout=60)
        try:
            yield Sql("sqlite", file)
        finally:
            file.close()


def past(sql: Sql, leases: int, tools: Sequence[str]) -> None:
    """Add returned leases of an hour each, over the last year."""
    ago = f"{9 * 3600} + i * {YEAR / max(leases, 1)}"
    _leases(sql, leases, tools, borrowed_ago=ago, ended=sql.write("ago", f"{ago} - 3600"), reason="returned")


def open_leases(sql: Sql, leases: int, tools: Sequence[str]) -> None:
    """Add open leases, borrowed within the last hours."""
    _leases(sql, leases, tools, borrowed_ago=f"i * {4 * 3600 / max(leases, 1)}", ended="NULL", reason="")
    count(sql)


def take_all_seats(sql: Sql, tool: str) -> None:
    """Add open leases for all seats of a tool."""
    ((capacity,),) = sql(f"SELECT capacity FROM licenses_tool WHERE name = '{tool}'")
    open_leases(sql, capacity, [tool])


def _leases(sql: Sql, number: int, tools: Sequence[str], *, borrowed_ago: str, ended: str, reason: str) -> None:
    if not number:
        return
    sql(
        f"""
        INSERT INTO licenses_lease (id, tool_id, "user", host, project, place, fence, seats, borrowed_at, ttl,
            expires_at, ended_at, end_reason, end_note)
        WITH RECURSIVE {_series(number)}, {_numbered(tools)}
        SELECT {sql.write("id")}, tools.id, 'site' || (i % 400), 'host' || (i % 200), 'project' || (i % 40), 0,
            tools.last_fence + i + 1, 1, {sql.write("ago", borrowed_ago)}, {sql.write("hours", 8)},
            {sql.write("ahead", f"8 * 3600 - ({borrowed_ago})")}, {ended}, '{reason}', ''
        FROM series JOIN tools ON tools.turn = i % {len(tools)}
        """
    )
    sql(
        """
        UPDATE licenses_tool SET last_fence = coalesce(
            (SELECT max(fence) FROM licenses_lease WHERE tool_id = licenses_tool.id), last_fence)
        """
    )


def tools(sql: Sql, names: Sequence[str], capacity: int) -> None:
    """Add the tools of these names that are not there."""
    values = ", ".join(f"('{name}')" for name in names)
    sql(
        f"""
        INSERT INTO licenses_tool (name, display_name, vendor, capacity, in_use, enabled, created_at)
        WITH names(name) AS (VALUES {values})
        SELECT name, '', '', {capacity}, 0, true, {sql.write("ago", 0)} FROM names
        WHERE name NOT IN (SELECT name FROM licenses_tool)
        """
    )


def teams(sql: Sql, number: int, people: int, tools: Sequence[str], *, quota: int) -> None:
    """Add teams with a quota of each tool, and people, bench1 and so on, who are in them in turn."""
    if not number:
        return
    ago = sql.write("ago", 0)
    sql(
        f"""
        INSERT INTO licenses_team (name, display_name, created_at)
        WITH RECURSIVE {_series(number)} SELECT 'bench_team' || i, '', {ago} FROM series
        """
    )
    sql(
        f"""
        INSERT INTO licenses_teammember (team_id, "user", source)
        WITH RECURSIVE {_series(people)} SELECT team.id, 'bench' || (i + 1), 'manual' FROM series
        JOIN licenses_team team ON team.name = 'bench_team' || (i % {number})
        """
    )
    sql(
        f"""
        INSERT INTO licenses_allotment (tool_id, team_id, quota, reservation, in_use)
        SELECT tool.id, team.id, {quota}, 0, 0 FROM licenses_tool tool, licenses_team team
        WHERE tool.name IN ({_names(tools)}) AND team.name LIKE 'bench_team%'
        """
    )
    sql(f"UPDATE licenses_tool SET has_rules = true WHERE name IN ({_names(tools)})")


def waiters(sql: Sql, number: int, tool: str, full: str) -> list[str]:
    """Add tickets for a seat of ``tool`` and one of a tool that has none; return their ids.

    Seats of ``tool`` are set aside for them, and others can still borrow it.
    """
    if not number:
        return []
    items = f'[{{"number": 0, "items": [{{"tool": "{tool}", "seats": 1}}, {{"tool": "{full}", "seats": 1}}]}}]'
    week = sql.write("ahead", 7 * 24 * 3600)
    sql(
        f"""
        INSERT INTO licenses_ticket (id, "user", host, project, alternatives, state, created_at, alive_until, deadline,
            alternative)
        WITH RECURSIVE {_series(number)}
        SELECT {sql.write("id")}, 'site' || (i % 400), 'host' || (i % 200), '', '{items}', 'waiting',
            {sql.write("ago", f"{number} - i")}, until, until, 0 FROM series, (SELECT {week} AS until) times
        """
    )
    sql(
        f"""
        INSERT INTO licenses_ticketclaim (ticket_id, tool_id, seats)
        SELECT ticket.number, tool.id, 1 FROM licenses_ticket ticket, licenses_tool tool
        WHERE tool.name IN ({_names([tool, full])}) ORDER BY ticket.number
        """
    )
    count(sql)
    return [str(id) for (id,) in sql("SELECT id FROM licenses_ticket ORDER BY number")]


def count(sql: Sql) -> None:
    """Make the counters what the rows say."""
    sql(
        """
        UPDATE licenses_tool SET denied_at = NULL, in_use = coalesce((SELECT sum(seats) FROM licenses_lease
            WHERE tool_id = licenses_tool.id AND ended_at IS NULL), 0),
            waiting = (SELECT count(*) FROM licenses_ticketclaim WHERE tool_id = licenses_tool.id)
        """
    )
    sql(
        """
        UPDATE licenses_allotment SET in_use = coalesce((SELECT sum(seats) FROM licenses_lease lease
            WHERE lease.tool_id = licenses_allotment.tool_id AND lease.team_id = licenses_allotment.team_id
            AND ended_at IS NULL), 0)
        """
    )


def reset(database: str) -> None:
    """Forget what the load left behind, so that each round begins alike. The load generator
    leaves requests behind when its time is over; they may end first."""
    with connected(database) as sql:
        _wait_until_quiet(sql)
        mine = f"(SELECT number FROM licenses_ticket WHERE {MINE})"
        for statement in (
            "DELETE FROM licenses_borrowkey",
            "DELETE FROM licenses_denial",
            f"DELETE FROM licenses_ticketclaim WHERE ticket_id IN {mine}",
            f"DELETE FROM licenses_ticket WHERE {MINE}",
            f"DELETE FROM licenses_lease WHERE {MINE}",
        ):
            sql(statement)
        count(sql)
        settle(sql)


def settle(sql: Sql) -> None:
    """Leave the database no work of the past: dead rows, statistics, a checkpoint. SQLite has no statistics in a
    real server: nobody runs ANALYZE there."""
    if sql.vendor == "postgresql":
        sql(f"VACUUM ANALYZE {', '.join(TABLES)}")
        sql("CHECKPOINT")
    else:
        sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _wait_until_quiet(sql: Sql) -> None:
    """Wait until nobody has been at work for half a second; a minute at most."""
    quiet, before, deadline = 0, None, time.monotonic() + 60
    while quiet < 5 and time.monotonic() < deadline:
        time.sleep(0.1)
        if sql.vendor == "postgresql":
            busy = sql(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND backend_type = 'client backend' AND state <> 'idle'"
            )
            quiet = 0 if busy else quiet + 1
        else:
            # A number that changes with every commit of another connection.
            now = sql("PRAGMA data_version")
            quiet, before = (quiet + 1 if now == before else 0), now


def disagreements(database: str) -> list[str]:
    """What a run must not leave behind: counters that aren't their rows, more seats out
    than there are, more than a team's quota."""
    with connected(database) as sql:
        found = [
            *sql(
                """
                SELECT tool.name || ': in_use ' || tool.in_use || ', rows ' || coalesce(sum(lease.seats), 0)
                FROM licenses_tool tool
                LEFT JOIN licenses_lease lease ON lease.tool_id = tool.id AND lease.ended_at IS NULL
                GROUP BY tool.id, tool.name, tool.in_use HAVING tool.in_use <> coalesce(sum(lease.seats), 0)
                """
            ),
            *sql("SELECT name || ': oversold' FROM licenses_tool WHERE in_use > capacity + overdraft"),
            *sql(
                """
                SELECT tool.name || ': waiting ' || waiting || ', rows ' || count(claim.id) FROM licenses_tool tool
                LEFT JOIN licenses_ticketclaim claim ON claim.tool_id = tool.id
                GROUP BY tool.id, tool.name, tool.waiting HAVING tool.waiting <> count(claim.id)
                """
            ),
            *sql(
                """
                SELECT 'allotment ' || mine.id || ': in_use ' || mine.in_use || ', quota ' || mine.quota || ', rows '
                    || coalesce(sum(lease.seats), 0) FROM licenses_allotment mine
                LEFT JOIN licenses_lease lease
                    ON lease.tool_id = mine.tool_id AND lease.team_id = mine.team_id AND lease.ended_at IS NULL
                GROUP BY mine.id, mine.in_use, mine.quota
                HAVING mine.in_use <> coalesce(sum(lease.seats), 0) OR mine.in_use > mine.quota
                """
            ),
        ]
    return [line for (line,) in found]


def _series(number: int) -> str:
    return f"series(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM series WHERE i + 1 < {number})"


def _numbered(tools: Sequence[str]) -> str:
    return (
        "tools AS (SELECT id, last_fence, row_number() OVER (ORDER BY id) - 1 AS turn "
        f"FROM licenses_tool WHERE name IN ({_names(tools)}))"
    )


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
