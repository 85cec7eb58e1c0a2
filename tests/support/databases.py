"""Make databases of the suite's kind for servers and commands."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg


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
    password = f":{quote(str(config['password']), safe='')}" if config.get("password") else ""
    host = quote(str(config.get("host", "localhost")), safe="")
    port = f":{config['port']}" if config.get("port") else ""
    return f"postgresql://{quote(str(config['user']), safe='')}{password}@{host}{port}/{config['dbname']}"
