"""A tool that is disabled, has ended or has not begun shows everywhere the seats that a borrow
would get."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from licenses.models import Tool
from tests.support.api import Api
from tests.support.metrics import scrape, value
from tests.support.quotas import allot

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Any]

HOUR = timedelta(hours=1)
CLOSED: list[tuple[str, dict[str, Any]]] = [
    ("disabled", {"enabled": False}),
    ("not_started", {"valid_from": HOUR}),
    ("expired", {"valid_until": -HOUR}),
    ("disabled", {"enabled": False, "valid_until": -HOUR}),
    ("expired", {"valid_from": -2 * HOUR, "valid_until": -HOUR}),
]
OPEN: list[dict[str, Any]] = [
    {},
    {"valid_from": -HOUR},
    {"valid_until": HOUR},
    {"valid_from": -HOUR, "valid_until": HOUR},
]


def moments(values: dict[str, Any]) -> dict[str, Any]:
    """Return the same, with times relative to now."""
    now = timezone.now()
    return {name: now + value if isinstance(value, timedelta) else value for name, value in values.items()}


def seats_everywhere(api: Api, admin: Client) -> dict[str, tuple[int, str]]:
    """Return the available seats and the state of the tool cad on each page and call."""
    one, (listed,) = api.status(), api.client.get("/licenses/status").json()
    of_admin = api.client.get("/api/v1/tools/cad/").json()
    (in_list,) = [tool for tool in as_list(api.client.get("/api/v1/tools/").json()) if tool["name"] == "cad"]
    metrics = scrape(api)
    (state,) = [dict(labels)["state"] for (name, labels), on in metrics.items() if name == "license_state" and on == 1]
    nested = api.client.get("/api/v1/tools/cad/status/").json()
    row = admin.get("/admin/licenses/tool/").context["cl"].result_list[0]
    return {
        "/licenses/{tool}/status": (one["available"], one["state"]),
        "/licenses/status": (listed["available"], listed["state"]),
        "/api/v1/tools/": (in_list["available"], in_list["state"]),
        "/api/v1/tools/{tool}/": (of_admin["available"], of_admin["state"]),
        "/api/v1/tools/{tool}/status/": (nested["available"], nested["state"]),
        "/metrics": (int(value(metrics, "licenses_available", tool="cad")), state),
        "/admin/": (row.levels.available, row.state),
    }


def as_list(answer: Any) -> list[Any]:
    """Return the rows of a list, with or without pages."""
    rows: list[Any] = answer["results"] if isinstance(answer, dict) else answer
    return rows


@pytest.mark.parametrize(("state", "values"), CLOSED)
def test_a_closed_tool_has_no_seat_available_anywhere(
    api: Api, admin_client: Client, make_tool: MakeTool, state: str, values: dict[str, Any]
) -> None:
    make_tool("cad", capacity=4, overdraft=2, **moments(values))
    assert set(seats_everywhere(api, admin_client).values()) == {(0, state)}
    refusal = api.borrow()
    assert (refusal.status_code, refusal.json()["code"]) == (409, state)
    assert api.status(user="ana")["available_to_you"] == 0


@pytest.mark.parametrize("values", OPEN)
def test_an_open_tool_shows_the_seats_that_a_borrow_would_get(
    api: Api, admin_client: Client, make_tool: MakeTool, values: dict[str, Any]
) -> None:
    make_tool("cad", capacity=4, **moments(values))
    api.borrow(seats=1)
    assert set(seats_everywhere(api, admin_client).values()) == {(3, "open")}
    assert api.borrow(seats=4).status_code == 409
    assert api.borrow(seats=3).status_code == 200


def test_the_status_has_the_dates(api: Api, make_tool: MakeTool) -> None:
    dates = moments({"valid_from": -HOUR, "valid_until": HOUR})
    make_tool("cad", **dates)
    make_tool("sim")
    for answer in (api.status("cad"), api.client.get("/licenses/status").json()[0]):
        assert {name: datetime.fromisoformat(answer[name]) for name in dates} == dates
    assert (api.status("sim")["valid_from"], api.status("sim")["valid_until"]) == (None, None)


def test_a_closed_tool_still_tells_its_other_seats_apart(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    tool = make_tool("cad", capacity=6)
    allot("cad", make_team("crash", "ana"), reservation=2)
    api.borrow(user="eve")
    Tool.objects.filter(pk=tool.pk).update(enabled=False)
    status = api.status()
    assert (status["total"], status["borrowed"], status["reserved_idle"], status["available"]) == (6, 1, 2, 0)


def test_a_tool_opens_again(api: Api, admin_client: Client, make_tool: MakeTool) -> None:
    tool = make_tool("cad", capacity=4, enabled=False)
    assert set(seats_everywhere(api, admin_client).values()) == {(0, "disabled")}
    Tool.objects.filter(pk=tool.pk).update(enabled=True)
    assert set(seats_everywhere(api, admin_client).values()) == {(4, "open")}


def test_exactly_one_state_is_on(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", enabled=False)
    samples = {dict(labels)["state"]: on for (name, labels), on in scrape(api).items() if name == "license_state"}
    assert samples == {"open": 0, "disabled": 1, "not_started": 0, "expired": 0}


def test_an_imported_license_that_has_ended_has_nothing_available(api: Api, db: None, tmp_path: Any) -> None:
    file = tmp_path / "f.lic"
    file.write_text("FEATURE f1 v 1.0 1-jan-2020 4 SIGN=0\n")
    call_command("import_flexlm", "--license", str(file), "--apply")
    status = api.status("f1")
    assert (status["total"], status["available"], status["state"]) == (4, 0, "expired")
    assert status["valid_until"] == "2020-01-02T00:00:00Z"


@pytest.mark.parametrize(("state", "values"), CLOSED[:3])
def test_the_board_calls_no_seat_of_a_closed_tool_free(
    api: Api, make_tool: MakeTool, state: str, values: dict[str, Any]
) -> None:
    make_tool("cad", capacity=4, **moments(values))
    page = " ".join(api.client.get("/").content.decode().split())
    assert "<b>0 free</b>" in page
    assert '<td role="cell" data-of="free" class="number free">\N{EN DASH}</td>' in page
    assert "No seat free" not in page


def test_one_read_of_the_status_costs_no_more_than_before(
    api: Api, make_tool: MakeTool, django_assert_num_queries: Any
) -> None:
    make_tool("cad", valid_until=timezone.now() - HOUR)
    api.status()
    with django_assert_num_queries(1):
        api.status()
