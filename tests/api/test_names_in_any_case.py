"""Names of users and hosts match in any case if a tool or team says so."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command

from licenses.flexlm.parser import parse_license, parse_options
from licenses.models import AccessRule, Team, Tool, UserLimit
from tests.support.api import Api, api_of

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]


def imported(folder: Path, options: str, license: str = "FEATURE f1 v 1 permanent 9 SIGN=0") -> str:
    (folder / "a.lic").write_text(license)
    (folder / "a.opt").write_text(options)
    out = StringIO()
    files = ["--license", str(folder / "a.lic"), "--options", str(folder / "a.opt")]
    call_command("import_flexlm", *files, "--apply", stdout=out, stderr=out)
    return out.getvalue()


@pytest.mark.django_db
def test_an_options_file_says_that_names_match_in_any_case(tmp_path: Path, api: Api) -> None:
    said = imported(
        tmp_path, "GROUPCASEINSENSITIVE ON\nEXCLUDE f1 USER Eve\nEXCLUDE f1 HOST Node1\nMAX 1 f1 USER bob\n"
    )
    assert "a.opt:1: note: names of users and hosts match in any case" in said
    for user in ("eve", "Eve", "EVE"):
        assert api.borrow("f1", user).json()["code"] == "excluded"
    assert api.borrow("f1", "ana", host="NODE1").json()["code"] == "excluded"
    assert api.borrow("f1", "bob").status_code == 200
    for user in ("Bob", "BOB", "bob"):
        assert api.borrow("f1", user).json()["code"] == "user_limit"
    assert api.borrow("f1", "Ana").status_code == 200
    # Again: nothing changes.
    again = imported(
        tmp_path, "GROUPCASEINSENSITIVE ON\nEXCLUDE f1 USER EVE\nEXCLUDE f1 HOST node1\nMAX 1 f1 USER BOB\n"
    )
    assert "Nothing to change." in again


@pytest.mark.django_db
def test_members_of_a_group_are_known_in_any_case(tmp_path: Path, api: Api) -> None:
    imported(
        tmp_path,
        "GROUPCASEINSENSITIVE ON\nGROUP Crash Ana BEN\nGROUP out joe\n"
        "INCLUDE f1 GROUP Crash\nMAX 2 f1 GROUP Crash\nEXCLUDE f1 GROUP out\n",
    )
    assert {member.user for member in Team.objects.get(name="crash").members.all()} == {"ana", "ben"}
    lease = api.borrow("f1", "ANA")
    assert (lease.status_code, lease.json()["team"]) == (200, "crash")
    assert api.borrow("f1", "Ben", team="crash").status_code == 200
    assert api.borrow("f1", "ana").json()["code"] == "quota"
    assert api.borrow("f1", "JOE").json()["code"] == "excluded"
    assert api.borrow("f1", "zoe").json()["code"] == "not_included"


@pytest.mark.django_db
@pytest.mark.parametrize("line", ["", "GROUPCASEINSENSITIVE OFF\n"])
def test_names_are_case_sensitive_otherwise(tmp_path: Path, api: Api, line: str) -> None:
    imported(tmp_path, line + "GROUP g Joe\nEXCLUDE f1 USER eve\nEXCLUDE f1 GROUP g\nMAX 1 f1 USER bob\n")
    assert api.borrow("f1", "Eve").status_code == 200
    assert api.borrow("f1", "joe").status_code == 200
    assert api.borrow("f1", "Joe").json()["code"] == "excluded"
    assert [api.borrow("f1", user).status_code for user in ("bob", "Bob", "BOB")] == [200, 200, 200]


@pytest.mark.django_db
def test_rules_in_capitals_match_too(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    tool = make_tool("cad", capacity=9, ignores_case=True, has_rules=True, user_limit=3)
    team = make_team("crash", "Ana")
    AccessRule.objects.create(tool=tool, effect="exclude", kind="user", name="EVE")
    AccessRule.objects.create(tool=tool, effect="exclude", kind="project", name="Apollo")
    UserLimit.objects.create(tool=tool, user="Bob", seats=2)
    UserLimit.objects.create(tool=tool, user="BOB", seats=1)
    assert api.borrow("cad", "eve").json()["code"] == "excluded"
    # The lowest limit of all spellings counts. Names of projects keep their case.
    assert [api.borrow("cad", "bob", project="apollo").status_code for _ in range(2)] == [200, 409]
    assert api.borrow("cad", "Zoe", seats=2).status_code == 200
    assert api.borrow("cad", "zoe", seats=2).json()["code"] == "user_limit"
    assert api.borrow("cad", "ana").json()["team"] is None
    Team.objects.filter(pk=team.pk).update(ignores_case=True)
    assert api.borrow("cad", "ANA").json()["team"] == "crash"


@pytest.mark.django_db
def test_tickets_match_names_in_any_case(api: Api, make_tool: MakeTool, make_team: MakeTeam) -> None:
    tool = make_tool("cad", capacity=1, ignores_case=True, has_rules=True)
    make_team("crash", "ana")
    Team.objects.update(ignores_case=True)
    AccessRule.objects.create(tool=tool, effect="include", kind="team", team=Team.objects.get())
    first = api.borrow("cad", "ana").json()["id"]
    ticket = api.wait("cad", "ANA")
    assert api.give_back(first).status_code == 200
    # The seat is set aside for the ticket, whatever the spelling.
    assert api.borrow("cad", "Ana").status_code == 409
    assert api.poll(ticket).json()["user"] == "ANA"


@pytest.mark.django_db
def test_the_available_seats_of_a_user_count_all_spellings(api: Api, make_tool: MakeTool) -> None:
    make_tool("cad", capacity=9, ignores_case=True, user_limit=3)
    api.borrow("cad", "Bob", seats=2)
    assert api.status(user="BOB")["available_to_you"] == 1


@pytest.mark.django_db
def test_a_teams_token_borrows_for_members_in_any_case(
    required: None, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    make_tool(capacity=9)
    team = make_team("crash", "Ana")
    program = api_of(team="crash")
    assert program.borrow(user="ANA").json()["code"] == "not_for_others"
    Team.objects.filter(pk=team.pk).update(ignores_case=True)
    assert program.borrow(user="ANA").json()["team"] == "crash"


def test_on_after_other_lines_is_for_the_whole_file() -> None:
    read = parse_options("EXCLUDE f USER a\nGROUPCASEINSENSITIVE ON\n")
    assert read.ignores_case
    assert "expects it in the first line" in read.findings[0].text
    for line in (
        "GROUPCASEINSENSITIVE",
        "GROUPCASEINSENSITIVE MAYBE",
        "GROUPCASEINSENSITIVE ON\nGROUPCASEINSENSITIVE OFF",
    ):
        assert any(finding.is_problem for finding in parse_options(line).findings)
    assert parse_license("").findings == []
