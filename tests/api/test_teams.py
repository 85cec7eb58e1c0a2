"""Teams and projects of leases."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from licenses.models import Lease, Team, TeamMember, Tool
from tests.support.api import Api, api_of
from tests.support.quotas import allot

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]


def test_a_lease_records_team_and_project(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool(capacity=5)
    make_team("crash", "ana")
    lease = api.borrow(team="crash", project="hood-2027").json()
    assert (lease["team"], lease["project"]) == ("crash", "hood-2027")
    (listed,) = api.client.get("/borrows?user=ana").json()
    assert (listed["team"], listed["project"]) == ("crash", "hood-2027")
    assert api.renew(lease["id"]).json()["team"] == "crash"
    assert Lease.objects.get().team == Team.objects.get()


def test_a_member_of_one_team_need_not_name_it(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool(capacity=5)
    make_team("crash", "ana")
    assert api.borrow(user="ana").json()["team"] == "crash"
    assert api.borrow(user="eve").json()["team"] is None


@pytest.mark.parametrize("team", ["crash", "nothing", "", "é", "x" * 64])
def test_nobody_borrows_for_a_team_they_are_not_in(
    api: Api, make_tool: MakeTool, make_team: MakeTeam, team: str
) -> None:
    make_tool(capacity=5)
    make_team("crash", "ana")
    refused = api.borrow(user="eve", team=team)
    assert (refused.status_code, refused.json()["code"]) in [(403, "not_a_member"), (400, "invalid")]
    assert not Lease.objects.exists()


def test_a_retry_tells_the_same_team(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool(capacity=5)
    make_team("crash", "ana")
    first = api.borrow(key="k", project="p").json()
    TeamMember.objects.all().delete()
    again = api.borrow(key="k", project="p").json()
    assert first == again
    assert api.borrow(key="k", project="q").status_code == 422


def test_a_teams_token_borrows_for_its_own_team(
    api: Api, make_tool: MakeTool, make_team: MakeTeam, settings: Any
) -> None:
    settings.LICENSE_AUTH = "required"
    make_tool(capacity=5)
    make_team("alpha", "ana")
    make_team("crash", "ana")
    token = api_of(team="crash")
    assert token.borrow(user="ana").json()["team"] == "crash"
    assert token.borrow(user="ana", team="alpha").json()["code"] == "not_for_others"


def test_metrics_tell_the_teams_apart(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    make_tool(capacity=5)
    allot("cad", make_team("crash", "ana"), quota=3, reservation=2)
    make_team("body", "ben")
    api.borrow(user="ana")
    api.borrow(user="ben", seats=2)
    page = api.client.get("/metrics").content.decode()
    assert 'license_team_borrowed{team="crash",tool="cad"} 1.0' in page
    assert 'license_team_borrowed{team="body",tool="cad"} 2.0' in page
    assert 'license_team_quota{team="crash",tool="cad"} 3.0' in page
    assert 'license_team_reservation{team="crash",tool="cad"} 2.0' in page
    assert 'license_team_quota{team="body"' not in page
    assert 'licenses_reserved_idle{tool="cad"} 1.0' in page


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("team", *arguments, stdout=out)
    return out.getvalue()


def test_members_come_from_a_file(db: None, tmp_path: Path, make_team: MakeTeam) -> None:
    make_team("crash", "manual")
    file = tmp_path / "members.csv"
    file.write_text("team,user\ncrash,ana\nbody,ben\nbody,ana\n")
    run("import", str(file))
    assert set(TeamMember.objects.values_list("team__name", "user")) == {
        ("crash", "manual"),
        ("crash", "ana"),
        ("body", "ben"),
        ("body", "ana"),
    }
    # An import replaces all members of earlier files.
    file.write_text("team,user\nbody,ana\n")
    told = run("import", str(file))
    assert set(TeamMember.objects.values_list("team__name", "user")) == {("crash", "manual"), ("body", "ana")}
    assert "2 removed" in told
    assert "manual" in run("list", "--members")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user\nana\n",
        "team,user\nCrash Team,ana\n",
        "team,user\ncrash,\n",
        "team,user\ncrash,ana,more\n",
        "team,user\ncrash,a\x00b\n",
        "team,user\ncrash\n",
    ],
)
def test_a_file_with_a_mistake_changes_nothing(db: None, tmp_path: Path, text: str) -> None:
    file = tmp_path / "members.csv"
    file.write_text("team,user\ncrash,ana\n")
    run("import", str(file))
    file.write_text(text)
    with pytest.raises(CommandError, match=r"members\.csv"):
        run("import", str(file))
    assert TeamMember.objects.count() == 1
