"""The callers that see names on leases, tickets and denials."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from licenses.access.provider_accounts import _operators
from licenses.models import Denial, Team, Tool
from tests.support.api import Api, api_of, assert_problem

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Any]

# zora of team crash holds a seat, held one that was taken back, waits for one and was refused one. Where each
# of these callers reads her name: with LICENSE_SHOW_HOLDERS=everyone, team, nobody (e, t, n); - is nowhere, and
# x a refusal. Callers: nobody known, on an open server; a person; a person of crash; zora; the token of crash;
# that of another team; a token that only reads; staff who may view; an operator; a superuser.
TABLE = """
/                                          e  e  et  etn  x    x  x  etn  etn  etn
/tools/cad/                                e  e  et  etn  x    x  x  etn  etn  etn
/borrows                                   e  e  et  etn  etn  -  e  etn  etn  etn
/borrows?user=zora                         e  e  et  etn  etn  -  e  etn  etn  etn
/borrows?host=ws-417                       e  e  et  etn  etn  -  e  etn  etn  etn
/api/v1/leases/?state=active               e  e  et  etn  etn  -  e  etn  etn  etn
/api/v1/leases/?state=active&user=zora     e  e  et  etn  etn  -  e  etn  etn  etn
/api/v1/leases/{active}/                   e  e  et  etn  etn  x  e  etn  etn  etn
/api/v1/leases/?state=ended                -  -  -   etn  etn  -  -  etn  etn  etn
/api/v1/leases/?state=ended&user=zora      -  -  -   etn  etn  -  -  etn  etn  etn
/api/v1/leases/{ended}/                    -  -  -   etn  etn  x  -  etn  etn  etn
/api/v1/denials/                           x  -  -   etn  etn  -  x  etn  etn  etn
/api/v1/denials/?user=zora                 x  -  -   etn  etn  -  x  etn  etn  etn
/api/v1/denials/{denial}/                  x  x  x   etn  etn  x  x  etn  etn  etn
/api/v1/reports/usage?by=user              x  x  x   x    x    x  x  etn  etn  etn
/api/v1/reports/usage?by=tool,user         x  x  x   x    x    x  x  etn  etn  etn
/api/v1/reports/usage?by=user&format=csv   x  x  x   x    x    x  x  etn  etn  etn
/api/v1/reports/usage?by=tool,project      -  -  -   -    -    -  -  -    -    -
/api/v1/reports/denials?by=tool,code       -  -  -   -    -    -  -  -    -    -
/api/v1/reports/what-if?tool=cad           -  -  -   -    -    -  -  -    -    -
/licenses/status                           -  -  -   -    -    -  -  -    -    -
/licenses/cad/status                       -  -  -   -    -    -  -  -    -    -
/api/v1/tools/                             -  -  -   -    -    -  -  -    -    -
"""
ROLES = [
    "anonymous",
    "plain",
    "mate",
    "holder",
    "team_token",
    "other_team_token",
    "read_token",
    "viewer",
    "operator",
    "superuser",
]
SETTINGS = {"e": "everyone", "t": "team", "n": "nobody"}
# The values about her: name, machine, note, and who borrowed for her.
TRACES = re.compile(r"zora|ws-417|Go home|token \d")


@pytest.fixture
def zora(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> dict[str, Any]:
    make_tool("cad", capacity=1)
    make_tool("sim", capacity=1)
    make_team("crash", "zora", "mate")
    make_team("noise", "plain")
    admin = api_of(scopes=["admin"])
    ended = admin.borrow("cad", "zora", host="ws-417").json()["id"]
    admin.post(f"/api/v1/leases/{ended}/force-return/", {"reason": "Go home"})
    active = admin.borrow("cad", "zora", host="ws-417").json()["id"]
    admin.wait("cad", "zora", host="ws-417")
    assert admin.borrow("cad", "zora", host="ws-417").status_code == 409
    return {"active": active, "ended": ended, "denial": Denial.objects.get().pk}


def client_of(role: str, settings: Any) -> Client:
    """Return the caller of this role."""
    settings.LICENSE_AUTH = "open" if role == "anonymous" else "required"
    if role == "anonymous":
        return Client()
    tokens: dict[str, dict[str, Any]] = {
        "team_token": {"team": "crash"},
        "other_team_token": {"team": "noise"},
        "read_token": {"scopes": ["read"]},
    }
    if role in tokens:
        return api_of(**tokens[role]).client
    name = "zora" if role == "holder" else role
    user = User.objects.create_user(
        name, is_staff=role in ("viewer", "operator", "superuser"), is_superuser=role == "superuser"
    )
    if role == "viewer":
        user.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    if role == "operator":
        user.groups.add(_operators())
    client = Client()
    client.force_login(user)
    return client


def sight(client: Client, path: str) -> str:
    """Return whether a caller sees zora's name at an address: shown, hidden or refused."""
    answer = client.get(path)
    if answer.status_code in (302, 401, 403, 404):
        return "refused"
    assert answer.status_code == 200, (path, answer.content)
    page = answer.content.decode()
    if "zora" in page:
        return "shown"
    assert TRACES.findall(page) == [], path
    return "hidden"


@pytest.mark.any_database
@pytest.mark.parametrize("letter", SETTINGS)
@pytest.mark.parametrize("role", ROLES)
def test_a_name_is_for_those_it_is_meant_for(zora: dict[str, Any], settings: Any, role: str, letter: str) -> None:
    settings.LICENSE_SHOW_HOLDERS = SETTINGS[letter]
    client = client_of(role, settings)
    expected, found = {}, {}
    for line in TABLE.strip().splitlines():
        path, *cells = line.split()
        cell = dict(zip(ROLES, cells, strict=True))[role]
        expected[path] = "refused" if cell == "x" else "shown" if letter in cell else "hidden"
        found[path] = sight(client, path.format(**zora))
    assert found == expected


def test_the_table_has_every_address_that_lists_people() -> None:
    paths = {line.split()[0].partition("?")[0].partition("{")[0] for line in TABLE.strip().splitlines()}
    assert {"/", "/tools/cad/", "/borrows", "/api/v1/leases/", "/api/v1/denials/", "/api/v1/reports/usage"} <= paths


@pytest.mark.parametrize("setting", ["team", "nobody"])
def test_a_hidden_lease_keeps_its_figures(zora: dict[str, Any], settings: Any, setting: str) -> None:
    settings.LICENSE_SHOW_HOLDERS = setting
    client = client_of("plain", settings)
    (lease,) = client.get("/borrows").json()
    hidden = {name: lease[name] for name in ("user", "host", "end_note", "borrowed_by", "ended_by")}
    assert set(hidden.values()) == {""}
    assert (lease["id"], lease["tool"], lease["seats"], lease["team"]) == (zora["active"], "cad", 1, "crash")
    assert "somebody" in client.get("/").content.decode()


@pytest.mark.parametrize("setting", SETTINGS.values())
def test_a_refusal_names_nobody_else(zora: dict[str, Any], settings: Any, setting: str) -> None:
    settings.LICENSE_SHOW_HOLDERS = setting
    settings.LICENSE_AUTH = "required"
    plain = api_of(user="plain")
    for answer in (plain.borrow("cad", "plain"), plain.post("/licenses/explain", {"tool": "cad", "user": "plain"})):
        assert answer.status_code in (200, 409)
        assert answer.json()["reasons"]
        assert TRACES.findall(answer.content.decode()) == []


def test_a_member_sees_the_names_of_all_own_teams(zora: dict[str, Any], settings: Any, make_team: MakeTeam) -> None:
    settings.LICENSE_SHOW_HOLDERS = "team"
    make_team("crash", "PLAIN")
    client = client_of("plain", settings)
    assert sight(client, "/borrows") == "hidden"
    Team.objects.filter(name="crash").update(ignores_case=True)
    assert sight(client, "/borrows") == "shown"


def test_the_right_to_change_leases_shows_no_denials(zora: dict[str, Any], settings: Any) -> None:
    client = client_of("plain", settings)
    user = User.objects.get(username="plain")
    user.is_staff = True
    user.save()
    user.user_permissions.set(Permission.objects.filter(codename="change_lease"))
    assert sight(client, "/api/v1/leases/?state=ended") == "shown"
    assert sight(client, "/api/v1/denials/") == "hidden"


def test_nobody_reads_names_that_retention_removed(zora: dict[str, Any], settings: Any) -> None:
    """An empty name is not the name of a caller without one."""
    settings.LICENSE_SHOW_HOLDERS = "nobody"
    Denial.objects.update(user="", host="ws-417")
    assert sight(client_of("read_token", settings), "/api/v1/denials/") == "refused"


def test_metrics_name_nobody(zora: dict[str, Any], settings: Any) -> None:
    assert sight(client_of("read_token", settings), "/metrics") == "hidden"


def test_a_filter_finds_nobody_whose_name_is_hidden(zora: dict[str, Any], settings: Any) -> None:
    settings.LICENSE_SHOW_HOLDERS = "nobody"
    client = client_of("plain", settings)
    assert client.get("/borrows?user=zora").json() == []
    assert client.get("/borrows?host=ws-417").json() == []
    assert client.get("/api/v1/leases/?user=zora").json()["results"] == []
    assert len(client.get("/api/v1/leases/").json()["results"]) == 2


def test_a_report_by_user_says_what_it_needs(zora: dict[str, Any], settings: Any) -> None:
    refused = client_of("plain", settings).get("/api/v1/reports/usage")
    assert_problem(refused, 403)
    assert "by=month,vendor,tool,team,project" in refused.json()["detail"]


# --- Who is in which team -------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "status"),
    [
        ("anonymous", 200),
        ("plain", 403),
        ("mate", 403),
        ("holder", 200),
        ("team_token", 200),
        ("other_team_token", 403),
        ("read_token", 403),
        ("viewer", 200),
        ("operator", 200),
        ("superuser", 200),
    ],
)
@pytest.mark.parametrize("query", ["user=zora", "user=zora&team=crash"])
def test_the_available_seats_of_another_user_need_a_permission(
    zora: dict[str, Any], settings: Any, role: str, status: int, query: str
) -> None:
    client = client_of(role, settings)
    for path in ("/licenses/sim/status", "/api/v1/tools/sim/status/"):
        assert client.get(f"{path}?{query}").status_code == status


@pytest.mark.parametrize("role", ["plain", "mate", "other_team_token", "read_token"])
def test_the_status_does_not_reveal_the_members_of_teams(zora: dict[str, Any], settings: Any, role: str) -> None:
    client = client_of(role, settings)
    answers = {
        (answer.status_code, answer.content)
        for user in ("zora", "stranger")
        for team in ("", "&team=crash", "&team=nothing")
        for answer in [client.get(f"/licenses/sim/status?user={user}{team}")]
    }
    assert len(answers) == 1
    ((status, body),) = answers
    assert (status, b"not_for_others" in body) == (403, True)


def test_a_teams_token_asks_for_its_own_team(zora: dict[str, Any], settings: Any) -> None:
    client = client_of("team_token", settings)
    assert client.get("/licenses/sim/status?team=crash").json()["available_to_you"] == 1
    assert client.get("/licenses/sim/status?team=noise").status_code == 403
