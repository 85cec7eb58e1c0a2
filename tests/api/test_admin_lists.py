"""The admin's lists accept only the lookups of their filters."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db.models import Model
from django.test import Client
from django.urls import reverse

import licenses.admin  # noqa: F401 - registers its pages
from licenses import auditing
from licenses.models import (
    AccessRule,
    Allotment,
    AuditRecord,
    Contract,
    Denial,
    Lease,
    Team,
    TeamMember,
    Ticket,
    Tool,
    UserLimit,
)
from licenses.tools import contracts
from tests.support.api import Api, make_token
from tests.support.quotas import SOMEBODY, allot

MakeTool = Callable[..., Tool]
MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label)


def address(model: type[Model]) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


@pytest.mark.any_database
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_a_list_takes_no_lookup_but_those_of_its_filters(admin_client: Client, model: type[Model]) -> None:
    for field in model._meta.get_fields():
        for lookup in ("regex", "gt", "pk__regex"):
            answer = admin_client.get(address(model), {f"{field.name}__{lookup}": "((a+)+)+b"})
            assert answer.status_code == 400, f"{field.name}__{lookup}"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_every_link_of_a_filter_works(
    admin_client: Client,
    api: Api,
    make_tool: Callable[..., Tool],
    make_team: Callable[..., Team],
    model: type[Model],
) -> None:
    """Return the filter links of a page."""
    for tool in ("cad", "sim"):
        make_tool(tool, vendor="acme")
        allot(tool, make_team("crash", f"user_of_{tool}"), quota=1)
        api.borrow(tool)
        api.borrow(tool, "ben")
    request = admin_client.get(address(model)).wsgi_request
    model_admin: Any = admin.site._registry[model]
    changelist = model_admin.get_changelist_instance(request)
    links = [
        choice["query_string"]
        for spec in changelist.filter_specs
        for choice in spec.choices(changelist)
        if "query_string" in choice
    ]
    for link in links:
        answer = admin_client.get(address(model), dict(parse_qsl(urlsplit(link).query)))
        assert answer.status_code == 200, link


@pytest.mark.parametrize(
    "value", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "99999-01-01", "x", "", "\0"]
)
@pytest.mark.parametrize("field", ["last_at__gte", "last_at__lt"])
def test_a_time_out_of_range_is_no_defect(admin_client: Client, field: str, value: str) -> None:
    answer = admin_client.get(address(Denial), {field: value})
    assert answer.status_code in {200, 302, 400}


@pytest.mark.parametrize("year", ["0", "9999", "10000", "-1", "9" * 5000, "x"])
def test_a_year_out_of_range_is_no_defect(admin_client: Client, year: str) -> None:
    answer = admin_client.get(address(AuditRecord), {"recorded_at__year": year, "recorded_at__month": "12"})
    assert answer.status_code in {302, 400}


@pytest.mark.parametrize("query", [{"tool__id__exact": "9" * 40}, {"tool__id__exact": "x"}, {"code": "\0"}])
def test_a_value_that_a_filter_cannot_have_is_no_defect(admin_client: Client, query: dict[str, str]) -> None:
    assert admin_client.get(address(Denial), query).status_code in {200, 302, 400}


@pytest.mark.django_db
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_the_search_counts_rows_only_of_a_list_that_is_narrowed(admin_client: Client, model: type[Model]) -> None:
    counted = '<span class="small quiet">'
    assert counted not in admin_client.get(address(model)).content.decode()


def test_the_list_of_tickets_opens_on_those_that_wait(admin_client: Client, api: Api, make_tool: MakeTool) -> None:
    make_tool("cfd", capacity=1, display_name="Fluid Dynamics")
    api.borrow("cfd", "cleo")
    api.wait("cfd", "ana")
    api.leave(api.wait("cfd", "ben"))
    shown = admin_client.get(address(Ticket)).content.decode()
    assert "1 of Fluid Dynamics" in shown
    assert ">ben<" not in shown
    assert ">ben<" in admin_client.get(address(Ticket), {"state__exact": "all"}).content.decode()
    for ticket in Ticket.objects.all():
        page = admin_client.get(reverse("admin:licenses_ticket_change", args=[ticket.pk])).content.decode()
        assert "1 of Fluid Dynamics" in page
        assert "items" not in page.partition('id="content"')[2]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_lists_and_filters_show_names_for_people(
    admin_client: Client, api: Api, make_tool: MakeTool, make_team: Callable[..., Team], model: type[Model]
) -> None:
    tool = make_tool("zz_tool", capacity=2, user_limit=1, display_name="Wind Tunnel")
    contracts.save(contracts=[Contract(tool=tool, seats=2)], by=SOMEBODY)
    team = make_team("zz_team", "ana")
    Team.objects.update(display_name="Aero Group")
    team.refresh_from_db()
    allot("zz_tool", team, quota=1)
    make_token(team="zz_team")
    UserLimit.objects.create(tool=tool, user="ben", seats=1)
    AccessRule.objects.create(tool=tool, effect="exclude", kind="team", team=Team.objects.create(name="others"))
    AccessRule.objects.create(tool=tool, effect="include", kind="team", team=team)
    api.borrow("zz_tool", "ana", team="zz_team")
    api.borrow("zz_tool", "ana", team="zz_team")
    api.wait("zz_tool", "ana", team="zz_team")
    content = admin_client.get(address(model)).content.decode().partition('id="changelist"')[2]
    shown = re.sub(r"<small.*?</small>|<[^>]*>", " ", content)
    if model not in {Tool, Team, AuditRecord}:
        assert "zz_t" not in shown
    related = {field.related_model for field in model._meta.fields}
    assert "Wind Tunnel" in shown or Tool not in related
    # The list of tickets has no room for the team.
    assert "Aero Group" in shown or Team not in related or model is Ticket


def test_a_choice_of_tools_tells_those_with_the_same_display_name_apart(
    admin_client: Client, make_tool: MakeTool
) -> None:
    make_tool("cad_1", display_name="Chief Designer")
    make_tool("cad_2", display_name="Chief Designer")
    make_tool("chief")
    query = {"app_label": "licenses", "model_name": "contract", "field_name": "tool", "term": "chief"}
    found = admin_client.get("/admin/autocomplete/", query).json()["results"]
    assert [row["text"] for row in found] == ["Chief Designer (cad_1)", "Chief Designer (cad_2)", "chief"]
    chosen = {"tool": Tool.objects.get(name="cad_2").pk}
    for path in ("contract/add/", "userlimit/add/", "userlimit/lines/"):
        page = admin_client.get(f"/admin/licenses/{path}", chosen).content.decode()
        assert re.findall(r"<option [^>]*selected[^>]*>(.+?)</option>", page) == ["Chief Designer (cad_2)"]


def test_filters_tell_tools_and_teams_with_the_same_display_name_apart(
    admin_client: Client, api: Api, make_tool: MakeTool, make_team: Callable[..., Team]
) -> None:
    for number in (1, 2):
        make_tool(f"cad_{number}", display_name="Chief Designer")
        allot(f"cad_{number}", make_team(f"team_{number}"), quota=1)
        api.borrow(f"cad_{number}")
    make_tool("zz_tool", display_name="Body Builder")
    Team.objects.update(display_name="Aero Group")
    tools, teams = ["Chief Designer (cad_1)", "Chief Designer (cad_2)"], ["Aero Group (team_1)", "Aero Group (team_2)"]
    for path, wanted in (
        (address(Lease), ["Body Builder", *tools, *teams]),
        (address(Allotment), [*tools, *teams]),
        ("/admin/reports/", ["Body Builder", *tools]),
        ("/admin/reports/money/", ["Body Builder", *tools]),
        ("/admin/reports/tables/tool-costs/", ["Body Builder", *tools]),
        ("/admin/reports/tables/usage/", ["Body Builder", *tools, *teams]),
        ("/", teams),
    ):
        content = admin_client.get(path).content.decode()
        shown = [text.strip() for text in re.findall(r">([^<>]+)<", content)]
        assert set(wanted) <= set(shown), path


@pytest.mark.any_database
def test_a_list_is_sorted_by_the_name_that_it_shows(
    admin_client: Client, make_tool: MakeTool, make_team: Callable[..., Team]
) -> None:
    for name, display_name in (("a", "Wind Tunnel"), ("b", ""), ("c", "aero")):
        team = make_team(name)
        Team.objects.filter(pk=team.pk).update(display_name=display_name)
        allot(make_tool(name, display_name=display_name).name, team, quota=1)
    for column, field in enumerate(("tool", "team"), 1):
        for order, wanted in (("", ["aero", "b", "Wind Tunnel"]), ("-", ["Wind Tunnel", "b", "aero"])):
            content = admin_client.get(address(Allotment), {"o": f"{order}{column}"}).content.decode()
            assert re.findall(rf'class="field-{field}[^"]*"><a [^>]*>([\w ]*\w)', content) == wanted


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_a_search_finds_tools_and_teams_by_both_names(model: type[Model]) -> None:
    fields = set(admin.site._registry[model].search_fields)
    assert "tool__name" not in fields or "tool__display_name" in fields
    assert "team__name" not in fields or "team__display_name" in fields
    assert model not in {Tool, Team} or {"name", "display_name"} <= fields


def test_the_list_of_teams_has_their_members_and_leads(admin_client: Client) -> None:
    crash = Team.objects.create(name="crash")
    Team.objects.create(name="empty")
    for user, is_lead in (("ana", True), ("ben", False), ("cleo", True)):
        TeamMember.objects.create(team=crash, user=user, is_lead=is_lead)
    for query in ({}, {"q": "crash"}, {"q": "ben"}):
        shown = admin_client.get(address(Team), query).content.decode()
        assert '<td class="field-number_of_members">3</td><td class="field-leads">ana, cleo</td>' in shown
    assert '<td class="field-number_of_members">0</td>' in admin_client.get(address(Team)).content.decode()


def test_the_history_of_a_row_is_that_of_the_audit(admin_client: Client, client: Client, make_tool: MakeTool) -> None:
    make_tool("cad_2")
    tool = make_tool("cad")
    for changed, vendor in ((tool, "Acme"), (Tool.objects.get(name="cad_2"), "Globex")):
        with auditing.changing(changed, by=SOMEBODY):
            Tool.objects.filter(pk=changed.pk).update(vendor=vendor)
    history = reverse("admin:licenses_tool_history", args=[tool.pk])
    shown = admin_client.get(history, follow=True).content.decode()
    assert "Acme" in shown
    assert "Globex" not in shown
    # Those who may not see the audit get the changes on pages.
    reader = User.objects.create_user("reader", is_staff=True)
    reader.user_permissions.add(Permission.objects.get(codename="view_tool"))
    client.force_login(reader)
    assert client.get(history).status_code == 200
    stranger = User.objects.create_user("stranger", is_staff=True)
    client.force_login(stranger)
    assert client.get(history).status_code == 403
