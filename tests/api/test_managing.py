"""Administrators change tools, teams and all that belongs to them over the API."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from licenses import auditing
from licenses.api.tools import SECONDS, ToolFields
from licenses.models import (
    AccessRule,
    Allotment,
    ApiToken,
    AuditRecord,
    Contract,
    Lease,
    MemberSource,
    Team,
    TeamMember,
    Ticket,
    Tool,
    UserLimit,
)
from licenses.site.description import TOOL_FIELDS
from licenses.site.parser import READERS
from tests.support.api import Api, api_of, api_with, assert_problem, basic, make_token

pytestmark = pytest.mark.django_db

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]
PHRASE = "a long pass phrase"

# Every row that is put by its name: its address, two bodies, and its model.
ROWS: dict[str, tuple[str, dict[str, Any], dict[str, Any], Any]] = {
    "tool": ("/api/v1/tools/mesh/", {"capacity": 5, "vendor": "meshd"}, {"capacity": 7}, Tool),
    "tool with contracts": (
        "/api/v1/tools/mesh/",
        {"contracts": [{"seats": 3, "last_day": "2999-01-01", "price": "1200.50", "reference": "A-1"}]},
        {"contracts": [{"seats": 4, "last_day": "2999-01-01", "reference": "A-1"}, {"seats": 2}]},
        Tool,
    ),
    "team": ("/api/v1/teams/noise/", {"display_name": "Noise"}, {"ignores_case": True}, Team),
    "quota": ("/api/v1/tools/cad/quotas/crash/", {"quota": 4, "reservation": 1}, {"quota": None}, Allotment),
    "user limit": ("/api/v1/tools/cad/user-limits/eve/", {"seats": 1}, {"seats": 2}, UserLimit),
    "user with a slash": ("/api/v1/tools/cad/user-limits/owner/repository/", {"seats": 1}, {"seats": 0}, UserLimit),
    "access rule": ("/api/v1/tools/cad/access-rules/include/user/eve/", {}, {}, AccessRule),
    "access rule of a team": ("/api/v1/tools/cad/access-rules/exclude/team/crash/", {}, {}, AccessRule),
    "member": ("/api/v1/teams/crash/members/ben/", {}, {}, TeamMember),
}
KINDS = pytest.mark.parametrize(("path", "body", "other", "model"), ROWS.values(), ids=list(ROWS))


@pytest.fixture
def site(make_tool: MakeTool, make_team: MakeTeam) -> None:
    """Create the tool cad with 5 seats, and the team crash of ana."""
    make_tool("cad", capacity=5)
    make_team("crash", "ana")


def put(api: Api, path: str, body: Any, **headers: str) -> Any:
    return api.client.put(path, body, content_type="application/json", headers=headers)


def tables() -> list[Any]:
    """Return all rows that this API can change, and the number of audit records."""
    models = (Tool, Team, TeamMember, Allotment, UserLimit, AccessRule, Contract, ApiToken, User)
    rows: list[Any] = [list(model._base_manager.order_by("pk").values()) for model in models]
    return [*rows, AuditRecord.objects.count()]


def without_use(rows: list[Any]) -> str:
    """Return rows without the times at which tokens were used."""
    return str([[{k: v for k, v in row.items() if k != "last_used_at"} for row in part] for part in rows[:-1]]) + str(
        rows[-1]
    )


@KINDS
def test_a_row_is_put_read_changed_and_deleted(
    site: None, admin_api: Api, path: str, body: dict[str, Any], other: dict[str, Any], model: Any
) -> None:
    new = put(admin_api, path, body)
    assert new.status_code == 201, new.content
    read = admin_api.client.get(path)
    assert (read.status_code, read["ETag"]) == (200, new["ETag"])
    assert read.json().keys() == new.json().keys()
    records = AuditRecord.objects.count()
    again = put(admin_api, path, body)
    assert (again.status_code, again["ETag"]) == (200, new["ETag"])
    # What was read can be sent back.
    assert put(admin_api, path, read.json())["ETag"] == new["ETag"]
    assert AuditRecord.objects.count() == records
    changed = put(admin_api, path, other)
    assert changed.status_code == 200, changed.content
    assert (changed["ETag"] != new["ETag"]) == (other != body)
    listed = admin_api.client.get(list_of(path))
    assert listed.json()["results"]
    assert admin_api.client.delete(path).status_code == 204
    assert_problem(admin_api.client.get(path), 404)
    assert_problem(admin_api.client.delete(path), 404)
    token = ApiToken.objects.get()
    actors = {(record.actor_kind, record.actor, record.origin) for record in AuditRecord.objects.all()}
    assert actors == {("token", f"token {token.pk}", "127.0.0.1")}
    assert {record.action for record in AuditRecord.objects.all()} >= {"created", "deleted"}


def list_of(path: str) -> str:
    """Return the address of the list that has a row."""
    for name in ("quotas", "user-limits", "access-rules", "members"):
        if f"/{name}/" in path:
            return path.split(f"/{name}/")[0] + f"/{name}/"
    return path.rsplit("/", 2)[0] + "/"


# --- Lost updates -----------------------------------------------------------------------


@KINDS
def test_only_the_version_that_was_read_is_changed(
    site: None, admin_api: Api, path: str, body: dict[str, Any], other: dict[str, Any], model: Any
) -> None:
    assert_out_of_date(put(admin_api, path, body, **{"If-Match": "*"}), "It does not exist.")
    assert_out_of_date(admin_api.client.delete(path, headers={"If-Match": '"x"'}), "It does not exist.")
    first = put(admin_api, path, body, **{"If-None-Match": "*"})
    assert first.status_code == 201
    before = without_use(tables())
    assert_out_of_date(put(admin_api, path, other, **{"If-None-Match": "*"}), "It exists already.")
    for stale in ('"x"', "x", "", 'W/"x"', f'"{first["ETag"]}"', '"x", "y"'):
        assert_out_of_date(put(admin_api, path, other, **{"If-Match": stale}), "It was changed since you read it.")
        assert_out_of_date(admin_api.client.delete(path, headers={"If-Match": stale}), "It was changed since")
    assert without_use(tables()) == before
    # A proxy that compresses the answer makes the tag weak.
    second = put(admin_api, path, other, **{"If-Match": f'"x", W/{first["ETag"]}'})
    assert second.status_code == 200, second.content
    if other != body:
        assert_out_of_date(put(admin_api, path, body, **{"If-Match": first["ETag"]}), "It was changed since")
    assert admin_api.client.delete(path, headers={"If-Match": second["ETag"]}).status_code == 204


def assert_out_of_date(answer: Any, why: str) -> None:
    assert_problem(answer, 412)
    assert answer.json()["code"] == "out_of_date"
    assert answer.json()["detail"].startswith(why)


def test_a_borrow_does_not_change_the_version_of_a_tool(site: None, api: Api, admin_api: Api) -> None:
    tag = admin_api.client.get("/api/v1/tools/cad/")["ETag"]
    api.borrow("cad", "ana")
    assert put(admin_api, "/api/v1/tools/cad/", {"capacity": 6}, **{"If-Match": tag}).status_code == 200


# --- Rights -----------------------------------------------------------------------------

# The permissions that each change needs: to create, to change, to delete.
NEEDED = {
    Tool: ("licenses", "tool"),
    Team: ("licenses", "team"),
    TeamMember: ("licenses", "teammember"),
    Allotment: ("licenses", "allotment"),
    UserLimit: ("licenses", "userlimit"),
    AccessRule: ("licenses", "accessrule"),
}


def clerk_with(*codenames: str) -> Api:
    """Return the API for a member of staff with these permissions."""
    User.objects.filter(username="clerk").delete()
    clerk = User.objects.create_user("clerk", password=PHRASE, is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return api_with(basic("clerk", PHRASE)["Authorization"])


@KINDS
def test_a_change_needs_the_permission_that_the_admin_needs(
    site: None, admin_api: Api, path: str, body: dict[str, Any], other: dict[str, Any], model: Any
) -> None:
    name = model._meta.model_name
    contracts = ["add_contract", "change_contract", "delete_contract"]
    before = tables()[:-1]
    others = [f"{verb}_{kind}" for verb in ("add", "change", "delete", "view") for kind in ("lease", "apitoken")]
    for lacking in (["view_" + name], ["change_" + name, *contracts], ["delete_" + name, *contracts], others):
        assert_problem(put(clerk_with(*lacking), path, body), 403)
    assert [rows for rows in tables()[:-1] if rows and "username" not in rows[0] and "hash" not in rows[0]] == [
        rows for rows in before if rows and "username" not in rows[0] and "hash" not in rows[0]
    ]
    assert put(clerk_with("add_" + name, *contracts), path, body).status_code == 201
    for lacking in (["view_" + name], ["add_" + name, *contracts], ["delete_" + name, *contracts], others):
        assert_problem(put(clerk_with(*lacking), path, other), 403)
    assert put(clerk_with("change_" + name, *contracts), path, other).status_code == 200
    assert_problem(clerk_with("change_" + name, "add_" + name).client.delete(path), 403)
    for verb in ("view", "change"):
        assert clerk_with(f"{verb}_{name}").client.get(path).status_code == 200
    assert clerk_with("delete_" + name).client.delete(path).status_code == 204


def test_a_tools_contracts_need_the_rights_for_contracts(site: None) -> None:
    clerk = clerk_with("change_tool", "add_contract", "change_contract")
    answer = put(clerk, "/api/v1/tools/cad/", {"contracts": [{"seats": 3}]})
    assert_problem(answer, 403)
    assert answer.json()["code"] == "more_rights"
    assert put(clerk, "/api/v1/tools/cad/", {"capacity": 3}).status_code == 200


def test_nobody_administers_without_the_scope(site: None, required: None) -> None:
    User.objects.create_superuser("root", password=PHRASE)
    User.objects.create_user("ana", password=PHRASE)
    callers = [
        api_of(user="root", scopes=["read", "borrow"]),
        api_of(user="ben", scopes=["admin", "read"]),
        api_of(team="crash"),
        api_with(basic("ana", PHRASE)["Authorization"]),
    ]
    before = without_use(tables())
    for path, body, _, _ in ROWS.values():
        for caller in callers:
            assert_problem(put(caller, path, body), 403)
            assert_problem(caller.client.delete(path), 403)
            assert "tools/mesh" in path or caller.client.get(path).status_code == 403
    assert without_use(tables()) == before


def test_an_open_server_lets_nobody_administer(site: None, api: Api) -> None:
    before = tables()
    for path, body, _, _ in ROWS.values():
        assert_problem(put(api, path, body), 401)
        assert_problem(api.client.delete(path), 401)
    assert tables() == before


def test_a_session_needs_its_token(site: None) -> None:
    User.objects.create_superuser("root", password=PHRASE)
    browser = Client(enforce_csrf_checks=True)
    assert browser.login(username="root", password=PHRASE)
    assert_problem(put(Api(browser), "/api/v1/tools/cad/", {"capacity": 9}), 403)
    root = api_with(basic("root", PHRASE)["Authorization"])
    foreign = put(root, "/api/v1/tools/cad/", {"capacity": 9}, Origin="https://evil.example")
    assert foreign.json()["code"] == "cross_site"
    assert Tool.objects.get().capacity == 5


# --- What a tool shows ------------------------------------------------------------------


def test_a_tool_shows_its_contracts_and_the_next_change(site: None, api: Api, admin_api: Api) -> None:
    today = timezone.now().date()
    wanted = [
        {"seats": 3, "last_day": str(today + timedelta(days=9)), "price": "99.00", "reference": "A-1", "note": "n"},
        {"seats": 2, "first_day": str(today + timedelta(days=20))},
    ]
    tool = put(admin_api, "/api/v1/tools/cad/", {"contracts": wanted}).json()
    assert tool["capacity"] == 3
    assert tool["capacity_changes_at"] == f"{today + timedelta(days=10)}T00:00:00Z"
    assert [contract["price"] for contract in tool["contracts"]] == ["99.00", None]
    shown = api.client.get("/api/v1/tools/cad/").json()["contracts"]
    assert [list(contract) for contract in shown] == [["id", "seats", "first_day", "last_day"]] * 2
    assert [(row["seats"], row["first_day"], row["last_day"]) for row in shown] == [
        (3, None, wanted[0]["last_day"]),
        (2, wanted[1]["first_day"], None),
    ]
    listed = api.client.get("/api/v1/tools/").json()["results"]
    assert listed[0]["contracts"] == shown
    seen = clerk_with("view_contract").client.get("/api/v1/tools/cad/").json()["contracts"]
    assert [contract["reference"] for contract in seen] == ["A-1", ""]


def test_contracts_and_another_capacity_are_refused(site: None, admin_api: Api) -> None:
    assert put(admin_api, "/api/v1/tools/cad/", {"contracts": [], "capacity": 4}).json()["capacity"] == 4
    both = put(admin_api, "/api/v1/tools/cad/", {"contracts": [{"seats": 3}], "capacity": 9})
    assert_problem(both, 400)
    assert "not both" in both.json()["errors"]["capacity"][0]
    # What was read has both.
    assert put(admin_api, "/api/v1/tools/cad/", {"contracts": [{"seats": 3}], "capacity": 3}).status_code == 200
    read = admin_api.client.get("/api/v1/tools/cad/").json()
    read["contracts"][0]["seats"] = 8
    assert put(admin_api, "/api/v1/tools/cad/", read).json()["capacity"] == 8
    assert_problem(put(admin_api, "/api/v1/tools/cad/", {"capacity": 5}), 400)


def test_every_field_of_a_tool_can_be_put_and_is_in_a_document(site: None) -> None:
    shown = {SECONDS.get(str(name), str(name)) for name in ToolFields().fields}
    stored = {name.removesuffix("_seconds") for name in auditing.state(Tool.objects.get())}
    assert shown - {"contracts"} == stored - {"name"} == TOOL_FIELDS.keys()
    assert TOOL_FIELDS.keys() <= READERS.keys()


def test_a_contract_is_added_changed_and_deleted(site: None, admin_api: Api) -> None:
    new = admin_api.post("/api/v1/contracts/", {"tool": "cad", "seats": 3, "reference": "A-1"})
    assert new.status_code == 201, new.content
    path = f"/api/v1/contracts/{new.json()['id']}/"
    assert Tool.objects.get().capacity == 3
    changed = put(admin_api, path, {"seats": 4}, **{"If-Match": new["ETag"]})
    assert (changed.status_code, changed.json()["reference"], Tool.objects.get().capacity) == (200, "A-1", 4)
    assert_out_of_date(put(admin_api, path, {"seats": 9}, **{"If-Match": new["ETag"]}), "It was changed")
    assert put(admin_api, path, admin_api.client.get(path).json())["ETag"] == changed["ETag"]
    assert_problem(put(admin_api, path, {"tool": "mesh"}), 400)
    assert [row["id"] for row in admin_api.client.get("/api/v1/contracts/?tool=cad").json()["results"]] == [
        new.json()["id"]
    ]
    assert admin_api.client.get("/api/v1/contracts/?tool=mesh").json()["results"] == []
    assert admin_api.client.delete(path).status_code == 204
    assert_problem(put(admin_api, path, {"seats": 4}), 404)
    assert [record.action for record in AuditRecord.objects.filter(subject_kind="contract").order_by("pk")] == [
        "created",
        "changed",
        "deleted",
    ]


def test_what_is_in_use_is_not_deleted(site: None, api: Api, admin_api: Api) -> None:
    lease = api.borrow("cad", "ana", team="crash").json()["id"]
    api.give_back(lease)
    for path in ("/api/v1/tools/cad/", "/api/v1/teams/crash/"):
        answer = admin_api.client.delete(path)
        assert_problem(answer, 409)
        assert answer.json()["code"] == "in_use"
    # A tool without a lease that was denied has a history too.
    put(admin_api, "/api/v1/tools/mesh/", {"capacity": 0})
    assert api.borrow("mesh", "ana").status_code == 409
    assert admin_api.client.delete("/api/v1/tools/mesh/").json()["code"] == "in_use"
    assert put(admin_api, "/api/v1/tools/mesh/", {"enabled": False}).json()["state"] == "disabled"


def test_a_member_by_hand_stays_whatever_the_provider_says(site: None, admin_api: Api) -> None:
    TeamMember.objects.create(team=Team.objects.get(), user="eve", source=MemberSource.OIDC)
    answer = put(admin_api, "/api/v1/teams/crash/members/eve/", {})
    assert (answer.status_code, answer.json()["source"]) == (200, "manual")
    assert admin_api.client.get("/api/v1/teams/crash/").json()["members"] == 2


def test_lists_have_pages(site: None, admin_api: Api) -> None:
    for name in ("b", "a/c", "Ä"):
        put(admin_api, f"/api/v1/teams/crash/members/{name}/", {})
        put(admin_api, f"/api/v1/tools/cad/user-limits/{name}/", {"seats": 1})
        put(admin_api, f"/api/v1/tools/cad/access-rules/exclude/project/{name}/", {})
    for path, field, names in (
        ("/api/v1/teams/crash/members/", "user", {"ana", "b", "a/c", "Ä"}),
        ("/api/v1/tools/cad/user-limits/", "user", {"b", "a/c", "Ä"}),
        ("/api/v1/tools/cad/access-rules/", "subject", {"b", "a/c", "Ä"}),
    ):
        found, url = [], f"{path}?page_size=1"
        while url:
            page = admin_api.client.get(url).json()
            found += [row[field] for row in page["results"]]
            url = page["next"]
        assert len(found) == len(names)
        assert set(found) == names
        for cursor in ("x", "cD0A", "cD1hAGI%3D", "cD0xJTAw", "cD05OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OQ%3D%3D"):
            assert admin_api.client.get(f"{path}?cursor={cursor}").status_code in (200, 400)
            assert_problem(admin_api.client.get(f"{path}?cursor=x"), 400)
    assert_problem(admin_api.client.get("/api/v1/tools/nosuch/quotas/"), 404)
    assert_problem(admin_api.client.get("/api/v1/teams/nosuch/members/"), 404)


# --- Tokens -----------------------------------------------------------------------------


def test_a_tokens_secret_is_shown_once(site: None, required: None, admin_api: Api) -> None:
    answer = admin_api.post("/api/v1/tokens/", {"name": "nightly", "team": "crash"})
    assert answer.status_code == 201, answer.content
    assert "no-store" in answer["Cache-Control"]
    token, secret = answer.json(), answer.json()["secret"]
    assert (token["team"], token["scopes"], token["revoked_at"]) == ("crash", ["borrow", "read"], None)
    program = api_with(f"Bearer {secret}")
    assert program.borrow("cad", "ana").status_code == 200
    path = f"/api/v1/tokens/{token['id']}/"
    for read in (path, "/api/v1/tokens/", "/api/v1/audit/", "/api/v1/"):
        assert secret[8:] not in admin_api.client.get(read).content.decode()
    assert admin_api.client.get(path).json()["hint"] == secret[:8]
    assert admin_api.client.delete(path).status_code == 204
    assert program.client.get("/licenses/status").status_code == 401
    assert admin_api.client.get(path).json()["revoked_at"] is not None
    assert admin_api.client.delete(path).status_code == 204
    assert list(AuditRecord.objects.filter(subject=str(token["id"])).values_list("action", flat=True)) == [
        "revoked",
        "created",
    ]


def test_a_clerk_creates_only_tokens_of_their_own(site: None, required: None) -> None:
    clerk = clerk_with("add_apitoken")
    for more in (
        {"team": "crash"},
        {"user": "ana"},
        {"scopes": ["read"]},
        {"user": "clerk", "scopes": ["admin"]},
        {"user": "clerk", "scopes": ["read", "admin"]},
    ):
        answer = clerk.post("/api/v1/tokens/", {"name": "x"} | more)
        assert_problem(answer, 403)
        assert answer.json()["code"] == "more_rights"
    assert not ApiToken.objects.exists()
    assert clerk.post("/api/v1/tokens/", {"name": "x", "user": "clerk"}).status_code == 201
    token = ApiToken.objects.get()
    assert (token.user, token.created_by, token.may_administer) == ("clerk", User.objects.get(), False)
    assert_problem(clerk.client.get("/api/v1/tokens/"), 403)
    assert_problem(clerk.client.delete(f"/api/v1/tokens/{token.pk}/"), 403)
    assert_problem(clerk_with("view_apitoken").client.delete(f"/api/v1/tokens/{token.pk}/"), 403)
    assert clerk_with("change_apitoken").client.delete(f"/api/v1/tokens/{token.pk}/").status_code == 204


def test_a_token_of_an_administrator_gives_no_rights_for_longer(site: None, required: None) -> None:
    root = User.objects.create_superuser("root", password=PHRASE)
    soon = timezone.now() + timedelta(days=5)
    parent = api_of(user="root", scopes=["admin"], created_by=root, account=root, expires_at=soon)
    longer = parent.post("/api/v1/tokens/", {"name": "child", "scopes": ["admin"]})
    assert_problem(longer, 403)
    assert longer.json()["code"] == "more_rights"
    made = parent.post("/api/v1/tokens/", {"name": "child", "scopes": ["admin"], "expires_at": soon.isoformat()})
    assert made.status_code == 201, made.content
    child = api_with(f"Bearer {made.json()['secret']}")
    assert child.client.get("/api/v1/teams/").status_code == 200
    assert made.json()["created_by"] == "root"
    User.objects.update(is_superuser=False)
    assert_problem(child.client.get("/api/v1/teams/"), 403)


def test_a_token_that_makes_no_sense_is_not_made(site: None, admin_api: Api) -> None:
    year = (timezone.now() + timedelta(days=400)).isoformat()
    for wrong in (
        {},
        {"name": ""},
        {"name": "x" * 65},
        {"name": "x", "team": "crash", "user": "ana"},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "x", "scopes": "read"},
        {"name": "x", "scopes": ["borrow"]},
        {"name": "x", "expires_at": year},
        {"name": "x", "expires_at": "2001-01-01T00:00:00Z"},
        {"name": "x", "expires_at": 5},
        {"name": "x", "user": "a\u202eb"},
        {"name": "x", "hint": "lic_"},
    ):
        assert_problem(admin_api.post("/api/v1/tokens/", wrong), 400)
    assert_problem(admin_api.post("/api/v1/tokens/", {"name": "x", "team": "nosuch"}), 404)
    assert ApiToken.objects.count() == 1


# --- Accounts ---------------------------------------------------------------------------


def test_an_account_is_deactivated_when_a_person_leaves(site: None, required: None, admin_api: Api) -> None:
    User.objects.create_user("eve", password=PHRASE)
    program = api_of(user="eve", account=User.objects.get())
    browser = Client()
    assert browser.login(username="eve", password=PHRASE)
    lease = program.borrow("cad", "eve", seats=5).json()["id"]
    ticket = program.wait("cad", "eve")
    path = "/api/v1/accounts/eve/"
    stale = admin_api.post(f"{path}deactivate/", {"reason": "left"}, **{"If-Match": '"x"'})
    assert_problem(stale, 412)
    assert program.client.get("/borrows").status_code == 200
    answer = admin_api.post(
        f"{path}deactivate/", {"reason": "Left the company."}, **{"If-Match": admin_api.client.get(path)["ETag"]}
    )
    assert answer.status_code == 200, answer.content
    assert (answer.json()["is_active"], answer.json()["ended"]["leases"]) == (False, [lease])
    assert answer.json()["ended"] | {"tokens": None} == {
        "tokens": None,
        "sessions": 1,
        "tickets": [ticket],
        "leases": [lease],
    }
    assert program.client.get("/borrows").status_code == 401
    assert Lease.objects.get(pk=lease).end_note == "Left the company."
    assert not Ticket.objects.waiting().exists()
    again = admin_api.post(f"{path}deactivate/", {})
    assert again.json()["ended"] == {"tokens": [], "sessions": 0, "tickets": [], "leases": []}
    assert [row["username"] for row in admin_api.client.get("/api/v1/accounts/").json()["results"]] == ["eve"]
    assert_problem(admin_api.post("/api/v1/accounts/nobody/deactivate/", {}), 404)


def test_nobody_deactivates_an_account_with_more_rights(site: None) -> None:
    User.objects.create_superuser("root", password=PHRASE)
    User.objects.create_user("eve", password=PHRASE)
    clerk = clerk_with("change_user")
    refused = clerk.post("/api/v1/accounts/root/deactivate/", {})
    assert_problem(refused, 403)
    assert refused.json()["code"] == "more_rights"
    # A reason force-returns leases.
    assert_problem(clerk.post("/api/v1/accounts/eve/deactivate/", {"reason": "x"}), 403)
    assert User.objects.filter(is_active=True).count() == 3
    assert clerk.post("/api/v1/accounts/eve/deactivate/", {}).status_code == 200
    assert_problem(clerk_with("view_user").post("/api/v1/accounts/root/deactivate/", {}), 403)


# --- Bad input --------------------------------------------------------------------------

VALUES: list[Any] = [None, True, "x", "", " ", "a\0b", "\u202e", "x" * 300, -1, 0.5, 1e308, 10**30, [], {}, [{}], [1]]
WRITES: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"put {name}": (f"PUT {path}", body) for name, (path, body, _, _) in ROWS.items()},
    "put contract": ("PUT /api/v1/contracts/{contract}/", {"seats": 3, "price": "1.00", "last_day": "2999-01-01"}),
    "add contract": ("POST /api/v1/contracts/", {"tool": "cad", "seats": 3, "first_day": None, "note": ""}),
    "create token": (
        "POST /api/v1/tokens/",
        {"name": "x", "user": "ana", "scopes": ["read"], "expires_at": f"{timezone.now() + timedelta(days=9):%FT%TZ}"},
    ),
    "deactivate": ("POST /api/v1/accounts/eve/deactivate/", {"reason": "x"}),
    "force return": ("POST /api/v1/leases/{lease}/force-return/", {"reason": "x"}),
    "every field of a tool": ("PUT /api/v1/tools/cad/", dict.fromkeys(ToolFields().fields)),
}
BODIES = [b"[]", b"1", b"null", b'"x"', b"{", b'{"a":1,"a":2}', b"\xff", b'{"seats":NaN}', b'{"nosuch":1}', b"[" * 9999]


def is_shown(shown: Any, value: Any) -> bool:
    """Return whether a field of an answer is what was sent, but for spaces."""
    if isinstance(value, str):
        return bool(shown == value.strip())
    return bool(shown == value) and isinstance(shown, bool) == isinstance(value, bool)


@pytest.mark.parametrize(("call", "body"), WRITES.values(), ids=list(WRITES))
def test_bad_input_is_refused_and_changes_nothing(
    site: None, api: Api, admin_api: Api, call: str, body: dict[str, Any]
) -> None:
    User.objects.create_user("eve", is_active=False)
    make_token(user="ana")
    contract = admin_api.post("/api/v1/contracts/", {"tool": "cad", "seats": 5}).json()["id"]
    lease = api.borrow("cad", "ana").json()["id"]
    if "tools/cad/" in call:
        Contract.objects.all().delete()
    method, path = call.format(contract=contract, lease=lease).split()

    def send(data: Any, content_type: str = "application/json") -> Any:
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        return admin_api.client.generic(method, path, data, content_type=content_type)

    before = without_use(tables())
    for raw in BODIES:
        assert_problem(send(raw), 400)
    assert_problem(send(b"name=x", "application/x-www-form-urlencoded"), 415)
    assert_problem(send({"name": "x" * 70_000}), 413)
    assert_problem(send(body | {"nosuch": 1}), 400)
    assert without_use(tables()) == before
    valid = {field: value for field, value in body.items() if value is not None}
    for field in body:
        for value in VALUES:
            answer = send(valid | {field: value})
            if answer.status_code in (200, 201):
                shown = answer.json()
                is_default = value is None and field in ("reason", "expires_at", "scopes", "user", "team")
                assert field not in shown or is_default or is_shown(shown[field], value), (field, value, shown)
                before = without_use(tables())
            else:
                # There is no tool called x.
                assert_problem(answer, 404 if (field, value) == ("tool", "x") else 400)
                assert without_use(tables()) == before, (field, value)


@pytest.mark.parametrize("path", [path for path, *_ in ROWS.values()])
def test_options_of_a_row_that_there_is_or_not_are_shown(site: None, admin_api: Api, path: str) -> None:
    for address in (path, list_of(path)):
        answer = admin_api.client.options(address)
        assert (answer.status_code, answer["Allow"][:3]) == (200, "GET")


ADDRESSES = [
    "/api/v1/tools/{}/",
    "/api/v1/teams/{}/",
    "/api/v1/tools/{}/quotas/crash/",
    "/api/v1/tools/cad/quotas/{}/",
    "/api/v1/tools/{}/user-limits/ana/",
    "/api/v1/tools/cad/user-limits/{}/",
    "/api/v1/tools/cad/access-rules/{}/user/ana/",
    "/api/v1/tools/cad/access-rules/include/{}/ana/",
    "/api/v1/tools/cad/access-rules/include/user/{}/",
    "/api/v1/tools/cad/access-rules/include/team/{}/",
    "/api/v1/teams/{}/members/ana/",
    "/api/v1/teams/crash/members/{}/",
    "/api/v1/contracts/{}/",
    "/api/v1/tokens/{}/",
    "/api/v1/accounts/{}/",
    "/api/v1/accounts/{}/deactivate/",
]
NAMES = ["%00", "a%00b", "x" * 300, "%E2%80%AE", "%20", "a%20", "e%CC%81", "%0A"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_name_that_there_cannot_be_is_refused(site: None, admin_api: Api, address: str) -> None:
    before = without_use(tables())
    of_keys = ["-1", "0", "9" * 25, "x", "1.0"] if "contracts" in address or "tokens" in address else []
    for name in [*NAMES, *of_keys]:
        path = address.format(name)
        for method in ("GET", "PUT", "DELETE", "POST"):
            answer = admin_api.client.generic(method, path, b"{}", content_type="application/json")
            assert 400 <= answer.status_code < 500, (method, path, answer.content)
            assert_problem(answer, answer.status_code)
    assert without_use(tables()) == before
