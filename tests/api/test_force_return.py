"""Administrators force-return seats, and the holders see why."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from licenses.models import Lease, Tool
from tests.support.api import Api, basic

MakeTool = Callable[..., Tool]


@pytest.fixture
def operator(db: None) -> User:
    user = User.objects.create_user("olga", password="a long pass phrase", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="change_lease"))
    return user


def force(lease_id: str, body: Any, **more: Any) -> Any:
    return Client().post(f"/api/v1/leases/{lease_id}/force-return/", body, content_type="application/json", **more)


def test_an_administrator_takes_a_seat_back_and_the_next_heartbeat_says_why(
    api: Api, make_tool: MakeTool, operator: User
) -> None:
    make_tool("cad")
    make_tool("sim")
    lease = api.borrow_set(("cad", 1), ("sim", 1)).json()
    answer = force(lease["id"], {"reason": "Maintenance tonight"}, headers=basic("olga", "a long pass phrase"))
    assert answer.status_code == 200
    assert (answer.json()["end_reason"], answer.json()["end_note"]) == ("forced", "Maintenance tonight")
    assert (api.status("cad")["available"], api.status("sim")["available"]) == (1, 1)
    told = api.renew(lease["id"])
    assert (told.status_code, told.json()["code"], told.json()["note"]) == (410, "forced", "Maintenance tonight")
    assert "Maintenance tonight" in told.json()["detail"]
    assert set(Lease.objects.values_list("end_reason", flat=True)) == {"forced"}
    # Returning it now is still harmless.
    assert api.give_back(lease["id"]).status_code == 200


def test_a_lease_that_has_ended_keeps_its_reason(api: Api, make_tool: MakeTool, operator: User) -> None:
    make_tool()
    lease = api.borrow().json()
    api.give_back(lease["id"])
    answer = force(lease["id"], {"reason": "late"}, headers=basic("olga", "a long pass phrase"))
    assert (answer.status_code, answer.json()["end_reason"], answer.json()["end_note"]) == (200, "returned", "")


def test_nobody_else_takes_a_seat_back(api: Api, make_tool: MakeTool, operator: User) -> None:
    User.objects.create_user("staff", password="a long pass phrase", is_staff=True)
    User.objects.create_user("ben", password="a long pass phrase")
    make_tool()
    lease = api.borrow().json()
    body = {"reason": "mine now"}
    anonymous = force(lease["id"], body)
    assert (anonymous.status_code, anonymous.json()["code"]) == (401, "not_authenticated")
    assert anonymous["WWW-Authenticate"].startswith("Bearer")
    assert force(lease["id"], body, headers=basic("olga", "wrong")).status_code == 401
    for user in ("staff", "ben"):
        answer = force(lease["id"], body, headers=basic(user, "a long pass phrase"))
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert api.status()["borrowed"] == 1


def test_a_session_needs_its_csrf_token(api: Api, make_tool: MakeTool, operator: User) -> None:
    make_tool()
    lease = api.borrow().json()
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(operator)
    address = f"/api/v1/leases/{lease['id']}/force-return/"
    assert browser.post(address, {"reason": "x"}, content_type="application/json").status_code == 403
    assert api.status()["borrowed"] == 1


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "  "}, {"reason": "x" * 201}, {"reason": "a\u0000b"}])
def test_a_force_return_needs_a_reason(api: Api, make_tool: MakeTool, operator: User, body: dict[str, str]) -> None:
    make_tool()
    lease = api.borrow().json()
    assert force(lease["id"], body, headers=basic("olga", "a long pass phrase")).status_code == 400
    assert api.status()["borrowed"] == 1


def test_a_lease_that_is_not_there_cannot_be_taken_back(operator: User) -> None:
    answer = force(str(uuid.uuid4()), {"reason": "x"}, headers=basic("olga", "a long pass phrase"))
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_lease")
