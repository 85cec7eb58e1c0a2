"""A wrong setting stops the start with one clear line."""

import os
import subprocess
import sys

import pytest

from .conftest import ROOT

GOOD = {"SECRET_KEY": "k" * 50}


def start(**variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "SECRET_KEY"}}
    return subprocess.run(
        [sys.executable, "manage.py", "check"], cwd=ROOT, env=inherited | variables, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SECRET_KEY", ""),
        ("SECRET_KEY", "short"),
        ("DEBUG", "maybe"),
        ("LICENSE_DB_SEED", "2"),
        ("LOG_LEVEL", "LOUD"),
        ("DATABASE_URL", "mysql://u:p@h/d"),
        ("DATABASE_URL", "nonsense"),
        ("DATABASE_URL", "postgresql://host:notaport/d"),
        ("DATABASE_STATEMENT_TIMEOUT", "soon"),
        ("WEB_CONCURRENCY", "many"),
        ("WEB_CONCURRENCY", "-1"),
        ("CSRF_TRUSTED_ORIGINS", "example.com"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(variable: str, value: str) -> None:
    result = start(**(GOOD | {variable: value}))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert variable in result.stderr


@pytest.mark.parametrize("value", ["0", "1000"])
def test_a_wrong_number_of_workers_stops_gunicorn(value: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--config", "licenseserver/gunicorn.conf.py", "licenseserver.wsgi"],
        cwd=ROOT,
        env=os.environ | GOOD | {"WEB_CONCURRENCY": value, "BIND": "127.0.0.1:0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode != 0
    assert "WEB_CONCURRENCY" in result.stderr
    assert "Traceback" not in result.stderr


def test_good_values_start() -> None:
    assert start(**GOOD, LOG_LEVEL="warning", DEBUG="yes").returncode == 0
