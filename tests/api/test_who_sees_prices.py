"""The callers that see prices and costs."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from licenses.models import Contract, EndReason, Lease, Team, TeamMember, Tool
from tests.support.admin_forms import save
from tests.support.api import api_of, assert_problem
from tests.support.groups import managers

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]

# A seat of cad costs 4711.25 an hour, its contract 8888.50; crash held one for two hours. Whether each of these
# callers sees money: + or -, and x is a refusal. Callers: nobody known, on an open server; a person; the lead of
# crash; the token of crash; a token that only reads; staff who may change tools; who may view contracts; a
# manager; staff who may view leases; an administrator's token.
TABLE = """
/                                              -  -  -  x  x  -  -  -  -  x
/tools/cad/                                    -  -  -  x  x  -  -  -  -  x
/licenses/status                               -  -  -  -  -  -  -  -  -  -
/borrows                                       -  -  -  -  -  -  -  -  -  -
/api/v1/tools/                                 -  -  -  -  -  -  +  +  +  +
/api/v1/tools/cad/                             -  -  -  -  -  -  +  +  +  +
/api/v1/leases/                                -  -  -  -  -  -  +  +  +  +
/api/v1/leases/{lease}/                        -  -  -  -  -  -  +  +  +  +
/api/v1/contracts/                             x  x  x  x  x  x  +  +  x  +
/api/v1/reports/utilisation                    -  -  -  -  -  -  -  -  -  -
/api/v1/reports/denials                        -  -  -  -  -  -  -  -  -  -
/api/v1/reports/what-if?tool=cad               -  -  -  -  -  -  -  -  -  -
/api/v1/reports/usage?by=tool                  -  -  -  -  -  -  +  +  +  +
/api/v1/reports/usage?by=tool&format=csv       -  -  -  -  -  -  +  +  +  +
/api/v1/reports/usage?by=tool&team=crash       -  -  +  -  -  -  +  +  +  +
/api/v1/reports/usage?team=crash&by=tool&format=csv  -  -  +  -  -  -  +  +  +  +
/api/v1/reports/usage?by=tool&team=noise       -  -  -  -  -  -  +  +  +  +
/api/v1/reports/contracts                      x  x  x  x  x  x  +  +  +  +
/api/v1/reports/contracts?format=csv           x  x  x  x  x  x  +  +  +  +
/api/v1/reports/tool-costs                     x  x  x  x  x  x  +  +  +  +
/api/v1/reports/month-costs                    x  x  x  x  x  x  +  +  +  +
/teams/crash/                                  x  x  +  x  x  x  x  +  +  x
/teams/crash/?csv=tool                         x  x  +  x  x  x  x  +  +  x
/teams/noise/                                  x  x  x  x  x  x  x  +  +  x
/admin/reports/                                x  x  x  x  x  x  x  +  +  x
/admin/reports/money/                          x  x  x  x  x  x  x  +  +  x
/admin/reports/tables/usage/                   x  x  x  x  x  x  x  +  +  x
/admin/licenses/tool/                          x  x  x  x  x  -  x  -  x  x
/admin/licenses/tool/{tool}/change/            x  x  x  x  x  -  x  +  x  x
/admin/licenses/contract/                      x  x  x  x  x  x  +  +  x  x
"""
PERMISSIONS = {"clerk": ["change_tool", "view_tool"], "buyer": ["view_contract"], "viewer": ["view_lease"]}
TOKENS: dict[str, dict[str, Any]] = {
    "team_token": {"team": "crash"},
    "read_token": {"scopes": ["read"]},
    "admin_token": {"scopes": ["admin"]},
}
ROLES = [
    "anonymous",
    "plain",
    "lead",
    "team_token",
    "read_token",
    "clerk",
    "buyer",
    "manager",
    "viewer",
    "admin_token",
]
# Whole words and amounts with their decimals, because ids and times have any digits and letters.
MONEY = re.compile(r"4,?711\.25|8,?888\.50|9,?422\.50|_price\b|(?:\b|_)costs?\b|\bcurrency\b", re.IGNORECASE)


@pytest.fixture
def priced(make_tool: MakeTool, make_team: MakeTeam) -> dict[str, Any]:
    cad = make_tool("cad", capacity=1, seat_hour_price="4711.25")
    today = datetime.now(UTC).date()
    days = timedelta(days=9)
    Contract.objects.create(
        tool=cad, seats=1, price="8888.50", first_day=today - days, last_day=today + days, reference="PO-1"
    )
    crash = make_team("crash")
    make_team("noise")
    TeamMember.objects.create(team=crash, user="lead", is_lead=True)
    start = datetime.now(UTC) - timedelta(hours=5)
    lease = Lease.objects.create(
        tool=cad,
        user="ana",
        team=crash,
        borrowed_at=start,
        ended_at=start + timedelta(hours=2),
        end_reason=EndReason.RETURNED,
    )
    return {"lease": lease.pk, "tool": cad.pk}


def client_of(role: str, settings: Any) -> Client:
    """Return the caller of this role."""
    settings.LICENSE_AUTH = "open" if role == "anonymous" else "required"
    if role in TOKENS:
        return api_of(**TOKENS[role]).client
    client = Client()
    if role != "anonymous":
        user = User.objects.create_user(role, is_staff=role not in ("plain", "lead"))
        user.user_permissions.set(Permission.objects.filter(codename__in=PERMISSIONS.get(role, [])))
        if role == "manager":
            user.groups.add(managers())
        client.force_login(user)
    return client


def sight(client: Client, path: str) -> str:
    """Return whether a caller sees money at an address: + or -, or x for a refusal."""
    answer = client.get(path)
    if answer.status_code in (302, 401, 403, 404):
        return "x"
    assert answer.status_code == 200, (path, answer.content)
    return "+" if MONEY.search(answer.content.decode()) else "-"


@pytest.mark.any_database
@pytest.mark.parametrize("role", ROLES)
def test_money_is_for_those_it_is_meant_for(priced: dict[str, Any], settings: Any, role: str) -> None:
    client = client_of(role, settings)
    expected, found = {}, {}
    for line in TABLE.strip().splitlines():
        path, *cells = line.split()
        expected[path] = dict(zip(ROLES, cells, strict=True))[role]
        found[path] = sight(client, path.format(**priced))
    assert found == expected


def test_a_report_without_money_keeps_its_other_columns(priced: dict[str, Any], settings: Any) -> None:
    answer = client_of("plain", settings).get("/api/v1/reports/usage?by=tool").json()
    assert list(answer) == ["since", "until", "rows"]
    assert answer["rows"] == [{"tool": "cad", "borrows": 1, "seat_hours": 2, "overdraft_hours": 0}]


@pytest.mark.parametrize(("role", "status"), [("plain", 403), ("anonymous", 401)])
def test_a_report_about_money_says_what_it_needs(priced: dict[str, Any], settings: Any, role: str, status: int) -> None:
    refused = client_of(role, settings).get("/api/v1/reports/contracts")
    assert_problem(refused, status)
    assert "view reports, leases or contracts" in refused.json()["detail"]


def test_a_clerk_keeps_prices_and_sets_none(priced: dict[str, Any], settings: Any) -> None:
    client = client_of("clerk", settings)

    def put(body: dict[str, Any]) -> Any:
        return client.put("/api/v1/tools/cad/", body, content_type="application/json")

    for name in ("seat_hour_price", "overdraft_hour_price"):
        for price in ("1", None):
            refused = put({name: price, "vendor": "Acme"})
            assert_problem(refused, 403)
            assert refused.json()["code"] == "more_rights"
    tool = Tool.objects.get()
    assert (tool.vendor, tool.seat_hour_price) == ("", Decimal("4711.25"))
    # What a clerk reads can be sent again; contracts need their own rights.
    shown = client.get("/api/v1/tools/cad/").json()
    assert put({name: value for name, value in shown.items() if name != "contracts"}).status_code == 200
    answer = save(client, tool, {}, display_name="CAD", seat_hour_price="1")
    assert answer.status_code == 200
    tool.refresh_from_db()
    assert (tool.display_name, tool.seat_hour_price) == ("CAD", Decimal("4711.25"))
