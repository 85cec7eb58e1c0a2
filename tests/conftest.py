"""Factories and servers for all tests."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from django.apps import apps
from django.conf import settings
from django.db import connection
from django.db.backends.base.operations import BaseDatabaseOperations
from django.db.models import DateTimeField, F
from django.test import Client

from licenses.auditing import Actor
from licenses.leases import expiry
from licenses.models import ApiToken, AuditRecord, Team, TeamMember, Tool
from licenses.signin.provider import _provider
from licenses.tools import quotas

from .issuer import AUDIENCE, Issuer, running_issuer

ROOT = Path(__file__).resolve().parent.parent


# A line for each request would hide a failure.
logging.getLogger("httpx").setLevel(logging.WARNING)


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
    """Makes a tool: ``make_tool("cad", capacity=5)``."""

    def make(name: str = "cad", **values: Any) -> Tool:
        return Tool.objects.create(name=name, **({"capacity": 1} | values))

    return make


def as_items(items: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"tool": tool, "seats": seats} for tool, seats in items]


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


@pytest.fixture
def exported(client: Client, db: None) -> set[str]:
    """Provide the names of all series in Prometheus: the server's and Prometheus' own."""
    expiry.tidy()
    names = {"up"}
    for line in client.get("/metrics").content.decode().splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


SOMEBODY = Actor.of_command("test")


def allot(tool: str, team: Team, *, quota: int | None = None, reservation: int = 0) -> None:
    """Let a team have so much of a tool."""
    quotas.allot(tool=tool, allowances={team: quotas.Allowance(quota, reservation)}, by=SOMEBODY)


@dataclass
class Api:
    """Call the API as a client program."""

    client: Client

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self.client.post(path, body, content_type="application/json", headers=headers)

    def borrow(self, tool: str = "cad", user: str = "ana", key: str | None = None, **more: Any) -> Any:
        headers = {"Idempotency-Key": key} if key is not None else {}
        return self.post("/licenses/borrow", {"tool": tool, "user": user, **more}, **headers)

    def borrow_set(self, *items: tuple[str, int], user: str = "ana", key: str | None = None, **more: Any) -> Any:
        headers = {"Idempotency-Key": key} if key is not None else {}
        return self.post("/licenses/borrow", {"user": user, "items": as_items(items), **more}, **headers)

    def borrow_first_of(self, *alternatives: list[tuple[str, int]], user: str = "ana", **more: Any) -> Any:
        sets = [as_items(items) for items in alternatives]
        return self.post("/licenses/borrow", {"user": user, "alternatives": sets, **more})

    def renew(self, lease_id: str) -> Any:
        return self.post("/licenses/renew", {"id": lease_id})

    def give_back(self, lease_id: str) -> Any:
        return self.post("/licenses/return", {"id": lease_id})

    def wait(self, tool: str = "cad", user: str = "ben", seconds: int = 600, **more: Any) -> str:
        """Stand in the queue; the ticket."""
        answer = self.borrow(tool, user, wait_seconds=seconds, **more)
        assert answer.status_code == 202, answer.content
        ticket: str = answer.json()["ticket"]
        return ticket

    def poll(self, ticket: str) -> Any:
        return self.client.get(f"/licenses/queue/{ticket}")

    def leave(self, ticket: str) -> Any:
        return self.client.delete(f"/licenses/queue/{ticket}")

    def explain(self, tool: str = "cad", user: str = "ana", **more: Any) -> Any:
        answer = self.post("/licenses/explain", {"tool": tool, "user": user, **more})
        assert answer.status_code == 200, answer.content
        return answer.json()

    def status(self, tool: str = "cad", **subject: str) -> Any:
        return self.client.get(f"/licenses/{tool}/status", subject).json()


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


def make_token(*, team: str = "", user: str = "", scopes: Iterable[str] = ("read", "borrow"), **values: Any) -> str:
    """Make an API token; its secret."""
    owner = Team.objects.get_or_create(name=team)[0] if team else None
    rights = {f"may_{name}": scope in scopes for scope, name in SCOPE_FIELDS.items()}
    return ApiToken.objects.issue(ApiToken(name="test", team=owner, user=user, **rights | values))


SCOPE_FIELDS = {"read": "read", "borrow": "borrow", "admin": "administer"}


def api_with(credential: str) -> Api:
    """Return the API with this ``Authorization`` header."""
    headers = {"Authorization": credential} if credential else {}
    return Api(Client(raise_request_exception=False, headers=headers))


def api_of(**token: Any) -> Api:
    """Return the API for a program with its own token."""
    return api_with(f"Bearer {make_token(**token)}")


@dataclass
class Server:
    """A server under gunicorn, as deployed, with its own database."""

    url: str
    environment: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    code: Path = ROOT
    command: Sequence[str] = ("-m", "licenseserver")

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.command],
                cwd=self.code,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_ready(self.process)

    def stop(self) -> None:
        """End it as an operator does."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def kill(self) -> None:
        """End it as a power cut does: master and workers at once."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
            self.process = None

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the server is not ready:\n{self.log.read_text()}")

    def manage(self, *arguments: str) -> str:
        """Run a management command against the server's database."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout


@contextmanager
def own_database(folder: Path) -> Iterator[dict[str, str]]:
    """Provide the variables that name a new, empty database of the suite's kind."""
    url = os.environ.get("DATABASE_URL")
    if not url:
        yield {"LICENSE_DB_PATH": str(folder / "licenses.db")}
        return
    name = f"live_{uuid.uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    config = psycopg.conninfo.conninfo_to_dict(url)
    own = settings_url(config | {"dbname": name})
    try:
        yield {"DATABASE_URL": own}
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def settings_url(config: dict[str, Any]) -> str:
    """Return a DATABASE_URL of these parts."""
    import urllib.parse

    quote = urllib.parse.quote
    password = f":{quote(str(config['password']), safe='')}" if config.get("password") else ""
    host = quote(str(config.get("host", "localhost")), safe="")
    port = f":{config['port']}" if config.get("port") else ""
    return f"postgresql://{quote(str(config['user']), safe='')}{password}@{host}{port}/{config['dbname']}"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def server_environment(folder: Path, database: dict[str, str], port: int) -> dict[str, str]:
    """Return the variables of a server that keeps its files in a folder."""
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    (folder / "metrics").mkdir(exist_ok=True)
    return (
        inherited
        | database
        | {
            "DJANGO_SETTINGS_MODULE": "licenseserver.settings",
            "SECRET_KEY": settings.SECRET_KEY,
            "SECURE_SSL": "false",
            "LICENSE_DB_SEED": "true",
            "WEB_CONCURRENCY": "4",
            # Long enough for a slow machine.
            "LICENSE_LONGEST_WAIT": "60",
            "BIND": f"127.0.0.1:{port}",
            "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
        }
    )


@contextmanager
def running_server(folder: Path, port: int = 0, /, **variables: str) -> Iterator[Server]:
    """Provide a server with four workers and the default tools; keeps its files in a
    folder, takes any port if it is not given one, and has these variables beside
    those of the suite."""
    with own_database(folder) as database:
        port = port or free_port()
        environment = server_environment(folder, database, port) | variables
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity", "0"], cwd=ROOT, env=environment, check=True
        )
        running = Server(f"http://127.0.0.1:{port}", environment, folder / "server.log")
        try:
            running.start()
            yield running
        finally:
            running.stop()


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
