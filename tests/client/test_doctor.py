"""``license doctor`` finds what is wrong and says what to do."""

import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from license_client import credentials
from license_client.credentials import Credential

from tests.support.gateway import Call, Gateway, Reply
from tests.support.servers import Server, running_server
from tests.support.shell import Shell

RENEW = "run `license login`"
LOGIN = f"{RENEW}, or set LICENSE_TOKEN"


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Provide a server where every call needs a credential."""
    folder = tmp_path_factory.mktemp("strict")
    members = folder / "members.csv"
    members.write_text("team,user\ncrash,ci\n")
    with running_server(folder, LICENSE_AUTH="required", WEB_CONCURRENCY="2") as running:
        running.manage("team", "import", str(members))
        yield running


@pytest.fixture
def strict(strict_server: Server, tmp_path: Path) -> Shell:
    return Shell(strict_server, tmp_path)


def token_of(server: Server, *options: str) -> str:
    return server.manage("token", "create", "test", *options).split()[-1]


def checks(shell: Shell, *arguments: str, **environment: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Return the exit code, and what doctor says of each subject."""
    done = shell("doctor", "--json", *arguments, **environment)
    assert done.stderr == ""
    found: dict[str, list[dict[str, Any]]] = {}
    for check in json.loads(done.stdout):
        found.setdefault(check["check"], []).append(check)
    return done.returncode, found


def states(checks: list[dict[str, Any]]) -> list[str]:
    return [check["state"] for check in checks]


def test_all_is_well_on_an_open_server(shell: Shell) -> None:
    code, found = checks(shell)
    assert code == 0
    assert {state for each in found.values() for state in states(each)} == {"ok", "info"}
    assert found["token"][0]["detail"] == "none, and this server needs none"
    assert found["version"][0]["state"] == "ok"
    assert f"server = {shell.server.url} (LICENSE_SERVER)" in [check["detail"] for check in found["config"]]


def test_each_check_is_one_line_for_people(shell: Shell) -> None:
    done = shell("doctor")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == sum(map(len, checks(shell)[1].values()))
    assert "ok    server     " in done.stdout


def test_every_setting_is_shown_with_its_source_and_no_secret(strict: Shell, tmp_path: Path) -> None:
    token = token_of(strict.server, "--user", "ci")
    file = tmp_path / "my.toml"
    file.write_text(f'token = "{token}"\nteam = "crash"\nuser = "somebody"\n')
    done = strict("doctor", "--config", str(file), "--user", "ci", LICENSE_PROJECT="hood")
    assert done.returncode == 0
    for line in (
        f"{file} was read",
        f"server = {strict.server.url} (LICENSE_SERVER)",
        f"token = set (not shown) ({file})",
        "user = ci (--user)",
        f"team = crash ({file})",
        "project = hood (LICENSE_PROJECT)",
        "allow_http is not set",
    ):
        assert line in done.stdout
    assert token not in done.stdout + done.stderr


def test_a_wrong_file_is_a_failure_of_the_configuration(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("port = 1\n")
    code, found = checks(shell, "--config", str(file))
    assert (code, found["config"][0]["state"]) == (78, "FAIL")
    assert "server" not in found


def test_a_token_over_plain_http_to_another_machine_is_a_failure(shell: Shell) -> None:
    code, found = checks(shell, "--server", "http://licenses.example.com", "--token", "lic_abc")
    assert code == 78
    assert "is not https" in found["config"][-1]["detail"]


@pytest.mark.parametrize(
    "address", ["http://[bad", "http://a]b", "http://x:port", "http://", "ftp://x", "//", "http://a b"]
)
def test_what_is_no_address_is_a_failure_of_the_configuration(shell: Shell, address: str) -> None:
    code, found = checks(shell, LICENSE_SERVER=address)
    assert code == 78
    assert "is not the address of a server" in found["config"][-1]["detail"]


def test_former_names_are_named(shell: Shell) -> None:
    server = shell.environment.pop("LICENSE_SERVER")
    code, found = checks(shell, LICENCE_SERVER=server)
    assert code == 0
    assert {"check": "config", "state": "warn"}.items() <= found["config"][-1].items()
    assert found["config"][-1]["fix"] == "rename it to LICENSE_SERVER"


@pytest.mark.parametrize(
    ("options", "states_of_token"),
    [
        (["--user", "ci", "--days", "60"], ["ok", "ok"]),
        (["--user", "ci", "--days", "3"], ["ok", "warn"]),
        (["--user", "ci", "--days", "60", "--scope", "read"], ["ok", "warn", "ok"]),
        (["--user", "ci", "--days", "60", "--scope", "borrow"], ["ok", "ok"]),
        (["--user", "ana", "--days", "60"], ["ok", "ok", "warn"]),
        (["--days", "60", "--team", "crash"], ["ok", "ok"]),
    ],
    ids=["good", "ends soon", "reads only", "borrows only", "of another user", "of a team"],
)
def test_a_token_is_checked_for_its_scopes_its_end_and_its_user(
    strict: Shell, options: list[str], states_of_token: list[str]
) -> None:
    code, found = checks(strict, LICENSE_TOKEN=token_of(strict.server, *options))
    assert (code, states(found["token"])) == (0, states_of_token)
    assert all(check["fix"] for check in found["token"] if check["state"] == "warn")


def test_a_missing_and_a_wrong_token_are_failures(strict: Shell) -> None:
    code, found = checks(strict)
    assert (code, found["token"][0]["state"], found["token"][0]["fix"]) == (77, "FAIL", LOGIN)
    code, found = checks(strict, LICENSE_TOKEN="lic_" + "x" * 43)
    assert (code, found["token"][0]["state"]) == (77, "FAIL")
    assert found["token"][0]["fix"] == f"{RENEW} and remove the token from LICENSE_TOKEN, or set another one there"


@pytest.mark.parametrize(
    ("days", "fix"), [("3", RENEW), ("60", ""), ("revoked", RENEW)], ids=["ends soon", "ends late", "is revoked"]
)
def test_a_token_of_license_login_is_renewed_by_license_login(
    strict: Shell, tmp_path: Path, days: str, fix: str
) -> None:
    token = token_of(strict.server, "--user", "ci", "--days", "60" if days == "revoked" else days)
    if days == "revoked":
        httpx.post(f"{strict.server.url}/api/v1/login/revoke", data={"token": token}).raise_for_status()
    credentials.store(strict.server.url, Credential(token, "ci", ""), {"XDG_CONFIG_HOME": str(tmp_path / ".config")})
    code, found = checks(strict)
    assert code == (77 if days == "revoked" else 0)
    assert [check["fix"] for check in found["token"] if check["fix"]] == ([fix] if fix else [])


def test_a_server_that_is_away_is_a_failure(shell: Shell) -> None:
    code, found = checks(shell, "--server", "http://127.0.0.1:9")
    assert (code, found["server"][0]["state"]) == (69, "FAIL")
    assert "Connection refused" in found["server"][0]["detail"]
    assert "token" not in found


def test_another_kind_of_server_is_a_failure(shell: Shell, gateway: Gateway) -> None:
    gateway.fault = lambda call: Reply(200, "<html>Welcome</html>")
    code, found = checks(shell)
    assert (code, found["server"][0]["state"]) == (69, "FAIL")
    assert found["server"][0]["fix"] == "check the address: this is another server"


def test_a_proxy_is_named_without_its_password(shell: Shell) -> None:
    del shell.environment["NO_PROXY"]
    code, found = checks(shell, http_proxy="http://ana:secret@127.0.0.1:9")
    assert (code, found["proxy"][0]["state"]) == (69, "warn")
    assert found["proxy"][0]["detail"] == "calls go through the proxy http://127.0.0.1:9 (http_proxy)"
    assert found["proxy"][0]["fix"] == "add the server to no_proxy"
    code, found = checks(shell, http_proxy="socks5://127.0.0.1:9")
    assert (code, found["proxy"][0]["state"]) == (69, "FAIL")


@pytest.mark.parametrize(("hours", "words"), [(2, "behind"), (-2, "ahead of")])
def test_a_clock_that_differs_is_reported(shell: Shell, gateway: Gateway, hours: int, words: str) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)

    def with_another_date(call: Call) -> Reply | None:
        return Reply(200, '{"status": "ok"}', {"Date": moment}) if call.path == "/livez" else None

    gateway.fault = with_another_date
    code, found = checks(shell)
    assert (code, found["clock"][0]["state"]) == (0, "warn")
    assert f"{words} the server" in found["clock"][0]["detail"]
    assert "NTP" in found["clock"][0]["fix"]


@pytest.mark.parametrize("trusted", [True, False])
def test_the_certificate_of_the_server_is_checked(shell: Shell, tmp_path: Path, trusted: bool) -> None:
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    make_certificate(certificate, key, days=5)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Alive(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/livez" else 500)
            self.end_headers()
            self.wfile.write(b'{"status": "ok"}')

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Alive) as listener:
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            trust = {"SSL_CERT_FILE": str(certificate)} if trusted else {}
            code, found = checks(shell, "--server", f"https://localhost:{listener.server_port}", **trust)
        finally:
            listener.shutdown()
            thread.join()
    assert code == 69
    if trusted:
        assert found["tls"][0]["state"] == "warn"
        assert "the certificate ends in 5 days" in found["tls"][0]["detail"]
        assert found["server"][0]["state"] == "ok"
    else:
        assert found["tls"][0]["state"] == "FAIL"
        assert "SSL_CERT_FILE" in found["tls"][0]["fix"]


def make_certificate(certificate: Path, key: Path, *, days: int) -> None:
    """Make a certificate of localhost that signs itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
