"""A wrong setting stops the start with one clear line."""

import os
import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

KEY = "0123456789abcdefghijklmnopqrstuvwxyz"
GOOD = {"SECRET_KEY": KEY}


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
        ("SECRET_KEY", "a" * 46),
        ("SECRET_KEY", "ab" * 23),
        ("SECRET_KEY_FALLBACKS", KEY + ",short"),
        ("SECRET_KEY_FALLBACKS", KEY + "," + "a" * 46),
        ("DEBUG", "maybe"),
        ("SECURE_SSL", "maybe"),
        ("TRUST_PROXY", "nginx"),
        ("LICENSE_DB_SEED", "2"),
        ("LICENSE_DB_PREPARE", "perhaps"),
        ("LICENSE_DB_POOLER", "perhaps"),
        ("LICENSE_DB_PATH", "/nonexistent/licenses.db"),
        ("LICENSE_DB_PATH", "/"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "LOUD"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_SDK_DISABLED", "perhaps"),
        ("DATABASE_URL", "mysql://u:p@h/d"),
        ("DATABASE_URL", "nonsense"),
        ("DATABASE_URL", "postgresql://host:notaport/d"),
        ("DATABASE_URL", "postgresql://host:99999/d"),
        ("DATABASE_URL", "postgresql://host:5432,other:notaport/d"),
        ("DATABASE_URL", "postgresql://host"),
        ("DATABASE_URL", "host=h dbname=d"),
        ("DATABASE_URL", "postgresql://u:p%zz@h/d"),
        ("DATABASE_URL", "postgresql://h/d?no_such_parameter=1"),
        ("DATABASE_STATEMENT_TIMEOUT", "soon"),
        ("DATABASE_STATEMENT_TIMEOUT", "-1"),
        ("WEB_CONCURRENCY", "many"),
        ("WEB_CONCURRENCY", "-1"),
        ("BIND", "localhost"),
        ("BIND", "127.0.0.1:99999"),
        ("BIND", "127.0.0.1:http"),
        ("ALLOWED_HOSTS", "http://example.com"),
        ("ALLOWED_HOSTS", "example.com:8000"),
        ("ALLOWED_HOSTS", "example.com other.example.com"),
        ("CSRF_TRUSTED_ORIGINS", "example.com"),
        ("CSRF_TRUSTED_ORIGINS", "ftp://example.com"),
        ("CSRF_TRUSTED_ORIGINS", "https://example.com/licenses"),
        ("LICENSE_AUTH", "closed"),
        ("LICENSE_OPEN_TO_NETWORK", "perhaps"),
        ("LICENSE_METRICS_PUBLIC", "perhaps"),
        ("LICENSE_LOCAL_PASSWORDS", "false"),
        ("LICENSE_FAILURES_PER_ACCOUNT", "0"),
        ("LICENSE_RATE_PER_CREDENTIAL", "-1"),
        ("LICENSE_RATE_PER_ADDRESS", "many"),
        ("LICENSE_RATE_HEARTBEATS", "0.5"),
        ("LICENSE_RATE_BURST", "0"),
        ("LICENSE_LONGEST_WAIT", "0"),
        ("LICENSE_QUEUE_PER_TOOL", "-1"),
        ("LICENSE_QUEUE_PER_USER", "few"),
        ("LICENSE_KEYS_PER_DAY", "1e6"),
        ("LICENSE_LEASES_PER_USER", "-3"),
        ("TRUSTED_PROXIES", "all"),
        ("LICENSE_OIDC_ISSUER", "http://provider.example"),
        ("LICENSE_OIDC_ISSUER", "https://"),
        ("LICENSE_OIDC_ISSUER", "https://ana:secret@provider.example"),
        ("LICENSE_OIDC_ISSUER", "provider.example"),
        ("LICENSE_OIDC_ISSUER", "https://[::1"),
        ("LICENSE_OIDC_ALGORITHMS", "RS256,HS256"),
        ("LICENSE_OIDC_ALGORITHMS", "none"),
        ("LICENSE_OIDC_CLIENT_ID", "licenses"),
        ("LICENSE_OIDC_CLIENT_AUTH", "none"),
        ("LICENSE_OIDC_LEEWAY", "3600"),
        ("LICENSE_OIDC_TEAM_GROUPS", "crash"),
        ("LICENSE_OIDC_TEAM_GROUPS", "/eng/crash=No Team"),
        ("LICENSE_JWT_AUDIENCE", "https://licenses.example"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(variable: str, value: str) -> None:
    result = start(**(GOOD | {variable: value}))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert variable in result.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "1000"),
        ("WEB_CONCURRENCY", "many"),
        ("BIND", "127.0.0.1"),
        ("PROMETHEUS_MULTIPROC_DIR", "/dev/null"),
    ],
)
def test_a_wrong_value_stops_the_server_too(variable: str, value: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "licenseserver"],
        cwd=ROOT,
        env=os.environ | GOOD | {"BIND": "127.0.0.1:0", variable: value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode != 0
    assert result.stderr.count("\n") == 1
    assert variable in result.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LOG_FORMAT", "TEXT"),
        ("LOG_LEVEL", "warning"),
        ("DEBUG", "yes"),
        ("ALLOWED_HOSTS", ""),
        ("ALLOWED_HOSTS", "licenses.example.com, .example.org,10.1.2.3,[::1],license_server"),
        ("ALLOWED_HOSTS", "*"),
        ("CSRF_TRUSTED_ORIGINS", "https://licenses.example.com,https://*.example.org:8443"),
        ("SECRET_KEY_FALLBACKS", KEY + "," + KEY[::-1]),
        ("BIND", "[::]:8000"),
        ("BIND", ":8000"),
        ("BIND", "unix:/run/licenses.sock"),
        ("LICENSE_DB_PATH", "licenses.db"),
        ("DATABASE_URL", "postgresql://u:p%40ss@db.example.com:5432/licenses?sslmode=require"),
        ("DATABASE_URL", "postgresql://u@/licenses?host=/run/postgresql"),
        ("DATABASE_URL", "postgresql://u@db1:5432,db2:5433/licenses?target_session_attrs=read-write"),
        ("DATABASE_STATEMENT_TIMEOUT", "0"),
        ("LICENSE_RATE_PER_CREDENTIAL", "off"),
        ("LICENSE_RATE_HEARTBEATS", "0"),
    ],
)
def test_good_values_start(variable: str, value: str) -> None:
    result = start(**(GOOD | {variable: value}))
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("sign", ["/", "@", "%", "#/", " ", "?@"])
def test_a_password_with_a_sign_of_urls_is_named_as_that(sign: str) -> None:
    done = start(SECRET_KEY=KEY, DATABASE_URL=f"postgresql://licenses:before{sign}after@db.example.com:5432/licenses")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "percent-encode" in line
    assert "port must" not in line
    assert "before" not in line
    assert "after" not in line


def test_credentials_are_required_by_default() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "from licenseserver.settings import LICENSE_AUTH; print(LICENSE_AUTH)"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "LICENSE_AUTH"} | GOOD,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "required"


@pytest.mark.parametrize("variable", ["LICENSE_OIDC_ISSUER", "CSRF_TRUSTED_ORIGINS"])
@pytest.mark.parametrize("address", ["https://ana:s3cr3t@provider.example", "http://ana:s3cr3t@h/x?y", "ana:s3cr3t@h"])
def test_a_password_in_an_address_is_not_repeated(variable: str, address: str) -> None:
    result = start(**(GOOD | {variable: address}))
    assert result.returncode == 2
    assert variable in result.stderr
    assert "s3cr3t" not in result.stderr


def test_the_key_that_everyone_knows_is_warned_of() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    (key,) = re.findall(r"SECRET_KEY:-(demo-[\w-]+)", compose)
    for known, warned in ((key, True), (KEY, False)):
        result = subprocess.run(
            [sys.executable, "manage.py", "check", "--deploy"],
            cwd=ROOT,
            env=os.environ | {"SECRET_KEY": known},
            capture_output=True,
            text=True,
        )
        assert ("licenses.W002" in result.stderr) == warned
