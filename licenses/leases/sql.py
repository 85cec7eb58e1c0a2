"""The statements of a batch, each with its reason.

The ORM takes several times as long to write a statement as PostgreSQL takes to run
it. So each query is written by the ORM once and kept as text, with ``Slot``s where
the values go. Statements that are sent together share a round trip
(``one_round_trip``). The figures are in docs/performance.md.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from django.db import DEFAULT_DB_ALIAS, OperationalError, connection, connections, models
from django.db.models.base import ModelState
from django.db.models.expressions import RawSQL
from django.db.models.query import QuerySet
from django.utils.duration import duration_microseconds

from licenses.models import AccessRule, Allotment, ApiToken, BorrowKey, Lease, Team, Ticket, Tool, UserLimit

if TYPE_CHECKING:
    from licenseserver.postgresql.base import DatabaseWrapper

M = TypeVar("M", bound=models.Model)

# Leases that one transaction closes at most, of those whose time is over.
OVERDUE_AT_ONCE = 200


@cache
def is_postgresql() -> bool:
    """Return whether the database is PostgreSQL; else it is SQLite."""
    return connection.vendor == "postgresql"


def one_round_trip() -> AbstractContextManager[object]:
    """Send the statements of the block together, where the database is on the network; what
    they return can be read after it. A transaction may begin in it."""
    return _postgresql().together() if is_postgresql() else nullcontext()


def _postgresql() -> "DatabaseWrapper":
    return connections[DEFAULT_DB_ALIAS]  # type: ignore[return-value]


class Answer:
    """What a statement on PostgreSQL found: it goes with the round trip that is under way, or at once."""

    def __init__(self, sql: str, values: Sequence[Any], *, prepare: bool = True) -> None:
        wrapper = _postgresql()
        if wrapper.round_trip is not None:
            self._round_trip = wrapper.round_trip
            self._number = self._round_trip.add(sql, values, prepare=prepare)
            return
        with wrapper.together() as self._round_trip:
            self._number = self._round_trip.add(sql, values, prepare=prepare)

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the rows, once they were sent."""
        return self._round_trip.rows(self._number)

    def outcome(self) -> str:
        """Return PostgreSQL's words for what it did."""
        return self._round_trip.outcome(self._number)


def commit_with(write: Callable[[], None]) -> None:
    """Run what sends the last writes of a transaction. On PostgreSQL its COMMIT shares their round trip;
    Django's own finds nothing to do then. Elsewhere Django commits at the end of the block, as always.

    A savepoint (a test's transaction) is not committed. Raises OperationalError if PostgreSQL
    answers COMMIT with a rollback.
    """
    commits = is_postgresql() and not connection.savepoint_ids
    with one_round_trip():
        write()
        committed = Answer("COMMIT", (), prepare=False) if commits else None
    if committed is not None and committed.outcome() != "COMMIT":
        raise OperationalError(f"The database answered COMMIT with {committed.outcome()}.")


class Slot:
    """The place of a value in the text of a statement."""

    def __init__(self, number: int) -> None:
        self.number = number


class Sent(Generic[M]):
    """A query that was sent."""

    def __init__(self, query: "Query[M]", values: Sequence[Any]) -> None:
        self.query = query
        parameters = query.parameters(values)
        if is_postgresql():
            self._found = Answer(query.sql, parameters).rows
        else:
            cursor = connection.cursor()
            cursor.execute(query.sql, parameters)
            self._found = cursor.fetchall
        # What PostgreSQL gives with the last row; empty without a row.
        self.more: Sequence[Any] = ()

    def rows(self) -> list[M]:
        """Return what it found."""
        found = self._found()
        if found and self.query.more:
            # Rows are locked one after the other: the last one's time is after all waits.
            self.more = found[-1][-self.query.more :]
        return self.query.made(found)


class Query(Generic[M]):
    """A query of whole rows, with annotations and related rows or without, as text.

    ``build`` gets an expression for each of ``slots`` values and returns the queryset;
    ``related`` are the names of its related rows, in the order of the model's fields.
    ``more`` are expressions, each with the slot of its value or None, that PostgreSQL
    gives with each row after it has locked it; SQLite does not.
    Make it at its first use: a lock can be compiled within a transaction only.
    """

    def __init__(
        self,
        build: Callable[..., QuerySet[M]],
        *,
        slots: int = 0,
        related: Sequence[str] = (),
        more: Sequence[tuple[str, int | None]] = (),
    ) -> None:
        queryset = build(*(RawSQL("%s", [Slot(number)]) for number in range(slots)))
        self.compiler = queryset.query.get_compiler(connection=connection)
        self.sql, self._parameters = self.compiler.as_sql()
        self.model = queryset.model
        self.names = [field.attname for field in self.model._meta.concrete_fields]
        # Of each related row: its name, its model, its fields and where it begins.
        self.related: list[tuple[str, Any, list[str], int]] = []
        begin = len(self.names)
        for name in related:
            model: Any = self.model._meta.get_field(name).related_model
            names = [field.attname for field in model._meta.concrete_fields]
            self.related.append((name, model, names, begin))
            begin += len(names)
        self.annotations = self.compiler.annotation_col_map or {}
        self.converters = self.compiler.get_converters([expression for expression, _, _ in self.compiler.select])
        self.more = len(more) if is_postgresql() else 0
        if self.more:
            columns = ", ".join(text for text, _ in more)
            self.sql = f"WITH locked AS MATERIALIZED ({self.sql}) SELECT *, {columns} FROM locked"
            self._parameters = (*self._parameters, *(Slot(slot) for _, slot in more if slot is not None))

    def parameters(self, values: Sequence[Any]) -> list[Any]:
        """Return the parameters of the statement for these values."""
        return [
            _parameter(values[parameter.number]) if isinstance(parameter, Slot) else parameter
            for parameter in self._parameters
        ]

    def send(self, *values: Any) -> Sent[M]:
        """Send the query; read it later."""
        return Sent(self, values)

    def rows(self, *values: Any) -> list[M]:
        """Send the query and return what it found."""
        return self.send(*values).rows()

    def made(self, found: Iterable[Sequence[Any]]) -> list[M]:
        """Return model instances for rows of the database."""
        if self.converters:
            found = self.compiler.apply_converters(found, self.converters)
        return [self._made(row) for row in found]

    def _made(self, row: Sequence[Any]) -> M:
        made = _instance(self.model, self.names, row)
        for name, model, names, begin in self.related:
            # An outer join gives NULLs where there is no row.
            setattr(made, name, _instance(model, names, row[begin:]) if row[begin] is not None else None)
        for name, column in self.annotations.items():
            setattr(made, name, row[column])
        return made


def _instance(model: type[M], names: Sequence[str], values: Sequence[Any]) -> M:
    """Return the instance of a row. Like Django's own unpickling of models, and unlike
    ``Model.from_db``, it sends no signals and looks at no field."""
    made = model.__new__(model)
    made._state = ModelState()
    made._state.adding, made._state.db = False, DEFAULT_DB_ALIAS
    made.__dict__.update(zip(names, values, strict=False))
    return made


def _parameter(value: Any) -> Any:
    """Return a value as the database's driver takes it; a list as one parameter."""
    if is_postgresql():
        if isinstance(value, list):
            return _literal(value)
        return connection.ops.adapt_datetimefield_value(value) if isinstance(value, datetime) else value
    adapt = SQLITE.get(type(value))
    return adapt(value) if adapt is not None else value


def _literal(values: Iterable[Any]) -> str:
    """Return PostgreSQL's text for an array of these values. psycopg takes ten times as long
    to find out their types. https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO"""
    return "{" + ",".join([TEXTS.get(type(value), _quoted)(value) for value in values]) + "}"


def _quoted(value: Any) -> str:
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


TEXTS: dict[type, Callable[[Any], str]] = {
    type(None): lambda value: "NULL",
    int: str,
    bool: str,
    uuid.UUID: str,
    datetime: lambda value: f'"{value.isoformat()}"',
    timedelta: lambda value: f'"{value.days} days {value.seconds}.{value.microseconds:06} seconds"',
}


# What Django's fields give SQLite, by type: a field itself takes ten times as long.
SQLITE: dict[type, Callable[[Any], Any]] = {
    list: lambda values: json.dumps([_parameter(value) for value in values]),
    uuid.UUID: lambda value: value.hex,
    datetime: lambda value: str(value.astimezone(UTC).replace(tzinfo=None)),
    timedelta: duration_microseconds,
}


def _in(kind: str) -> str:
    """Return the right side of a comparison with a list that is one parameter."""
    return f"= ANY(%s::{kind}[])" if is_postgresql() else "IN (SELECT value FROM json_each(%s))"


def _ids(sql: str, *slots: int) -> RawSQL:
    return RawSQL(sql, [Slot(number) for number in slots])  # noqa: S611 - the text is ours


def _where(sql: str, *slots: int) -> RawSQL:
    """Return a condition on the rows themselves. A query that locks rows must not find them
    by a subquery of several rows: where a row has changed during the wait for its lock,
    PostgreSQL checks the condition again, with one of the subquery's rows only, and may
    lose the row. An array of a subquery is read once."""
    return RawSQL(sql, [Slot(number) for number in slots], output_field=models.BooleanField())  # noqa: S611


def _array(sql: str) -> str:
    return f"= ANY(ARRAY({sql}))" if is_postgresql() else f"IN ({sql})"


# --- What a batch reads, in this order: names, lease ids, ticket ids -----------------


def _lent_by() -> str:
    ids = _in("uuid")
    return (
        f"licenses_tool.id {_array(f'SELECT tool_id FROM licenses_lease WHERE id {ids}')} "
        f"OR licenses_tool.id {_array(f'SELECT tool_id FROM licenses_lease WHERE part_of_id {ids}')}"
    )


def _waited_for() -> str:
    return (
        "SELECT claim.tool_id FROM licenses_ticketclaim claim "
        f"JOIN licenses_ticket ticket ON ticket.number = claim.ticket_id WHERE ticket.id {_in('uuid')}"
    )


CLOCK = "clock_timestamp()"
TEAMS = """(
    SELECT json_agg(json_build_array(wanted.name, team.id, team.name)) FROM unnest(%s::text[]) AS wanted (name)
    JOIN licenses_teammember member ON member.user = wanted.name OR lower(member.user) = lower(wanted.name)
    JOIN licenses_team team ON team.id = member.team_id
    WHERE member.user = wanted.name OR team.ignores_case
)"""


@cache
def _tools() -> Query[Tool]:
    wanted = f"licenses_tool.name {_in('text')} OR {_lent_by()} OR licenses_tool.id {_array(_waited_for())}"
    return Query(lambda: Tool.objects.filter(_where(wanted, 0, 1, 1, 2)).under_lock(), more=[(TEAMS, 3), (CLOCK, None)])


def send_lock(
    names: list[str], lease_ids: list[uuid.UUID], ticket_ids: list[uuid.UUID], users: list[str]
) -> Sent[Tool]:
    """Lock the tools of these names, of these borrows and of these tickets, in the one
    order that everybody uses. PostgreSQL gives the teams of these users and the time too."""
    return _tools().send(names, lease_ids, ticket_ids, users)


def _of_borrows() -> RawSQL:
    return _where(f"licenses_lease.id {_in('uuid')} OR licenses_lease.part_of_id {_in('uuid')}", 0, 0)


@cache
def _leases() -> Query[Lease]:
    return Query(lambda: Lease.objects.filter(_of_borrows()).under_lock(), related=["team"], more=[(CLOCK, None)])


def send_leases(lease_ids: list[uuid.UUID]) -> Sent[Lease]:
    """Lock all leases of these borrows. PostgreSQL gives the time too."""
    return _leases().send(lease_ids)


@cache
def _overdue() -> Query[Lease]:
    # One more, to know whether there are more.
    return Query(
        lambda tool, now: Lease.objects.filter(ended_at__isnull=True, tool=tool, expires_at__lte=now).under_lock()[
            : OVERDUE_AT_ONCE + 1
        ],
        slots=2,
        related=["team"],
    )


def overdue(tool: Tool, now: datetime) -> list[Lease]:
    """Lock and return leases of a locked tool whose time is over: one more than
    ``OVERDUE_AT_ONCE`` at most."""
    return _overdue().rows(tool.pk, now)


@cache
def _tools_of() -> Query[Tool]:
    return Query(lambda: Tool.objects.filter(_where(_lent_by(), 0, 0)).order_by())


def send_tools_of(lease_ids: list[uuid.UUID]) -> Sent[Tool]:
    """Ask for the tools of these borrows, without a lock."""
    return _tools_of().send(lease_ids)


def grouped(teams: Iterable[tuple[str, int, str]] | None) -> dict[str, list[Team]]:
    """Return the teams of each user who is in any, by name; given users with teams' ids and names."""
    found: dict[str, dict[str, Team]] = {}
    for user, pk, name in teams or ():
        found.setdefault(user, {})[name] = Team(pk=pk, name=name)
    return {user: [mine[name] for name in sorted(mine)] for user, mine in found.items()}


def teams_of_users(users: list[str]) -> dict[str, list[Team]]:
    """Return the teams of each of these users who is in any, by name."""
    if is_postgresql():
        return grouped(Answer(f"SELECT {TEAMS}", [_parameter(users)]).rows()[0][0])
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT wanted.value, team.id, team.name FROM json_each(%s) AS wanted "
            "JOIN licenses_teammember member ON member.user = wanted.value OR lower(member.user) = lower(wanted.value) "
            "JOIN licenses_team team ON team.id = member.team_id "
            "WHERE member.user = wanted.value OR team.ignores_case",
            [_parameter(users)],
        )
        return grouped(cursor.fetchall())


@cache
def _keys() -> Query[BorrowKey]:
    # Any of these keys of any of these callers: an index looks that up, however small the planner thinks the table is.
    mine = f"licenses_borrowkey.caller {_in('text')} AND licenses_borrowkey.key {_in('text')}"
    return Query(lambda: BorrowKey.objects.filter(_where(mine, 0, 1)).order_by())


def send_keys(pairs: Sequence[tuple[str, str]]) -> Sent[BorrowKey]:
    """Ask for these keys, by caller and key; others of these callers with the same text may come with them."""
    return _keys().send([caller for caller, _ in pairs], [key for _, key in pairs])


@cache
def _tickets() -> Query[Ticket]:
    wanted = f"SELECT number FROM licenses_ticket WHERE id {_in('uuid')}"
    return Query(
        lambda: Ticket.objects.filter(pk__in=_ids(wanted, 0)).select_related("team").order_by(),
        related=["team"],
    )


def send_tickets(ticket_ids: list[uuid.UUID]) -> Sent[Ticket]:
    """Ask for these tickets with their teams."""
    return _tickets().send(ticket_ids)


@cache
def _allotments() -> Query[Allotment]:
    conditions = [
        _where(f"licenses_allotment.tool_id {_in('bigint')}", 0),
        _where(f"licenses_team.name {_in('text')}", 1),
    ]
    return Query(lambda: Allotment.objects.select_related("team").filter(*conditions).order_by(), related=["team"])


def send_allotments(tools: list[int], teams: list[str]) -> Sent[Allotment]:
    """Ask for the allotments of these teams for these tools."""
    return _allotments().send(tools, teams)


@cache
def _user_limits() -> Query[UserLimit]:
    mine = f"licenses_userlimit.tool_id {_in('bigint')} AND licenses_userlimit.user {_in('text')}"
    condition = _where(f"{mine} OR licenses_userlimit.tool_id {_in('bigint')}", 0, 1, 2)
    return Query(lambda: UserLimit.objects.filter(condition).order_by())


def send_user_limits(tools: list[int], users: list[str], for_all: list[int]) -> Sent[UserLimit]:
    """Ask for the limits that these users have of tools, and for those of all users of the tools ``for_all``."""
    return _user_limits().send(tools, users, for_all)


@cache
def _access_rules() -> Query[AccessRule]:
    condition = _where(f"licenses_accessrule.tool_id {_in('bigint')}", 0)
    return Query(
        lambda: AccessRule.objects.select_related("team").filter(condition).order_by(),
        related=["team"],
    )


def send_access_rules(tools: list[int]) -> Sent[AccessRule]:
    """Ask for the access rules of these tools."""
    return _access_rules().send(tools)


def lock_users(names: Iterable[str]) -> None:
    """Make other borrows of these users wait until this transaction ends. SQLite has
    one writer at a time in any case."""
    if is_postgresql():
        for name in sorted(names):
            Answer("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"licenses user {name}"])


# --- What a batch writes ----------------------------------------------------------------


class Write:
    """A statement that writes many rows: on PostgreSQL one statement with an array for
    each column, on SQLite one for each row.

    In the text, ``{n}`` is value n of a row, and ``types`` are PostgreSQL's names of
    their types. An UPDATE has one WHERE.
    """

    def __init__(self, text: str, types: Sequence[str]) -> None:
        if not is_postgresql():
            self.order = [int(slot.partition("}")[0]) for slot in text.split("{")[1:]]
            self.sql = text.format(*["%s"] * len(types))
            return
        arrays = ", ".join(f"%s::{name}[]" for name in types)
        columns = ", ".join(f"c{number}" for number in range(len(types)))
        values = f"unnest({arrays}) AS value ({columns})"
        names = [f"value.c{number}" for number in range(len(types))]
        if text.startswith("INSERT"):
            self.sql = text.partition(" VALUES ")[0] + f" SELECT * FROM {values}"
        else:
            change, _, condition = text.partition(" WHERE ")
            self.sql = f"{change.format(*names)} FROM {values} WHERE {condition.format(*names)}"

    def parameters(self, rows: Iterable[Sequence[Any]]) -> list[Any]:
        """Return the parameters of the statement for these rows of values."""
        if is_postgresql():
            return [_literal(column) for column in zip(*rows, strict=True)]
        return [[row[number] for number in self.order] for row in rows]


def write(*writes: tuple[Write, Iterable[Sequence[Any]]]) -> None:
    """Write rows of values; different rows in each write. One statement where the database can."""
    if not writes:
        return
    if is_postgresql():
        parameters = [column for one, rows in writes for column in one.parameters(rows)]
        Answer(_together(tuple(one.sql for one, _ in writes)), parameters)
        return
    with connection.cursor() as cursor:
        for one, rows in writes:
            cursor.executemany(one.sql, one.parameters(rows))


@cache
def _together(texts: tuple[str, ...]) -> str:
    *firsts, last = texts
    steps = ", ".join(f"step{number} AS ({text})" for number, text in enumerate(firsts))
    return f"WITH {steps} {last}" if steps else last


class Rows:
    """A ``Write`` of model instances."""

    def __init__(self, text: str, fields: Sequence[Any]) -> None:
        self.write = Write(text, [_type(field) for field in fields])
        self.names = attrgetter(*(field.attname for field in fields))
        self.encoders = [
            (number, field.encoder) for number, field in enumerate(fields) if isinstance(field, models.JSONField)
        ]

    def of(self, rows: Iterable[models.Model]) -> tuple[Write, Iterable[Sequence[Any]]]:
        """Return the statement and the values of these instances, for ``write``."""
        return self.write, [self._prepared(self.names(row)) for row in rows]

    def _prepared(self, row: Sequence[Any]) -> Sequence[Any]:
        if self.encoders:
            row = list(row)
            for number, encoder in self.encoders:
                row[number] = json.dumps(row[number], cls=encoder)
        # ``_literal`` writes PostgreSQL's.
        return row if is_postgresql() else [_parameter(value) for value in row]


@cache
def insert(model: type[models.Model], *, without: tuple[str, ...] = ()) -> Rows:
    """Return the statement that inserts rows of a model, without these columns."""
    fields = [field for field in model._meta.concrete_fields if field.name not in without]
    columns = ", ".join(connection.ops.quote_name(str(field.column)) for field in fields)
    slots = ", ".join(f"{{{number}}}" for number in range(len(fields)))
    return Rows(f"INSERT INTO {model._meta.db_table} ({columns}) VALUES ({slots})", fields)


@cache
def update(model: type[models.Model], *names: str) -> Rows:
    """Return the statement that writes these columns of rows of a model, by their key."""
    key: Any = model._meta.pk
    fields = [key, *(model._meta.get_field(name) for name in names)]
    sets = ", ".join(f"{field.column} = {{{number}}}" for number, field in enumerate(fields) if number)
    table = model._meta.db_table
    return Rows(f"UPDATE {table} SET {sets} WHERE {table}.{key.column} = {{0}}", fields)


def _type(field: Any) -> str:
    """Return PostgreSQL's name of a field's type, without its length."""
    kind: str = (field.db_type(connection) or "").partition("(")[0]
    return {"varchar": "text", "serial": "integer", "bigserial": "bigint"}.get(kind, kind)


@cache
def change_allotments() -> Write:
    """Return the statement that counts seats of teams: tool, team, by how much."""
    text = "UPDATE licenses_allotment SET in_use = in_use + {2} WHERE tool_id = {0} AND team_id = {1}"
    return Write(text, ("bigint", "bigint", "integer"))


@cache
def resolve_denials() -> Write:
    """Return the statement that ends episodes of denials: user, tool, lease, now, and the
    time since when an episode goes on."""
    text = (
        "UPDATE licenses_denial SET resolved_at = {3}, resolved_by_id = {2} "
        'WHERE licenses_denial."user" = {0} AND tool_id = {1} AND resolved_at IS NULL AND last_at > {4}'
    )
    return Write(text, ("text", "bigint", "uuid", "timestamptz", "timestamptz"))


@cache
def _deny() -> tuple[str, ...]:
    columns = 'tool_id, "user", code, host, team_id, seats, attempts, first_at, last_at'
    if not is_postgresql():
        return (
            "UPDATE licenses_denial SET attempts = attempts + %s, last_at = %s WHERE tool_id = %s "
            'AND "user" = %s AND code = %s AND resolved_at IS NULL AND last_at > %s',
            f"INSERT INTO licenses_denial ({columns}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        )
    types = ("bigint", "text", "text", "text", "bigint", "integer", "integer")
    arrays = ", ".join(f"%s::{name}[]" for name in types)
    return (
        f"WITH denied AS (SELECT * FROM unnest({arrays}) "
        "AS denied (tool_id, name, code, host, team_id, seats, attempts)), "
        "going_on AS (UPDATE licenses_denial episode SET attempts = episode.attempts + denied.attempts, "
        "last_at = %s FROM denied WHERE episode.tool_id = denied.tool_id AND episode.user = denied.name "
        "AND episode.code = denied.code AND episode.resolved_at IS NULL AND episode.last_at > %s "
        "RETURNING denied.tool_id, denied.name, denied.code) "
        f"INSERT INTO licenses_denial ({columns}) SELECT denied.*, %s::timestamptz, %s::timestamptz FROM denied "
        "WHERE (tool_id, name, code) NOT IN (SELECT tool_id, name, code FROM going_on)",
    )


def write_denials(
    rows: Sequence[tuple[int, str, str, str, int | None, int, int]], *, now: datetime, since: datetime
) -> None:
    """Add refusals to their episodes, or begin these: tool, user, code, host, team, seats,
    attempts. An episode goes on if its last refusal was after ``since``."""
    if is_postgresql():
        # One statement: the episodes that go on, and rows for those that begin.
        columns = [_literal(column) for column in zip(*rows, strict=True)]
        Answer(_deny()[0], [*columns, now, since, now, now])
        return
    with connection.cursor() as cursor:
        again, begin = _deny()
        moment, limit = _parameter(now), _parameter(since)
        for tool, user, code, host, team, seats, attempts in rows:
            cursor.execute(again, [attempts, moment, tool, user, code, limit])
            if not cursor.rowcount:
                cursor.execute(begin, [tool, user, code, host, team, seats, attempts, moment, moment])


def parameters(*values: Any) -> list[Any]:
    """Return values as the database's driver takes them."""
    return [_parameter(value) for value in values]


# --- What other calls read ------------------------------------------------------------


@cache
def _with_current_counts(named: bool) -> Query[Tool]:
    tools = Tool.objects.with_current_counts().order_by("name")
    return Query(lambda: tools.filter(_where(f"licenses_tool.name {_in('text')}", 0)) if named else tools)


@cache
def _tokens() -> Query[ApiToken]:
    mine = _where(f"licenses_apitoken.hash {_in('text')}", 0)
    return Query(lambda: ApiToken.objects.filter(mine).with_rights().order_by())


def tokens_of_hashes(hashes: list[str]) -> list[ApiToken]:
    """Return the tokens with the secrets of these hashes (``ApiToken.objects.with_rights``)."""
    return _tokens().rows(hashes)


def owner_of(model: type[Lease] | type[Ticket], row_id: uuid.UUID) -> tuple[str, str | None] | None:
    """Return the user of a lease or ticket, and the name of its team if it has one; None if there is no such row."""
    with connection.cursor() as cursor:
        cursor.execute(
            f'SELECT mine."user", team.name FROM {model._meta.db_table} mine '
            "LEFT JOIN licenses_team team ON team.id = mine.team_id WHERE mine.id = %s",
            [_parameter(row_id)],
        )
        found: tuple[str, str | None] | None = cursor.fetchone()
        return found


def teams_of(user: str) -> list[Team]:
    """Return the teams that a user is in, by name."""
    return teams_of_users([user]).get(user, [])


def tools_with_current_counts(names: list[str] | None = None) -> list[Tool]:
    """Return all tools (``Tool.objects.with_current_counts``) by name, or those of some names."""
    return _with_current_counts(named=False).rows() if names is None else _with_current_counts(named=True).rows(names)
