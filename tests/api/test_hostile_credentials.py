"""Hostile requests get a fitting refusal and change nothing."""

import base64
import hmac
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import jwt
import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from jwt.algorithms import RSAAlgorithm

from licenses.models import Lease, Team, TeamMember, Ticket, Tool
from licenses.models.token import token_hash
from tests.support.api import Api, api_of, make_token
from tests.support.issuer import AUDIENCE, EC_KEY, OTHER_RSA_KEY, RSA_KEY, Issuer, encoded, public_pem
from tests.support.servers import Server

PASSWORD = "a long pass phrase"


@dataclass(frozen=True)
class Row:
    """One hostile request. ``{names}`` in it are filled in from the world;
    ``credential`` is what stands in the Authorization header."""

    label: str
    status: int
    credential: str | None = None
    path: str = "/licenses/status"
    method: str = "GET"
    body: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)


def borrow(label: str, status: int, credential: str | None, **body: Any) -> Row:
    return Row(label, status, credential, "/licenses/borrow", "POST", {"tool": "sim", **body})


def to_lease(label: str, status: int, credential: str | None, path: str, **body: Any) -> Row:
    return Row(label, status, credential, path, "POST", body)


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


NO_CREDENTIAL = [
    Row("nothing", 401),
    Row("an empty header", 401, ""),
    Row("a scheme alone", 401, "Bearer"),
    Row("a scheme and blanks", 401, "Bearer    "),
    Row("an unknown scheme", 401, "Digest {ben}"),
    Row("a token without a scheme", 401, "{ben}"),
    Row("a token under another scheme", 401, "Token {ben}"),
    Row("a token as a password", 401, basic("ben:{ben}")),
    Row("two credentials in one header", 401, "Bearer {ben}, Bearer {admin}"),
    Row("a token in the query", 401, path="/licenses/status?token={ben}"),
    Row("a token in the query, as OAuth has it", 401, path="/licenses/status?access_token={ben}"),
    Row("a token in another header", 401, headers={"X-Api-Key": "{ben}"}),
    Row("a token in a cookie", 401, headers={"Cookie": "token={ben}; Authorization=Bearer {ben}"}),
    Row("a token in the body", 401, None, "/licenses/borrow", "POST", {"tool": "sim", "user": "ben", "token": "{ben}"}),
    Row("somebody a proxy vouches for", 401, headers={"X-Forwarded-User": "admin", "X-Remote-User": "admin"}),
    Row("a name that looks like the server's own variable", 401, headers={"Remote-User": "admin"}),
    Row("a free address behind the real one", 401, headers={"X-Original-URL": "/livez", "X-Rewrite-URL": "/livez"}),
    Row("a call from the machine itself, so it says", 401, headers={"X-Forwarded-For": "127.0.0.1"}),
    Row("a session that isn't one", 401, headers={"Cookie": "sessionid=" + "a" * 32}),
    Row("a session of another kind", 401, headers={"Cookie": "sessionid={ben}; is_staff=1"}),
    Row("HEAD", 401, method="HEAD"),
    Row("OPTIONS", 401, method="OPTIONS"),
    Row("TRACE", 405, method="TRACE"),
    Row("a method that isn't one", 405, method="FOO"),
    Row("a method in disguise", 401, headers={"X-HTTP-Method-Override": "OPTIONS"}),
    Row("a page for a person", 302, path="/api/v1/leases/", headers={"Accept": "text/html"}),
    Row("the schema", 401, path="/api/schema/"),
    Row("the metrics", 401, path="/metrics"),
    Row("the metrics, to another method", 401, path="/metrics", method="POST"),
    Row("a body that nobody would read", 413, None, "/licenses/borrow", "POST", {"tool": "x" * 70_000}),
    Row("the admin", 302, path="/admin/"),
    Row("the admin's tokens", 302, path="/admin/licenses/apitoken/"),
    Row("a force return by form", 302, None, "/admin/licenses/lease/", "POST", {"action": "force_return"}),
]

PATHS = [
    Row("through a free address", 404, path="/livez/../licenses/status"),
    Row("through a free address, encoded", 404, path="/livez/%2e%2e/licenses/status"),
    Row("behind a semicolon", 404, path="/livez;/licenses/status"),
    Row("with two slashes", 404, path="//licenses/status"),
    Row("with two slashes inside", 404, path="/licenses//status"),
    Row("with a slash behind", 404, path="/licenses/status/"),
    Row("in capitals", 404, path="/LICENSES/STATUS"),
    Row("with a dot", 404, path="/licenses/./borrow"),
    Row("with a NUL", 404, path="/licenses/status%00"),
    Row("with an encoded slash", 401, path="/licenses%2fstatus"),
    Row("a file of the server", 404, path="/static/../licenseserver/settings.py"),
    Row("a file of the server, encoded", 404, path="/static/%2e%2e/licenseserver/settings.py"),
    Row("the key", 404, path="/.secret_key"),
    Row("the database", 404, path="/licenses.db"),
    Row("the metrics with a slash", 404, path="/metrics/"),
    Row("the free address in the query", 401, path="/licenses/status?/livez"),
    Row("a tool called like a way out", 404, "Bearer {ben}", "/licenses/..%2f..%2fadmin/status"),
    Row("a ticket called like a way out", 404, "Bearer {ben}", "/licenses/queue/..%2f..%2fstatus"),
    Row("a ticket with a NUL", 404, "Bearer {ben}", "/licenses/queue/%00"),
    Row("a lease called like a query", 404, "Bearer {ben}", "/api/v1/leases/1%20OR%201=1/renew/", "POST"),
]

TOKENS = [
    Row("one character changed", 401, "Bearer {ben_changed}"),
    Row("in capitals", 401, "Bearer {ben_upper}"),
    Row("without its prefix", 401, "Bearer {ben_bare}"),
    Row("its hash", 401, "Bearer {ben_hash}"),
    Row("its hash, with the prefix", 401, "Bearer lic_{ben_hash}"),
    Row("its hint", 401, "Bearer {ben_hint}"),
    Row("its number", 401, "Bearer 1"),
    Row("with something behind", 401, "Bearer {ben}x"),
    Row("with a blank behind", 401, "Bearer {ben} "),
    Row("with two blanks before", 401, "Bearer  {ben}"),
    Row("of 8,000 characters", 401, "Bearer lic_" + "a" * 8000),
    Row("as SQL", 401, "Bearer lic_' OR '1'='1"),
    Row("with a percent sign", 401, "Bearer lic_%"),
    Row("with a NUL", 401, "Bearer lic_\0" + "a" * 42),
    Row("beyond ASCII", 401, "Bearer lic_" + "\u00e9" * 43),
    Row("that nobody has", 401, "Bearer lic_" + "a" * 43),
    Row("expired", 401, "Bearer {expired}"),
    Row("revoked", 401, "Bearer {revoked}"),
    Row("of a locked account", 401, "Bearer {locked}"),
]

PASSWORDS = [
    Row("wrong", 401, basic("ben:wrong")),
    Row("empty", 401, basic("ben:")),
    Row("of nobody", 401, basic("nobody:" + PASSWORD)),
    Row("of a locked account", 401, basic("locked:" + PASSWORD)),
    Row("with a name in capitals", 401, basic("BEN:" + PASSWORD)),
    Row("with a NUL in the name", 401, basic("ben\0:" + PASSWORD)),
    Row("with a line break in the name", 401, basic("ben\r\nX-Admin: 1:" + PASSWORD)),
    Row("with a name of 5,000", 401, basic("b" * 5000 + ":x")),
    Row("as SQL", 401, basic("' OR 1=1 --:x")),
    Row("without a colon", 401, basic("ben")),
    Row("that is no base64", 401, "Basic !!!!"),
    Row("that is no text", 401, "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode()),
    Row("of 5,000", 401, basic("ben:" + "x" * 5000)),
]

RIGHTS = [
    borrow("a reader borrows", 403, "Bearer {reader}", user="ben"),
    Row("a borrower looks", 403, "Bearer {borrower}"),
    Row("a borrower scrapes", 403, "Bearer {borrower}", "/metrics"),
    borrow("for another", 403, "Bearer {ben}", user="anneliese"),
    borrow("for another, with blanks", 403, "Bearer {ben}", user=" anneliese "),
    borrow("for nobody there is", 403, "Bearer {ben}", user="never heard of"),
    borrow("for oneself in capitals", 403, "Bearer {ben}", user="BEN"),
    borrow("for who looks the same", 403, "Bearer {ben}", user="b\u0435n"),
    borrow("for who is wider", 403, "Bearer {ben}", user="\uff42\uff45\uff4e"),
    borrow("for another behind a NUL", 400, "Bearer {ben}", user="ben\0anneliese"),
    borrow("for another behind what can't be seen", 400, "Bearer {ben}", user="anne\u200bliese"),
    borrow("for several", 400, "Bearer {ben}", user=["ben", "anneliese"]),
    borrow("a team's token for another team's", 403, "Bearer {noise}", user="anneliese"),
    borrow("a team's token in the team's name", 403, "Bearer {crash}", user="crash"),
    borrow("a team's token for nobody", 400, "Bearer {crash}"),
    borrow("as an administrator, so it says", 400, "Bearer {ben}", user="ben", is_admin=True),
    borrow("with scopes of its own", 400, "Bearer {ben}", user="ben", scopes=["admin"]),
    borrow("with an id of its own", 400, "Bearer {ben}", user="ben", id="{lease}"),
    borrow("with a fence of its own", 400, "Bearer {ben}", user="ben", fence=1),
    borrow("with an end of its own", 400, "Bearer {ben}", user="ben", expires_at="2999-01-01T00:00:00Z"),
    borrow("as another caller", 400, "Bearer {ben}", user="ben", caller="anneliese"),
    to_lease("return another's", 404, "Bearer {ben}", "/licenses/return", id="{lease}"),
    to_lease("return another's in capitals", 404, "Bearer {ben}", "/licenses/return", id="{LEASE}"),
    to_lease("return another's, as the other", 400, "Bearer {ben}", "/licenses/return", id="{lease}", user="anneliese"),
    to_lease("renew another's", 404, "Bearer {ben}", "/licenses/renew", id="{lease}"),
    to_lease("renew another's by its address", 404, "Bearer {ben}", "/api/v1/leases/{lease}/renew/"),
    to_lease("renew for ever", 400, "Bearer {ben}", "/licenses/renew", id="{lease}", ttl_seconds=10**9),
    to_lease("force a return", 403, "Bearer {ben}", "/api/v1/leases/{lease}/force-return/", reason="mine"),
    to_lease("force a return with a password", 403, basic("ben:" + PASSWORD), "/api/v1/leases/{lease}/force-return/"),
    to_lease("force what isn't there", 403, "Bearer {ben}", "/api/v1/leases/{nothing}/force-return/", reason="x"),
    to_lease("return with a team's token", 404, "Bearer {noise}", "/licenses/return", id="{lease}"),
    Row("ask about another's ticket", 404, "Bearer {ben}", "/licenses/queue/{ticket}"),
    Row("end another's wait", 404, "Bearer {ben}", "/licenses/queue/{ticket}", "DELETE"),
    Row("change a tool", 403, "Bearer {ben}", "/api/v1/tools/cad/", "PUT", {"capacity": 99}),
    Row("delete a lease", 405, "Bearer {ben}", "/api/v1/leases/{lease}/", "DELETE"),
    Row(
        "delete in disguise",
        405,
        "Bearer {ben}",
        "/api/v1/leases/{lease}/",
        "POST",
        headers={"X-HTTP-Method-Override": "DELETE"},
    ),
    Row("the admin with a token", 302, "Bearer {admin}", "/admin/"),
]

TABLES = {
    "no credential": NO_CREDENTIAL,
    "path": PATHS,
    "token": TOKENS,
    "password": PASSWORDS,
    "rights": RIGHTS,
}


@pytest.fixture
def world(api: Api, make_tool: Callable[..., Tool], settings: Any) -> dict[str, str]:
    """Anneliese has a seat and waits for another; ben has credentials, and wants more."""
    make_tool("cad", capacity=1)
    make_tool("sim", capacity=9)
    lease: str = api.borrow("cad", "anneliese").json()["id"]
    ticket = api.wait("cad", "anneliese")
    for name in ("ben", "locked"):
        User.objects.create_user(name, password=PASSWORD, is_active=name != "locked")
    User.objects.create_superuser("admin", password=PASSWORD)
    long_ago = timezone.now() - timedelta(days=9)
    names = {
        "ben": make_token(user="ben"),
        "reader": make_token(user="ben", scopes=["read"]),
        "borrower": make_token(user="ben", scopes=["borrow"]),
        "crash": make_token(team="crash"),
        "noise": make_token(team="noise"),
        "admin": make_token(scopes=["admin"]),
        "expired": make_token(user="ben", created_at=long_ago, expires_at=long_ago + timedelta(days=8)),
        "revoked": make_token(user="ben", revoked_at=timezone.now()),
        "locked": make_token(user="locked"),
    }
    TeamMember.objects.create(team=Team.objects.get(name="crash"), user="anneliese")
    settings.LICENSE_AUTH = "required"
    ben = names["ben"]
    return names | {
        "ben_changed": ben[:-1] + ("a" if ben[-1] != "a" else "b"),
        "ben_upper": ben.upper(),
        "ben_bare": ben.removeprefix("lic_"),
        "ben_hash": token_hash(ben),
        "ben_hint": ben[:8],
        "lease": lease,
        "LEASE": lease.upper(),
        "ticket": ticket,
        "nothing": "00000000-0000-4000-8000-000000000000",
    }


def filled(text: str, world: dict[str, str]) -> str:
    for name, value in world.items():
        text = text.replace("{" + name + "}", value)
    return text


def send(client: Client, row: Row, world: dict[str, str]) -> Any:
    headers = {name: filled(value, world) for name, value in row.headers.items()}
    if row.credential is not None:
        credential = row.credential
        if credential.startswith("Basic ") and row.label == "a token as a password":
            credential = basic("ben:" + world["ben"])
        headers["Authorization"] = filled(credential, world)
    body = filled(json.dumps(row.body), world) if row.body is not None else ""
    return client.generic(row.method, filled(row.path, world), body, content_type="application/json", headers=headers)


def everything() -> list[Any]:
    return [list(rows.order_by("pk").values()) for rows in (Lease.objects, Ticket.objects, Tool.objects)]


@pytest.fixture
def patient(settings: Any) -> None:
    """Let a caller fail as often as it wants."""
    settings.LICENSE_FAILURES_PER_ADDRESS = settings.LICENSE_FAILURES_PER_ACCOUNT = 1000


@pytest.mark.parametrize("kind", TABLES)
def test_a_hostile_request_gets_nothing(
    world: dict[str, str], patient: None, kind: str, subtests: pytest.Subtests
) -> None:
    before = everything()
    for row in TABLES[kind]:
        with subtests.test(row.label):
            answer = send(Client(raise_request_exception=False), row, world)
            assert answer.status_code == row.status, answer.content[:300]
            assert everything() == before
            if row.path.startswith(("/licenses/", "/api/")) and row.method != "HEAD" and row.status != 302:
                problem = json.loads(answer.content)
                assert problem["status"] == row.status
                assert answer["Content-Type"] == "application/problem+json"
            if row.status == 401:
                assert answer["WWW-Authenticate"].startswith("Bearer")
            # The answer does not reveal which names exist.
            assert b"anneliese" not in answer.content
            assert world["lease"].encode() not in answer.content


def test_there_are_rows_enough() -> None:
    assert sum(map(len, TABLES.values())) + len(JWTS) >= 60


# --- JWTs -------------------------------------------------------------------


def unsigned(issuer: Issuer, alg: str, signature: str = "") -> str:
    return f"{encoded({'alg': alg, 'typ': 'at+jwt', 'kid': 'rsa-1'})}.{encoded(issuer.claims())}.{signature}"


def signed_with_what_is_public(issuer: Issuer, alg: str) -> str:
    """Sign with HMAC, with the public key as the shared secret."""
    signed = f"{encoded({'alg': alg, 'typ': 'JWT', 'kid': 'rsa-1'})}.{encoded(issuer.claims())}"
    return f"{signed}.{encoded(hmac.new(public_pem(RSA_KEY), signed.encode(), 'sha256').digest())}"


def changed(issuer: Issuer) -> str:
    """Ben's token with somebody else's claims in it."""
    header, _, signature = issuer.sign().split(".")
    return f"{header}.{encoded(issuer.claims(preferred_username='anneliese'))}.{signature}"


def with_claims(**changes: Any) -> Callable[[Issuer], str]:
    return lambda issuer: issuer.sign(issuer.claims(**changes))


def with_header(**changes: Any) -> Callable[[Issuer], str]:
    return lambda issuer: issuer.sign(**changes)


def raw_claims(claims: bytes) -> Callable[[Issuer], str]:
    """Signed well, but not what a JWT holds."""
    return lambda issuer: jwt.PyJWS().encode(claims, RSA_KEY, "RS256", {"kid": "rsa-1"})


NOW = int(time.time())
HOUR = 3600
PUBLIC_JWK = RSAAlgorithm.to_jwk(OTHER_RSA_KEY.public_key(), as_dict=True)
JWTS: list[tuple[str, Callable[[Issuer], str]]] = [
    ("unsigned", lambda issuer: unsigned(issuer, "none")),
    ("unsigned, spelt otherwise", lambda issuer: unsigned(issuer, "nOnE")),
    ("unsigned, with something as a signature", lambda issuer: unsigned(issuer, "none", encoded(b"x"))),
    ("without its signature", lambda issuer: issuer.sign().rsplit(".", 1)[0] + "."),
    ("without its last part", lambda issuer: issuer.sign().rsplit(".", 1)[0]),
    ("signed with the public key as a secret", lambda issuer: signed_with_what_is_public(issuer, "HS256")),
    ("signed so, and called RS256", lambda issuer: signed_with_what_is_public(issuer, "RS256")),
    ("with other claims", changed),
    ("with another signature", lambda issuer: issuer.sign().rsplit(".", 1)[0] + "." + encoded(b"x" * 256)),
    ("signed by another under a known id", with_header(key=OTHER_RSA_KEY)),
    ("with an algorithm that isn't allowed", with_header(alg="RS512")),
    ("with an algorithm of another kind of key", with_header(key=EC_KEY, alg="ES256")),
    ("with the id of another kind of key", with_header(kid="ec-1")),
    ("with an unknown id", with_header(kid="rsa-2")),
    ("without an id", with_header(kid=None)),
    ("with an empty id", with_header(kid="")),
    ("with an id that is a path", with_header(kid="../../../dev/null")),
    ("with an id that is an address", with_header(kid="https://evil.example/key")),
    ("with an id that is SQL", with_header(kid="' UNION SELECT 'secret' --")),
    ("with an id with a NUL", with_header(kid="rsa-1\0")),
    ("with an id of 5,000", with_header(kid="k" * 5000)),
    ("with a key of its own", with_header(key=OTHER_RSA_KEY, jwk=PUBLIC_JWK)),
    ("with a key of its own under a known id", with_header(key=OTHER_RSA_KEY, kid="rsa-1", jwk=PUBLIC_JWK)),
    ("with an address of its keys", with_header(jku="https://evil.example/jwks")),
    ("with an address of its certificates", with_header(x5u="https://evil.example/cert")),
    ("with certificates", with_header(x5c=["MIIB"])),
    ("with something critical", with_header(crit=["b64"])),
    ("of another type", with_header(typ="logout+jwt")),
    ("of another issuer", with_claims(iss="https://evil.example")),
    ("of an issuer that begins the same", lambda issuer: issuer.sign(issuer.claims(iss=issuer.url + "/x"))),
    ("of several issuers", raw_claims(b'{"iss":["a"],"aud":"a","sub":"s","iat":1,"exp":9999999999}')),
    ("of no issuer", with_claims(iss=None)),
    ("for another audience", with_claims(aud="https://other.example")),
    ("for an audience that begins the same", with_claims(aud=AUDIENCE + "/x")),
    ("for no audience", with_claims(aud=None)),
    ("for an empty list", with_claims(aud=[])),
    ("for an object", with_claims(aud={AUDIENCE: 1})),
    ("for numbers", with_claims(aud=[1, 2])),
    ("given to another party", with_claims(aud=[AUDIENCE, "other"], azp="other")),
    ("expired", with_claims(iat=NOW - 2 * HOUR, exp=NOW - HOUR)),
    ("expired just beyond the leeway", with_claims(iat=NOW - HOUR, exp=NOW - 61)),
    ("without an end", with_claims(exp=None)),
    ("with an end that is text", with_claims(exp=str(NOW + 300))),
    ("with an end that is true", with_claims(exp=True)),
    ("with an end beyond all time", with_claims(exp=1e300)),
    ("with an infinite end", raw_claims(b'{"iss":"x","aud":"a","sub":"s","iat":1,"exp":Infinity}')),
    ("that lives for a year", with_claims(exp=NOW + 365 * 24 * HOUR)),
    ("not yet valid", with_claims(nbf=NOW + HOUR)),
    ("with a beginning that is text", with_claims(nbf="soon")),
    ("issued in the future", with_claims(iat=NOW + HOUR, exp=NOW + 2 * HOUR)),
    ("issued never", with_claims(iat=None)),
    ("about nobody", with_claims(sub=None)),
    ("about an empty subject", with_claims(sub="")),
    ("about a number", lambda issuer: raw_claims(json.dumps(issuer.claims(sub=1)).encode())(issuer)),
    ("about a subject with a NUL", with_claims(sub="a\0b")),
    ("about a subject of 1,000", with_claims(sub="s" * 1000)),
    ("with no name", with_claims(preferred_username=None)),
    ("with a name with a NUL", with_claims(preferred_username="a\0b")),
    ("with a name that can't be seen", with_claims(preferred_username="a\u200bb")),
    ("with a name of 256", with_claims(preferred_username="u" * 256)),
    ("with a blank before the name", with_claims(preferred_username=" ben")),
    ("with names", with_claims(preferred_username=["ben"])),
    ("with the name of an account", with_claims(preferred_username="admin")),
    ("of 9,000 characters", with_claims(groups=["g" * 7000])),
    ("that is no JSON", raw_claims(b"not json")),
    ("that is a list", raw_claims(b"[]")),
    ("nested deeply", raw_claims(b"[" * 1500 + b"]" * 1500)),
    ("of dots", lambda issuer: "..."),
    ("of one part", lambda issuer: "abc"),
    ("of five parts, as if encrypted", lambda issuer: issuer.sign() + ".a.b"),
    ("with line breaks in it", lambda issuer: issuer.sign()[:50] + "%0a" + issuer.sign()[50:]),
    ("beyond ASCII", lambda issuer: issuer.sign()[:-1] + "\u00e9"),
]


def test_a_hostile_jwt_proves_nothing(
    world: dict[str, str], patient: None, issuer: Issuer, subtests: pytest.Subtests
) -> None:
    before = everything()
    for label, make in JWTS:
        fetched = issuer.fetches["/jwks"]
        with subtests.test(label):
            client = Client(raise_request_exception=False, headers={"Authorization": f"Bearer {make(issuer)}"})
            for answer in (client.get("/licenses/status"), Api(client).borrow("sim", "ben")):
                assert answer.status_code == 401, answer.content[:300]
                assert json.loads(answer.content)["code"] == "invalid_credential"
                assert answer["WWW-Authenticate"].startswith("Bearer")
            assert everything() == before
            # It calls only the provider, and rarely.
            assert issuer.fetches["/jwks"] <= fetched + 2


@pytest.mark.parametrize("path", ["/borrows?access_token={}", "/licenses/status?token={}"])
def test_a_jwt_in_the_address_is_not_looked_at(world: dict[str, str], issuer: Issuer, path: str) -> None:
    assert Client().get(path.format(issuer.sign())).status_code == 401


# --- Browsers ---------------------------------------------------------------


@pytest.fixture
def browser(world: dict[str, str]) -> Client:
    """Provide the client of a signed-in administrator."""
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    client.get("/admin/login/")
    client.force_login(User.objects.get(username="admin"))
    return client


FORGED: list[tuple[str, dict[str, str]]] = [
    ("no token", {}),
    ("a wrong token", {"X-CSRFToken": "a" * 64}),
    ("an empty token", {"X-CSRFToken": ""}),
    ("a good token from another site", {"X-CSRFToken": "{csrf}", "Origin": "https://evil.example"}),
    ("a good token from nowhere", {"X-CSRFToken": "{csrf}", "Origin": "null"}),
]


@pytest.mark.parametrize("headers", [row[1] for row in FORGED], ids=[row[0] for row in FORGED])
@pytest.mark.parametrize("path", ["/licenses/return", "/api/v1/leases/{lease}/force-return/"])
def test_another_site_cannot_use_a_session(
    browser: Client, world: dict[str, str], path: str, headers: dict[str, str]
) -> None:
    world = world | {"csrf": browser.cookies["csrftoken"].value}
    before = everything()
    row = to_lease("", 403, None, path, **({"reason": "x"} if "force" in path else {"id": "{lease}"}))
    answer = send(browser, Row("", 403, None, row.path, "POST", row.body, headers), world)
    assert answer.status_code == 403
    assert everything() == before


def test_a_bad_credential_is_not_made_good_by_a_session(browser: Client, world: dict[str, str]) -> None:
    assert send(browser, Row("", 200), world).status_code == 200
    assert send(browser, Row("", 401, "Bearer {expired}"), world).status_code == 401
    assert send(browser, Row("", 401, basic("ben:wrong")), world).status_code == 401
    # The credential that is sent counts, not the stronger one.
    weaker = to_lease("", 403, "Bearer {ben}", "/api/v1/leases/{lease}/force-return/", reason="x")
    assert send(browser, weaker, world).status_code == 403


def test_a_session_ends_with_its_sign_out_and_its_account(browser: Client, world: dict[str, str]) -> None:
    stolen = browser.cookies["sessionid"].value
    thief = Client(headers={"Cookie": f"sessionid={stolen}"})
    assert thief.get("/licenses/status").status_code == 200
    User.objects.filter(username="admin").update(is_active=False)
    assert thief.get("/licenses/status").status_code == 401
    User.objects.filter(username="admin").update(is_active=True)
    browser.post("/admin/logout/", headers={"X-CSRFToken": browser.cookies["csrftoken"].value})
    assert thief.get("/licenses/status").status_code == 401


def test_a_key_of_another_leads_nowhere(world: dict[str, str]) -> None:
    ana, ben = api_of(user="anneliese"), api_of(user="ben")
    hers = ana.borrow("sim", "anneliese", key="build-1").json()
    his = ben.borrow("sim", "ben", key="build-1")
    assert his.status_code == 200
    assert "Idempotent-Replayed" not in his
    assert his.json()["id"] != hers["id"]
    assert ben.borrow("sim", "anneliese", key="build-1").status_code == 403


# --- On the wire ------------------------------------------------------------


GET = "GET /licenses/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
WIRE: list[tuple[str, str, int]] = [
    ("no credential", GET + "\r\n", 401),
    ("a header of 9 kB", GET + f"Authorization: Bearer {'a' * 9000}\r\n\r\n", 431),
    ("101 headers", GET + "".join(f"X-{number}: 1\r\n" for number in range(101)) + "\r\n", 431),
    ("a request line of 5 kB", "GET /" + "a" * 5000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    ("two credentials", GET + "Authorization: Bearer {good}\r\nAuthorization: Bearer lic_x\r\n\r\n", 401),
    (
        "two credentials, the good one last",
        GET + "Authorization: Bearer x\r\nAuthorization: Bearer {good}\r\n\r\n",
        401,
    ),
    ("a header with an underscore", GET + "Authorization_: x\r\nHTTP_AUTHORIZATION: Bearer {good}\r\n\r\n", 401),
    ("a line break in a header", GET + "Authorization: Bearer x\n {good}\r\n\r\n", 400),
    ("a bare line feed", GET + "X-A: b\nAuthorization: Bearer {good}\r\n\r\n", 400),
    ("a NUL in a header", GET + "Authorization: Bearer \0{good}\r\n\r\n", 400),
    ("a blank before the colon", GET + "Authorization : Bearer {good}\r\n\r\n", 400),
    ("two lengths", GET.replace("GET", "POST") + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}", 400),
    ("a length and chunks", GET + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("a negative length", GET.replace("GET", "POST") + "Content-Length: -1\r\n\r\n", 400),
    ("no host", "GET /licenses/status HTTP/1.1\r\nConnection: close\r\n\r\n", 401),
    ("an unknown host", GET.replace("localhost", "evil.example") + "Authorization: Bearer {good}\r\n\r\n", 400),
    ("a whole address", GET.replace("/licenses", "http://evil.example/licenses") + "\r\n", 401),
    ("the good one", GET + "Authorization: Bearer {good}\r\n\r\n", 200),
]


def test_the_wire_is_no_way_in(required_server: Server) -> None:
    good = required_server.manage("token", "create", "test", "--user", "ben").strip()
    address = ("127.0.0.1", int(required_server.url.rsplit(":", 1)[1]))
    wrong = []
    for label, text, expected in WIRE:
        with socket.create_connection(address, timeout=30) as connection:
            connection.sendall(text.replace("{good}", good).replace("{{}}", "{}").encode("latin-1"))
            answer = b""
            while b"\r\n" not in answer and (part := connection.recv(4096)):
                answer += part
        status = int(answer.split()[1]) if answer else 0
        if status != expected:
            wrong.append((label, status))
    assert wrong == []
