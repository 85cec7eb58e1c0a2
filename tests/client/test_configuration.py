"""The configuration of the client: server, proxy, token and former names."""

import json
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from license_client import Client, ConfigError
from license_client.config import load
from license_client.proxies import proxy_for

from tests.support.gateway import Gateway, Reply
from tests.support.shell import CLIENT_PYTHON, Shell
from tests.support.waiting import PATIENCE

# Nothing listens on the port of "discard" here.
NO_PROXY_THERE = "http://127.0.0.1:9"


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Provide the address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


# --- The names of before ---------------------------------------------------------


def run_python(shell: Shell, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [CLIENT_PYTHON, *arguments],
        env=shell.environment | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_the_former_command_works_and_names_the_new_one_once(shell: Shell) -> None:
    now = shell("status", "cad_tool")
    former = run_python(shell, "-m", "licence", "status", "cad_tool")
    assert (former.returncode, former.stdout) == (0, now.stdout)
    (line,) = former.stderr.splitlines()
    assert line.startswith("license: the command licence is now license.")
    assert run_python(shell, "-m", "licence", "fly").stderr.count("is now") == 1


def test_former_variables_work_and_one_line_names_the_new_ones(shell: Shell) -> None:
    server, user = shell.environment.pop("LICENSE_SERVER"), shell.environment.pop("LICENSE_USER")
    done = run_python(
        shell, "-m", "licence", "borrow", "cad_tool", "--json", LICENCE_SERVER=server, LICENCE_USER=f"old-{user}"
    )
    assert (done.returncode, json.loads(done.stdout)["user"]) == (0, f"old-{user}")
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["names"] == {
        "the command licence": "license",
        "LICENCE_SERVER": "LICENSE_SERVER",
        "LICENCE_USER": "LICENSE_USER",
    }


def test_a_former_variable_that_is_not_needed_says_nothing(shell: Shell) -> None:
    done = shell("status", LICENCE_SERVER="http://elsewhere", LICENCE_TOKEN="")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_former_folder_is_read_if_there_is_no_new_one(shell: Shell) -> None:
    server = shell.environment.pop("LICENSE_SERVER")
    home = Path(shell.environment["HOME"]) / ".config"
    old, new = (home / name / "config.toml" for name in ("licence", "license"))
    old.parent.mkdir(parents=True)
    old.write_text(f'server = "{server}"\n')
    done = shell("status")
    assert done.returncode == 0
    assert done.stderr.startswith(f"license: {old} is now {new}.")
    new.parent.mkdir()
    new.write_text(f'server = "{server}"\n')
    assert shell("status").stderr == ""


def test_the_command_finds_its_lease_by_both_names(shell: Shell) -> None:
    names = ["LEASE_ID", "TOOL", "FENCE", "EXPIRES_AT"]
    script = "; ".join(f'echo "$LICENSE_{name}=$LICENCE_{name}"' for name in names)
    done = shell("run", "--tool", "cad_tool", "--ttl", "1m", "--", "sh", "-c", script)
    pairs = [line.split("=") for line in done.stdout.splitlines()]
    assert len(pairs) == len(names)
    assert all(new and new == old for new, old in pairs)


def test_the_former_module_works_and_warns(shell: Shell) -> None:
    code = (
        "from licence import Licence, LicenceError, License, Refused\n"
        "from licence.api import Client\n"
        "import license_client\n"
        "assert Client is license_client.Client and Licence is License and issubclass(Refused, LicenceError)\n"
        "import os\n"
        "with Licence('cad_tool'):\n"
        "    print(Client(os.environ['LICENCE_SERVER']).tool_status('cad_tool').borrowed)\n"
    )
    server = shell.environment.pop("LICENSE_SERVER")
    done = run_python(shell, "-c", code, LICENCE_SERVER=server)
    assert (done.returncode, done.stdout) == (0, "1\n")
    said = [line for line in done.stderr.splitlines() if "FutureWarning" in line]
    assert len(said) == 2
    assert "the module licence is now license_client" in said[0]
    assert "LICENCE_SERVER is now LICENSE_SERVER" in said[1]


# --- The file ----------------------------------------------------------------------


def test_a_file_may_begin_with_a_byte_order_mark(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'# from Windows\nserver = "{shell.environment.pop("LICENSE_SERVER")}"\n', encoding="utf-8-sig")
    assert shell("status", "--config", str(file)).returncode == 0


def test_an_older_python_without_tomli_names_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text('server = "http://localhost"\n')
    for name in ("tomllib", "tomli"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="pip install tomli"):
        load(file=str(file), environment={})


# --- No server, or a silent one ------------------------------------------------------


def test_a_message_says_that_the_server_is_the_default(shell: Shell) -> None:
    del shell.environment["LICENSE_SERVER"]
    # Nothing may listen on the default port of a machine that runs this.
    done = shell("status", "--patience", "0s", http_proxy=NO_PROXY_THERE, NO_PROXY="")
    assert done.returncode == 69
    assert "http://localhost:8000 (the default; set LICENSE_SERVER to another server) can't be reached" in done.stderr
    assert "default" not in shell("status", "--server", NO_PROXY_THERE, "--patience", "0s").stderr


@pytest.mark.parametrize("command", ["status", "list"])
def test_a_command_that_only_shows_reports_retries_and_gives_up_after_ten_seconds(
    shell: Shell, silent_server: str, command: str
) -> None:
    shell.environment["LICENSE_SERVER"] = silent_server
    process = shell.start(command)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert said == f"license: {silent_server} has not answered yet. Retrying for 7 s.\n"
    assert process.poll() is None
    assert process.wait(PATIENCE) == 69
    assert f"{silent_server} can't be reached" in process.stderr.read()


def test_a_read_only_call_ends_in_time_whatever_delays_it(
    shell: Shell, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A name that is not resolved: Python can't limit the time of the lookup.
    code = (
        "import socket, sys, threading\n"
        "socket.getaddrinfo = lambda *a, **k: threading.Event().wait()\n"
        "from license_client.cli import main\n"
        "sys.exit(main(['status', '--patience', '1s']))\n"
    )
    started = time.monotonic()
    done = run_python(shell, "-c", code, LICENSE_SERVER="http://licenses.example.com")
    assert time.monotonic() - started < PATIENCE
    assert (done.returncode, done.stderr) == (
        69,
        "license: http://licenses.example.com can't be reached: no answer within 1 s\n",
    )


# --- Proxies -------------------------------------------------------------------------


def test_the_proxy_is_named_when_it_cant_be_reached(shell: Shell) -> None:
    del shell.environment["NO_PROXY"]
    done = shell("status", "--patience", "1s", http_proxy="http://ana:secret@127.0.0.1:9")
    assert done.returncode == 69
    assert (
        f"{shell.server.url} can't be reached through the proxy http://127.0.0.1:9 (http_proxy): Connection refused"
        in done.stderr
    )
    assert "secret" not in done.stderr


def test_the_proxy_is_named_when_it_answers(shell: Shell, gateway: Gateway) -> None:
    del shell.environment["NO_PROXY"]
    gateway.fault = lambda call: Reply(407, "", {"Proxy-Authenticate": "Basic"})
    done = shell("status", "--server", "http://licenses.example.com", HTTP_PROXY=gateway.url)
    assert done.returncode == 69
    assert f"http://licenses.example.com through the proxy {gateway.url} (HTTP_PROXY) answered 407" in done.stderr


@pytest.mark.parametrize("networks", ["127.0.0.0/8", "10.0.0.0/8, 127.0.0.0/8", "127.0.0.1", "*"])
def test_no_proxy_may_name_a_network(shell: Shell, networks: str) -> None:
    done = shell("status", "--patience", "1s", http_proxy=NO_PROXY_THERE, NO_PROXY=networks)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("server", "no_proxy", "goes_through"),
    [
        ("http://10.1.2.3:8000", "10.0.0.0/8", False),
        ("http://11.1.2.3:8000", "10.0.0.0/8", True),
        ("http://[fd00::7]:8000", "fd00::/8", False),
        ("http://[fd00::7]:8000", "[fd00::7]", False),
        ("http://[fe80::7]:8000", "fd00::/8,10.0.0.0/8", True),
        ("http://licenses.example.com", ".example.com", False),
        ("http://licenses.example.com", "10.0.0.0/8,not/a/network", True),
        ("https://licenses.example.com", "", False),
    ],
)
def test_which_servers_are_reached_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, server: str, no_proxy: str, goes_through: bool
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", "proxy.example.com:3128")
    monkeypatch.setenv("no_proxy", no_proxy)
    proxy = proxy_for(server)
    assert (proxy is not None) == goes_through
    assert proxy is None or str(proxy) == "the proxy http://proxy.example.com:3128 (http_proxy)"


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http:/x", "http://", "http://[::1", "http://a:port", "::"])
def test_a_proxy_of_another_kind_is_refused(shell: Shell, proxy: str) -> None:
    del shell.environment["NO_PROXY"]
    done = shell("status", "--patience", "5m", http_proxy=proxy)
    assert done.returncode == 69
    assert "(http_proxy)" in done.stderr
    assert "Traceback" not in done.stderr


# --- A token, and who can read it -----------------------------------------------------


@pytest.mark.parametrize(
    "server", ["http://203.0.113.7", "http://licenses:8000", "http://localhost.example.com", "http://[fd00::7]"]
)
def test_a_token_goes_to_another_machine_only_over_https(shell: Shell, server: str) -> None:
    done = shell("status", "--server", server, "--token", "lic_abc")
    assert done.returncode == 78
    assert f"{server} is not https: anyone on the network could read the token." in done.stderr


@pytest.mark.parametrize(
    "server",
    ["https://licenses.example.com", "http://127.0.0.2", "http://[::1]:8000", "http://localhost", "http://a.localhost"],
)
def test_a_token_goes_over_https_and_to_this_machine(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("no_proxy", "*")
    assert Client(server, token="lic_abc").but(timeout=1, patience=0).token == "lic_abc"


def test_plain_http_is_allowed_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Client("http://203.0.113.7").server == "http://203.0.113.7"


def test_a_token_does_not_go_through_a_proxy_on_another_machine_without_https(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", "http://203.0.113.8:3128")
    with pytest.raises(ConfigError, match="not https"):
        Client("http://127.0.0.1:8000", token="lic_abc")


def test_plain_http_with_a_token_can_be_allowed(shell: Shell, gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("allow_http = true\n")
    through = {"HTTP_PROXY": gateway.url, "NO_PROXY": ""}
    gateway.fault = lambda call: Reply(200, "[]")
    shell.environment |= {"LICENSE_SERVER": "http://licenses.example.com", "LICENSE_TOKEN": "lic_abc"}
    assert shell("status", **through).returncode == 78
    assert shell("status", "--allow-http", **through).returncode == 0
    assert shell("status", LICENSE_ALLOW_HTTP="true", **through).returncode == 0
    assert shell("status", "--config", str(file), **through).returncode == 0
    assert shell("status", LICENSE_ALLOW_HTTP="perhaps", **through).returncode == 78
    assert {call.headers["Authorization"] for call in gateway.calls} == {"Bearer lic_abc"}


def test_no_warnings_without_former_names() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(environment={"LICENSE_SERVER": "http://localhost"})
