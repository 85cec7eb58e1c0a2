"""Make databases of the suite's kind for servers and commands."""

import fcntl
import functools
import os
import shutil
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from django.db import transaction
from psycopg.sql import SQL, Identifier

from tests.support import suite
from tests.support.paths import ROOT

# Counts the sessions of a database that wait for a lock; others may use the server's other databases.
LOCK_WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@contextmanager
def empty_database(folder: Path) -> Iterator[dict[str, str]]:
    """Provide the variables that name a new database of the suite's kind, without tables."""
    url = os.environ.get("DATABASE_URL")
    if not url:
        yield {"LICENSE_DB_PATH": str(folder / "licenses.db")}
        return
    with _created(url) as own:
        yield own


@contextmanager
def migrated_database(folder: Path) -> Iterator[dict[str, str]]:
    """Provide the variables that name a new database of the suite's kind, with all tables.

    It is a copy: twenty migrations take longer than most tests.
    """
    template, url = migrated_template(), os.environ.get("DATABASE_URL")
    if not url:
        shutil.copy(template, folder / "licenses.db")
        yield {"LICENSE_DB_PATH": str(folder / "licenses.db")}
        return
    with _created(url, template) as own:
        yield own


@contextmanager
def _created(url: str, template: str = "template1") -> Iterator[dict[str, str]]:
    name = f"live_{uuid.uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template)))
    try:
        yield {"DATABASE_URL": settings_url(psycopg.conninfo.conninfo_to_dict(url) | {"dbname": name})}
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@contextmanager
def undone() -> Iterator[None]:
    """Undo what happens in the test's own database inside."""
    block = transaction.atomic()
    # Like a test's transaction, it allows services to begin durable ones inside.
    vars(block)["_from_testcase"] = True
    with block:
        yield
        transaction.set_rollback(True)


@functools.cache
def migrated_template() -> str:
    """Migrate a database once in a run of the suite; return its file, or its name in PostgreSQL.

    Nothing connects to it, so that all processes of the run can copy it.
    """
    folder, url = Path(os.environ[suite.FOLDER]), os.environ.get("DATABASE_URL")
    file, done = folder / "template.db", folder / "template-is-ready"
    with (folder / "template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            if url:
                with psycopg.connect(url, autocommit=True) as connection:
                    connection.execute(SQL("CREATE DATABASE {}").format(Identifier(_template_name())))
                own = settings_url(psycopg.conninfo.conninfo_to_dict(url) | {"dbname": _template_name()})
                database = {"DATABASE_URL": own}
            else:
                database = {"LICENSE_DB_PATH": str(file)}
            migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
            subprocess.run(migrate, cwd=ROOT, env=os.environ | database, check=True)
            if not url:
                # Everything into the one file that is copied.
                with closing(sqlite3.connect(file)) as rows:
                    rows.execute("PRAGMA journal_mode = DELETE")
            done.touch()
    return _template_name() if url else str(file)


def drop_template() -> None:
    """Drop the template from a server that outlives the run."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(_template_name())))


def _template_name() -> str:
    return f"template_{Path(os.environ[suite.FOLDER]).name}"


def settings_url(config: dict[str, Any]) -> str:
    """Return a DATABASE_URL of these parts."""
    password = f":{quote(str(config['password']), safe='')}" if config.get("password") else ""
    host = quote(str(config.get("host", "localhost")), safe="")
    port = f":{config['port']}" if config.get("port") else ""
    return f"postgresql://{quote(str(config['user']), safe='')}{password}@{host}{port}/{config['dbname']}"
