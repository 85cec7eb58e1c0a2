"""Call the API as a client program does, with and without credentials."""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.test import Client

from licenses.models import ApiToken, Team


def as_items(items: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"tool": tool, "seats": seats} for tool, seats in items]


@dataclass
class Api:
    """Call the API as a client program."""

    client: Client

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self.client.post(path, body, content_type="application/json", headers=headers)

    def borrow(self, tool: str = "cad", user: str = "ana", key: str | None = None, **more: Any) -> Any:
        headers = {"Idempotency-Key": key} if key is not None else {}
        return self.post("/licenses/borrow", {"tool": tool, "user": user, **more}, **headers)

    def borrow_set(self, *items: tuple[str, int], user: str = "ana", key: str | None = None, **more: Any) -> Any:
        headers = {"Idempotency-Key": key} if key is not None else {}
        return self.post("/licenses/borrow", {"user": user, "items": as_items(items), **more}, **headers)

    def borrow_first_of(self, *alternatives: list[tuple[str, int]], user: str = "ana", **more: Any) -> Any:
        sets = [as_items(items) for items in alternatives]
        return self.post("/licenses/borrow", {"user": user, "alternatives": sets, **more})

    def renew(self, lease_id: str) -> Any:
        return self.post("/licenses/renew", {"id": lease_id})

    def give_back(self, lease_id: str) -> Any:
        return self.post("/licenses/return", {"id": lease_id})

    def wait(self, tool: str = "cad", user: str = "ben", seconds: int = 600, **more: Any) -> str:
        """Stand in the queue; the ticket."""
        answer = self.borrow(tool, user, wait_seconds=seconds, **more)
        assert answer.status_code == 202, answer.content
        ticket: str = answer.json()["ticket"]
        return ticket

    def poll(self, ticket: str) -> Any:
        return self.client.get(f"/licenses/queue/{ticket}")

    def leave(self, ticket: str) -> Any:
        return self.client.delete(f"/licenses/queue/{ticket}")

    def explain(self, tool: str = "cad", user: str = "ana", **more: Any) -> Any:
        answer = self.post("/licenses/explain", {"tool": tool, "user": user, **more})
        assert answer.status_code == 200, answer.content
        return answer.json()

    def status(self, tool: str = "cad", **subject: str) -> Any:
        return self.client.get(f"/licenses/{tool}/status", subject).json()

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema, read as JSON: YAML takes seconds."""
        schema: dict[str, Any] = self.client.get("/api/schema/", headers={"Accept": "application/json"}).json()
        return schema


SCOPE_FIELDS = {"read": "read", "borrow": "borrow", "admin": "administer"}


def make_token(*, team: str = "", user: str = "", scopes: Iterable[str] = ("read", "borrow"), **values: Any) -> str:
    """Make an API token; its secret."""
    owner = Team.objects.get_or_create(name=team)[0] if team else None
    rights = {f"may_{name}": scope in scopes for scope, name in SCOPE_FIELDS.items()}
    return ApiToken.objects.issue(ApiToken(team=owner, user=user, **{"name": "test"} | rights | values))


def api_with(credential: str) -> Api:
    """Return the API with this ``Authorization`` header."""
    headers = {"Authorization": credential} if credential else {}
    return Api(Client(raise_request_exception=False, headers=headers))


def api_of(**token: Any) -> Api:
    """Return the API for a program with its own token."""
    return api_with(f"Bearer {make_token(**token)}")


def basic(user: str, password: str) -> dict[str, str]:
    """Return the header of a name and a password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def assert_problem(answer: Any, status: int) -> None:
    """Check that an answer is a problem document with this status."""
    assert answer.status_code == status, answer.content[:300]
    assert answer["Content-Type"] == "application/problem+json"
    problem = json.loads(answer.content)
    assert problem["status"] == status
    assert problem["code"]
    assert problem["detail"]
