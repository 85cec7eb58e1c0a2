"""The statements of the borrow, the return and the status, and of who asks, compiled once.

The ORM takes several times as long to write these statements as PostgreSQL
takes to run them, and every one of them is a round trip, some under the lock
that all borrowers of a tool wait for. So the queries are written by the ORM
once and kept as text, and what is written together is sent together. The
figures are in docs/performance.md.
"""

import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Generic, TypeVar

from django.db import NotSupportedError, connection, models
from django.db.models.query import QuerySet
from django.utils import timezone

from .models import ApiToken, EndReason, Lease, Team, Tool

M = TypeVar("M", bound=models.Model)

# PostgreSQL's code for "cached plan must not change result type": a migration altered a
# column that a prepared statement reads. A rollback makes psycopg prepare them all anew.
STALE_PLAN = "0A000"


# What a locking query is asked besides its rows. Read after each row's lock was
# got: in the locking query itself the time would be stale by the wait.
CLOCK = "clock_timestamp()"
TEAMS_OF_USER = """(
    SELECT json_agg(json_build_array(team.id, team.name) ORDER BY team.name)
    FROM licenses_team team JOIN licenses_teammember member ON member.team_id = team.id
    WHERE (member.user = %s OR lower(member.user) = lower(%s)) AND (member.user = %s OR team.ignores_case)
)"""


def again_if_stale(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
    """Run a statement, as Django's ``execute_wrapper``; once more if its plan is stale.

    Within a transaction the error is raised: PostgreSQL has undone the transaction then.
    """
    try:
        return execute(sql, params, many, context)
    except NotSupportedError as error:
        if getattr(error.__cause__, "sqlstate", None) != STALE_PLAN or connection.in_atomic_block:
            raise
        # psycopg forgets its prepared statements with the server's.
        context["connection"].connection.execute("DEALLOCATE ALL")
        return execute(sql, params, many, context)


class Compiled(Generic[M]):
    """A query of whole rows, with annotations and a related row or without.
    ``stand_ins``, distinct values, stand for its parameters; what else
    it has is constant.

    ``besides`` are expressions that PostgreSQL gives with each row; other
    databases don't. Made at its first use: a lock can be compiled within a
    transaction only.
    """

    def __init__(
        self,
        build: Callable[..., QuerySet[M]],
        *stand_ins: Any,
        related: str | None = None,
        besides: Sequence[str] = (),
    ) -> None:
        queryset = build(*stand_ins)
        self.compiler = queryset.query.get_compiler(connection=connection)
        self.sql, parameters = self.compiler.as_sql()
        known = {_parameter(value): number for number, value in enumerate(stand_ins)}
        self.numbers = [known.get(parameter) for parameter in parameters]
        self.constants = parameters
        self.model = queryset.model
        self.names = [field.attname for field in self.model._meta.concrete_fields]
        self.related = related
        self.related_model: Any = self.model
        if related:
            self.related_model = self.model._meta.get_field(related).related_model
        self.related_names = [field.attname for field in self.related_model._meta.concrete_fields] if related else []
        self.annotations = self.compiler.annotation_col_map or {}
        self.converters = self.compiler.get_converters([expression for expression, _, _ in self.compiler.select])
        self.besides = len(besides) if connection.vendor == "postgresql" else 0
        if self.besides:
            more = ", ".join(besides)
            self.sql = f"WITH locked AS MATERIALIZED ({self.sql}) SELECT *, {more} FROM locked"  # noqa: S608

    def rows(self, *values: Any, besides: Sequence[Any] = ()) -> tuple[list[M], Sequence[Any]]:
        """The rows, and what the last of them has besides; ``besides`` are the
        parameters of that."""
        parameters = [
            constant if number is None else _parameter(values[number])
            for number, constant in zip(self.numbers, self.constants, strict=True)
        ]
        with connection.cursor() as cursor:
            cursor.execute(self.sql, [*parameters, *(besides if self.besides else ())])
            found = cursor.fetchall()
        # The rows are locked one after the other: the last one's time is after all waits.
        more = found[-1][-self.besides :] if found and self.besides else ()
        rows: Iterable[Sequence[Any]] = found
        if self.converters:
            rows = self.compiler.apply_converters(found, self.converters)
        return [self._made(row) for row in rows], more

    def _made(self, row: Sequence[Any]) -> M:
        end = len(self.names)
        made = self.model.from_db(connection.alias, self.names, row[:end])
        if self.related:
            related = row[end : end + len(self.related_names)]
            setattr(made, self.related, self.related_model.from_db(connection.alias, self.related_names, related))
        for name, column in self.annotations.items():
            setattr(made, name, row[column])
        return made


def _parameter(value: Any) -> Any:
    if isinstance(value, uuid.UUID) and not connection.features.has_native_uuid_field:
        return value.hex
    if isinstance(value, datetime):
        return connection.ops.adapt_datetimefield_value(value)
    return value


# Leases that one transaction closes at most, of those whose time is over.
OVERDUE_AT_ONCE = 200
SOME_ID = uuid.UUID(int=0)
SOME_KEY = -1
SOME_TIME = datetime(2000, 1, 1, tzinfo=UTC)


@cache
def _locked(names: int) -> Compiled[Tool]:
    stand_ins = [f"name {number}" for number in range(names)]
    return Compiled(lambda *names: Tool.objects.locked(names), *stand_ins, besides=[TEAMS_OF_USER, CLOCK])


@cache
def _locked_for_return() -> Compiled[Lease]:
    return Compiled(Lease.objects.locked_for_return, SOME_ID, related="tool", besides=[CLOCK])


@cache
def _overdue() -> Compiled[Lease]:
    # One more, to know whether there are more.
    return Compiled(
        lambda tool, now: Lease.objects.overdue_of_tool(tool, now)[: OVERDUE_AT_ONCE + 1], SOME_KEY, SOME_TIME
    )


@cache
def _with_levels(named: bool) -> Compiled[Tool]:
    tools = Tool.objects.with_levels().order_by("name")
    return Compiled(lambda name: tools.filter(name=name), "name") if named else Compiled(lambda: tools)


@cache
def _teams_of() -> Compiled[Team]:
    return Compiled(lambda user: Team.objects.of_user(user).order_by("name"), "user")


@cache
def _token_of_hash() -> Compiled[ApiToken]:
    return Compiled(ApiToken.objects.of_hash, "hash")


def token_of_hash(hash: str) -> ApiToken | None:
    """The token with the secret of this hash (``ApiToken.objects.of_hash``)."""
    tokens, _ = _token_of_hash().rows(hash)
    return tokens[0] if tokens else None


def teams_of(user: str) -> list[Team]:
    """The teams that a user is in, by name."""
    teams, _ = _teams_of().rows(user)
    return teams


def tools_with_levels(name: str | None = None) -> list[Tool]:
    """All tools (``Tool.objects.with_levels``) by name, or the one of a name."""
    tools, _ = _with_levels(named=False).rows() if name is None else _with_levels(named=True).rows(name)
    return tools


def lock(names: Iterable[str], user: str = "") -> tuple[list[Tool], list[Team], datetime]:
    """The tools that there are of these names, locked (``Tool.objects.locked``),
    the teams of a user by name, and the database's time since. Part of the
    caller's transaction."""
    wanted = sorted(names)
    tools, besides = _locked(len(wanted)).rows(*wanted, besides=[user, user, user])
    if not besides:
        return tools, teams_of(user) if user else [], timezone.now()
    teams, now = besides
    return tools, [Team(pk=pk, name=name) for pk, name in teams or ()], now


def lock_user(name: str) -> None:
    """Let other borrows of a user wait until this transaction ends. SQLite has one
    writer at a time in any case."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"licenses user {name}"])


def lock_for_return(lease_id: uuid.UUID) -> tuple[list[Lease], datetime]:
    """The leases of one borrow, its head first, with their tools, all locked
    (``Lease.objects.locked_for_return``), and the database's time since."""
    leases, besides = _locked_for_return().rows(lease_id)
    return sorted(leases, key=lambda lease: lease.place), besides[0] if besides else timezone.now()


def overdue(tool: Tool, now: datetime) -> list[Lease]:
    """Leases of the locked tool whose time is over, locked
    (``Lease.objects.overdue_of_tool``): one more than ``OVERDUE_AT_ONCE`` at most."""
    leases, _ = _overdue().rows(tool.pk, now)
    return leases


def write_lease(lease: Lease, *, tool: Tool, rationed: bool) -> None:
    """Insert a lease, and write what the locked tool counts; and, if it is
    ``rationed``, what its team's allotment does."""
    fields = Lease._meta.concrete_fields
    columns = ", ".join(connection.ops.quote_name(str(field.column)) for field in fields)
    values = [field.get_db_prep_save(getattr(lease, field.attname), connection) for field in fields]
    _together(
        (f"INSERT INTO licenses_lease ({columns}) VALUES ({', '.join(['%s'] * len(fields))})", values),  # noqa: S608
        *_allotment(lease, lease.seats, rationed),
        (
            "UPDATE licenses_tool SET in_use = %s, kept_back = %s, overdraft_total = %s, last_fence = %s WHERE id = %s",
            [tool.in_use, tool.kept_back, tool.overdraft_total, tool.last_fence, tool.pk],
        ),
    )


def write_end(lease: Lease, *, tool: Tool, rationed: bool) -> None:
    """Write a lease's end, and what the locked tool counts; and, if it is
    ``rationed``, what its team's allotment does."""
    total = f"{EndReason(lease.end_reason)}_total"
    ends = _values(lease, "ended_at", "end_reason", "end_note", "ended_by", "id")
    counts = _values(tool, "in_use", "kept_back", "holding_time", "id")
    _together(
        ("UPDATE licenses_lease SET ended_at = %s, end_reason = %s, end_note = %s, ended_by = %s WHERE id = %s", ends),
        *_allotment(lease, -lease.seats, rationed),
        (
            f"UPDATE licenses_tool SET in_use = %s, kept_back = %s, holding_time = %s, {total} = {total} + 1 "  # noqa: S608
            "WHERE id = %s",
            counts,
        ),
    )


def _values(row: models.Model, *columns: str) -> list[Any]:
    fields = {field.column: field for field in row._meta.concrete_fields}
    return [fields[column].get_db_prep_save(getattr(row, column), connection) for column in columns]


def _allotment(lease: Lease, seats: int, rationed: bool) -> list[tuple[str, list[Any]]]:
    if not rationed:
        return []
    change = "UPDATE licenses_allotment SET in_use = in_use + %s WHERE tool_id = %s AND team_id = %s"
    return [(change, [seats, lease.tool_id, lease.team_id])]


def _together(*writes: tuple[str, list[Any]]) -> None:
    """Writes to different rows, in one round trip where the database can."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            *firsts, (last, _) = writes
            steps = ", ".join(f"step{number} AS ({sql})" for number, (sql, _) in enumerate(firsts))
            cursor.execute(f"WITH {steps} {last}", [value for _, values in writes for value in values])
        else:
            for sql, values in writes:
                cursor.execute(sql, values)
