"""``license admin``: bring a whole site from a file, and write it as one."""

import json
from pathlib import Path

import pytest

from tests.support.servers import Server
from tests.support.shell import Shell

TOOL = "[tools.mesher]\ncapacity = {}\n"


@pytest.fixture(scope="module")
def token(shared_server: Server) -> str:
    return shared_server.manage("token", "create", "site", "--scope", "admin").strip().splitlines()[-1]


@pytest.fixture
def admin(shell: Shell, token: str) -> Shell:
    shell.environment["LICENSE_TOKEN"] = token
    return shell


def test_a_file_is_shown_applied_and_exported(admin: Shell, tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(TOOL.format(4))
    shown = admin("admin", "apply", str(file), "--dry-run", "--exit-code")
    assert (shown.returncode, shown.stdout.splitlines()[0]) == (3, "+ tool mesher: capacity 4")
    assert "1 change(s) to make. Nothing was changed.\n" in shown.stdout
    assert "  - tool analysis\n" in shown.stdout
    assert "mesher" not in admin("status").stdout
    done = admin("admin", "apply", str(file))
    assert (done.returncode, "1 change(s) made." in done.stdout) == (0, True)
    again = json.loads(admin("admin", "apply", str(file), "--json", "--exit-code").stdout)
    assert (again["changes"], again["dry_run"]) == ([], False)
    exported = admin("admin", "export")
    assert TOOL.format(4) in exported.stdout
    file.write_text(exported.stdout.replace(TOOL.format(4), ""))
    pruned = admin("admin", "apply", str(file), "--prune")
    assert pruned.stdout == "- tool mesher\n1 change(s) made.\n"


def test_a_mistake_has_its_line_and_nothing_changes(admin: Shell, tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(f"{TOOL.format(4)}vendr = 'x'\n")
    refused = admin("admin", "apply", str(file))
    assert refused.returncode == 65
    assert f"{file}:3: tools.mesher.vendr: There is no such key. Did you mean vendor?" in refused.stderr
    as_json = json.loads(admin("admin", "apply", str(file), "--json").stderr)
    assert (as_json["code"], as_json["errors"][0]["line"]) == ("invalid_site", 3)
    assert "mesher" not in admin("status").stdout


def test_a_file_that_can_not_be_read_is_an_error(admin: Shell, tmp_path: Path) -> None:
    missing = admin("admin", "apply", str(tmp_path / "none.toml"))
    assert (missing.returncode, "No such file" in missing.stderr) == (64, True)


def test_without_the_scope_admin_nothing_is_shown_or_changed(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(TOOL.format(4))
    assert shell("admin", "apply", str(file)).returncode == 77
    assert shell("admin", "export").returncode == 77
