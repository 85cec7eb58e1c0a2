"""Everything about a person in one place, and its end when the person leaves."""

import re
from collections.abc import Callable
from html import unescape
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from licenses.models import ApiToken, AuditRecord, Lease, Team, TeamMember, Ticket, Tool
from tests.support.api import Api, make_token

pytestmark = pytest.mark.django_db

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]


def page(client: Client, user: str = "", path: str = "", status: int = 200) -> str:
    answer = client.get(f"/admin/person/{path}?user={quote(user)}")
    assert answer.status_code == status
    return text(answer)


def text(answer: Any) -> str:
    html = re.sub(r"<(script|style|svg).*?</\1>", "", answer.content.decode(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def end(client: Client, user: str, **form: str) -> Any:
    return client.post(f"/admin/person/left/?user={quote(user)}", {"confirmed": "yes"} | form, follow=True)


@pytest.fixture
def ana(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> User:
    """Give ana something of each kind."""
    account = User.objects.create_user("ana", email="ana@example.com")
    make_tool("cad", capacity=2)
    make_tool("sim", capacity=0)
    make_team("crash", "ana", "ben")
    make_team("aero", "ana")
    make_token(user="ana", name="nightly")
    api.borrow("cad", "ana", host="ws1")
    api.give_back(api.borrow("cad", "ana").json()["id"])
    api.borrow("cad", "ben")
    api.wait("cad", "ana")
    api.borrow("sim", "ana")
    Client().force_login(account)
    return account


def test_one_page_shows_all_about_a_person(admin_client: Client, ana: User) -> None:
    shown = page(admin_client, "ana")
    for part in (
        "ana active",
        "Mail ana@example.com",
        "Sessions 1, the last until",
        "Seats now 1 1 of cad",
        "on ws1",
        "Waits for 1 1 of cad",
        "Teams 2 aero By hand crash By hand",
        "API tokens 1 nightly",
        "Last leases 1 of cad",
        "Refusals 1 in 30 days",
    ):
        assert part in shown, part
    links = re.findall(r'href="(/admin/[^"]+)"', admin_client.get("/admin/person/?user=ana").content.decode())
    for link in links:
        if "logout" not in link:
            assert admin_client.get(unescape(link)).status_code == 200, link


def test_leases_and_tickets_show_the_names_of_tools_for_people(admin_client: Client, ana: User) -> None:
    Tool.objects.filter(name="cad").update(display_name="Catia V5")
    shown = page(admin_client, "ana")
    assert "Seats now 1 1 of Catia V5" in shown
    assert "Waits for 1 1 of Catia V5" in shown


def test_lists_lead_to_the_person(admin_client: Client, ana: User) -> None:
    for address in ("/admin/licenses/lease/", f"/admin/auth/user/{ana.pk}/change/"):
        assert 'href="/admin/person/?user=ana"' in admin_client.get(address).content.decode()
    assert 'href="/admin/person/"' in admin_client.get("/admin/").content.decode()


def test_a_name_without_an_account_is_a_person_too(admin_client: Client, ana: User) -> None:
    shown = page(admin_client, "ben")
    assert "No account on this server." in shown
    assert "Seats now 1" in shown


def test_an_unknown_name_shows_similar_ones(admin_client: Client, ana: User) -> None:
    assert "Nothing is known about an. Similar names: ana" in page(admin_client, "an")
    assert "Nothing is known about zoe." in page(admin_client, "zoe")


@pytest.mark.parametrize("name", ["", " ", "\0", "a\u202eb", "x" * 256, "<b>", "a/b", "' OR 1=1", "%"])
def test_a_name_that_nobody_can_have_is_no_defect(admin_client: Client, name: str) -> None:
    assert "<b>" not in page(admin_client, name).replace("about <b>", "").replace("&rsaquo; <b>", "") or name == "<b>"
    assert admin_client.get(f"/admin/person/left/?user={quote(name)}").status_code in {200, 403}


@pytest.mark.parametrize(
    ("permission", "shown", "hidden"),
    [
        ("view_lease", "Seats now", "API tokens"),
        ("view_apitoken", "API tokens", "Seats now"),
        ("view_user", "Sessions", "Teams"),
        ("view_teammember", "Teams", "Sessions"),
        ("view_ticket", "Waits for", "Mail"),
    ],
)
def test_each_part_needs_its_permission(client: Client, ana: User, permission: str, shown: str, hidden: str) -> None:
    clerk = User.objects.create_user("clerk", is_staff=True)
    client.force_login(clerk)
    page(client, "ana", status=403)
    clerk.user_permissions.add(Permission.objects.get(codename=permission))
    client.force_login(User.objects.get(pk=clerk.pk))
    found = page(client, "ana")
    assert shown in found
    assert hidden not in found
    assert "This person left" not in found
    page(client, "ana", "left/", status=403)


def test_a_person_who_left_has_nothing_any_more(admin_client: Client, api: Api, ana: User) -> None:
    shown = page(admin_client, "ana", "left/")
    for part in ("1 session ends", "1 API token is revoked: nightly", "1 ticket leaves the queues", "aero, crash"):
        assert part in shown, part
    assert "1 of cad on ws1" in shown
    done = text(end(admin_client, "ana", force_note="left the company"))
    assert "Ended with ana: 1 token, 1 session, 1 ticket, 1 lease, 2 memberships." in done
    assert not User.objects.get(username="ana").is_active
    assert not ApiToken.objects.filter(revoked_at__isnull=True).exists()
    assert not TeamMember.objects.filter(user="ana").exists()
    assert TeamMember.objects.filter(user="ben").exists()
    assert set(Ticket.objects.values_list("state", flat=True)) == {"left"}
    assert not Lease.objects.open().held_by("ana").exists()
    assert Lease.objects.get(end_note="left the company").ended_by == "account admin"
    removed = AuditRecord.objects.filter(subject_kind="member", action="deleted").values_list("subject", "actor")
    assert sorted(removed) == [("ana in aero", "admin"), ("ana in crash", "admin")]


def test_leases_stay_without_a_reason(admin_client: Client, ana: User) -> None:
    end(admin_client, "ana")
    assert Lease.objects.open().held_by("ana").count() == 1


def test_a_reason_that_makes_no_sense_ends_nothing(admin_client: Client, ana: User) -> None:
    assert end(admin_client, "ana", force_note="a\u202eb").status_code == 400
    assert User.objects.get(username="ana").is_active


def test_a_person_leaves_twice_and_the_rest_ends_too(admin_client: Client, api: Api, ana: User) -> None:
    """What was given to the name of a deactivated account ends."""
    end(admin_client, "ana", force_note="left")
    TeamMember.objects.create(team=Team.objects.get(name="aero"), user="ana")
    done = text(end(admin_client, "ana", force_note="left"))
    assert "Ended with ana: 0 tokens, 0 sessions, 0 tickets, 0 leases, 1 membership." in done


def test_somebody_without_an_account_leaves(admin_client: Client, api: Api, ana: User) -> None:
    make_token(user="ben", name="of ben")
    assert "There is no account of this name here." in page(admin_client, "ben", "left/")
    done = text(end(admin_client, "ben", force_note="left"))
    assert "Ended with ben: 1 token, 0 sessions, 0 tickets, 1 lease, 1 membership." in done
    assert ApiToken.objects.get(name="of ben").revoked_at is not None
    assert ApiToken.objects.get(name="nightly").revoked_at is None


def test_nobody_ends_accounts_with_more_rights_or_their_own(client: Client, ana: User) -> None:
    User.objects.create_superuser("root")
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=["view_user", "change_user"]))
    client.force_login(clerk)
    for name in ("root", "clerk"):
        page(client, name, "left/", status=403)
        assert end(client, name).status_code == 403
        assert "This person left" not in page(client, name)
    # Without the rights for leases and members, these stay.
    assert "The team memberships stay" in page(client, "ana", "left/")
    end(client, "ana", force_note="x")
    assert not User.objects.get(username="ana").is_active
    assert TeamMember.objects.filter(user="ana").count() == 2
    assert Lease.objects.open().held_by("ana").count() == 1
