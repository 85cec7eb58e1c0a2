"""A process imports only what its configuration needs: the rest costs memory and the time of its start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from tests.support.databases import migrated_database
from tests.support.paths import ROOT
from tests.support.servers import server_environment

pytestmark = pytest.mark.any_database

# What a provider, webhooks or traces need; the first two take 9 MB.
OPTIONAL = {"cryptography", "jwt", "mozilla_django_oidc.auth", "opentelemetry"}

LOADED = """
import json, sys
import licenseserver.wsgi
print(json.dumps(sorted(sys.modules)))
"""
SERVED = """
import json, sys
import licenseserver.wsgi
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

call_command("seed", verbosity=0, stdout=sys.stderr)
client = Client(headers={"host": "localhost"})
borrowed = client.post("/licenses/borrow", {"tool": "cad_tool", "user": "ada"}, content_type="application/json")
client.force_login(User.objects.create_user("grace", is_staff=True))
pages = [client.get(page) for page in ("/", "/admin/", "/signin/")]
print(json.dumps([[answer.status_code for answer in (borrowed, *pages)], sorted(sys.modules)]))
"""
# As a shell does, with the checks that the command asks for.
COMMANDS = """
import json, sys
from django.core.management import execute_from_command_line

execute_from_command_line(["manage.py", "expire_leases"])
without = sorted(sys.modules)
execute_from_command_line(["manage.py", "check"])
print(json.dumps([without, sorted(sys.modules)]))
"""


def output_of(code: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()[-1]


def test_a_server_without_a_provider_imports_no_cryptography(tmp_path: Path) -> None:
    with migrated_database(tmp_path) as database:
        environment = server_environment(tmp_path, database, 1) | {"LICENSE_AUTH": "open"}
        statuses, modules = json.loads(output_of(SERVED, environment))
    assert statuses == [200, 200, 200, 200]
    assert not OPTIONAL & set(modules)


def test_a_server_with_a_provider_imports_it_before_its_workers_begin(tmp_path: Path) -> None:
    """Workers share what is imported before the fork."""
    environment = server_environment(tmp_path, {}, 1) | {"LICENSE_OIDC_ISSUER": "https://sso.example.com/"}
    modules = json.loads(output_of(LOADED, environment))
    assert {"jwt", "mozilla_django_oidc.auth", "licenses.admin.reports", "licenses.board.views"} <= set(modules)


def test_a_command_imports_no_pages_and_the_check_imports_all(tmp_path: Path) -> None:
    """With them the start of a command takes twice the time."""
    with migrated_database(tmp_path) as database:
        environment = server_environment(tmp_path, database, 1)
        without, checked = json.loads(output_of(COMMANDS, environment))
    pages = {"rest_framework.views", "drf_spectacular.openapi", "licenses.admin.tool", "licenseserver.urls"}
    assert not (pages | OPTIONAL) & set(without)
    assert pages <= set(checked)


def test_no_command_of_the_server_asks_for_all_checks() -> None:
    ours = [name for name, app in get_commands().items() if app == "licenses"]
    assert "expire_leases" in ours
    assert [name for name in ours if load_command_class("licenses", name).requires_system_checks == "__all__"] == []
