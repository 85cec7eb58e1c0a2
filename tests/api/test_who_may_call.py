"""The calls that each credential allows, if credentials are required."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from io import StringIO
from typing import Any

import httpx
import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from license_client import License, Refused

from licenses.models import (
    AccessRule,
    Allotment,
    ApiToken,
    AuditRecord,
    Contract,
    Denial,
    Lease,
    Team,
    TeamMember,
    Tool,
    UserLimit,
)
from tests.support.api import Api, api_of, api_with, assert_problem, basic, make_token
from tests.support.servers import Server

MakeTool = Callable[..., Tool]

# Every call of the schema, for: nobody; ben's token to read; ben's to borrow;
# ben's for both; the token of ana's team; ana's own; an administrator's.
# The lease, the ticket, the denial and the borrow are ana's.
CALLS = """
GET    /licenses/status                    401 200 403 200 200 200 200
GET    /licenses/{tool}/status             401 200 403 200 200 200 200
POST   /licenses/borrow                    401 403 403 403 200 200 200
POST   /licenses/explain                   401 403 403 403 200 200 200
POST   /licenses/renew                     401 403 404 404 200 200 200
POST   /licenses/return                    401 403 404 404 200 200 200
GET    /licenses/queue                     401 403 403 403 200 200 200
GET    /licenses/queue/{ticket}            401 403 404 404 202 202 202
DELETE /licenses/queue/{ticket}            401 403 404 404 204 204 204
GET    /borrows                            401 200 403 200 200 200 200
GET    /api/v1/caller/                     401 200 200 200 200 200 200
GET    /api/v1/tools/                      401 200 403 200 200 200 200
GET    /api/v1/tools/{name}/               401 200 403 200 200 200 200
GET    /api/v1/tools/{name}/status/        401 200 403 200 200 200 200
PUT    /api/v1/tools/{name}/               401 403 403 403 403 403 200
DELETE /api/v1/tools/{name}/               401 403 403 403 403 403 409
GET    /api/v1/tools/{tool}/quotas/                               401 403 403 403 403 403 200
GET    /api/v1/tools/{tool}/quotas/{team}/                        401 403 403 403 403 403 200
PUT    /api/v1/tools/{tool}/quotas/{team}/                        401 403 403 403 403 403 200
DELETE /api/v1/tools/{tool}/quotas/{team}/                        401 403 403 403 403 403 204
GET    /api/v1/tools/{tool}/user-limits/                          401 403 403 403 403 403 200
GET    /api/v1/tools/{tool}/user-limits/{user}/                   401 403 403 403 403 403 200
PUT    /api/v1/tools/{tool}/user-limits/{user}/                   401 403 403 403 403 403 200
DELETE /api/v1/tools/{tool}/user-limits/{user}/                   401 403 403 403 403 403 204
GET    /api/v1/tools/{tool}/access-rules/                         401 403 403 403 403 403 200
GET    /api/v1/tools/{tool}/access-rules/{effect}/{kind}/{subject}/ 401 403 403 403 403 403 200
PUT    /api/v1/tools/{tool}/access-rules/{effect}/{kind}/{subject}/ 401 403 403 403 403 403 200
DELETE /api/v1/tools/{tool}/access-rules/{effect}/{kind}/{subject}/ 401 403 403 403 403 403 204
GET    /api/v1/contracts/                                         401 403 403 403 403 403 200
POST   /api/v1/contracts/                                         401 403 403 403 403 403 201
GET    /api/v1/contracts/{id}/                                    401 403 403 403 403 403 200
PUT    /api/v1/contracts/{id}/                                    401 403 403 403 403 403 200
DELETE /api/v1/contracts/{id}/                                    401 403 403 403 403 403 204
GET    /api/v1/teams/                                             401 403 403 403 403 403 200
GET    /api/v1/teams/{name}/                                      401 403 403 403 403 403 200
PUT    /api/v1/teams/{name}/                                      401 403 403 403 403 403 200
DELETE /api/v1/teams/{name}/                                      401 403 403 403 403 403 409
GET    /api/v1/teams/{team}/members/                              401 403 403 403 403 403 200
GET    /api/v1/teams/{team}/members/{user}/                       401 403 403 403 403 403 200
PUT    /api/v1/teams/{team}/members/{user}/                       401 403 403 403 403 403 200
DELETE /api/v1/teams/{team}/members/{user}/                       401 403 403 403 403 403 204
GET    /api/v1/tokens/                                            401 403 403 403 403 403 200
POST   /api/v1/tokens/                                            401 403 403 403 403 403 201
GET    /api/v1/tokens/{id}/                                       401 403 403 403 403 403 200
DELETE /api/v1/tokens/{id}/                                       401 403 403 403 403 403 204
GET    /api/v1/accounts/                                          401 403 403 403 403 403 200
GET    /api/v1/accounts/{username}/                               401 403 403 403 403 403 200
POST   /api/v1/accounts/{username}/deactivate/                    401 403 403 403 403 403 200
GET    /api/v1/leases/                     401 200 403 200 200 200 200
GET    /api/v1/leases/{id}/                401 200 403 200 200 200 200
POST   /api/v1/leases/{id}/renew/          401 403 404 404 200 200 200
POST   /api/v1/leases/{id}/force-return/   401 403 403 403 403 403 200
GET    /api/v1/denials/                    401 200 403 200 200 200 200
GET    /api/v1/denials/{id}/               401 404 403 404 200 200 200
GET    /api/v1/audit/                      401 403 403 403 403 403 200
GET    /api/v1/audit/{id}/                 401 403 403 403 403 403 200
GET    /api/v1/site                        401 403 403 403 403 403 200
POST   /api/v1/site/apply                  401 403 403 403 403 403 200
GET    /api/v1/reports/utilisation         401 200 403 200 200 200 200
GET    /api/v1/reports/hours-of-week       401 200 403 200 200 200 200
GET    /api/v1/reports/usage               401 403 403 403 403 403 200
GET    /api/v1/reports/denials             401 200 403 200 200 200 200
GET    /api/v1/reports/tool-costs          401 403 403 403 403 403 200
GET    /api/v1/reports/month-costs         401 403 403 403 403 403 200
GET    /api/v1/reports/contracts           401 403 403 403 403 403 200
GET    /api/v1/reports/what-if             401 200 403 200 200 200 200
GET    /api/schema/                        401 200 403 200 200 200 200
GET    /api/docs/                          401 200 403 200 200 200 200
GET    /api/v1/                            401 200 403 200 200 200 200
GET    /version                            401 200 403 200 200 200 200
GET    /metrics                            401 200 403 200 200 200 200
GET    /livez                              200 200 200 200 200 200 200
GET    /readyz                             200 200 200 200 200 200 200
"""
NEEDED = {
    "/licenses/queue": "?user=ana",
    "/api/v1/reports/hours-of-week": "?tool=cad",
    "/api/v1/reports/what-if": "?tool=cad&capacity=2",
}
BODIES: dict[str, dict[str, Any]] = {
    "/api/v1/contracts/": {"tool": "sim", "seats": 1},
    "/api/v1/tokens/": {"name": "test"},
}
ROLES: dict[str, dict[str, Any]] = {
    "nobody": {},
    "reader": {"user": "ben", "scopes": ["read"]},
    "borrower": {"user": "ben", "scopes": ["borrow"]},
    "other": {"user": "ben"},
    "team": {"team": "crash"},
    "owner": {"user": "ana"},
    "admin": {"scopes": ["admin"]},
}
TABLE = [line.split() for line in CALLS.strip().splitlines()]


def cases() -> Iterator[tuple[str, str, dict[str, int]]]:
    """Yield a call with the roles that change nothing and their statuses, then with each other role."""
    for method, path, *statuses in TABLE:
        expected = dict(zip(ROLES, map(int, statuses), strict=True))
        changing = {role: status for role, status in expected.items() if method != "GET" and status < 400}
        yield method, path, {role: status for role, status in expected.items() if role not in changing}
        yield from ((method, path, {role: status}) for role, status in changing.items())


CASES = list(cases())


@pytest.fixture
def ana(api: Api, make_tool: MakeTool, settings: Any) -> dict[str, Any]:
    """Create ana's lease of the only cad seat, her ticket for another, a denial and a change."""
    make_tool("cad", capacity=1)
    call_command("seed", "--tool", "sim=9", stdout=StringIO())
    crash = Team.objects.create(name="crash")
    TeamMember.objects.create(team=crash, user="ana")
    tool = Tool.objects.get(name="cad")
    Allotment.objects.create(tool=tool, team=crash)
    UserLimit.objects.create(tool=tool, user="ana", seats=5)
    AccessRule.objects.create(tool=tool, effect="exclude", kind="user", name="eve")
    Contract.objects.create(tool=Tool.objects.get(name="sim"), seats=9)
    make_token(user="eve")
    User.objects.create_user("eve")
    lease = api.borrow("cad", "ana").json()
    ticket = api.wait("cad", "ana")
    api.borrow("cad", "ana")
    settings.LICENSE_AUTH = "required"
    return {
        "id": lease["id"],
        "ticket": ticket,
        "contracts": Contract.objects.get().pk,
        "tokens": ApiToken.objects.get().pk,
        "denials": Denial.objects.get().pk,
        "audit": AuditRecord.objects.get().pk,
    }


def test_the_table_knows_every_call(api: Api) -> None:
    calls = {(method.upper(), path) for path, methods in api.schema()["paths"].items() for method in methods}
    assert calls <= {(method, path) for method, path, *_ in TABLE}


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("method", "path", "expected"), CASES, ids=[f"{method} {path} {'-'.join(roles)}" for method, path, roles in CASES]
)
def test_a_call_is_for_those_it_is_meant_for(
    ana: dict[str, Any], method: str, path: str, expected: dict[str, int]
) -> None:
    listed = next((name for name in ("denials", "audit", "contracts", "tokens") if f"/{name}/" in path), "id")
    named = {"tool": "cad", "name": "crash" if "teams" in path else "cad", "team": "crash", "username": "eve"}
    named |= {"user": "ana", "effect": "exclude", "kind": "user", "subject": "eve"}
    path = path.format(**named, ticket=ana["ticket"], id=ana[listed]) + NEEDED.get(path, "")
    body: dict[str, Any] = {"id": ana["id"]}
    if path.endswith(("borrow", "explain")):
        body = {"tool": "sim", "user": "ana"}
    elif path.endswith("force-return/"):
        body = {"reason": "test"}
    elif path.endswith("site/apply"):
        body = {"document": "[tools]"}
    elif path in BODIES:
        body = BODIES[path]
    elif path.endswith("user-limits/ana/"):
        body = {"seats": 4}
    elif method != "POST" or "api/v1" in path:
        body = {}
    before = list(Lease.objects.order_by("pk").values_list("pk", "ended_at", "expires_at"))
    for role, status in expected.items():
        caller = api_of(**ROLES[role]) if ROLES[role] else api_with("")
        answer = caller.client.generic(method, path, json.dumps(body), content_type="application/json")
        assert (role, answer.status_code) == (role, status), answer.content
        if status >= 400:
            assert_problem(answer, status)
            assert list(Lease.objects.order_by("pk").values_list("pk", "ended_at", "expires_at")) == before
        if status == 401:
            assert answer["WWW-Authenticate"] == 'Bearer realm="licenses"'


def test_a_lease_of_another_user_looks_like_a_missing_one(ana: dict[str, Any]) -> None:
    nothing = "00000000-0000-4000-8000-000000000000"
    ben = api_of(user="ben")
    assert ben.give_back(ana["id"]).content == ben.give_back(nothing).content
    assert ben.renew(ana["id"]).content == ben.renew(nothing).content
    assert ben.poll(ana["ticket"]).content == ben.poll(nothing).content
    assert ben.leave(ana["ticket"]).content == ben.leave(nothing).content


def test_a_refused_borrow_does_not_tell_whether_there_is_such_a_user(ana: dict[str, Any]) -> None:
    ben = api_of(user="ben")
    refused = ben.borrow("sim", "ana")
    assert (refused.status_code, refused.json()["code"]) == (403, "not_for_others")
    assert refused.content == ben.borrow("sim", "never heard of").content


def test_a_caller_with_a_name_need_not_send_it(required: None, make_tool: MakeTool) -> None:
    make_tool()
    ben = api_of(user="ben")
    lease = ben.post("/licenses/borrow", {"tool": "cad"}).json()
    assert lease["user"] == "ben"
    assert ben.give_back(lease["id"]).status_code == 200
    nobody = api_of(team="crash").post("/licenses/borrow", {"tool": "cad"})
    assert (nobody.status_code, nobody.json()["errors"]["user"]) == (400, ["This field is required."])


def test_a_team_token_acts_only_for_its_own_team(required: None, make_tool: MakeTool) -> None:
    make_tool(capacity=3)
    crash, noise = api_of(team="crash"), api_of(team="noise")
    TeamMember.objects.create(team=Team.objects.get(name="crash"), user="ana")
    lease = crash.borrow(user="ana")
    assert lease.status_code == 200
    assert noise.borrow(user="ana").status_code == 403
    assert noise.give_back(lease.json()["id"]).status_code == 404
    TeamMember.objects.all().delete()
    assert crash.give_back(lease.json()["id"]).status_code == 404


def test_an_administrator_borrows_and_returns_for_all(required: None, make_tool: MakeTool) -> None:
    make_tool()
    admin = api_of(scopes=["admin"])
    lease = admin.borrow(user="ana").json()
    assert admin.give_back(lease["id"]).status_code == 200


def test_a_person_signs_in_with_a_session_or_a_password(required: None, make_tool: MakeTool) -> None:
    make_tool(capacity=2)
    User.objects.create_user("ben", password="a long pass phrase")
    browser = Client(enforce_csrf_checks=True)
    assert browser.login(username="ben", password="a long pass phrase")
    assert browser.get("/licenses/status").status_code == 200
    # A session without a token changes nothing, because another site could have sent the call.
    assert_problem(Api(browser).borrow(user="ben"), 403)
    browser.get("/admin/login/")
    token = browser.cookies["csrftoken"].value
    assert Api(browser).post("/licenses/borrow", {"tool": "cad"}, **{"X-CSRFToken": token}).json()["user"] == "ben"
    assert api_with(basic("ben", "a long pass phrase")["Authorization"]).borrow(user="ben").status_code == 200
    assert_problem(api_with(basic("ben", "a long pass phrase")["Authorization"]).borrow(user="ana"), 403)


def test_local_passwords_can_be_switched_off(required: None, settings: Any, db: None) -> None:
    settings.LICENSE_LOCAL_PASSWORDS = False
    User.objects.create_user("ben", password="a long pass phrase")
    assert_problem(api_with(basic("ben", "a long pass phrase")["Authorization"]).client.get("/borrows"), 401)
    assert not Client().login(username="ben", password="a long pass phrase")


def test_metrics_can_be_left_free(required: None, settings: Any, db: None) -> None:
    assert_problem(Client().get("/metrics"), 401)
    assert Client(headers={"Accept": "text/plain;version=0.0.4"}).get("/metrics").status_code == 401
    settings.LICENSE_METRICS_PUBLIC = True
    assert Client(headers={"Accept": "text/plain;version=0.0.4"}).get("/metrics").status_code == 200


def test_an_open_server_asks_nobody_but_administrators(api: Api, make_tool: MakeTool) -> None:
    make_tool(capacity=2)
    lease = api.borrow(user="ana").json()
    assert api_of(user="ben", scopes=["read"]).give_back(lease["id"]).status_code == 200
    assert_problem(api.post(f"/api/v1/leases/{lease['id']}/force-return/", {"reason": "x"}), 401)
    # A wrong credential is refused, also where none is needed.
    assert_problem(api_with("Bearer lic_" + "x" * 43).client.get("/borrows"), 401)


def test_the_admins_front_page_says_that_the_server_is_open(admin_client: Client, settings: Any) -> None:
    assert b"LICENSE_AUTH is open" in admin_client.get("/admin/").content
    settings.LICENSE_AUTH = "required"
    assert b"LICENSE_AUTH is open" not in admin_client.get("/admin/").content


def test_the_client_works_with_a_token(required_server: Server) -> None:
    secret = required_server.manage("token", "create", "nightly", "--user", "ben").strip()
    with pytest.raises(Refused) as refused, License("cad_tool", server=required_server.url, user="ben"):
        pass
    assert refused.value.status == 401
    with License("cad_tool", server=required_server.url, token=secret, user="ben"):
        borrows = httpx.get(f"{required_server.url}/borrows", headers={"Authorization": f"Bearer {secret}"})
        assert [lease["user"] for lease in borrows.json()] == ["ben"]
    with (
        pytest.raises(Refused) as refused,
        License("cad_tool", server=required_server.url, token=secret, user="ana"),
    ):
        pass
    assert refused.value.code == "not_for_others"


def test_the_log_says_at_the_start_that_the_server_is_open(server: Server) -> None:
    assert "LICENSE_AUTH is open" in server.log.read_text()


def test_the_suite_itself_runs_open() -> None:
    assert django_settings.LICENSE_AUTH == "open"


def test_callers_learn_who_they_are(required: None, db: None) -> None:
    mine = api_of(user="ana", scopes=["borrow"]).client.get("/api/v1/caller/").json()
    (token,) = ApiToken.objects.all()
    assert (mine["kind"], mine["name"], mine["teams"], mine["scopes"]) == ("token", "ana", [], ["borrow"])
    assert (mine["credential"], datetime.fromisoformat(mine["expires_at"])) == (f"token {token.pk}", token.expires_at)
    assert mine["server_time"] < mine["expires_at"]
    teams = api_of(team="crash").client.get("/api/v1/caller/").json()
    assert (teams["name"], teams["teams"], teams["scopes"]) == ("", ["crash"], ["read", "borrow"])
    assert_problem(api_with("Bearer lic_" + "x" * 43).client.get("/api/v1/caller/"), 401)


def test_an_open_server_says_that_it_knows_no_caller(api: Api) -> None:
    nobody = api.client.get("/api/v1/caller/").json()
    assert (nobody["kind"], nobody["name"], nobody["scopes"]) == ("anonymous", "", ["read", "borrow"])
    assert (nobody["credential"], nobody["expires_at"]) == ("", None)


def test_a_team_token_lists_only_the_places_of_its_team(required: None, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=1)
    for team in ("crash", "body"):
        TeamMember.objects.create(team=Team.objects.create(name=team), user="ana")
    ana = api_of(user="ana")
    ana.borrow("cad", team="crash")
    tickets = {team: ana.wait("cad", "ana", team=team) for team in ("crash", "body")}
    assert {entry["ticket"] for entry in ana.client.get("/licenses/queue").json()} == set(tickets.values())
    listed = api_of(team="crash").client.get("/licenses/queue?user=ana").json()
    assert [entry["ticket"] for entry in listed] == [tickets["crash"]]
