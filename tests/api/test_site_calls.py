"""The document of a site over the API: for whom, in which form, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User

from licenses.models import ActorKind, AuditRecord, Team, Tool
from tests.support.api import Api, api_of, api_with, assert_problem, basic

pytestmark = pytest.mark.django_db

MakeTool = Callable[..., Tool]
DOCUMENT = '[tools.cad]\ncapacity = 6\n[teams.crash]\nmembers = ["ana"]\n'
APPLY = "/api/v1/site/apply"
KINDS = ("tool", "contract", "allotment", "userlimit", "accessrule", "team", "teammember")


def post(api: Api, document: str = DOCUMENT, query: str = "", **headers: str) -> Any:
    return api.post(APPLY + query, {"document": document}, **headers)


def staff(*permissions: str) -> Api:
    """Return the API for a member of staff with these permissions."""
    user = User.objects.create_user("clerk", password="a long phrase", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return api_with(basic("clerk", "a long phrase")["Authorization"])


@pytest.fixture(autouse=True)
def required(settings: Any) -> None:
    settings.LICENSE_AUTH = "required"


def test_a_document_is_applied_with_its_caller_in_the_audit(make_tool: MakeTool) -> None:
    make_tool("cad", capacity=5)
    make_tool("old")
    admin = api_of(scopes=["admin"])
    shown = post(admin, query="?dry_run=true").json()
    assert (shown["dry_run"], Tool.objects.get(name="cad").capacity, Team.objects.exists()) == (True, 5, False)
    done = post(admin)
    assert done.json() == {**shown, "dry_run": False}
    assert [change["text"] for change in shown["changes"]] == [
        "+ team crash",
        "+ member ana in crash",
        "~ tool cad: capacity 5 -> 6",
    ]
    assert shown["changes"][2]["before"] == {"capacity": 5}
    assert [change["text"] for change in shown["unlisted"]] == ["- tool old"]
    assert {record.actor_kind for record in AuditRecord.objects.exclude(subject="old")} == {ActorKind.TOKEN}
    assert post(admin).json()["changes"] == []
    pruned = post(admin, query="?prune=true").json()
    assert [change["text"] for change in pruned["changes"]] == ["- tool old"]
    assert [tool.name for tool in Tool.objects.all()] == ["cad"]


def test_the_site_is_the_document_that_brings_it(make_tool: MakeTool) -> None:
    admin = api_of(scopes=["admin"])
    post(admin)
    text = admin.client.get("/api/v1/site").json()["document"]
    plain = [
        admin.client.get("/api/v1/site?format=toml"),
        admin.client.get("/api/v1/site", headers={"Accept": "application/toml"}),
    ]
    assert {answer.content.decode() for answer in plain} == {text}
    assert {answer["Content-Type"] for answer in plain} == {"application/toml; charset=utf-8"}
    answer = admin.client.generic("POST", f"{APPLY}?prune=true", text, content_type="application/toml")
    assert (answer.status_code, answer.json()["changes"]) == (200, [])
    assert_problem(admin.client.get("/api/v1/site?format=xml"), 400)


def test_only_the_version_that_was_read_is_changed() -> None:
    admin = api_of(scopes=["admin"])
    first = admin.client.get("/api/v1/site")["ETag"]
    assert post(admin, **{"If-Match": '"other"'}).json()["code"] == "out_of_date"
    assert not Tool.objects.exists()
    second = post(admin, **{"If-Match": first})["ETag"]
    assert second == admin.client.get("/api/v1/site")["ETag"] != first
    # Two who have read the same: the second one does not overwrite the first.
    assert_problem(post(admin, DOCUMENT.replace("6", "7"), **{"If-Match": first}), 412)
    assert post(admin, DOCUMENT.replace("6", "7"), **{"If-Match": f"W/{second}"}).status_code == 200
    assert post(admin, **{"If-Match": "*"}).status_code == 200


def test_an_account_needs_the_right_to_see_everything_and_to_make_each_change(make_tool: MakeTool) -> None:
    make_tool("cad", capacity=5)
    make_tool("old")
    views = [f"view_{kind}" for kind in KINDS]
    some = staff(*views[1:], "change_tool")
    only_a_tool = "[tools.cad]\ncapacity = 4\n"
    assert post(some, only_a_tool).status_code == 200
    assert some.client.get("/api/v1/site").status_code == 200
    for document, query, needed in (
        (DOCUMENT, "", "licenses.add_team, licenses.add_teammember"),
        ("[tools.cad]\ncapacity = 4\n[tools.cad.exclude]\nusers = ['eve']\n", "", "licenses.add_accessrule"),
        (only_a_tool, "?prune=true", "licenses.delete_tool"),
        (f"{only_a_tool}[tools.new]\ncapacity = 1\n", "?dry_run=true", "licenses.add_tool"),
    ):
        refused = post(some, document, query)
        assert_problem(refused, 403)
        assert refused.json()["code"] == "permission_denied"
        assert needed in refused.json()["detail"]
    assert [(tool.name, tool.capacity) for tool in Tool.objects.all()] == [("cad", 4), ("old", 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_account_that_may_not_see_one_kind_of_row_sees_no_document(kind: str) -> None:
    some = staff(*[f"view_{each}" for each in KINDS if each != kind], "change_lease")
    assert_problem(some.client.get("/api/v1/site"), 403)
    assert_problem(post(some, "[tools]", "?dry_run=true"), 403)


def test_a_page_of_another_site_changes_nothing(admin_user: User) -> None:
    admin = api_with(basic("admin", "password")["Authorization"])
    assert_problem(post(admin, Origin="https://evil.example.com"), 403)
    assert not Tool.objects.exists()


def test_a_mistake_is_a_problem_with_its_place() -> None:
    refused = post(api_of(scopes=["admin"]), f"{DOCUMENT}\n[tools.new]\ncapacty = 1\n")
    assert_problem(refused, 400)
    problem = refused.json()
    assert problem["code"] == "invalid_site"
    assert problem["errors"][1] == {
        "line": 7,
        "where": "tools.new.capacty",
        "detail": "There is no such key. Did you mean capacity?",
    }
    assert not Tool.objects.exists()


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("?dry_run=perhaps", {"document": "[tools]"}),
        ("?dryrun=true", {"document": "[tools]"}),
        ("", {}),
        ("", {"document": ""}),
        ("", {"document": 5}),
        ("", {"document": "[tools]", "prune": True}),
        ("", {"document": "\x00"}),
        ("", {"document": "x = '\ud800'"}),
    ],
)
def test_a_wrong_call_is_refused(query: str, body: dict[str, Any]) -> None:
    assert_problem(api_of(scopes=["admin"]).post(APPLY + query, body), 400)


def test_a_body_that_is_no_text_or_too_long_is_refused() -> None:
    admin = api_of(scopes=["admin"])
    assert_problem(admin.client.generic("POST", APPLY, b"\xff", content_type="application/toml"), 400)
    assert_problem(admin.client.generic("POST", APPLY, "[tools]", content_type="text/plain"), 415)
    # Longer than the body of other calls.
    long = f"{DOCUMENT}# {'x' * 1_000_000}\n"
    assert post(admin, long).status_code == 200
    assert_problem(post(admin, f"# {'x' * 3_000_000}"), 413)
