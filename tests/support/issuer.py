"""A sign-in provider on loopback: its documents, and tokens that it signs."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "https://licenses.example/api"
CLIENT = "licenses"

# Keys are slow to create, so all tests share them.
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def encoded(part: Any) -> str:
    """Return the encoded part of a token."""
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


class Issuer:
    """``published`` are its keys by id; ``fetches`` counts who asked for them;
    while ``down`` it answers 503, and while ``hold`` is set it doesn't answer."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.url = f"http://{address[0]}:{address[1]}"
        self.published: dict[str, Any] = {"rsa-1": RSA_KEY, "ec-1": EC_KEY}
        self.extra_keys: list[Any] = []
        self.metadata: dict[str, Any] = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/auth",
            "token_endpoint": f"{self.url}/token",
            "userinfo_endpoint": f"{self.url}/me",
            "end_session_endpoint": f"{self.url}/end",
            "jwks_uri": f"{self.url}/jwks",
        }
        self.fetches: dict[str, int] = {"/jwks": 0, "/.well-known/openid-configuration": 0}
        self.down = False
        # What the token and the userinfo endpoints answer, and what they were asked.
        self.token_answer: Any = {}
        self.userinfo: Any = None
        self.token_requests: list[dict[str, list[str]]] = []
        self.authorizations: list[str] = []
        self.raw_keys: bytes | None = None
        self.asked = threading.Event()
        self.answer = threading.Event()
        self.answer.set()

    def keys(self) -> dict[str, Any]:
        kinds: dict[type[Any], Any] = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
        found = []
        for kid, key in self.published.items():
            algorithm = next(kind for of, kind in kinds.items() if isinstance(key, of))
            found.append(algorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"})
        return {"keys": [*self.extra_keys, *found]}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Good claims of ben's, with these changed; None leaves one out."""
        now = int(time.time())
        good = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ben-s-subject",
            "preferred_username": "ben",
            "iat": now,
            "exp": now + 300,
        }
        return {name: value for name, value in (good | changes).items() if value is not None}

    def sign(
        self,
        claims: dict[str, Any] | None = None,
        *,
        key: Any = RSA_KEY,
        alg: str = "RS256",
        kid: str | None = "rsa-1",
        **header: Any,
    ) -> str:
        headers = {"kid": kid, "typ": "at+jwt"} | header
        headers = {name: value for name, value in headers.items() if value is not None}
        return jwt.encode(claims if claims is not None else self.claims(), key, algorithm=alg, headers=headers)


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    """Provide an issuer on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.authorizations.append(self.headers.get("Authorization", ""))
            if self.path == "/me" and issuer.userinfo is not None:
                self.give(json.dumps(issuer.userinfo).encode())
                return
            if self.path not in issuer.fetches:
                self.send_error(404)
                return
            issuer.fetches[self.path] += 1
            issuer.asked.set()
            issuer.answer.wait(30)
            body = json.dumps(issuer.keys() if self.path == "/jwks" else issuer.metadata).encode()
            if self.path == "/jwks" and issuer.raw_keys is not None:
                body = issuer.raw_keys
            self.give(body)

        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            issuer.authorizations.append(self.headers.get("Authorization", ""))
            issuer.token_requests.append(parse_qs(form))
            self.give(json.dumps(issuer.token_answer).encode())

        def give(self, body: bytes) -> None:
            self.send_response(503 if issuer.down else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = Issuer(("127.0.0.1", server.server_address[1]))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        issuer.answer.set()
        server.shutdown()
        server.server_close()
        thread.join()
