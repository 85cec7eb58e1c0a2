"""Schemathesis checks that the server follows its schema for any request."""

import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection

from tests.support.paths import ROOT
from tests.support.servers import running_server

CONFIG = ROOT / "tests" / "support" / "openapi" / "schemathesis.toml"
HOOKS = ROOT / "tests" / "support" / "schemathesis_hooks.py"
UNLIMITED = {
    "LICENSE_RATE_PER_CREDENTIAL": "off",
    "LICENSE_RATE_PER_ADDRESS": "off",
    "LICENSE_RATE_HEARTBEATS": "off",
    "ADMIN_USERNAME": "ana",
    "ADMIN_PASSWORD": "of-nothing-but-this-test",
    "LICENSE_FAILURES_PER_ADDRESS": "1000000",
    "LICENSE_FAILURES_PER_ACCOUNT": "1000000",
}


@pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL refuses more values")
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    with running_server(tmp_path, LICENSE_AUTH="required", **UNLIMITED) as server:
        scopes = [argument for scope in ("read", "borrow", "admin") for argument in ("--scope", scope)]
        server.manage("ensure_admin")
        members = tmp_path / "members.csv"
        members.write_text("team,user\ncrash,ana\n")
        server.manage("team", "import", str(members))
        token = server.manage("token", "create", "schemathesis", "--user", "ana", *scopes).strip()
        schema = tmp_path / "openapi.json"
        server.manage("spectacular", "--format", "openapi-json", "--file", str(schema))
        run = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "--config-file", CONFIG, "run", schema, "--url", server.url],
            cwd=tmp_path,
            env=server.environment
            | {"LICENSE_TOKEN": token, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": str(HOOKS)},
            capture_output=True,
            text=True,
        )
    assert run.returncode == 0, run.stdout + run.stderr
