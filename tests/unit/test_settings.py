"""A wrong setting is named in one clear line."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from licenseserver.environment import SettingError
from tests.support.paths import ROOT

pytestmark = pytest.mark.any_database

KEY = "0123456789abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Read the settings with these variables: ``load(DEBUG="yes")["DEBUG"]``."""

    def load(**variables: str) -> dict[str, Any]:
        for name in ("DATABASE_URL", "LICENSE_AUTH"):
            monkeypatch.delenv(name, raising=False)
        for name, value in ({"SECRET_KEY": KEY} | variables).items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(ROOT / "licenseserver" / "settings.py"))

    return load


def refused(load: Callable[..., Any], **variables: str) -> str:
    """Return the one line about a wrong setting."""
    with pytest.raises(SettingError) as refusal:
        load(**variables)
    line = str(refusal.value)
    assert "\n" not in line
    return line


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
        ("LICENSE_OWN_TOKENS", "some"),
        ("LICENSE_LOGINS", "0"),
        ("LICENSE_LOGINS_PER_ADDRESS", "off"),
        ("LICENSE_OWN_TOKENS_PER_USER", "0"),
        ("LICENSE_OWN_TOKEN_DAYS", "367"),
        ("LICENSE_OWN_TOKEN_SCOPES", "read,root"),
        ("LICENSE_OWN_TOKEN_SCOPES", ","),
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
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "1000"),
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
        ("LICENSE_SHOW_CONTACTS", "perhaps"),
        ("LICENSE_LOCAL_PASSWORDS", "false"),
        ("LICENSE_FAILURES_PER_ACCOUNT", "0"),
        ("LICENSE_RATE_PER_CREDENTIAL", "-1"),
        ("LICENSE_RATE_PER_ADDRESS", "many"),
        ("LICENSE_RATE_HEARTBEATS", "0.5"),
        ("LICENSE_RATE_BURST", "0"),
        ("LICENSE_LONGEST_WAIT", "0"),
        ("LICENSE_QUEUE_PER_TOOL", "-1"),
        ("LICENSE_QUEUE_PER_USER", "few"),
        ("LICENSE_OFFER_MINUTES", "0"),
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
        ("LICENSE_OIDC_STAFF_GROUPS", "finance="),
        ("LICENSE_OIDC_STAFF_GROUPS", "license staff, =managers"),
        ("LICENSE_OIDC_TEAM_GROUPS", "crash"),
        ("LICENSE_OIDC_TEAM_GROUPS", "/eng/crash=No Team"),
        ("LICENSE_JWT_AUDIENCE", "https://licenses.example"),
        ("LICENSE_CURRENCY", "Euro"),
        ("LICENSE_CURRENCY", "eur"),
        ("LICENSE_WORKING_DAYS", "mon-friday"),
        ("LICENSE_WORKING_DAYS", "1-5"),
        ("LICENSE_WORKING_HOURS", "8-18"),
        ("LICENSE_WORKING_HOURS", "18:00-08:00"),
        ("LICENSE_WORKING_HOURS", "08:00-24:01"),
        ("LICENSE_WORKING_HOURS", "08:60-18:00"),
        ("LICENSE_PUBLIC_URL", "licenses.example.com"),
        ("LICENSE_PUBLIC_URL", "https://licenses.example.com/path"),
        ("LICENSE_PUBLIC_URL", "https://a.example.com,https://b.example.com"),
        ("LICENSE_TIME_ZONE", "Berlin"),
        ("LICENSE_TIME_ZONE", "../etc/passwd"),
        ("LICENSE_NOTICE_MINUTES", "0"),
        ("LICENSE_NOTICE_QUEUE_LENGTH", "long"),
        ("LICENSE_NOTICE_QUEUE_MINUTES", "0"),
        ("LICENSE_EMAIL_PORT", "smtp"),
        ("LICENSE_EMAIL_TLS", "ssl"),
        ("LICENSE_EMAIL_FROM", "licenses"),
        ("LICENSE_EMAIL_HOST", "mail.example.com"),
        ("LICENSE_EMAIL_USER", "licenses"),
        ("LICENSE_EMAIL_PASSWORD", "secret"),
        ("LICENSE_EMAIL_PASSWORD_FILE", "/nonexistent/password"),
        ("LICENSE_WEBHOOK_HOSTS", "https://chat.example.com"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(load: Callable[..., Any], variable: str, value: str) -> None:
    assert variable in refused(load, **{variable: value})


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
def test_a_good_value_is_taken(load: Callable[..., dict[str, Any]], variable: str, value: str) -> None:
    assert load(**{variable: value})


@pytest.mark.parametrize("sign", ["/", "@", "%", "#/", " ", "?@"])
def test_a_password_with_a_sign_of_urls_is_named_as_that(load: Callable[..., Any], sign: str) -> None:
    line = refused(load, DATABASE_URL=f"postgresql://licenses:before{sign}after@db.example.com:5432/licenses")
    assert "percent-encode" in line
    assert "port must" not in line
    assert "before" not in line
    assert "after" not in line


def test_credentials_are_required_by_default(load: Callable[..., Any]) -> None:
    assert load()["LICENSE_AUTH"] == "required"


@pytest.mark.parametrize("variable", ["LICENSE_OIDC_ISSUER", "CSRF_TRUSTED_ORIGINS"])
@pytest.mark.parametrize("address", ["https://ana:s3cr3t@provider.example", "http://ana:s3cr3t@h/x?y", "ana:s3cr3t@h"])
def test_a_password_in_an_address_is_not_repeated(load: Callable[..., Any], variable: str, address: str) -> None:
    line = refused(load, **{variable: address})
    assert variable in line
    assert "s3cr3t" not in line


MAIL = {"LICENSE_EMAIL_HOST": "mail.example.com", "LICENSE_EMAIL_FROM": "Licenses <licenses@example.com>"}


def test_the_password_of_the_mail_server_can_be_in_a_file(load: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cr3t word \n")
    account = MAIL | {"LICENSE_EMAIL_USER": "licenses", "LICENSE_EMAIL_PASSWORD_FILE": str(tmp_path / "password")}
    assert load(**account)["EMAIL_HOST_PASSWORD"] == "s3cr3t word "
    line = refused(load, **account, LICENSE_EMAIL_PASSWORD="another")
    assert "not both" in line
    assert "another" not in line


def test_the_password_of_the_mail_server_never_goes_out_in_clear_text(load: Callable[..., Any]) -> None:
    account = MAIL | {"LICENSE_EMAIL_USER": "licenses", "LICENSE_EMAIL_PASSWORD": "s3cr3t"}
    assert load(**account)["EMAIL_USE_TLS"] is True
    assert "LICENSE_EMAIL_TLS" in refused(load, **account, LICENSE_EMAIL_TLS="off")


@pytest.mark.parametrize(("tls", "port"), [("starttls", 587), ("tls", 465), ("off", 25)])
def test_the_port_of_the_mail_server_follows_its_encryption(load: Callable[..., Any], tls: str, port: int) -> None:
    assert load(**MAIL, LICENSE_EMAIL_TLS=tls)["EMAIL_PORT"] == port


@pytest.mark.parametrize(
    ("days", "numbers"),
    [
        ("mon-fri", [0, 1, 2, 3, 4]),
        ("sun-thu", [0, 1, 2, 3, 6]),
        ("MON, wed-wed,Sat", [0, 2, 5]),
        ("", [0, 1, 2, 3, 4]),
    ],
)
def test_working_days_are_names_and_ranges(load: Callable[..., Any], days: str, numbers: list[int]) -> None:
    assert load(LICENSE_WORKING_DAYS=days)["LICENSE_WORKING_DAYS"] == numbers


def test_working_hours_are_a_part_of_a_day(load: Callable[..., Any]) -> None:
    assert load()["LICENSE_WORKING_HOURS"] == (480, 1080)
    assert load(LICENSE_WORKING_HOURS="00:00-24:00")["LICENSE_WORKING_HOURS"] == (0, 1440)
    assert load(LICENSE_CURRENCY="CHF")["LICENSE_CURRENCY"] == "CHF"
