"""Names of users, projects and hosts up to 255 characters, wherever names go: GitHub's
"owner/repository", UPNs and e-mail addresses are longer than 64."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.test import Client

from licenses.clock import database_now
from licenses.models import AccessRule, DenialDay, TeamMember, Tool, UsageDay, UserLimit
from tests.support.admin_forms import save
from tests.support.api import Api, api_of, api_with
from tests.support.issuer import Issuer
from tests.support.paths import ROOT
from tests.support.servers import Server

NAME = "acme-engineering-platform/" + "é" * 229
PROJECT, HOST = "p" * 255, "h" * 255
MakeTool = Callable[..., Tool]


def test_a_lease_has_long_names_and_is_found_by_them(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=2)
    first = api.borrow(user=NAME, project=PROJECT, host=HOST, key="k")
    assert first.status_code == 200, first.content
    assert api.borrow(user=NAME, project=PROJECT, host=HOST, key="k").json() == first.json()
    found = {
        len(api.client.get(path, query).json()["results"])
        for path, query in [
            ("/api/v1/leases/", {"user": NAME}),
            ("/api/v1/leases/", {"project": PROJECT}),
        ]
    }
    assert found == {1}
    assert [lease["user"] for lease in api.client.get("/borrows", {"user": NAME, "host": HOST}).json()] == [NAME]
    assert api.status(user=NAME)["available_to_you"] == 1
    # The name may be wrapped.
    assert NAME in api.client.get("/tools/cad/").content.decode().replace("<wbr>", "")


def test_a_wait_and_a_denial_have_long_names(api: Api, admin_api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=1)
    held = api.borrow().json()["id"]
    assert api.borrow(user=NAME, host=HOST).json()["code"] == "exhausted"
    (denial,) = admin_api.client.get("/api/v1/denials/", {"user": NAME}).json()["results"]
    assert (denial["user"], denial["host"]) == (NAME, HOST)
    ticket = api.wait(user=NAME, project=PROJECT, host=HOST)
    api.give_back(held)
    assert api.poll(ticket).json()["user"] == NAME


def test_use_is_rolled_up_under_long_names(
    api: Api, admin_api: Api, make_tool: MakeTool, pass_time: Callable[..., None], admin_client: Client
) -> None:
    make_tool("cad", capacity=1)
    lease = api.borrow(user=NAME, project=PROJECT).json()["id"]
    api.borrow(user=NAME)
    pass_time(hours=1)
    api.give_back(lease)
    pass_time(days=2)
    call_command("expire_leases")
    assert UsageDay.objects.filter(user=NAME, project=PROJECT).exists()
    assert DenialDay.objects.exists()
    since = (database_now() - timedelta(days=3)).date().isoformat()
    rows = admin_api.client.get("/api/v1/reports/usage", {"by": "user,project", "since": since}).json()["rows"]
    assert {(row["user"], row["project"]) for row in rows} == {(NAME, PROJECT)}
    for page in ("/admin/licenses/lease/?state=all", "/admin/licenses/denial/"):
        assert NAME in admin_client.get(page).content.decode()


def test_members_limits_lists_and_tokens_have_long_names(
    admin_client: Client, api: Api, make_tool: MakeTool, tmp_path: Path
) -> None:
    tool = make_tool("cad", capacity=3)
    (tmp_path / "members.csv").write_text(f"team,user\ncrash,{NAME}\n")
    call_command("team", "import", str(tmp_path / "members.csv"))
    assert TeamMember.objects.get().user == NAME
    rules = [
        {"effect": "include", "kind": "user", "team": "", "name": NAME},
        {"effect": "exclude", "kind": "project", "team": "", "name": PROJECT},
    ]
    save(admin_client, tool, {"user_limits": [{"user": NAME, "seats": 1}], "access_rules": rules})
    assert (UserLimit.objects.get().user, AccessRule.objects.count()) == (NAME, 2)
    assert api.borrow(user=NAME, project=PROJECT).json()["code"] == "excluded"
    assert api.borrow(user=NAME).json()["team"] == "crash"
    assert api.borrow(user=NAME).json()["code"] == "user_limit"
    assert api_of(user=NAME).client.get("/licenses/status").status_code == 200


def test_a_jwt_may_have_a_long_name(issuer: Issuer, make_tool: MakeTool, required: None) -> None:
    make_tool("cad", capacity=1)
    token = issuer.sign(issuer.claims(preferred_username=NAME))
    answer = api_with(f"Bearer {token}").post("/licenses/borrow", {"tool": "cad"})
    assert (answer.status_code, answer.json()["user"]) == (200, NAME)
    token = issuer.sign(issuer.claims(preferred_username=NAME + "x"))
    answer = api_with(f"Bearer {token}").client.get("/licenses/status")
    assert (answer.status_code, "1 to 255" in answer.json()["detail"]) == (401, True)


@pytest.mark.parametrize("field", ["user", "project", "host"])
def test_256_are_refused_and_the_limit_is_named(api: Api, make_tool: MakeTool, field: str) -> None:
    make_tool("cad")
    answer = api.post("/licenses/borrow", {"tool": "cad", "user": "ana", field: "x" * 256})
    assert (answer.status_code, "255" in answer.json()["detail"]) == (400, True)


def test_a_license_file_may_have_long_names(db: None, tmp_path: Path) -> None:
    (tmp_path / "cad.lic").write_text("FEATURE cad acme 1.0 permanent 3 SIGN=0\n")
    (tmp_path / "cad.opt").write_text(f"MAX 2 cad USER {'u' * 255}\n")
    files = ["--license", str(tmp_path / "cad.lic"), "--options", str(tmp_path / "cad.opt")]
    call_command("import_flexlm", *files, "--apply")
    assert UserLimit.objects.get().user == "u" * 255


def test_the_client_sends_long_names(server: Server) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "client/src"), "LICENSE_SERVER": server.url, "NO_PROXY": "*"}
    command = ["run", "--tool", "cad_tool", "--user", "u" * 255, "--project", "p" * 255, "--", "true"]
    subprocess.run([sys.executable, "-m", "license_client", *command], env=environment, check=True)
