"""``license login`` gets a token that a person approves, and ``license logout`` revokes it."""

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from license_client import Client, Refused, login, platforms
from license_client.messages import Messages

from tests.support.gateway import Gateway, Reply, problem
from tests.support.person import PASSWORD, Person
from tests.support.servers import Server, running_server
from tests.support.shell import Shell

CODE = re.compile(r"Open \S+/device/\?code=\S+ and approve the code ([A-Z]{4}-[A-Z]{4}), within 10 min\.")


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Provide a server that requires a credential, with ana's account."""
    with running_server(tmp_path_factory.mktemp("server"), LICENSE_AUTH="required", WEB_CONCURRENCY="2") as running:
        account = f"User.objects.create_user('ana', password={PASSWORD!r})"
        running.manage("shell", "-c", f"from django.contrib.auth.models import User; {account}")
        yield running


@pytest.fixture
def shell(shared_server: Server, tmp_path: Path) -> Shell:
    """Provide a shell without a token, whose user is not ana."""
    shell = Shell(shared_server, tmp_path)
    del shell.environment["LICENSE_USER"]
    return shell


@pytest.fixture(scope="module")
def ana(shared_server: Server) -> Person:
    return Person(shared_server.url, "ana")


def log_in(shell: Shell, ana: Person, *arguments: str, answer: str = "approve") -> tuple[int, str, str]:
    """Run ``license login`` and answer it. Return its exit code and what it printed."""
    process = shell.start("login", *arguments)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = CODE.search(line)
    assert found, line
    ana.answer(found[1], answer)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def kept(shell: Shell) -> dict[str, dict[str, str]]:
    stored: dict[str, dict[str, str]] = json.loads(path_of(shell).read_text())
    return stored


def path_of(shell: Shell) -> Path:
    return Path(shell.environment["HOME"]) / ".config" / "license" / "credentials.json"


def is_valid(server: Server, token: str) -> bool:
    answer = httpx.get(f"{server.url}/licenses/status", headers={"Authorization": f"Bearer {token}"})
    return answer.status_code == 200


def tokens_of(person: Person) -> int:
    """Return the number of a person's valid tokens."""
    return person.client.get("/tokens/").text.count('aria-label="Revoke')


def test_a_person_logs_in_works_and_logs_out(shell: Shell, ana: Person) -> None:
    refused = shell("status")
    assert (refused.returncode, refused.stderr) == (
        77,
        "license: The server needs a token: run `license login`, or set LICENSE_TOKEN.\n",
    )
    code, out, err = log_in(shell, ana)
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"Signed in as ana at {shell.server.url} until \d{{4}}-\d\d-\d\d\.\n", out)
    assert stat.S_IMODE(path_of(shell).stat().st_mode) == 0o600
    assert stat.S_IMODE(path_of(shell).parent.stat().st_mode) == 0o700
    assert list(path_of(shell).parent.iterdir()) == [path_of(shell)]
    assert shell("status").returncode == 0
    # The user of the token is the default.
    run = shell("run", "--tool", "cad_tool", "--", "sh", "-c", "echo $LICENSE_TOOL")
    assert (run.returncode, run.stdout, run.stderr) == (0, "cad_tool\n", "")
    first = kept(shell)[shell.server.url]["token"]
    # A new token takes the place of the first, which is revoked.
    code, out, err = log_in(shell, ana, "--scope", "read", "--json")
    assert code == 0
    assert json.loads(out)["scopes"] == ["read"]
    second = kept(shell)[shell.server.url]["token"]
    assert second not in out + err
    assert [is_valid(shell.server, token) for token in (first, second)] == [False, True]
    done = shell("logout")
    assert (done.returncode, done.stdout) == (0, f"Signed out of {shell.server.url}.\n")
    assert kept(shell) == {}
    assert not is_valid(shell.server, second)
    again = shell("logout")
    assert (again.returncode, again.stdout) == (0, f"There is no stored token for {shell.server.url}.\n")
    assert shell("status").returncode == 77


def test_a_person_denies_a_login(shell: Shell, ana: Person) -> None:
    code, out, err = log_in(shell, ana, answer="deny")
    assert (code, out, err) == (77, "", "license: The person denied the sign-in.\n")
    assert not path_of(shell).exists()


def test_a_token_that_cant_be_stored_is_revoked(shell: Shell, ana: Person, tmp_path: Path) -> None:
    no_folder = tmp_path / "file"
    no_folder.write_text("")
    shell.environment["XDG_CONFIG_HOME"] = str(no_folder)
    before = tokens_of(ana)
    code, out, err = log_in(shell, ana)
    assert (code, out) == (78, "")
    assert "credentials.json can't be written: Not a directory" in err
    assert tokens_of(ana) == before


def test_a_login_goes_on_while_the_server_is_away_and_slows_down_when_told(
    shell: Shell, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(platforms.CURRENT, "sleep", slept.append)
    answers = [Reply(503, "away"), problem(400, "authorization_pending"), problem(400, "slow_down")]
    answers.append(problem(400, "expired_token"))
    gateway.fault = lambda call: answers.pop(0) if call.path.endswith("/token") else None
    client = Client(gateway.url, patience=0)
    with pytest.raises(Refused) as refused:
        login.sign_in(client, scopes=(), messages=Messages(as_json=True), browser=False, environment=shell.environment)
    assert refused.value.code == "expired_token"
    assert slept == [5, 5, 5, 10]


def test_a_stored_token_goes_to_its_server_only(shell: Shell, gateway: Gateway) -> None:
    path_of(shell).parent.mkdir(parents=True)
    token = {"token": "lic_" + "a" * 43, "user": "ana", "expires_at": "2027-01-01T00:00:00Z"}
    path_of(shell).write_text(json.dumps({shell.server.url: token}))
    shell("status")
    assert "Authorization" not in gateway.calls[-1].headers
    shell.environment["LICENSE_SERVER"] = shell.server.url
    refused = shell("status")
    assert (refused.returncode, refused.stderr.endswith("Run `license login` for a new token.\n")) == (77, True)
    # A token that is configured counts first.
    path_of(shell).write_text(json.dumps({gateway.url: token}))
    shell("status", "--server", gateway.url, LICENSE_TOKEN="lic_" + "b" * 43)
    assert gateway.calls[-1].headers["Authorization"] == "Bearer lic_" + "b" * 43


def test_a_logout_without_an_answer_keeps_the_token(shell: Shell, gateway: Gateway) -> None:
    path_of(shell).parent.mkdir(parents=True)
    token = {"token": "lic_" + "a" * 43, "user": "ana", "expires_at": "2027-01-01T00:00:00Z"}
    path_of(shell).write_text(json.dumps({gateway.url: token, "https://other.example": token}))
    gateway.fault = lambda call: Reply(503, "away")
    assert shell("logout", "--patience", "0").returncode == 69
    assert gateway.url in kept(shell)
    gateway.fault = lambda call: None
    assert shell("logout").returncode == 0
    assert list(kept(shell)) == ["https://other.example"]


@pytest.mark.parametrize("content", ["{", "[]", "[" * 9999, '"x"', "\x00"])
def test_a_broken_file_is_named(shell: Shell, content: str) -> None:
    path_of(shell).parent.mkdir(parents=True)
    path_of(shell).write_text(content)
    done = shell("status")
    assert done.returncode == 78
    assert f"{path_of(shell)}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_login_needs_https_to_another_machine(shell: Shell) -> None:
    refused = shell("login", "--server", "http://192.0.2.1")
    assert (refused.returncode, "is not https" in refused.stderr) == (78, True)


def test_the_end_of_a_token_is_said_once_a_day(shell: Shell) -> None:
    make = """
from datetime import timedelta
from django.utils import timezone
from licenses.models import ApiToken
now = timezone.now()
soon = {"created_at": now - timedelta(days=80), "expires_at": now + timedelta(days=3, minutes=5)}
print(ApiToken.objects.issue(ApiToken(name="x", user="ana", **soon)))
"""
    shell.environment["LICENSE_TOKEN"] = shell.server.manage("shell", "-c", make).split()[-1]
    first = shell("status")
    assert first.returncode == 0
    said = r"license: Your token ends in 3 days, on \S+\. Get a new one with `license login`, or on (\S+)\.\n"
    found = re.fullmatch(said, first.stderr)
    assert found
    assert found[1] == f"{shell.server.url}/tokens/"
    assert shell("status").stderr == ""
    warned = path_of(shell).with_name("warned.json")
    # Only a hash of the token is there.
    assert shell.environment["LICENSE_TOKEN"] not in warned.read_text()
    warned.write_text(json.dumps({name: at - 90_000 for name, at in json.loads(warned.read_text()).items()}))
    assert json.loads(shell("status", "--json").stderr)["event"] == "token_ends"
    # A program that can't note it warns each time, and works.
    for _ in range(2):
        done = shell("status", XDG_CONFIG_HOME="/dev/null")
        assert (done.returncode, "Your token ends" in done.stderr) == (0, True)
