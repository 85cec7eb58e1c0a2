"""Send several statements of a connection together, and read their answers, at a low price.

A cursor of psycopg takes 60 to 100 microseconds of the processor for a statement, and psycopg's
pipeline sends each by itself. A batch of borrows has five. So this speaks libpq's pipeline mode
through psycopg's wrapper: https://www.psycopg.org/psycopg3/docs/api/pq.html,
https://www.postgresql.org/docs/current/libpq-pipeline-mode.html.
"""

import select
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import compress, count
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import psycopg
from django.db.utils import DataError
from django_prometheus.db import errors_total, execute_total, query_duration_seconds
from psycopg import abc, pq
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result

if TYPE_CHECKING:
    from .base import DatabaseWrapper

# Statements that stay prepared on a connection at most; more are sent as text.
PREPARED = 100
# A prepared statement whose columns a migration changed since, or that somebody has deallocated.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
STALE = ("0A000", "26000")
# A prepared statement keeps its plan until PostgreSQL has looked at the table again (ANALYZE). One that was made while
# the table was empty would read all of it, also when it has many rows.
# https://www.postgresql.org/docs/current/runtime-config-query.html
WITH_INDEXES = "enable_seqscan=off"
FAILED = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED, pq.ExecStatus.BAD_RESPONSE)


class _Types(dict[type, tuple[int, Callable[[Any], str]]]):
    def __missing__(self, of: type) -> tuple[int, Callable[[Any], str]]:
        """Return what is known of the type that this one extends."""
        known = next((base for base in of.__mro__ if base in self), None)
        if known is None:
            raise TypeError(f"A value cannot be of type {of.__name__}.")
        self[of] = self[known]
        return self[known]


# The types of values: PostgreSQL's number, where it may not infer it, and its text.
# https://www.postgresql.org/docs/current/catalog-pg-type.html
TYPES = _Types(
    {
        type(None): (0, str),
        str: (0, str),
        UUID: (0, str),
        bool: (16, str),
        int: (20, str),
        datetime: (1184, datetime.isoformat),
        timedelta: (1186, lambda value: f"{value.days} days {value.seconds}.{value.microseconds:06} seconds"),
    }
)
_numbers = count(1)


class RoundTrip:
    """The statements of a ``with`` block, sent together at its end. A transaction may begin in it.

    After it, ``rows`` and ``outcome`` have the answers.
    """

    def __init__(self, wrapper: "DatabaseWrapper") -> None:
        self.wrapper = wrapper
        self._statements: list[_Statement] = []
        self._results: list[pq.abc.PGresult] = []

    def __enter__(self) -> Self:
        self.wrapper.close_if_health_check_failed()
        self.wrapper.ensure_connection()
        connection = self.wrapper.connection
        if not connection.autocommit and connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
            # Django leaves it to psycopg's next cursor.
            self.begin()
        self.wrapper.round_trip = self
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.wrapper.round_trip = None
        if kind is None:
            self._send()

    def begin(self) -> None:
        """Begin a transaction with the next statement."""
        level = self.wrapper.connection.isolation_level.name.replace("_", " ")
        self.add(f"BEGIN ISOLATION LEVEL {level}", prepare=False)
        if not self.wrapper.prefers_indexes:
            self.add(f"SET LOCAL {WITH_INDEXES}", prepare=False)

    def add(self, sql: str, values: Sequence[Any] = (), *, prepare: bool = True) -> int:
        """Add a statement with a ``%s`` for each value. Return its number in this round trip.

        Raises DataError for a text that PostgreSQL cannot keep.
        """
        self._statements.append(_Statement(sql, values, prepare=prepare and self.wrapper.prepares))
        return len(self._statements) - 1

    def _send(self) -> None:
        """Send the statements and read the answers. PostgreSQL runs none after one that failed.

        Raises the error of the first that failed, as a cursor does.
        """
        if not self._statements:
            return
        wrapper = self.wrapper
        wrapper.validate_no_broken_transaction()
        execute: Any = self._run
        with wrapper.wrap_database_errors:
            if not wrapper.execute_wrappers:
                execute()
                return
            for wrap in reversed(wrapper.execute_wrappers):
                execute = partial(wrap, execute)
            text = ";\n".join(statement.sql for statement in self._statements)
            values = [value for statement in self._statements for value in statement.given]
            execute(text, values, False, {"connection": wrapper, "cursor": None})

    def rows(self, number: int) -> list[tuple[Any, ...]]:
        """Return the rows that a statement has found."""
        result, prepared = self._results[number], self._statements[number].prepared
        if prepared is not None and prepared.transformer is not None:
            transformer = prepared.transformer
            # The columns are those of the first time.
            transformer.set_pgresult(result, set_loaders=False)
        else:
            transformer = Transformer(self.wrapper.connection)
            transformer.set_pgresult(result)
            if prepared is not None:
                prepared.transformer = transformer
        return transformer.load_rows(0, result.ntuples, tuple)

    def outcome(self, number: int) -> str:
        """Return PostgreSQL's words for what a statement did: "COMMIT", "UPDATE 1"."""
        return (self._results[number].command_status or b"").decode()

    def _run(self, *_: Any) -> None:
        wrapper = self.wrapper
        executed, duration = _metrics(wrapper.alias, wrapper.vendor)
        executed.inc(len(self._statements))
        start = time.perf_counter()
        try:
            try:
                self._exchange()
            except psycopg.Error as error:
                # PostgreSQL has undone a transaction. Outside of one, one statement can be sent again.
                if error.sqlstate not in STALE or wrapper.in_atomic_block or len(self._statements) > 1:
                    raise
                self._exchange()
        except psycopg.Error as error:
            errors_total.labels(wrapper.alias, wrapper.vendor, type(error).__name__).inc()
            raise
        finally:
            seconds = time.perf_counter() - start
            duration.observe(seconds)
            if wrapper.queries_logged:
                wrapper.queries_log.extend(
                    {"sql": statement.sql, "time": f"{seconds:.3f}"} for statement in self._statements
                )

    def _exchange(self) -> None:
        session, prepared = self.wrapper.connection.pgconn, self.wrapper.prepared
        new: list[_Statement] = []
        # Which results are those of statements: others say that one was prepared.
        is_answer: list[bool] = []
        try:
            session.enter_pipeline_mode()
            for statement in self._statements:
                known = prepared.get(statement.key)
                if known is None and statement.prepare and len(prepared) < PREPARED:
                    known = prepared[statement.key] = Prepared(b"licenses_%d" % next(_numbers))
                    session.send_prepare(known.name, statement.text, statement.types)
                    new.append(statement)
                    is_answer.append(False)
                if known is None:
                    session.send_query_params(statement.text, statement.values, statement.types)
                else:
                    session.send_query_prepared(known.name, statement.values)
                statement.prepared = known
                is_answer.append(True)
            session.pipeline_sync()
            results = _received(session)
            session.exit_pipeline_mode()
        except BaseException:
            # Nobody knows what was sent, or what comes yet.
            self.wrapper.connection.close()
            raise
        failed = next((result for result in results if result.status in FAILED), None)
        if failed is None:
            self._results = list(compress(results, is_answer))
            return
        error = error_from_result(failed)
        if error.sqlstate in STALE:
            prepared.clear()
        for statement in new:
            prepared.pop(statement.key, None)
        raise error


class Prepared:
    """A statement that is prepared on a connection, and what reads its rows."""

    __slots__ = ("name", "transformer")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.transformer: abc.Transformer | None = None


class _Statement:
    """A statement as libpq takes it. Raises DataError for a text that PostgreSQL cannot keep."""

    __slots__ = ("given", "key", "prepare", "prepared", "sql", "text", "types", "values")

    def __init__(self, sql: str, values: Sequence[Any], *, prepare: bool) -> None:
        self.sql = sql
        self.text = _numbered(sql)
        self.given = values
        self.types: list[int] = []
        self.values: list[bytes | None] = []
        for value in values:
            number, text = TYPES[type(value)]
            encoded = None if value is None else text(value).encode()
            if encoded is not None and b"\0" in encoded:
                # libpq would take it for the end.
                raise DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
            self.types.append(number)
            self.values.append(encoded)
        self.prepare = prepare
        self.prepared: Prepared | None = None
        self.key = (sql, *self.types)


def _received(session: pq.abc.PGconn) -> list[Any]:
    """Return the results of all statements up to the synchronization. Raises OperationalError
    if the connection breaks; the error that the server gave as its reason, if it did."""
    ready = select.poll()
    ready.register(session.socket, select.POLLIN | select.POLLOUT)
    results: list[Any] = []
    try:
        while session.flush():
            ready.poll()
            session.consume_input()
        ready.modify(session.socket, select.POLLIN)
        while True:
            while session.is_busy():
                ready.poll()
                session.consume_input()
            result = session.get_result()
            if result is None:
                # The end of one statement's results; of all if the connection is broken.
                if session.status == pq.ConnStatus.BAD:
                    raise psycopg.OperationalError("The connection to the database broke.")
            elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                return results
            else:
                results.append(result)
    except psycopg.OperationalError as error:
        if said := next((result for result in results if result.status == pq.ExecStatus.FATAL_ERROR), None):
            raise error_from_result(said) from error
        raise


@cache
def _numbered(sql: str) -> bytes:
    """Return the text as libpq takes it: ``$1`` for the first ``%s``."""
    first, *rest = sql.split("%s")
    return "".join([first, *(f"${number}{text}" for number, text in enumerate(rest, 1))]).replace("%%", "%").encode()


@cache
def _metrics(alias: str, vendor: str) -> tuple[Any, Any]:
    return execute_total.labels(alias, vendor), query_duration_seconds.labels(alias, vendor)
