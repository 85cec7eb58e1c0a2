"""The log when something fails: what it was, in one line, and no secret, whatever the database says of it."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from licenses.models.token import TOKEN_ALPHABET, TOKEN_LENGTH
from tests.support.issuer import AUDIENCE, Issuer, running_issuer
from tests.support.log_lines import events_of, send_raw
from tests.support.servers import Server, running_server


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer


def bring_a_defect(server: Server) -> None:
    """Store what no version can: the status of the tools then fails in the code."""
    if "DATABASE_URL" in server.environment:
        change = (
            "ALTER TABLE licenses_tool DROP CONSTRAINT tool_in_use_not_negative, "
            "DROP CONSTRAINT licenses_tool_in_use_check, ALTER COLUMN in_use TYPE text"
        )
    else:
        change = "UPDATE licenses_tool SET in_use = 'none'"
    server.manage("shell", "-c", f"from django.db import connection; connection.cursor().execute({change!r})")


def test_a_defect_is_one_line_with_its_traceback(server: Server) -> None:
    bring_a_defect(server)
    answer = httpx.get(f"{server.url}/licenses/status")
    assert answer.status_code == 500
    defect, request = events_of(server, answer)
    assert defect["level"] == "error"
    assert defect["exception"].startswith("Traceback (most recent call last):\n")
    assert "licenses/api/tools.py" in defect["exception"]
    assert (request["event"], request["status"], request["level"]) == ("request", 500, "error")


def test_a_problem_that_is_the_server_s_names_the_request(server: Server) -> None:
    signed_in = {"Cookie": f"sessionid={'a' * 32}"}
    refused = httpx.get(f"{server.url}/licenses/nothing/status", headers=signed_in)
    assert (refused.status_code, "request_id" in refused.json()) == (404, False)
    server.manage("migrate", "sessions", "zero", "--verbosity", "0")
    failed = httpx.get(f"{server.url}/licenses/nothing/status", headers=signed_in)
    assert failed.status_code == 503
    assert failed.json()["request_id"] == failed.headers["X-Request-ID"]


@pytest.mark.parametrize("written", ["json", pytest.param("text", marks=pytest.mark.any_database)])
def test_no_secret_is_ever_written(tmp_path: Path, issuer: Issuer, written: str) -> None:
    """At the level with the most lines, on the ways by which secrets come."""
    variables = {
        "LICENSE_AUTH": "required",
        "LOG_FORMAT": written,
        "LOG_LEVEL": "DEBUG",
        "LICENSE_OIDC_ISSUER": issuer.url,
        "LICENSE_JWT_AUDIENCE": AUDIENCE,
        "LICENSE_OIDC_CLIENT_ID": "licenses",
        "LICENSE_OIDC_CLIENT_SECRET": "client-secret-5f1b",
        "ADMIN_USERNAME": "boss",
        "ADMIN_PASSWORD": "right-password-93c2",
    }
    forged = "lic_" + (TOKEN_ALPHABET * 2)[:TOKEN_LENGTH]
    expired = issuer.sign(issuer.claims(exp=1_000_000_000, iat=999_999_999))
    secrets = ["right-password-93c2", "wrong-password-44d0", "client-secret-5f1b", forged, expired, issuer.sign()]
    key, query, code, cookie = "idempotency-key-77ab", "query-secret-1c9e", "oidc-code-02fa", "c00kie" * 6
    secrets += [key, query, code, cookie, "body-secret-8d3f", "malformed-secret-6e21", "line-secret-b70c"]
    with running_server(tmp_path, **variables) as server:
        server.manage("ensure_admin")
        secrets.append(token := server.manage("token", "create", "nightly", "--user", "ana").strip())
        secrets.append(revoked := server.manage("token", "create", "old", "--user", "ana").strip())
        server.manage("token", "revoke", "2")
        secrets += [server.environment["SECRET_KEY"]]
        with httpx.Client(base_url=server.url) as client:
            for credential in (token, revoked, forged, expired, issuer.sign(), issuer.sign() + "x"):
                bearer = {"Authorization": f"Bearer {credential}"}
                client.post("/licenses/borrow", json={"tool": "cad_tool"}, headers=bearer | {"Idempotency-Key": key})
                client.get(f"/licenses/{credential}/status", headers=bearer)
                client.get("/borrows", headers={"X-Request-ID": credential, "Host": credential})
                client.get("/borrows", params={"token": credential, "user": query})
                client.post("/licenses/borrow", json={"tool": credential, "user": credential}, headers=bearer)
                client.post("/licenses/renew", json={"id": credential}, headers=bearer)
                client.post("/licenses/return", json={"id": credential}, headers=bearer)
                client.get(f"/static/{credential}", headers={"Referer": credential, "User-Agent": credential})
            for password in ("right-password-93c2", "wrong-password-44d0"):
                client.get("/borrows", auth=("boss", password))
                client.get("/signin/")
                form = {"username": "boss", "password": password, "csrfmiddlewaretoken": client.cookies["csrftoken"]}
                secrets.append(form["csrfmiddlewaretoken"])
                client.post("/signin/", data=form)
                client.post("/signin/", data=form | {"csrfmiddlewaretoken": "x"})
            secrets.append(client.cookies["sessionid"])
            client.post(
                "/licenses/borrow", json={"tool": "cad_tool", "password": "body-secret-8d3f"}, auth=("ana", token)
            )
            client.post("/licenses/borrow", content=b'{"password": "body-secret-8d3f", ')
            client.get("/oidc/authenticate/")
            state = client.get("/oidc/authenticate/").headers["Location"].partition("state=")[2].partition("&")[0]
            secrets.append(state)
            client.get("/oidc/callback/", params={"code": code, "state": state})
            client.get("/oidc/callback/", params={"code": code, "state": "another"})
            client.get("/admin/", headers={"Cookie": f"sessionid={cookie}"})
        for line in (
            b"GET /borrows HTTP/1.1\r\nAuthorization malformed-secret-6e21\r\n\r\n",
            b"GET /borrows HTTP/1.1\r\nHost: x\r\nAuth orization: malformed-secret-6e21\r\n\r\n",
            b"GET /borrows HTTP/1.1\r\nHost: x\r\nAuthorization: malformed-secret-6e21\x00\r\n\r\n",
            b"GET /borrows HTTP/1.1\r\nHost: x\r\nA: b\r\n malformed-secret-6e21\r\n\r\n",
            b"GET /borrows?token=line-secret-b70c HTTP/9.1\r\nHost: x\r\n\r\n",
            b"GET /borrows?token=line-secret-b70c\r\nHost: x\r\n\r\n",
            b"line-secret-b70c\r\n\r\n",
            b"POST /borrows?token=line-secret-b70c HTTP/1.1\r\nHost: x\r\nExpect: malformed-secret-6e21\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: malformed-secret-6e21\r\n\r\n",
            b"POST /borrows HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nmalformed-secret-6e21\r\n\r\n",
        ):
            send_raw(server, line)
        # And a defect, whose traceback is logged.
        bring_a_defect(server)
        with httpx.Client(base_url=server.url) as client:
            headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key, "Cookie": f"sessionid={cookie}"}
            assert client.get("/licenses/status", headers=headers).status_code == 500
        text = server.log.read_text()
    # All of it was worth a line, the defect its traceback.
    assert len(re.findall(r"/licenses/borrow\b", text)) >= 20
    assert text.count("Invalid request from ip=127.0.0.1") >= 7
    assert "Traceback (most recent call last)" in text
    for secret in secrets:
        assert secret not in text
        # And not its largest part.
        assert secret[: max(len(secret) - 4, 12)] not in text
    assert "nightly" not in text  # a token's name is known by its number
