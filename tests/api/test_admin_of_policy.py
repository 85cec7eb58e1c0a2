"""Quotas, reservations, limits and access rules of a tool in the admin."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from licenses.models import AccessRule, Allotment, Contract, Team, TeamMember, Tool, UserLimit
from licenses.models.tool import MAX_CAPACITY
from tests.support.admin_forms import save
from tests.support.api import Api
from tests.support.quotas import allot

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]


def test_a_quota_and_a_reservation_are_given(
    api: Api, admin_client: Client, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    tool, crash = make_tool(capacity=3), make_team("crash", "ana")
    api.borrow()
    save(admin_client, tool, {"allotments": [{"team": crash.pk, "quota": 2, "reservation": 2}]})
    assert Allotment.objects.get().borrowed == 1
    assert api.status()["reserved_idle"] == 1
    assert api.borrow(seats=2).json()["code"] == "quota"
    # Saving does not overwrite the borrowed seats.
    allotment = Allotment.objects.get()
    page = admin_client.get(f"/admin/licenses/allotment/{allotment.pk}/change/")
    assert b"crash" in page.content
    api.borrow()
    save(admin_client, tool, {"allotments": [{"id": allotment.pk, "team": crash.pk, "quota": 3, "reservation": 1}]})
    allotment.refresh_from_db()
    assert (allotment.quota, allotment.reservation, allotment.borrowed) == (3, 1, 2)


def test_an_allotment_is_taken_away_and_stays_its_team_s(
    api: Api, admin_client: Client, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    tool, crash, body = make_tool(capacity=3), make_team("crash", "ana"), make_team("body", "ben")
    allot("cad", crash, reservation=3)
    api.borrow(user="ana")
    row = {"id": Allotment.objects.get().pk, "team": body.pk, "quota": "", "reservation": 2}
    save(admin_client, tool, {"allotments": [row]})
    kept = Allotment.objects.get()
    assert (kept.team, kept.reservation, kept.borrowed) == (crash, 2, 1)
    save(admin_client, tool, {"allotments": [{"id": kept.pk, "DELETE": "on"}]})
    assert not Allotment.objects.exists()
    tool.refresh_from_db()
    assert (tool.reserved, tool.reserved_idle, tool.has_rules) == (0, 0, False)


def test_more_than_there_is_can_not_be_reserved(admin_client: Client, make_tool: MakeTool, make_team: MakeTeam) -> None:
    tool, crash, body = make_tool(capacity=3), make_team("crash"), make_team("body")
    answer = save(
        admin_client,
        tool,
        {"allotments": [{"team": crash.pk, "reservation": 2}, {"team": body.pk, "reservation": 2}]},
    )
    assert b"The reservations of cad would add up to 4 seats, but its capacity is 3." in answer.content
    assert Allotment.objects.get().team == crash
    # With one more seat it is enough.
    save(admin_client, tool, {"allotments": [{"team": body.pk, "reservation": 2}]}, capacity=4)
    assert Allotment.objects.count() == 2


def test_a_capacity_below_the_reservations_is_shown(
    admin_client: Client, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    tool, crash = make_tool(capacity=3), make_team("crash")
    allot("cad", crash, reservation=2)
    answer = save(admin_client, tool, {}, capacity=1)
    assert b"2 seats of cad are reserved, more than its capacity of 1" in answer.content
    tool.refresh_from_db()
    assert tool.capacity == 1


@pytest.mark.parametrize("quota", ["1", "-1", "many"])
def test_a_quota_that_makes_no_sense_is_refused(
    admin_client: Client, make_tool: MakeTool, make_team: MakeTeam, quota: str
) -> None:
    tool, crash = make_tool(capacity=3), make_team("crash")
    answer = save(admin_client, tool, {"allotments": [{"team": crash.pk, "quota": quota, "reservation": 2}]})
    assert answer.status_code == 200
    assert not Allotment.objects.exists()


def test_limits_and_lists_work_at_once(
    api: Api, admin_client: Client, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    tool, crash = make_tool(capacity=9), make_team("crash", "ana", "ben")
    save(
        admin_client,
        tool,
        {
            "user_limits": [{"user": "ana", "seats": 1}],
            "access_rules": [
                {"effect": "include", "kind": "team", "team": crash.pk, "name": ""},
                {"effect": "exclude", "kind": "user", "team": "", "name": "ben"},
            ],
        },
    )
    assert (UserLimit.objects.count(), AccessRule.objects.count()) == (1, 2)
    assert api.borrow(user="ana", seats=2).json()["code"] == "user_limit"
    assert api.borrow(user="ben").json()["code"] == "excluded"
    assert api.borrow(user="eve").json()["code"] == "not_included"


def test_a_host_is_listed_by_a_name_as_long_as_any_that_borrows(
    api: Api, admin_client: Client, make_tool: MakeTool
) -> None:
    tool, host = make_tool(), "h" * 255
    save(admin_client, tool, {"access_rules": [{"effect": "exclude", "kind": "host", "team": "", "name": host}]})
    assert api.borrow(host=host).json()["code"] == "excluded"
    assert api.borrow(host=host[:-1]).status_code == 200


@pytest.mark.parametrize(
    "row",
    [
        {"effect": "include", "kind": "user", "team": "", "name": ""},
        {"effect": "include", "kind": "team", "team": "", "name": "crash"},
        {"effect": "include", "kind": "user", "team": "crash", "name": "ana"},
        {"effect": "both", "kind": "user", "team": "", "name": "ana"},
        {"effect": "include", "kind": "user", "team": "", "name": "a\u202eb"},
        {"effect": "include", "kind": "user", "team": "", "name": "u" * 256},
        {"effect": "include", "kind": "host", "team": "", "name": "h" * 256},
    ],
)
def test_a_line_that_makes_no_sense_is_refused(
    admin_client: Client, make_tool: MakeTool, make_team: MakeTeam, row: dict[str, Any]
) -> None:
    tool, crash = make_tool(), make_team("crash")
    row = row | ({"team": crash.pk} if row["team"] else {})
    assert save(admin_client, tool, {"access_rules": [row]}).status_code == 200
    assert not AccessRule.objects.exists()


def test_a_team_with_an_allotment_or_leases_stays(
    api: Api, admin_client: Client, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    make_tool(capacity=3)
    crash, body = make_team("crash", "ana"), make_team("body")
    allot("cad", body, quota=1)
    api.borrow(user="ana")
    for team in (crash, body):
        admin_client.post(f"/admin/licenses/team/{team.pk}/delete/", {"post": "yes"})
    assert Team.objects.count() == 2


def test_a_capacity_below_the_borrowed_seats_is_shown(api: Api, admin_client: Client, make_tool: MakeTool) -> None:
    tool = make_tool(capacity=5, display_name="Chief Designer")
    api.borrow(seats=5)
    text = (
        "5 seats of Chief Designer are borrowed, 3 more than its capacity of 2. Nobody loses a seat. "
        "New borrows are refused or wait until 4 are returned."
    )
    assert text in save(admin_client, tool, {}, capacity=2, display_name="Chief Designer").content.decode()
    assert (api.status()["borrowed"], api.borrow(user="ben").json()["code"]) == (5, "exhausted")
    again = save(admin_client, tool, {}, capacity=2, display_name="Chief Designer", vendor="Acme")
    assert "borrowed, 3 more" not in again.content.decode()
    more = save(admin_client, tool, {}, capacity=2, overdraft=4, display_name="Chief Designer")
    assert " are borrowed" not in more.content.decode()
    less = save(admin_client, tool, {}, capacity=1, overdraft=5, display_name="Chief Designer").content.decode()
    assert "4 more than its capacity of 1. Nobody loses a seat. The overdraft allows 1 more." in less
    assert "New borrows are refused." in save(admin_client, tool, {}, capacity=0, overdraft=0).content.decode()


def test_contracts_below_the_borrowed_seats_are_shown(api: Api, admin_client: Client, make_tool: MakeTool) -> None:
    tool = make_tool(capacity=5)
    api.borrow(seats=5)
    text = "5 seats of cad are borrowed, 2 more than its capacity of 3. Nobody loses a seat."
    contract = {"tool": tool.pk, "seats": 3}
    assert text in admin_client.post("/admin/licenses/contract/add/", contract, follow=True).content.decode()
    change = f"/admin/licenses/contract/{Contract.objects.get().pk}/change/"
    assert text not in admin_client.post(change, {**contract, "note": "x"}, follow=True).content.decode()
    more = admin_client.post("/admin/licenses/contract/add/", {"tool": tool.pk, "seats": 2}, follow=True)
    assert " are borrowed" not in more.content.decode()
    selected = {"action": "delete_selected", "_selected_action": [Contract.objects.get(seats=2).pk], "post": "yes"}
    assert text in admin_client.post("/admin/licenses/contract/", selected, follow=True).content.decode()
    tool.refresh_from_db()
    assert (tool.capacity, tool.borrowed) == (3, 5)


def test_a_service_that_refuses_names_tools_and_teams_for_people_only_on_pages(
    admin_api: Api, admin_client: Client, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    tool, crash = make_tool(display_name="Chief Designer"), make_team("crash")
    Team.objects.update(display_name="Aero Group")
    why = "has 2 seats reserved, more than its quota of 1."
    page = save(admin_client, tool, {"allotments": [{"team": crash.pk, "quota": 1, "reservation": 2}]})
    assert f"Chief Designer: team Aero Group {why}" in page.content.decode()
    body = {"quota": 1, "reservation": 2}
    answer = admin_api.client.put("/api/v1/tools/cad/quotas/crash/", body, content_type="application/json")
    assert f"cad: team crash {why}" in answer.content.decode()
    Contract.objects.create(tool=tool, seats=MAX_CAPACITY)
    page = admin_client.post("/admin/licenses/contract/add/", {"tool": tool.pk, "seats": 1}, follow=True)
    assert "The contracts of Chief Designer have 1,000,001 seats at once" in page.content.decode()
    answer = admin_api.post("/api/v1/contracts/", {"tool": "cad", "seats": 1})
    assert "The contracts of cad have 1,000,001 seats at once" in answer.content.decode()
    assert not Allotment.objects.exists()
    assert Contract.objects.count() == 1


def test_a_page_that_deletes_nothing_leads_back(
    client: Client, admin_client: Client, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    make_tool(capacity=3)
    team = make_team("body")
    allot("cad", team, quota=1)
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=["view_team", "delete_team", "view_allotment"]))
    client.force_login(clerk)
    TeamMember.objects.create(team=make_team("crash"), user="ana")
    selected = {"action": "delete_selected", "_selected_action": [str(team.pk)]}
    for answer, address in (
        (admin_client.get(f"/admin/licenses/team/{team.pk}/delete/"), f"/admin/licenses/team/{team.pk}/change/"),
        (admin_client.post("/admin/licenses/team/", selected), "/admin/licenses/team/"),
        (client.post("/admin/licenses/team/", selected), "/admin/licenses/team/"),
    ):
        content = answer.content.decode()
        assert "Cannot delete" in content
        assert f'<a href="{address}" class="button back-link">Go back</a>' in content
    sure = admin_client.get(f"/admin/licenses/team/{Team.objects.get(name='crash').pk}/delete/").content.decode()
    assert "Go back" not in sure
    assert "No, take me back" in sure


def test_the_lists_show_the_numbers_apart(
    api: Api, admin_client: Client, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    make_tool(capacity=5)
    allot("cad", make_team("crash", "ana"), quota=4, reservation=2)
    api.borrow(user="eve")
    api.wait(user="eve", seats=3)
    page = admin_client.get("/admin/licenses/tool/").content.decode()
    for column, seats in {"borrowed_now": 1, "queued": 1, "available": 0}.items():
        assert f'<td class="field-{column}">{seats}</td>' in page
    tool = admin_client.get(f"/admin/licenses/tool/{Tool.objects.get().pk}/change/").content.decode()
    assert re.search(
        r'<div class="[^"]*field-reserved_idle_now(?:(?!form-row).)*?<div class="readonly">2</div>', tool, re.DOTALL
    )
    team = admin_client.get(f"/admin/licenses/team/{Team.objects.get().pk}/change/").content.decode()
    assert "1 quota and reservation</a>" in team
    assert admin_client.get("/admin/licenses/lease/?team__id__exact=1").status_code == 200
