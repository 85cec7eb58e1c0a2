"""Every page of the admin: on an empty and a full database, for every permission, and
in a number of statements that does not grow with the rows."""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.utils import flatten_fieldsets
from django.contrib.auth.models import Group, Permission, User
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

import licenses.admin  # noqa: F401 - registers its pages
from licenses import auditing
from licenses.models import (
    AccessRule,
    AuditRecord,
    Contract,
    Denial,
    Identity,
    JwtCaller,
    Lease,
    NotificationPreference,
    RetiredName,
    Team,
    TeamMember,
    Tool,
    UserLimit,
    Webhook,
)
from licenses.notifications import outbox, webhooks
from licenses.tools import contracts
from tests.support.api import Api, make_token
from tests.support.databases import undone
from tests.support.quotas import SOMEBODY, allot

pytestmark = pytest.mark.django_db

MakeTeam = Callable[..., Team]

MODELS = list(admin.site._registry)
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.model_name)


@pytest.fixture
def populate(api: Api) -> Callable[..., None]:
    """Fills every list of the admin with rows, those of ``number`` and up to its
    hundred: ``populate(0)``, ``populate(1)``."""

    def populate(number: int, rows: int = 3) -> None:
        now = timezone.now()
        team = Team.objects.create(name=f"team{number}", display_name="Crash")
        for row in range(rows):
            name = f"{number}_{row}"
            user = User.objects.create_user(f"user{name}", is_staff=True)
            user.groups.add(Group.objects.create(name=f"group{name}"))
            Identity.objects.create(user=user, issuer="https://example.com", subject=name)
            JwtCaller.objects.create(
                issuer="https://example.com", subject=f"jwt {name}", name=f"jwt{name}", folded=f"jwt{name}"
            )
            RetiredName.objects.create(name=f"old{name}", folded=f"old{name}", account_id=user.pk, retired_at=now)
            make_token(user=f"user{name}")
            make_token(team=team.name)
            tool = Tool.objects.create(name=f"tool{name}", capacity=4, vendor=f"Vendor {row}", user_limit=3)
            more = Team.objects.create(name=f"team{name}")
            allot(tool.name, more, quota=4, reservation=1)
            allot(tool.name, team, quota=4)
            TeamMember.objects.create(team=team, user=f"user{name}")
            UserLimit.objects.create(tool=tool, user=f"user{name}", seats=2)
            AccessRule.objects.create(tool=tool, effect="exclude", kind="team", team=more)
            AccessRule.objects.create(tool=tool, effect="exclude", kind="user", name="eve")
            api.borrow(tool.name, f"user{name}", host="ws1", seats=2)
            api.give_back(api.borrow(tool.name, "somebody").json()["id"])
            api.borrow(tool.name, f"greedy{name}", seats=3)
            api.borrow(tool.name, "eve")
            ticket = api.wait(tool.name, f"waiting{name}", seats=2)
            api.leave(ticket)
            api.wait(tool.name, f"waiting{name}", seats=3)
            granted = Tool.objects.create(name=f"granted{name}", capacity=1)
            contracts.save(contracts=[Contract(tool=granted, seats=1, reference=f"PO {name}")], by=SOMEBODY)
            lease = api.borrow(granted.name, "first").json()["id"]
            waits = api.wait(granted.name, "second")
            api.give_back(lease)
            api.poll(waits)
            webhook = Webhook(name=f"chat{name}", events=["license_ends"], for_people=True)
            webhooks.save(webhook, url="https://chat.example.com/hook", by=SOMEBODY)
            NotificationPreference.objects.create(account=user, event="seat_offered", webhook=webhook)
            outbox.record_test(webhook, by="root")
            with auditing.changing(tool, by=SOMEBODY):
                Tool.objects.filter(pk=tool.pk).update(vendor="Other")
        assert Denial.objects.exists()
        Lease.objects.filter(user="somebody").update(borrowed_at=now - timedelta(days=40))

    return populate


def base(model: type[Model]) -> str:
    return f"/admin/{model._meta.app_label}/{model._meta.model_name}/"


def lists(client: Client, model: type[Model]) -> Iterator[str]:
    """Yield the list in each form: searched, ordered by all columns, filtered and in pages."""
    model_admin: Any = admin.site._registry[model]
    yield base(model)
    yield from (base(model) + query for query in ("?q=a", "?q=%00", "?q=1", "?p=1", "?p=99", "?p=x", "?all=", "?e=1"))
    columns = range(1, len(model_admin.list_display) + 2)
    yield from (f"{base(model)}?o={'.'.join(f'{sign}{number}' for number in columns)}" for sign in ("", "-"))
    answer = client.get(base(model))
    if answer.status_code == 200:
        links = {unescape(link) for link in re.findall(r'href="(\?[^"]+)"', answer.content.decode())}
        yield from sorted(base(model) + link for link in links if not re.fullmatch(r"\?o=[-.\d]*", link))


def pages_of_rows(model: type[Model], rows: Iterable[Model]) -> Iterator[str]:
    for row in rows:
        yield from (f"{base(model)}{row.pk}/{page}/" for page in ("change", "history", "delete"))


def others(model: type[Model]) -> Iterator[str]:
    yield f"{base(model)}add/"
    if hasattr(admin.site._registry[model], "lines_view"):
        yield f"{base(model)}lines/"
        yield f"{base(model)}lines/?tool=1&team=1"
        yield f"{base(model)}lines/?tool=x&team=x"
    yield f"{base(model)}add/?tool=x&team=x&user=x"
    yield from (f"{base(model)}{key}/change/" for key in ("0", "x", "999999999"))


GENERAL = (
    "/admin/",
    "/admin/licenses/",
    "/admin/auth/",
    "/admin/reports/",
    "/admin/reports/tool0_0/",
    "/admin/reports/nope/",
    "/admin/password_change/",
    "/admin/jsi18n/",
    "/admin/autocomplete/?app_label=licenses&model_name=teammember&field_name=team&term=t",
    "/admin/autocomplete/?app_label=licenses&model_name=userlimit&field_name=tool&term=t",
    "/admin/nope/",
)


def test_all_pages_have_the_same_links_of_the_reader(admin_client: Client) -> None:
    for address in ("/admin/", "/admin/licenses/tool/", "/admin/password_change/", "/admin/password_change/done/"):
        html = admin_client.get(address).content.decode()
        links = html.partition('id="user-tools"')[2].partition("</div>")[0]
        words = " ".join(re.sub(r"<(script|style|svg).*?</\1>|<[^>]+>", " ", links, flags=re.DOTALL).split())
        assert "License board / Change password / Sign out" in words, address
        assert "Log out" not in html, address


def opened(client: Client, addresses: Iterable[str], *, but: Iterable[int] = ()) -> dict[str, int]:
    """Open pages, all of which answer; those whose status is none of the usual."""
    client.raise_request_exception = False
    statuses = {address: client.get(address).status_code for address in dict.fromkeys(addresses)}
    assert statuses
    return {address: status for address, status in statuses.items() if status not in {200, 302, *but}}


def pages_of(client: Client, model: type[Model], rows: Iterable[Model]) -> dict[str, int]:
    """Open all pages of a model; those whose status is none of the usual."""
    found = opened(client, [*lists(client, model), *pages_of_rows(model, rows)], but=[403])
    return found | opened(client, others(model), but=[403, 404])


@pytest.mark.any_database
@each_model
def test_every_page_opens_without_rows(admin_client: Client, model: type[Model]) -> None:
    assert pages_of(admin_client, model, model._default_manager.all()[:2]) == {}


# The tests of a full database fill it once for all models, which takes longer than to open their pages.


def test_every_page_opens_with_rows(admin_client: Client, populate: Callable[..., None]) -> None:
    populate(0)
    for model in MODELS:
        rows = list(model._default_manager.all()[:2])
        assert rows, model
        assert pages_of(admin_client, model, rows) == {}


@pytest.mark.parametrize("full", [False, True], ids=["empty", "full"])
def test_every_general_page_opens(admin_client: Client, populate: Callable[..., None], full: bool) -> None:
    if full:
        populate(0)
    assert opened(admin_client, GENERAL, but=[404, 403]) == {}


@pytest.mark.any_database
def test_every_page_answers_staff_with_each_permission(client: Client, populate: Callable[..., None]) -> None:
    populate(0, rows=1)
    for model in MODELS:
        rows = list(model._default_manager.all()[:1])
        for permission in Permission.objects.filter(
            content_type__app_label=model._meta.app_label, content_type__model=model._meta.model_name
        ):
            user = User.objects.create_user(f"only {permission.codename}"[:30], is_staff=True)
            user.user_permissions.add(permission)
            client.force_login(user)
            addresses = [base(model), *pages_of_rows(model, rows), *others(model), *GENERAL[:5]]
            assert opened(client, addresses, but=[403, 404]) == {}, permission.codename
            if permission.codename.startswith("view_"):
                assert client.get(base(model)).status_code == 200


def test_every_action_answers(admin_client: Client, populate: Callable[..., None]) -> None:
    populate(0, rows=1)
    admin_client.raise_request_exception = False
    for model in MODELS:
        with undone():
            page = admin_client.get(base(model)).content.decode()
            choices = page.partition('name="action"')[2].partition("</select>")[0]
            actions = re.findall(r'<option value="([^"]+)"', choices)
            chosen = [row.pk for row in model._default_manager.all()]
            for action in actions:
                for keys in ([], ["0"], ["x"], ["9" * 30], chosen[:1], chosen):
                    for more in ({}, {"select_across": "1"}, {"reason": "holiday"}):
                        form = {"action": action, "_selected_action": keys, "index": 0} | more
                        answer = admin_client.post(base(model), form)
                        assert answer.status_code in {200, 302}, (model, action, keys)
            # Last, because it deletes everything.
            if "delete_selected" in actions:
                form = {"action": "delete_selected", "_selected_action": chosen, "post": "yes"}
                assert admin_client.post(base(model), form).status_code in {200, 302}, model


def statements(client: Client, address: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert client.get(address).status_code in {200, 302, 403}, address
    return len(captured)


@pytest.mark.any_database
def test_no_page_asks_more_of_the_database_for_more_rows(admin_client: Client, populate: Callable[..., None]) -> None:
    populate(0, rows=2)
    addresses = []
    for model in MODELS:
        row = model._default_manager.order_by("pk").first()
        assert row is not None, model
        addresses += [f"{base(model)}add/", *pages_of_rows(model, [row])]
        addresses += [base(model), f"{base(model)}?q=a", f"{base(model)}?all="]
    for address in addresses:
        # Content types are read once per process.
        statements(admin_client, address)
    before = {address: statements(admin_client, address) for address in addresses}
    populate(1, rows=5)
    after = {address: statements(admin_client, address) for address in addresses}
    assert after == before
    assert max(after.values()) <= 30


def test_no_general_page_asks_more_of_the_database_for_more_rows(
    admin_client: Client, populate: Callable[..., None]
) -> None:
    addresses = ["/admin/", "/admin/licenses/", "/admin/reports/", "/admin/reports/tool0_0/"]
    populate(0, rows=2)
    for address in addresses:
        statements(admin_client, address)
    before = {address: statements(admin_client, address) for address in addresses}
    populate(1, rows=5)
    assert {address: statements(admin_client, address) for address in addresses} == before


def test_the_rows_that_go_with_a_deleted_one_are_counted_at_one_price(
    admin_client: Client, populate: Callable[..., None]
) -> None:
    """The number of members or rules does not change the page."""
    populate(0, rows=1)
    tool = Tool.objects.create(name="new", capacity=400)
    team = Team.objects.create(name="new")

    def fill(start: int, stop: int) -> None:
        for number in range(start, stop):
            other = Team.objects.create(name=f"other{number}")
            allot("new", other, quota=1)
            AccessRule.objects.create(tool=tool, effect="include", kind="team", team=other)
            UserLimit.objects.create(tool=tool, user=f"user{number}", seats=1)
            TeamMember.objects.create(team=team, user=f"user{number}")

    addresses = [*pages_of_rows(Tool, [tool]), *pages_of_rows(Team, [team])]
    fill(0, 3)
    for address in addresses:
        statements(admin_client, address)
    before = {address: statements(admin_client, address) for address in addresses}
    fill(3, 15)
    assert {address: statements(admin_client, address) for address in addresses} == before
    page = admin_client.get(f"/admin/licenses/tool/{tool.pk}/delete/").content.decode()
    for text in ("15 access rules", "15 user limits", "15 quotas and reservations"):
        assert text in page


# --- Long lists -------------------------------------------------------------


@pytest.fixture
def big_tool(make_tool: Callable[..., Tool]) -> Tool:
    tool = make_tool("cad", capacity=5)
    AccessRule.objects.bulk_create(
        AccessRule(tool=tool, effect="include", kind="user", name=f"user{number:04}") for number in range(1200)
    )
    UserLimit.objects.bulk_create(UserLimit(tool=tool, user=f"user{number:04}", seats=1) for number in range(1200))
    return tool


@pytest.fixture
def big_team(make_team: MakeTeam) -> Team:
    return make_team("crash", *(f"user{number:04}" for number in range(1200)))


def as_a_browser_sends_it(client: Client, address: str, **changed: Any) -> dict[str, Any]:
    """Return the fields of the page's form with these changes."""
    form = client.get(address).context["adminform"].form
    sent = {bound.html_name: bound.value() for bound in form}
    assert not client.get(address).context["inline_admin_formsets"]
    kept = {name: value for name, value in sent.items() if value not in (None, False, "")}
    return {name: "on" if value is True else value for name, value in kept.items()} | changed


def test_a_tool_with_very_many_rules_is_saved(admin_client: Client, big_tool: Tool) -> None:
    address = f"/admin/licenses/tool/{big_tool.pk}/change/"
    page = admin_client.get(address).content
    assert len(page) < 60_000
    for text in (b"1,200 access rules", b"1,200 user limits", b"0 quotas and reservations</a>: no limits for teams"):
        assert text in page
    assert admin_client.post(address, as_a_browser_sends_it(admin_client, address, capacity=6)).status_code == 302
    big_tool.refresh_from_db()
    assert big_tool.capacity == 6
    assert big_tool.access_rules.count() == 1200


def test_a_tool_with_very_many_quotas_is_saved(admin_client: Client, make_tool: Callable[..., Tool]) -> None:
    tool = make_tool("cad", capacity=5)
    for number in range(300):
        allot("cad", Team.objects.create(name=f"team{number}"), quota=1)
    address = f"/admin/licenses/tool/{tool.pk}/change/"
    assert admin_client.post(address, as_a_browser_sends_it(admin_client, address, capacity=6)).status_code == 302
    tool.refresh_from_db()
    assert tool.capacity == 6


def test_a_team_with_very_many_members_is_saved(admin_client: Client, big_team: Team) -> None:
    address = f"/admin/licenses/team/{big_team.pk}/change/"
    page = admin_client.get(address).content
    assert len(page) < 40_000
    assert b"1,200 team members" in page
    answer = admin_client.post(address, as_a_browser_sends_it(admin_client, address, display_name="Crash"))
    assert answer.status_code == 302
    big_team.refresh_from_db()
    assert (big_team.display_name, big_team.members.count()) == ("Crash", 1200)


def test_a_parent_s_page_leads_to_its_rows(admin_client: Client, big_tool: Tool, big_team: Team) -> None:
    Tool.objects.create(name="other", capacity=1).user_limits.create(user="elsewhere", seats=1)
    page = admin_client.get(f"/admin/licenses/tool/{big_tool.pk}/change/").content.decode()
    links = [unescape(link) for link in re.findall(r'href="(/admin/licenses/[a-z]+/(?:add/)?\?[^"]+)"', page)]
    assert len(links) == 8
    assert opened(admin_client, links) == {}
    (limits,) = [link for link in links if "userlimit/?" in link]
    listed = admin_client.get(limits).content.decode()
    assert "1200 user limits" in listed
    assert "elsewhere" not in listed
    assert len(listed) < 150_000
    (add,) = [link for link in links if "userlimit/add/" in link]
    assert admin_client.get(add).context["adminform"].form.initial["tool"] == str(big_tool.pk)
    answer = admin_client.post(add, {"tool": big_tool.pk, "user": "new", "seats": 2, "_save": "Save"})
    assert answer["Location"].endswith(f"/admin/licenses/userlimit/?tool__id__exact={big_tool.pk}")


def test_no_more_rows_are_deleted_at_once_than_a_form_can_name(admin_client: Client, big_team: Team) -> None:
    def delete(number: int, **more: str) -> Any:
        keys = list(TeamMember.objects.values_list("pk", flat=True)[:number])
        form = {"action": "delete_selected", "_selected_action": keys, **more}
        return admin_client.post("/admin/licenses/teammember/", form, follow=True)

    refused = delete(100, select_across="1").content.decode()
    assert "1,200 rows are selected. Select at most 500. Nothing was deleted." in refused
    asked = delete(500)
    assert asked.content.count(b'name="_selected_action"') == 500
    assert delete(500, post="yes").status_code == 200
    assert big_team.members.count() == 700
    assert AuditRecord.objects.filter(subject_kind="member", action="deleted").count() == 500


# --- Many rows, pasted ------------------------------------------------------


def paste(client: Client, page: str, lines: str, **parent: Any) -> Any:
    return client.post(f"/admin/licenses/{page}/lines/", parent | {"lines": lines}, follow=True)


def test_access_rules_are_pasted_and_work_at_once(
    api: Api, admin_client: Client, make_tool: Callable[..., Tool], make_team: MakeTeam
) -> None:
    tool = make_tool("cad", capacity=9)
    make_team("crash", "ana")
    lines = "include team crash\r\n\r\n  EXCLUDE user ben  \ninclude host ws 1\ninclude project x\ninclude team crash"
    answer = paste(admin_client, "accessrule", lines, tool=tool.pk)
    assert "4 added to cad. 1 existed already." in answer.content.decode()
    assert api.borrow(user="ana").status_code == 200
    assert api.borrow(user="ben", host="ws 1").json()["code"] == "excluded"
    assert api.borrow(user="eve").json()["code"] == "not_included"
    records = AuditRecord.objects.filter(subject_kind="access_rule")
    assert {record.subject for record in records} == {
        "cad for team crash",
        "cad for user ben",
        "cad for host ws 1",
        "cad for project x",
    }
    assert {record.actor for record in records} == {"admin"}


def test_user_limits_are_pasted(api: Api, admin_client: Client, make_tool: Callable[..., Tool]) -> None:
    tool = make_tool("cad", capacity=9)
    paste(admin_client, "userlimit", "ana 1\nben\t2\nmax muster, 3\neve;0", tool=tool.pk)
    assert dict(UserLimit.objects.values_list("user", "seats")) == {"ana": 1, "ben": 2, "max muster": 3, "eve": 0}
    assert api.borrow(user="ana", seats=2).json()["code"] == "user_limit"


def test_members_are_pasted(admin_client: Client, make_team: MakeTeam) -> None:
    team = make_team("crash", "ana")
    answer = paste(admin_client, "teammember", "\n".join(["ana", *(f"user{n}" for n in range(330))]), team=team.pk)
    assert "330 added to crash. 1 existed already." in answer.content.decode()
    assert team.members.count() == 331
    assert set(team.members.values_list("source", flat=True)) == {"manual"}
    assert AuditRecord.objects.filter(subject_kind="member", action="created").count() == 330


@pytest.mark.parametrize(
    ("page", "lines", "told"),
    [
        ("accessrule", "include user ana\ninclude everybody", "Line 2: Write an effect, a kind and a name"),
        ("accessrule", "include user ana\nallow user ben", "Line 2: Write an effect, a kind and a name"),
        ("accessrule", "include user ana\ninclude team nope", "Line 2: There is no team nope."),
        ("accessrule", "include user ana\ninclude user a\u202eb", "Line 2: No control or invisible characters"),
        ("accessrule", f"include host {'h' * 300}", "Line 1:"),
        ("userlimit", "ana 1\nben", "Line 2: Write a user and a number of seats"),
        ("userlimit", "ana 1\nben -1", "Line 2: Write a user and a number of seats"),
        ("userlimit", "ana 1\nana 2", "ana already has a limit of 1, not 2."),
        ("userlimit", "ana 999999999999", "Line 1: Write a user and a number of seats"),
        ("teammember", f"ana\n{'u' * 300}", "Line 2:"),
        ("teammember", "", "This field is required."),
        ("teammember", "\n".join(f"user{number}" for number in range(2001)), "at once, not 2,001."),
        ("teammember", "\n".join(["a\u200bb"] * 50), "And 30 more lines."),
    ],
)
def test_a_pasted_line_that_makes_no_sense_adds_nothing(
    admin_client: Client,
    make_tool: Callable[..., Tool],
    make_team: MakeTeam,
    page: str,
    lines: str,
    told: str,
) -> None:
    tool, team = make_tool("cad"), make_team("crash")
    answer = paste(admin_client, page, lines, tool=tool.pk, team=team.pk)
    assert answer.status_code == 200
    assert told in unescape(answer.content.decode())
    assert not any(rows.objects.exists() for rows in (AccessRule, UserLimit, TeamMember))
    assert not AuditRecord.objects.exists()


@pytest.mark.parametrize("parent", ["", "0", "x", "999999999"])
def test_lines_of_nothing_add_nothing(admin_client: Client, parent: str) -> None:
    answer = paste(admin_client, "teammember", "ana", team=parent)
    assert answer.status_code == 200
    assert not TeamMember.objects.exists()


def test_lines_are_pasted_by_those_who_may_add_rows(client: Client, make_team: MakeTeam) -> None:
    team = make_team("crash")
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename="view_teammember"))
    client.force_login(clerk)
    assert b"Add several" not in client.get("/admin/licenses/teammember/").content
    assert paste(client, "teammember", "ana", team=team.pk).status_code == 403
    clerk.user_permissions.add(*Permission.objects.filter(codename__in=["add_teammember", "view_team"]))
    assert b"Add several" in client.get("/admin/licenses/teammember/").content
    paste(client, "teammember", "ana", team=team.pk)
    assert team.members.get().user == "ana"


# --- Names ------------------------------------------------------------------


@pytest.mark.any_database
def test_rows_are_called_by_names_and_not_by_numbers(populate: Callable[..., None]) -> None:
    populate(7, rows=1)
    # A number that no name contains.
    for row in (row for model in MODELS for row in model._default_manager.all()):
        for field in row._meta.fields:
            if field.is_relation and getattr(row, field.attname) is not None:
                key = re.escape(str(getattr(row, field.attname)))
                assert not re.search(rf"(?:\bin|\bof|\bfor|\bx|^) {key}(?:$|:| )", str(row)), str(row)


@pytest.mark.any_database
def test_pages_are_written_for_people(admin_client: Client, populate: Callable[..., None]) -> None:
    populate(0, rows=1)
    for model in MODELS:
        model_admin: Any = admin.site._registry[model]
        answer = admin_client.get(base(model))
        shown = answer.context["cl"]
        for spec in shown.filter_specs:
            choices = [str(choice["display"]) for choice in spec.choices(shown) if "display" in choice]
            assert {"-", "", "Empty", "Not empty"}.isdisjoint(choices), spec.title
        row = model._default_manager.order_by("pk").first()
        assert row is not None
        page = admin_client.get(f"{base(model)}{row.pk}/change/")
        assert not re.search(r"\d\.\d{6}|\+00:00", page.content.decode()), f"a time of {model} is written by Python"
        # The page of a row has what the list has of it.
        of_row = flatten_fieldsets(model_admin.get_fieldsets(page.wsgi_request, row))
        columns = {field.name for field in model._meta.fields} & set(shown.list_display)
        assert columns <= {"id", *of_row}, model
        if model_admin.has_add_permission(page.wsgi_request):
            new = admin_client.get(f"{base(model)}add/").content.decode()
            assert '<div class="readonly">' not in new, f"a {model} that does not exist has nothing to show"
