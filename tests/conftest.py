"""Factories and servers for all tests."""

import functools
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from django.apps import apps
from django.db import connection
from django.db.backends.base.operations import BaseDatabaseOperations
from django.db.backends.signals import connection_created
from django.db.models import DateTimeField, F
from django.test import Client, override_settings
from pytest_django import DjangoDbBlocker
from whitenoise.base import WhiteNoise

from benchmarks.ports import free_port
from licenses.access.provider import _provider
from licenses.leases import expiry
from licenses.models import AuditRecord, Team, TeamMember, Tool
from licenseserver import logs, workers
from tests.support.api import Api, api_of
from tests.support.databases import migrated_template, undone
from tests.support.issuer import AUDIENCE, Issuer, running_issuer
from tests.support.paths import ROOT
from tests.support.servers import Server, running_server

# A line for each request would hide a failure.
logging.getLogger("httpx").setLevel(logging.WARNING)


# A slow machine is no fault of the code.
hypothesis.settings.register_profile(
    "suite", hypothesis.settings.default, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")

# The slow ones first: otherwise a process would work on one while the others are done.
FOLDERS = ("system", "client", "deploy", "api", "unit", "faults")


def uses_database(item: pytest.Function) -> bool:
    """Return whether a test may use a database of the suite's kind, itself or by a server."""
    if item.get_closest_marker("django_db") or {"db", "transactional_db", "server"} & set(item.fixturenames):
        return True
    # Server, running_server, migrated_database and others.
    return any(
        getattr(value, "__module__", "") in ("tests.support.servers", "tests.support.databases")
        for value in vars(item.module).values()
    )


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark tests to which the database makes no difference, and sort all by file. pytest-django would first run all
    that use a database."""

    def folder_of(item: pytest.Item) -> str:
        return item.path.relative_to(ROOT / "tests").parts[0]

    for item in items:
        # The Makefile names these folders too: the run on PostgreSQL need not load them.
        if folder_of(item) in {"client", "deploy", "faults"} or not uses_database(item):
            item.add_marker("any_database")
    items.sort(key=lambda item: (FOLDERS.index(folder_of(item)), item.path))


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """Make the database of the tests a copy, as those of servers are; pytest-django calls this."""
    template = migrated_template()
    if connection.vendor == "postgresql":
        connection.settings_dict["TEST"]["TEMPLATE"] = template
        return
    # In memory. For an engine that is not Django's own, pytest-django would name a file for each of xdist's workers.
    connection.settings_dict["TEST"]["NAME"] = None

    def fill(connection: Any, **_: Any) -> None:
        """Copy the template into the first connection, whose database is in memory."""
        connection_created.disconnect(fill)
        with closing(sqlite3.connect(template)) as source:
            source.backup(connection.connection)

    connection_created.connect(fill, weak=False)


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[None]:
    """Hash passwords without the million rounds that make them slow to guess."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


@pytest.fixture(scope="session", autouse=True)
def one_tls_context() -> Iterator[None]:
    """Read the authorities of TLS once: httpx reads them for each call, for 20 ms, and tests wait by calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context))
        yield


@pytest.fixture(scope="session", autouse=True)
def static_files_found_once() -> Iterator[None]:
    """Look for the files of pages once: WhiteNoise looks for them for each client, for 10 ms, and tests make thousands
    of clients."""
    look = WhiteNoise.update_files_dictionary
    found: dict[tuple[str, str], dict[str, Any]] = {}

    def look_once(self: WhiteNoise, root: str, prefix: str) -> None:
        if (root, prefix) not in found:
            look(self, root, prefix)
            found[root, prefix] = dict(self.files)
        self.files.update(found[root, prefix])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WhiteNoise, "update_files_dictionary", look_once)
        yield


@pytest.fixture(autouse=True)
def no_request_is_left() -> Iterator[None]:
    """Fail a test that leaves what belongs to a request in its thread: the next tests would see it."""
    yield
    assert (workers.waited(), logs.current()) == (0, None)


@pytest.fixture(scope="session", autouse=True)
def emptied_between_tests() -> Iterator[None]:
    """Lets Django empty the audit after a test that commits, and nobody else:
    what the triggers refuse takes the owner of the table, here as elsewhere."""
    operations: type[BaseDatabaseOperations] = type(connection.ops)
    flush = operations.sql_flush

    def with_the_audit(ops: BaseDatabaseOperations, *args: Any, **kwargs: Any) -> list[str]:
        if connection.vendor == "postgresql":
            table = AuditRecord._meta.db_table
            disable, enable = ([f"ALTER TABLE {table} {verb} TRIGGER USER"] for verb in ("DISABLE", "ENABLE"))
        else:
            with connection.cursor() as cursor:
                cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
                triggers = cursor.fetchall()
            disable, enable = [f"DROP TRIGGER {name}" for name, _ in triggers], [sql for _, sql in triggers]
        return [*disable, *flush(ops, *args, **kwargs), *enable]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "sql_flush", with_the_audit)
        yield


@pytest.fixture
def make_tool(db: None) -> Callable[..., Tool]:
    """Makes a tool: ``make_tool("cad", capacity=5)``; now, or at a moment: ``created_at``."""

    def make(name: str = "cad", **values: Any) -> Tool:
        created_at = values.pop("created_at", None)
        tool = Tool.objects.create(name=name, **({"capacity": 1} | values))
        if created_at is not None:
            tool.created_at = created_at
            tool.save(update_fields=["created_at"])
        return tool

    return make


@pytest.fixture
def pass_time(db: None) -> Callable[..., None]:
    """Makes time go by for all that is in the database: ``pass_time(hours=8)``.

    Every moment that is written down moves into the past; the clock that the
    server decides by stays the database's own.
    """

    def pass_time(**span: float) -> None:
        # The audit can't be changed.
        for model in set(apps.get_app_config("licenses").get_models()) - {AuditRecord}:
            moments = [field.name for field in model._meta.fields if isinstance(field, DateTimeField)]
            if moments:
                model._default_manager.update(**{name: F(name) - timedelta(**span) for name in moments})

    return pass_time


@pytest.fixture
def make_team(db: None) -> Callable[..., Team]:
    """Makes a team: ``make_team("crash", "ana", "ben")``."""

    def make(name: str, *users: str) -> Team:
        team, _ = Team.objects.get_or_create(name=name)
        TeamMember.objects.bulk_create(TeamMember(team=team, user=user) for user in users)
        return team

    return make


@pytest.fixture(scope="session")
def exported(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> set[str]:
    """Provide the names of all series in Prometheus: the server's and Prometheus' own."""
    with django_db_blocker.unblock(), undone():
        expiry.tidy()
        page = Client().get("/metrics").content.decode()
    names = {"up"}
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


@pytest.fixture
def api(db: None) -> Api:
    return Api(Client(raise_request_exception=False))


@pytest.fixture
def admin_api(db: None) -> Api:
    """Provide the API for an administrator's program, with the history of all users."""
    return api_of(scopes=["admin"])


@pytest.fixture
def required(settings: Any) -> None:
    """Require a credential for every call."""
    settings.LICENSE_AUTH = "required"


@pytest.fixture
def issuer(settings: Any) -> Iterator[Issuer]:
    """Provide a sign-in provider whose JWTs the server accepts."""
    _provider.cache_clear()
    with running_issuer() as issuer:
        settings.LICENSE_OIDC_ISSUER = issuer.url
        settings.LICENSE_JWT_AUDIENCE = AUDIENCE
        yield issuer


@pytest.fixture
def server_port() -> int:
    """Provide the address where the server will listen."""
    return free_port()


@pytest.fixture
def server(tmp_path: Path, server_port: int) -> Iterator[Server]:
    """Provide a server only for this test."""
    with running_server(tmp_path, server_port) as running:
        yield running


@pytest.fixture
def required_server(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Server:
    """Provide a server only for this test, where every call needs a credential."""
    monkeypatch.setenv("LICENSE_AUTH", "required")
    server: Server = request.getfixturevalue("server")
    return server
