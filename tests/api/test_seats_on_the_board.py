"""The buttons of the board: get a seat, wait for one, take an offered one, leave the queue, return."""

import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from licenses.leases import expiry
from licenses.models import AccessRule, Lease, Team, Ticket, TicketState, Tool
from tests.support.api import Api
from tests.support.quotas import allot

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]
PassTime = Callable[..., None]

NOTHING = "00000000-0000-4000-8000-000000000000"


def signed_in(name: str = "ben", **rights: Any) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_user(name, **rights))
    return client


def page(client: Client, path: str = "/tools/cad/") -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    html: str = answer.content.decode()
    return html


def text(html: str) -> str:
    """Return what a reader sees of a page, without the marks."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html))


def key_in(html: str) -> str:
    (key,) = re.findall(r'name="key" value="([^"]+)"', html)
    return str(key)


def fill(client: Client, tool: str = "cad", **values: Any) -> dict[str, Any]:
    """Return the form of a tool's page, filled in."""
    return {"seats": 1, "seconds": 3600, "wait_seconds": 0, "key": key_in(page(client, f"/tools/{tool}/"))} | values


def get(client: Client, tool: str = "cad", **values: Any) -> Any:
    """Fill in the form of a tool's page, and send it."""
    return client.post(f"/tools/{tool}/get/", fill(client, tool, **values))


def sweep() -> None:
    expiry.tidy()


# --- Get --------------------------------------------------------------------


def test_a_form_borrows_for_the_chosen_time(required: None, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool("cad", capacity=5, display_name="Body Designer")
    make_team("crash", "ben")
    make_team("noise", "ben")
    ben = signed_in()
    answer = get(ben, seats=2, seconds=7200, project="door", host="ws1", team="noise")
    assert (answer.status_code, answer["Location"]) == (302, "/tools/cad/")
    lease = Lease.objects.get()
    assert (lease.user, lease.seats, lease.project, lease.host) == ("ben", 2, "door", "ws1")
    assert lease.team is not None
    assert lease.team.name == "noise"
    assert lease.expires_at == lease.borrowed_at + timedelta(hours=2)
    assert lease.borrowed_by == ""
    assert re.search(r"You have 2 seats of Body Designer until 20\d\d-\d\d-\d\d \d\d:\d\d UTC\.", text(page(ben)))


def test_a_form_that_is_sent_twice_borrows_once(make_tool: MakeTool) -> None:
    make_tool("cad", capacity=5)
    ben = signed_in()
    form = fill(ben)
    for _ in range(2):
        assert ben.post("/tools/cad/get/", form).status_code == 302
    assert Lease.objects.count() == 1
    # Gone back in the browser, to ask for something else.
    again = ben.post("/tools/cad/get/", form | {"seats": 2})
    assert again.status_code == 422
    assert "Send it again now." in text(again.content.decode())
    assert ben.post("/tools/cad/get/", form | {"seats": 2, "key": key_in(again.content.decode())}).status_code == 302
    assert sorted(Lease.objects.values_list("seats", flat=True)) == [1, 2]


def test_a_time_longer_than_the_tool_allows_is_no_choice(make_tool: MakeTool) -> None:
    make_tool(default_ttl=timedelta(minutes=20), max_ttl=timedelta(hours=2))
    make_tool("short", default_ttl=timedelta(seconds=90), max_ttl=timedelta(seconds=90))
    ben = signed_in()
    assert re.findall(r'<option value="(\d+)"', page(ben).partition("wait_seconds")[0]) == [
        "900",
        "1800",
        "3600",
        "7200",
    ]
    assert get(ben, seconds=14400).status_code == 400
    assert get(ben, "short", seconds=90).status_code == 302


@pytest.mark.parametrize(
    "wrong",
    [
        {"seats": 0},
        {"seats": "many"},
        {"seats": 10**9},
        {"seconds": 1},
        {"wait_seconds": -1},
        {"team": "not-mine"},
        {"project": "x" * 256},
        {"project": "a\nb"},
        {"host": "\u202ews"},
        {"key": "1"},
        {"key": ""},
        {"seats": ""},
    ],
)
def test_a_form_that_makes_no_sense_is_shown_again_and_changes_nothing(
    make_tool: MakeTool, make_team: MakeTeam, wrong: dict[str, Any]
) -> None:
    make_tool()
    make_team("not-mine", "ana")
    answer = get(signed_in(), **wrong)
    assert answer.status_code == 400
    assert b'id="get-button"' in answer.content
    assert b'class="wrong"' in answer.content or b'role="alert"' in answer.content
    assert wrong.get("seats") != 0 or "At least 1." in text(answer.content.decode())
    assert not Lease.objects.exists()
    assert not Ticket.objects.exists()


def test_a_refusal_is_shown_at_the_form_with_what_to_do(
    api: Api, make_tool: MakeTool, make_team: MakeTeam, pass_time: PassTime
) -> None:
    make_tool(display_name="Chief Designer")
    lease = api.borrow().json()["id"]
    pass_time(hours=2)
    api.give_back(lease)
    api.borrow()
    ben = signed_in()
    answer = get(ben, project="door")
    shown = answer.content.decode()
    assert answer.status_code == 409
    assert "No seat of Chief Designer is free: 1 of 1 are borrowed." in text(shown)
    assert "A seat is expected in about 2 h." in text(shown)
    assert "Choose how long you want to wait" in text(shown)
    assert 'value="door"' in shown
    # The page refreshes itself, and its buttons lead to the page of the tool.
    assert 'data-address="/tools/cad/"' in shown
    assert not Ticket.objects.exists()
    assert ben.post("/tools/cad/get/", fill(ben, key=key_in(shown), wait_seconds=1800)).status_code == 302
    assert Ticket.objects.get().user == "ben"


@pytest.mark.parametrize("rule", ["excluded", "user_limit", "quota", "disabled", "lease_limit"])
def test_the_rules_are_those_of_every_borrow(
    api: Api, make_tool: MakeTool, make_team: MakeTeam, settings: Any, rule: str
) -> None:
    tool = make_tool("cad", capacity=5, enabled=rule != "disabled", user_limit=1 if rule == "user_limit" else None)
    crash = make_team("crash", "ben", "ana")
    if rule == "quota":
        allot("cad", crash, quota=1)
    ben = signed_in()
    if rule == "excluded":
        AccessRule.objects.create(tool=tool, effect="exclude", kind="user", name="ben")
        Tool.objects.update(has_rules=True)
    if rule in ("user_limit", "quota", "lease_limit"):
        settings.LICENSE_LEASES_PER_USER = 1 if rule == "lease_limit" else 0
        assert get(ben).status_code == 302
    held = Lease.objects.count()
    expected = api.borrow("cad", "ben").json()
    answer = get(ben)
    assert answer.status_code == 409
    assert expected["code"] == rule
    assert expected["detail"].partition(" Return")[0] in text(answer.content.decode())
    assert Lease.objects.count() == held


def test_nobody_gets_a_seat_without_an_account(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    form = {"seats": 1, "seconds": 3600, "wait_seconds": 0, "key": str(uuid.uuid4())}
    answer = Client().post("/tools/cad/get/", form)
    assert answer["Location"] == "/signin/?next=/tools/cad/"
    assert signed_in("x" * 149 + "\u00a0").post("/tools/cad/get/", form).status_code == 403
    assert signed_in().post("/tools/nope/get/", form).status_code == 404
    assert not Lease.objects.exists()


def test_another_site_gets_no_seat(make_tool: MakeTool) -> None:
    make_tool()
    ben = Client(enforce_csrf_checks=True, raise_request_exception=False)
    ben.force_login(User.objects.create_user("ben"))
    assert ben.post("/tools/cad/get/", fill(ben)).status_code == 403
    assert not Lease.objects.exists()


def test_the_page_has_the_command_for_each_place(make_tool: MakeTool) -> None:
    make_tool()
    shown = page(Client())
    for place in ("Terminal", "GitHub Actions", "GitLab CI", "Jenkins", "PowerShell"):
        assert f"<summary>{place}</summary>" in shown
    assert text(shown).count("license run --tool cad --wait 30m") == 5
    assert "LICENSE_SERVER=http://testserver\n" in shown
    assert "${{ secrets.LICENSE_TOKEN }}" in shown


# --- Wait -------------------------------------------------------------------


def test_a_person_waits_without_polls_and_takes_the_offered_seat(
    required: None, make_tool: MakeTool, pass_time: PassTime, settings: Any
) -> None:
    settings.LICENSE_OFFER_MINUTES = 10
    make_tool("cad", display_name="Body Designer")
    ana, ben = signed_in("ana"), signed_in("ben")
    get(ana, seconds=28800)
    get(ben, wait_seconds=8 * 3600)
    assert "You wait at position 1. The server keeps your place" in text(page(ben))
    for _ in range(6):
        pass_time(minutes=10)
        sweep()
    assert "You wait for 1 seat of Body Designer: position 1" in text(page(ben, "/"))
    (lease,) = Lease.objects.all()
    ana.post(f"/leases/{lease.pk}/return/")
    sweep()
    ticket = Ticket.objects.get()
    for path in ("/", "/tools/cad/", "/yours/"):
        shown = page(ben, path)
        assert "1 seat of Body Designer is kept for you until" in text(shown)
        assert f'action="/tickets/{ticket.id}/take/"' in shown
    assert "a seat is kept for you" in text(page(ben, "/"))
    assert 'aria-label="Take the seat of Body Designer"' in page(ben, "/").partition('id="get-cad"')[2]
    # Nobody else gets it meanwhile.
    assert get(ana).status_code == 409
    pass_time(minutes=9)
    answer = ben.post(f"/tickets/{ticket.id}/take/", {"next": "/?sort=free"})
    assert answer["Location"] == "/?sort=free"
    shown = text(page(ben, "/"))
    assert "You have 1 seat of Body Designer until" in shown
    assert "is kept for you" not in shown
    assert Lease.objects.get(user="ben").seats == 1
    # Pressed again, or in another window.
    ben.post(f"/tickets/{ticket.id}/take/")
    assert Lease.objects.filter(user="ben").count() == 1


def test_who_comes_too_late_for_an_offer_is_told_so(
    api: Api, make_tool: MakeTool, pass_time: PassTime, settings: Any
) -> None:
    settings.LICENSE_OFFER_MINUTES = 2
    make_tool(display_name="Chief Designer")
    lease = api.borrow().json()["id"]
    ben = signed_in()
    get(ben, wait_seconds=8 * 3600)
    api.give_back(lease)
    sweep()
    pass_time(minutes=2)
    ben.post(f"/tickets/{Ticket.objects.get().id}/take/")
    assert "A seat of Chief Designer was offered, and nobody took it in time" in text(page(ben))
    assert Ticket.objects.get().state == TicketState.DROPPED
    assert not Lease.objects.filter(user="ben").exists()


def test_a_person_leaves_the_queue(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    api.borrow()
    ben = signed_in()
    get(ben, wait_seconds=8 * 3600)
    ticket = Ticket.objects.get().id
    assert f'action="/tickets/{ticket}/leave/"' in page(ben)
    assert ben.post(f"/tickets/{ticket}/leave/", {"next": "/tools/cad/"})["Location"] == "/tools/cad/"
    assert "You left the queue." in text(page(ben))
    assert Ticket.objects.get().state == TicketState.LEFT
    # Once more is harmless.
    assert ben.post(f"/tickets/{ticket}/leave/").status_code == 302


def test_nobody_takes_or_leaves_the_place_of_another_user(api: Api, make_tool: MakeTool) -> None:
    make_tool()
    lease = api.borrow().json()["id"]
    get(signed_in("ben"), wait_seconds=8 * 3600)
    ticket = Ticket.objects.get().id
    api.give_back(lease)
    sweep()
    for client in (signed_in("eve"), signed_in("root", is_superuser=True, is_staff=True)):
        for act in ("take", "leave"):
            assert client.post(f"/tickets/{ticket}/{act}/").status_code == 404
            assert client.post(f"/tickets/{NOTHING}/{act}/").status_code == 404
    for act in ("take", "leave"):
        assert Client().post(f"/tickets/{ticket}/{act}/")["Location"] == "/signin/?next=/"
        answer = signed_in(f"x{act}").post(f"/tickets/{ticket}/{act}/", {"next": "https://evil.example/"})
        assert answer.status_code == 400
    assert Ticket.objects.get().state == TicketState.WAITING
    assert Lease.objects.filter(ended_at__isnull=True).count() == 0


# --- Return -----------------------------------------------------------------


def test_a_return_asks_once_before_it_ends_a_lease_that_a_program_extends(
    api: Api, make_tool: MakeTool, pass_time: PassTime
) -> None:
    make_tool()
    ben = signed_in()
    lease = api.borrow(user="ben", host="node7", ttl_seconds=300).json()["id"]
    pass_time(seconds=100)
    api.renew(lease)
    pass_time(seconds=30)
    asked = ben.post(f"/leases/{lease}/return/", {"next": "/tools/cad/"})
    shown = asked.content.decode()
    assert asked.status_code == 200
    assert "A program still uses this lease: 1 seat of cad on node7." in text(shown)
    assert Lease.objects.get().ended_at is None
    assert 'name="confirmed" value="1"' in shown
    done = ben.post(f"/leases/{lease}/return/", {"next": "/tools/cad/", "confirmed": "1"})
    assert done["Location"] == "/tools/cad/"
    assert Lease.objects.get().end_reason == "returned"


def test_a_lease_without_heartbeats_is_returned_at_once(api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("cad", capacity=2)
    ben = signed_in()
    get(ben)
    over = api.borrow(user="ben", ttl_seconds=60).json()["id"]
    api.renew(over)
    pass_time(minutes=2)
    for lease in Lease.objects.all():
        assert ben.post(f"/leases/{lease.pk}/return/").status_code == 302
    assert Lease.objects.filter(ended_at__isnull=True).count() == 0
