"""The Django admin, through its pages."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from licenses.models import Lease, Tool
from tests.support.api import Api


def test_a_capacity_is_changed_in_the_list_and_nothing_else(
    api: Api, admin_client: Client, make_tool: Callable[..., Tool]
) -> None:
    tool = make_tool("cad", capacity=5)
    page = admin_client.get("/admin/licenses/tool/")
    assert b"<progress" in page.content
    # A borrow after the page was read: saving must not write the old number back.
    api.borrow("cad", seats=2)
    answer = admin_client.post(
        "/admin/licenses/tool/",
        {
            "form-TOTAL_FORMS": "1",
            "form-INITIAL_FORMS": "1",
            "form-0-id": str(tool.pk),
            "form-0-capacity": "9",
            "_save": "Save",
        },
    )
    assert answer.status_code == 302
    tool.refresh_from_db()
    assert (tool.capacity, tool.borrowed) == (9, 2)
    assert LogEntry.objects.filter(object_id=str(tool.pk)).exists()


@pytest.mark.parametrize("capacity", ["-1", "1000001", "many", ""])
def test_a_capacity_that_makes_no_sense_is_refused(
    admin_client: Client, make_tool: Callable[..., Tool], capacity: str
) -> None:
    tool = make_tool("cad", capacity=5)
    answer = admin_client.post(
        f"/admin/licenses/tool/{tool.pk}/change/", {"name": "cad", "capacity": capacity, "enabled": "on"}
    )
    assert answer.status_code == 200
    tool.refresh_from_db()
    assert tool.capacity == 5


def test_a_tool_is_created_and_searched(admin_client: Client) -> None:
    admin_client.post("/admin/licenses/tool/add/", {"name": "mesher", "capacity": "4", "enabled": "on"})
    assert Tool.objects.get().capacity == 4
    assert b"mesher" in admin_client.get("/admin/licenses/tool/?q=mesh").content


@pytest.mark.parametrize("name", ["CAD", "../x", ".", "-x", "unknown", "a b", "x" * 65])
def test_a_name_that_could_not_be_a_tool_is_refused(admin_client: Client, name: str) -> None:
    admin_client.post("/admin/licenses/tool/add/", {"name": name, "capacity": "4", "enabled": "on"})
    assert not Tool.objects.exists()


def force_return(client: Client, *lease_ids: str, state: str = "all", **more: str) -> str:
    """Choose the action, and confirm it if there is a reason. Return the page."""
    confirmed = {"confirmed": "yes"} if "reason" in more else {}
    form = {"action": "force_return", "_selected_action": list(lease_ids)} | confirmed | more
    answer = client.post(f"/admin/licenses/lease/?state={state}", form, follow=True)
    assert answer.status_code == 200
    return " ".join(answer.content.decode().split())


@pytest.mark.parametrize("reason", ["", "  ", "x" * 201, "a\nb", "a\u202eb"])
def test_a_seat_is_not_taken_back_for_a_reason_that_makes_no_sense(
    api: Api, admin_client: Client, make_tool: Callable[..., Tool], reason: str
) -> None:
    make_tool("cad")
    lease = api.borrow().json()
    assert "errorlist" in force_return(admin_client, lease["id"], reason=reason)
    assert api.status()["borrowed"] == 1


def test_a_page_of_a_lease_that_is_sent_changes_nothing(
    api: Api, admin_client: Client, make_tool: Callable[..., Tool]
) -> None:
    make_tool("cad")
    lease = api.borrow().json()
    before = Lease.objects.values().get()
    admin_client.post(f"/admin/licenses/lease/{lease['id']}/change/", {"user": "eve", "ended_at_0": "2026-01-01"})
    assert Lease.objects.values().get() == before


def test_a_seat_is_taken_back_with_a_reason(api: Api, admin_client: Client, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad")
    lease = api.borrow().json()
    assert "1 seat(s) force-returned." in force_return(admin_client, lease["id"], reason="left for holiday")
    row = Lease.objects.get(pk=lease["id"])
    assert (row.end_reason, row.end_note) == ("forced", "left for holiday")
    assert api.status()["borrowed"] == 0
    assert "left for holiday" in LogEntry.objects.get(object_id=lease["id"]).change_message


def test_a_seat_is_not_taken_back_without_a_reason(
    api: Api, admin_client: Client, make_tool: Callable[..., Tool]
) -> None:
    make_tool("cad")
    lease = api.borrow().json()
    assert "errorlist" in force_return(admin_client, lease["id"], reason="  ")
    assert Lease.objects.get(pk=lease["id"]).ended_at is None


def test_the_page_of_an_open_lease_leads_to_its_force_return(
    api: Api, admin_client: Client, make_tool: Callable[..., Tool]
) -> None:
    make_tool("cad")
    lease = api.borrow().json()["id"]
    address = f"/admin/licenses/lease/{lease}/change/"
    page = admin_client.get(address).content.decode()
    target = re.search(r'value="Force return" formaction="([^"]+)"', page)
    assert target is not None
    sent = dict(re.findall(r'<input type="hidden" name="(action|_selected_action)" value="([^"]+)">', page))
    asked = admin_client.post(target[1], sent).content.decode()
    assert "<b>1 seat</b> back from <b>1 person</b>" in asked
    assert api.status()["borrowed"] == 1
    api.give_back(lease)
    assert "Force return" not in admin_client.get(address).content.decode()


def test_a_force_return_first_shows_whose_seats_it_takes(
    api: Api, admin_client: Client, make_tool: Callable[..., Tool]
) -> None:
    make_tool("cad", capacity=9)
    make_tool("sim", capacity=9, default_ttl=None)
    together = api.borrow_set(("cad", 2), ("sim", 1), user="ana", host="ws1", ttl_seconds=600).json()["id"]
    other = api.borrow("sim", "ben").json()["id"]
    # The second row of a borrow of several tools is that of another tool.
    part = str(Lease.objects.get(part_of=together).pk)
    page = force_return(admin_client, part, other)
    assert "<b>4 seats</b> back from <b>2 people</b>" in page
    assert "2 of cad, 1 of sim" in page
    assert page.count("<td>unknown</td>") == 1, "only a lease with a heartbeat has one"
    assert (api.status("cad")["borrowed"], api.status("sim")["borrowed"]) == (2, 2)
    kept = re.findall(r'name="_selected_action" value="([^"]+)"', page)
    assert sorted(kept) == sorted([together, other])
    assert "4 seat(s) force-returned." in force_return(admin_client, *kept, reason="gone")
    assert set(Lease.objects.values_list("end_reason", "end_note")) == {("forced", "gone")}


def test_a_force_return_of_what_has_ended_does_nothing(
    api: Api, admin_client: Client, make_tool: Callable[..., Tool]
) -> None:
    make_tool("cad")
    lease = api.borrow().json()["id"]
    api.give_back(lease)
    assert "They have ended. Nothing was returned." in force_return(admin_client, lease, reason="gone")
    assert Lease.objects.get().end_reason == "returned"


def test_a_force_return_takes_no_more_than_a_form_can_name(
    admin_client: Client, make_tool: Callable[..., Tool]
) -> None:
    tool = make_tool("cad", capacity=600)
    Lease.objects.bulk_create(Lease(tool=tool, user="ana", borrowed_at=timezone.now()) for _ in range(501))
    one = str(Lease.objects.values_list("pk", flat=True)[0])
    page = force_return(admin_client, one, select_across="1", index="0")
    assert "501 leases are selected. Select at most 500. Nothing was returned." in page


def test_the_list_of_leases_opens_on_those_that_are_active(
    api: Api, admin_client: Client, make_tool: Callable[..., Tool]
) -> None:
    make_tool("cad", capacity=9)
    active, ended = (api.borrow("cad", user).json()["id"] for user in ("ana", "ben"))
    api.give_back(ended)
    expired = api.borrow("cad", "cleo").json()["id"]
    long_ago = timezone.now() - timedelta(days=1)
    Lease.objects.filter(pk=expired).update(borrowed_at=long_ago, expires_at=long_ago + timedelta(hours=1))

    def listed(query: str) -> set[str]:
        page = admin_client.get(f"/admin/licenses/lease/{query}").content.decode()
        return {lease for lease in (active, ended, expired) if lease in page}

    assert listed("") == listed("?state=active") == {active}
    assert listed("?state=overdue") == {expired}
    assert listed("?state=ended") == {ended, expired}
    assert listed("?state=all") == {active, ended, expired}
    # What has a reason of its end has ended.
    assert listed("?end_reason__exact=returned") == listed("?state=all&end_reason__exact=returned") == {ended}


def test_leases_are_facts_that_nobody_edits(api: Api, admin_client: Client, make_tool: Callable[..., Tool]) -> None:
    make_tool("cad")
    lease = api.borrow(user="ana").json()
    page = f"/admin/licenses/lease/{lease['id']}/change/"
    assert b'type="submit" value="Save' not in admin_client.get(page).content
    admin_client.post(page, {"user": "ben", "seats": "9"})
    row = Lease.objects.get()
    assert (row.user, row.seats) == ("ana", 1)
    assert admin_client.get(f"/admin/licenses/lease/{lease['id']}/delete/").status_code == 403
    assert admin_client.get("/admin/licenses/lease/add/").status_code == 403
    assert admin_client.get("/admin/licenses/lease/?state=active&q=ana").status_code == 200


def test_leases_are_filtered_by_their_user(api: Api, admin_client: Client, make_tool: Callable[..., Tool]) -> None:
    make_tool("analysis", capacity=3)
    of_ana, of_anabel = (api.borrow("analysis", user=user).json()["id"] for user in ("ana", "anabel"))
    page = admin_client.get("/admin/licenses/lease/?state=active&user=ana").content.decode()
    assert of_ana in page
    assert Lease.objects.get(pk=of_ana).borrowed_at.strftime("%Y-%m-%d %H:%M:%S") in page
    assert of_anabel not in page
    # The form of the filter keeps the other filters.
    assert '<input type="hidden" name="state" value="active">' in page


def test_a_user_that_nobody_can_be_called_is_not_looked_for(admin_client: Client) -> None:
    answer = admin_client.get("/admin/licenses/lease/?user=%00")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/licenses/lease/?e=1")


def test_a_tool_with_history_is_not_deleted(api: Api, admin_client: Client, make_tool: Callable[..., Tool]) -> None:
    tool = make_tool("cad")
    api.borrow()
    assert admin_client.post(f"/admin/licenses/tool/{tool.pk}/delete/", {"post": "yes"}).status_code == 403
    assert Tool.objects.exists()


def test_the_admin_asks_for_a_sign_in(client: Client, db: None) -> None:
    assert client.get("/admin/licenses/tool/").status_code == 302
