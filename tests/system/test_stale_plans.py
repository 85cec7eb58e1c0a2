"""Prepared statements outlive a change of their tables: a migration that alters a column, and rows that come."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from django.db import DataError, connection

from licenses.leases import sql
from licenses.models import Team, TeamMember, Tool
from licenseserver.hub import start_leading
from tests.support.api import Api, make_token
from tests.support.quotas import allot

ENOUGH = 2

pytestmark = [
    pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite plans each statement anew"),
    pytest.mark.django_db(transaction=True),
]


@pytest.fixture
def alter() -> Iterator[Callable[..., None]]:
    """Alters columns as a migration does, over a connection of its own; they are as
    before after the test."""
    migrating = connection.copy()
    altered: list[tuple[str, str, str]] = []

    def alter(table: str, column: str) -> None:
        with migrating.cursor() as cursor:
            cursor.execute(
                "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
                "WHERE attrelid = %s::regclass AND attname = %s",
                [table, column],
            )
            (before,) = cursor.fetchone()
            altered.append((table, column, before))
            cursor.execute(f'ALTER TABLE {table} ALTER COLUMN "{column}" TYPE varchar(300)')

    yield alter
    with migrating.cursor() as cursor:
        for table, column, before in altered:
            cursor.execute(f'ALTER TABLE {table} ALTER COLUMN "{column}" TYPE {before}')
    migrating.close()


def test_a_return_goes_through(api: Api, make_tool: Callable[..., Tool], alter: Callable[..., None]) -> None:
    make_tool("cad", capacity=2)
    for _ in range(ENOUGH):
        lease = api.borrow().json()["id"]
        assert api.give_back(lease).status_code == 200
    lease = api.borrow().json()["id"]
    alter("licenses_lease", "user")
    answer = api.give_back(lease)
    assert answer.status_code == 200, answer.content


def test_a_list_and_a_token_are_read(
    api: Api, make_tool: Callable[..., Tool], alter: Callable[..., None], required: None
) -> None:
    make_tool("cad", capacity=2)
    bearer = {"Authorization": f"Bearer {make_token(user='ana')}"}
    for _ in range(ENOUGH):
        assert api.client.get("/borrows", headers=bearer).status_code == 200
    alter("licenses_lease", "user")
    alter("licenses_apitoken", "user")
    answer = api.client.get("/borrows", headers=bearer)
    assert answer.status_code == 200, answer.content


def test_statements_that_somebody_has_deallocated_are_prepared_again(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad", capacity=2)
    api.give_back(api.borrow().json()["id"])
    for call in (api.borrow, lambda: api.client.get("/licenses/cad/status")):
        assert call().status_code == 200
        with connection.cursor() as cursor:
            cursor.execute("DEALLOCATE ALL")
        answer = call()
        assert answer.status_code == 200, answer.content


def test_no_statement_is_prepared_twice_on_a_connection(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad", capacity=2)

    def prepared() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_prepared_statements")
            (number,) = cursor.fetchone()
            return int(number)

    api.give_back(api.borrow().json()["id"])
    before = prepared()
    assert before
    for _ in range(3):
        api.give_back(api.borrow().json()["id"])
    assert prepared() == before


def test_no_call_of_a_connection_makes_the_database_plan_again(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad", capacity=2)
    for _ in range(ENOUGH):
        lease = api.borrow().json()["id"]
        api.client.get("/licenses/cad/status")
        api.renew(lease)
        api.give_back(lease)
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(generic_plans), sum(custom_plans) FROM pg_prepared_statements")
        once, again = cursor.fetchone()
    assert once
    assert not again


def test_a_text_that_the_database_cannot_keep_is_not_cut_short(make_tool: Callable[..., Tool]) -> None:
    make_tool("cad", capacity=2)
    with pytest.raises(DataError):
        sql.tools_with_current_counts(["cad\0"])
    assert [tool.name for tool in sql.tools_with_current_counts(["cad"])] == ["cad"]


def scans() -> dict[str, list[str]]:
    """Return how the prepared statements of this connection read rows, by their text."""
    found: dict[str, list[str]] = {}

    def collect(node: dict[str, Any]) -> Iterator[str]:
        if node.get("Relation Name", "").startswith("licenses_") and node["Node Type"] != "ModifyTable":
            how = node.get("Index Cond") or node.get("Recheck Cond") or f"all of {node.get('Index Name', 'it')}"
            yield f"{node['Relation Name']}: {how}"
        for child in node.get("Plans", ()):
            yield from collect(child)

    with connection.cursor() as cursor:
        cursor.execute("SELECT name, statement, cardinality(parameter_types) FROM pg_prepared_statements")
        for name, text, number in cursor.fetchall():
            given = f"({', '.join(['NULL'] * number)})" if number else ""
            cursor.execute(f'EXPLAIN (FORMAT JSON) EXECUTE "{name}"{given}')
            (((plan,),),) = cursor.fetchall()
            found[text] = list(collect(plan["Plan"]))
    return found


def test_a_batch_does_not_read_whole_tables_because_they_were_empty_once(
    api: Api, make_tool: Callable[..., Tool]
) -> None:
    connection.close()
    make_tool("cad", capacity=1)
    team = Team.objects.create(name="crash")
    TeamMember.objects.create(team=team, user="ana")
    allot("cad", team, quota=1)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE licenses_borrowkey")
    lease = api.borrow(key="one", ttl_seconds=60).json()["id"]
    assert api.renew(lease).status_code == 200
    assert api.borrow(user="ben").status_code == 409
    ticket = api.wait("cad", "ben")
    assert api.poll(ticket).status_code == 202
    assert api.give_back(lease).status_code == 200
    assert api.poll(ticket).status_code == 200
    found = scans()
    assert sum("licenses_borrowkey" in text for text in found) > 1
    # Tables that grow. These indexes have open leases only.
    growing = ("licenses_lease: all of ", "licenses_borrowkey: all of ", "licenses_denial: all of ")
    whole = {scan for read in found.values() for scan in read if scan.startswith(growing)}
    assert {scan for scan in whole if not re.search(r" lease_(active|open)_\w+$", scan)} == set()


def test_threads_that_decide_batches_for_a_loop_plan_so_at_all_times(settings: Any) -> None:
    def setting() -> str:
        with closing(connection), connection.cursor() as cursor:
            cursor.execute("SHOW enable_seqscan")
            return str(cursor.fetchone()[0])

    with ThreadPoolExecutor(1, initializer=start_leading) as leaders, ThreadPoolExecutor(1) as threads:
        assert leaders.submit(setting).result() == "off"
        assert threads.submit(setting).result() == "on"
        # A pooler takes no such settings.
        settings.LICENSE_DB_POOLER = True
        assert leaders.submit(setting).result() == "on"
