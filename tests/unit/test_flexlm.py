"""Import FlexNet license and options files as tools, teams and rules."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from io import StringIO
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from licenses.flexlm import parser
from licenses.flexlm.applying import bring_in
from licenses.flexlm.parser import day, lines, parse_license, parse_options
from licenses.flexlm.plan import Plan, Renames, plan
from licenses.flexlm.writing import license_lines, options_lines
from licenses.models import AccessRule, Allotment, AuditRecord, Lease, Team, TeamMember, Tool, UserLimit
from tests.support.api import Api
from tests.support.paths import ROOT
from tests.support.quotas import SOMEBODY, allot

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]
PassTime = Callable[..., None]
TODAY = date(2026, 6, 1)

LICENSE = r"""
# Two vendors' worth of what real files hold.
SERVER licsrv 001122334455 27000
VENDOR meshd /opt/mesh/meshd OPTIONS=/opt/mesh/mesh.opt
USE_SERVER
INCREMENT Mesher meshd 2026.0 31-dec-2099 5 VENDOR_STRING="site one; EMEA" \
	ISSUED=1-jan-2026 SN=4711 SIGN="00AB 12CD \
	34EF"
INCREMENT Mesher meshd 2026.0 31-dec-2098 3 SIGN=0123456789AB
FEATURE solver meshd 12.1 permanent 4 ABCDEF0123456789 OVERDRAFT=2
FEATURE viewer meshd 1.0 1-jan-0 uncounted HOSTID=ANY SIGN=00
FEATURE bundle meshd 1.0 permanent 2 SIGN=00
PACKAGE bundle meshd 1.0 COMPONENTS="pre:1.0 post:1.0:3" SIGN=00
"""

OPTIONS = r"""
# Who may have what.
GROUP Crash ana ben
GROUP Crash eve
GROUP interns joe
HOST_GROUP farm node1 node2
MAX 6 Mesher GROUP Crash
RESERVE 2 Mesher GROUP Crash
MAX 1 Mesher USER eve
MAX 2 solver ALL_USERS
INCLUDE solver GROUP Crash
EXCLUDE solver USER ben
EXCLUDE pre HOST_GROUP farm
EXCLUDEALL GROUP interns
MAX_OVERDRAFT solver 1
REPORTLOG +/var/log/mesh.rl
"""


def run(folder: Path, *arguments: str, license: str = LICENSE, options: str = OPTIONS) -> tuple[str, str]:
    """Run the command and return its stdout and stderr."""
    (folder / "license.lic").write_text(license)
    (folder / "mesh.opt").write_text(options)
    out, err = StringIO(), StringIO()
    files = ["--license", str(folder / "license.lic"), "--options", str(folder / "mesh.opt")]
    call_command("import_flexlm", *files, *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def planned(license: str, options: str = "") -> Plan:
    return plan(parse_license(license), parse_options(options), TODAY)


def problems(wanted: Plan) -> list[int]:
    return [finding.number for finding in wanted.of_license + wanted.of_options if finding.is_problem]


@pytest.mark.django_db
def test_both_files_become_tools_teams_and_rules(tmp_path: Path, api: Api) -> None:
    out, err = run(tmp_path, "--apply")
    capacities = dict(Tool.objects.values_list("name", "capacity"))
    assert capacities == {"mesher": 8, "solver": 4, "pre": 2, "post": 6}
    mesher, solver = Tool.objects.get(name="mesher"), Tool.objects.get(name="solver")
    assert (mesher.vendor, mesher.valid_until) == ("meshd", datetime(2100, 1, 1, tzinfo=UTC))
    assert (solver.valid_until, solver.overdraft, solver.user_limit) == (None, 1, 2)
    assert set(TeamMember.objects.values_list("team__name", "user")) == {
        ("crash", "ana"),
        ("crash", "ben"),
        ("crash", "eve"),
        ("interns", "joe"),
    }
    assert Allotment.objects.values_list("tool__name", "team__name", "quota", "reservation").get() == (
        "mesher",
        "crash",
        6,
        2,
    )
    assert UserLimit.objects.values_list("tool__name", "user", "seats").get() == ("mesher", "eve", 1)
    # And they work.
    assert api.borrow("solver", "ana").status_code == 200
    assert api.borrow("solver", "ben").json()["code"] == "excluded"
    assert api.borrow("solver", "zoe").json()["code"] == "not_included"
    assert api.borrow("pre", "ana", host="node1").json()["code"] == "excluded"
    assert api.borrow("post", "joe").json()["code"] == "excluded"
    assert api.borrow("mesher", "zoe", seats=7).json()["code"] == "reserved"
    assert "signatures (SIGN=) were not checked" in out
    assert "license.lic:11: note: viewer: uncounted" in err
    assert "license.lic:6: note: Mesher: 8 seats now, 5 from 2099-01-01, none from 2100-01-01" in err
    assert "mesh.opt:16: note: REPORTLOG" in err


@pytest.mark.django_db
def test_a_second_import_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path, "--apply")
    before = AuditRecord.objects.count()
    assert before > 10
    out, _ = run(tmp_path, "--apply")
    assert "Nothing to change." in out
    assert AuditRecord.objects.count() == before


@pytest.mark.django_db
def test_without_apply_the_changes_are_shown_and_not_made(tmp_path: Path, make_tool: MakeTool) -> None:
    make_tool("mesher", capacity=3)
    out, _ = run(tmp_path)
    assert "mesher: capacity 3 -> 8" in out
    assert "solver: new, capacity 4" in out
    assert "mesher: team crash: quota 6, reservation 2" in out
    assert "Use --apply to make them" in out
    assert Tool.objects.get().capacity == 3
    assert not Team.objects.exists()
    assert not AuditRecord.objects.exists()
    applied, _ = run(tmp_path, "--apply")
    # The import made the changes that it had shown.
    assert applied.splitlines()[:-1] == out.splitlines()[:-1]


@pytest.mark.django_db
def test_seats_that_are_out_stay_out(tmp_path: Path, api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("mesher", capacity=9)
    run(tmp_path, "--apply")
    api.borrow("mesher", "ana", seats=4)
    run(tmp_path, "--apply", license="FEATURE Mesher meshd 1 permanent 2 SIGN=0", options="")
    status = api.status("mesher")
    assert (status["total"], status["borrowed"], status["available"]) == (2, 4, 0)
    assert Allotment.objects.get().borrowed == 4


@pytest.mark.django_db
def test_a_line_that_is_not_understood_stops_the_import(tmp_path: Path) -> None:
    options = "RESERVE 1 Mesher USER ana\nMAX 2 Mesher USER ben\n"
    with pytest.raises(CommandError, match=r"1 line\(s\) can't be imported, nothing was changed"):
        run(tmp_path, "--apply", options=options)
    assert not Tool.objects.exists()
    with pytest.raises(CommandError, match=r"1 line\(s\) can't be imported, the rest was applied"):
        run(tmp_path, "--apply", "--skip-unknown", options=options)
    assert UserLimit.objects.get().user == "ben"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("team", "options", "why"),
    [
        ("others", "GROUP Crash ana\nRESERVE 3 Mesher GROUP Crash\n", "mesher"),
        ("crash", "GROUP Crash ana\nMAX 5 Mesher GROUP Crash\n", "mesher: team crash has 6 seats reserved"),
    ],
)
def test_a_conflict_with_existing_rows_changes_nothing(
    tmp_path: Path, make_tool: MakeTool, make_team: MakeTeam, team: str, options: str, why: str
) -> None:
    make_tool("mesher", capacity=8)
    allot("mesher", make_team(team), reservation=6)
    for arguments in ([], ["--apply"]):
        with pytest.raises(CommandError, match=why):
            run(tmp_path, *arguments, options=options)
    assert Tool.objects.get().valid_until is None
    assert Allotment.objects.get().reservation == 6
    assert not TeamMember.objects.exists()


@pytest.mark.django_db
def test_a_capacity_below_the_reservations_is_reported(
    tmp_path: Path, make_tool: MakeTool, make_team: MakeTeam
) -> None:
    make_tool("mesher", capacity=9)
    allot("mesher", make_team("crash"), reservation=9)
    out, _ = run(tmp_path, "--apply", options="")
    assert "note: mesher: 9 seats are reserved, more than the capacity of 8" in out
    *_, last = out.splitlines()
    changes = [line for line in out.splitlines() if ": " in line and not line.startswith(("note: ", "Summary: "))]
    assert last == f"{len(changes)} change(s) made."
    out, _ = run(tmp_path, "--apply", options="")
    assert "Nothing to change." in out


@pytest.mark.django_db
def test_a_capacity_below_the_borrowed_seats_is_reported(tmp_path: Path, api: Api, make_tool: MakeTool) -> None:
    make_tool("mesher", capacity=9)
    api.borrow("mesher", seats=9)
    for arguments in ([], ["--apply"]):
        out, _ = run(tmp_path, *arguments, options="")
        assert "note: 9 seats of mesher are borrowed, 1 more than its capacity of 8. Nobody loses a seat." in out


@pytest.mark.django_db
def test_leases_follow_a_license_that_ends_earlier(tmp_path: Path, api: Api, make_tool: MakeTool) -> None:
    make_tool("f", capacity=1, default_ttl=None)
    lease = api.borrow("f", "ana").json()
    assert lease["expires_at"] is None
    run(tmp_path, "--apply", license="FEATURE f v 1 31-dec-2098 1 SIGN=0", options="")
    assert Lease.objects.get().expires_at == datetime(2099, 1, 1, tzinfo=UTC)


@pytest.mark.django_db
def test_members_are_the_import_s_own_and_a_csv_file_leaves_them(tmp_path: Path) -> None:
    run(tmp_path, "--apply")
    (tmp_path / "teams.csv").write_text("team,user\ncrash,zoe\n")
    call_command("team", "import", str(tmp_path / "teams.csv"), stdout=StringIO())
    assert set(TeamMember.objects.filter(team__name="crash").values_list("user", "source")) == {
        ("ana", "manual"),
        ("ben", "manual"),
        ("eve", "manual"),
        ("zoe", "csv"),
    }


@pytest.mark.django_db
def test_names_in_a_file_can_not_write_to_the_terminal(tmp_path: Path) -> None:
    err = StringIO()
    (tmp_path / "license.lic").write_text("FEATURE f\x1b[2Jg v 1 permanent 1 SIGN=0\n")
    with pytest.raises(CommandError):
        call_command("import_flexlm", "--license", str(tmp_path / "license.lic"), stdout=StringIO(), stderr=err)
    assert "license.lic:1: f\\x1b[2Jg: is not a valid name of a tool" in err.getvalue()


@pytest.mark.django_db
def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        call_command("import_flexlm", "--license", str(tmp_path / "none.lic"))


@pytest.mark.parametrize(
    "line",
    [
        "RESERVE 1 Mesher USER ana",
        "RESERVE 1 Mesher HOST node1",
        "RESERVE many Mesher GROUP Crash",
        "RESERVE 1 Mesher GROUP nobody",
        "MAX 1 Mesher HOST node1",
        "MAX 1 Mesher USER",
        "INCLUDE Mesher INTERNET 10.1.*.*",
        "INCLUDE Mesher HOST 10.1.*.*",
        "EXCLUDE Mesher HOST 10.1.2.3",
        "EXCLUDE Mesher HOST " + "h" * 256,
        "HOST_GROUP lab node1 10.1.*.*",
        "GROUP lab ana # and the boss",
        "MAX 2 Mesher GROUP crash",
        "MAX 3 Mesher GROUP small",
        "MAX 2 Mesher ALL_USERS ana",
        "RESERVE 1 Mesher GROUP ALL_GROUPS",
        "EXCLUDE Mesher DISPLAY :0",
        "EXCLUDE Mesher HOST_GROUP nothing",
        "EXCLUDE nothing USER ana",
        "INCLUDE Mesher USER ana ben",
        "EXCLUDEALL",
        "GROUP empty",
        "GROUP a/b ana",
        "RESERVE 3 Mesher GROUP small",
        "BOGUS 1",
        'GROUP x "ana',
        "MAX_OVERDRAFT solver",
    ],
)
def test_lines_without_a_counterpart_are_reported(line: str) -> None:
    options = "GROUP Crash ana\nGROUP small ben\nMAX 2 Mesher GROUP small\n" + line
    assert problems(planned(LICENSE, options)) == [4]


@pytest.mark.parametrize(
    "line",
    [
        "FEATURE",
        "FEATURE f v 1.0 permanent",
        "FEATURE f v 1.0 permanent many SIGN=0",
        "FEATURE f v 1.0 permanent -1 SIGN=0",
        "FEATURE f v 1.0 permanent 99999999999 SIGN=0",
        "FEATURE f v 1.0 31-feb-2027 1 SIGN=0",
        "FEATURE f v 1.0 someday 1 SIGN=0",
        "FEATURE f v 1.0 permanent 1 STRANGE=1",
        "FEATURE f/g v 1.0 permanent 1 SIGN=0",
        "UPGRADE f v 1.0 2.0 permanent 1 SIGN=0",
        "PACKAGE p v 1.0 SIGN=0",
        'PACKAGE p v 1.0 COMPONENTS="a:1:2:3" SIGN=0',
        "PACKAGE g v 1.0 COMPONENTS=a STRANGE=1 SIGN=0",
        "PACKAGE g v 1.0 COMPONENTS=a:1:3 OPTIONS=SUITE SIGN=0",
        "PACKAGE g v 2.0 COMPONENTS=a SIGN=0",
        "FEATURE f v 1.0 1-jan-2027 1 START=1-jan-2028 SIGN=0",
        "FEATURE unknown v 1.0 permanent 1 SIGN=0",
        f"FEATURE f {'v' * 129} 1.0 permanent 1 SIGN=0",
        "FEATURE f v\0w 1.0 permanent 1 SIGN=0",
        "INCREMENT g other 1.0 permanent 1 SIGN=0",
        "sampled-f1-00737-55296-1825",
    ],
)
def test_a_line_of_the_license_that_makes_no_sense_is_reported(line: str) -> None:
    assert problems(planned("FEATURE g v 1.0 permanent 1 SIGN=0\n" + line)) == [2]


def test_names_that_differ_only_in_case_are_reported() -> None:
    wanted = planned("FEATURE CAD v 1 permanent 1 SIGN=0\nFEATURE cad v 1 permanent 2 SIGN=0")
    assert problems(wanted) == [2]
    assert wanted.tools["cad"].capacity == 1
    assert problems(planned(LICENSE, "GROUP Crash ana\nGROUP crash ben")) == [2]


def test_each_line_of_a_feature_that_has_no_place_is_reported() -> None:
    wanted = planned("FEATURE f v 1 permanent 1 SIGN=0\n" + "INCREMENT F v 1 permanent 1 SIGN=0\n" * 3)
    assert problems(wanted) == [2, 3, 4]
    assert problems(planned("INCREMENT f v 1 permanent 1000000 SIGN=0\n" * 2)) == [1, 2]


SEVERAL_VENDORS = r"""
SERVER licsrv 001122334455 27000
VENDOR fluxd
VENDOR gridd
INCREMENT flow fluxd 9.1 permanent 4 SIGN=AA
INCREMENT grid gridd 3.0 permanent 6 SIGN=BB
"""


def test_an_options_file_is_for_one_vendor_and_says_nothing_of_all() -> None:
    wanted = planned(SEVERAL_VENDORS, "EXCLUDEALL USER joe\nEXCLUDE flow USER joe\n")
    assert {name: (tool.vendor, len(tool.lists)) for name, tool in wanted.tools.items()} == {
        "flow": ("fluxd", 1),
        "grid": ("gridd", 0),
    }
    assert problems(wanted) == [1]


def test_one_limit_for_each_user_or_group() -> None:
    wanted = planned(
        "FEATURE f v 1 permanent 9 SIGN=0\nFEATURE g v 1 permanent 9 SIGN=0",
        "GROUP a ana\nGROUP b ben\n"
        "MAX 5 f USER ana\nMAX 2 f USER ALL_USERS\n"
        "MAX 4 f GROUP a\nMAX 3 f GROUP ALL_GROUPS\n"
        "MAX 1 g ALL_USERS\n",
    )
    f, g = wanted.tools["f"], wanted.tools["g"]
    assert (f.user_limit, f.user_limits, f.quotas) == (2, {"ana": 5}, {"a": 4, "b": 3})
    assert (g.user_limit, g.user_limits) == (1, {})
    assert not problems(wanted)


def test_a_limit_after_the_one_for_all_has_no_effect_in_flexnet_and_is_reported() -> None:
    wanted = planned("FEATURE f v 1 permanent 9 SIGN=0", "MAX 2 f USER ALL_USERS\nMAX 5 f USER ana\n")
    assert wanted.tools["f"].user_limits == {}
    assert problems(wanted) == [2]


def test_members_of_several_groups_are_reported_for_a_limited_group() -> None:
    wanted = planned("FEATURE f v 1 permanent 9 SIGN=0", "GROUP a ana ben\nGROUP b ana\nMAX 2 f GROUP a\n")
    assert [(finding.number, "ana of a" in finding.text) for finding in wanted.of_options] == [(3, True)]
    assert not problems(wanted)


def test_of_several_feature_lines_flexnet_reads_the_highest_version() -> None:
    wanted = planned(
        "FEATURE f v 2.0 permanent 2 SIGN=0\nFEATURE f v 10.0 permanent 7 SIGN=0\nFEATURE f v 9.0 permanent 9 SIGN=0\n"
        "FEATURE g v 1 permanent 3 ISSUED=1-jan-2024 SIGN=0\nFEATURE g v 1 permanent 4 ISSUED=1-jan-2025 SIGN=0\n"
        "FEATURE h v 2 permanent 5 SIGN=0\nFEATURE h v 1 permanent 6 SORT=50 SIGN=0\n"
    )
    assert {name: tool.capacity for name, tool in wanted.tools.items()} == {"f": 7, "g": 4, "h": 6}
    assert [finding.number for finding in sorted(wanted.of_license)] == [1, 3, 4, 6]


def test_seats_of_different_versions_are_one_pool_and_reported() -> None:
    wanted = planned("INCREMENT f v 1.0 permanent 2 SIGN=0\nINCREMENT f v 2.0 permanent 3 SIGN=0")
    assert wanted.tools["f"].capacity == 5
    assert [finding.number for finding in wanted.of_license if "versions 1.0, 2.0" in finding.text] == [1]


def test_a_package_is_enabled_by_the_line_of_its_version_and_superseded_by_newer_ones() -> None:
    wanted = planned(
        "FEATURE p v 2.0 permanent 2 SIGN=0\n"
        "PACKAGE p v 1.0 COMPONENTS=old ISSUED=1-jan-2026 SIGN=0\n"
        "PACKAGE p v 2.0 COMPONENTS=older ISSUED=1-jan-2024 SIGN=0\n"
        "PACKAGE p v 2.0 COMPONENTS=new SUPERSEDE ISSUED=1-jan-2025 SIGN=0\n"
    )
    assert list(wanted.tools) == ["new"]
    assert not problems(wanted)
    assert [finding.number for finding in sorted(wanted.of_license)] == [2, 3]


def test_seats_with_different_dates() -> None:
    wanted = planned(
        "INCREMENT a v 1 31-may-2026 1 SIGN=0\n"  # over
        "INCREMENT a v 1 1-jun-2026 2 SIGN=0\n"  # its last day
        "INCREMENT a v 1 1-jan-2027 4 SIGN=0\n"
        "INCREMENT a v 1 1-jan-2028 8 START=2-jun-2026 SIGN=0\n"  # from tomorrow
        "INCREMENT b v 1 permanent 3 START=1-jul-2026 SIGN=0\n"
        "INCREMENT c v 1 1-jan-2020 5 SIGN=0\n"
    )
    a, b, c = (wanted.tools[name] for name in "abc")
    assert (a.capacity, a.valid_from, a.valid_until) == (6, None, datetime(2028, 1, 2, tzinfo=UTC))
    assert (b.capacity, b.valid_from, b.valid_until) == (3, datetime(2026, 7, 1, tzinfo=UTC), None)
    assert (c.capacity, c.valid_until) == (5, datetime(2020, 1, 2, tzinfo=UTC))
    assert not problems(wanted)
    assert [finding.number for finding in sorted(wanted.of_license)] == [1, 2, 4, 5, 6]
    texts = {finding.number: finding.text for finding in wanted.of_license}
    assert texts[2] == "a: 6 seats now, 12 from 2026-06-02, 8 from 2027-01-02, none from 2028-01-02"
    assert [(contract.seats, contract.first_day, contract.last_day) for contract in a.contracts] == [
        (2, None, date(2026, 6, 1)),
        (4, None, date(2027, 1, 1)),
        (8, date(2026, 6, 2), date(2028, 1, 1)),
    ]
    assert (a.has_dates, b.has_dates, c.has_dates) == (True, False, False)
    assert "no seat can be borrowed before 2026-07-01" in texts[5]
    assert "c: all its seats have ended, the last on 2020-01-01" in texts[6]


def test_newer_lines_supersede_older_ones() -> None:
    wanted = planned(
        "INCREMENT a v 1 permanent 5 ISSUED=1-jan-2025 SIGN=0\n"
        "INCREMENT a v 2 permanent 3 SUPERSEDE ISSUED=1-jan-2026 SIGN=0\n"
        "INCREMENT b v 1 permanent 7 ISSUED=1-feb-2026 SIGN=0\n"
        'INCREMENT c v 1 permanent 1 SUPERSEDE="b c" ISSUED=1-jan-2026 SIGN=0\n'
        "FEATURE d v 1 permanent 1 SIGN=0\n"
        "FEATURE d v 1 permanent 2 SIGN=0\n"
    )
    assert {name: tool.capacity for name, tool in wanted.tools.items()} == {"a": 3, "b": 7, "c": 1, "d": 1}


def test_a_suite_stays_a_feature_beside_its_components() -> None:
    wanted = planned(
        'FEATURE suite v 1 permanent 5 SIGN=0\nPACKAGE suite v 1 COMPONENTS="x y" OPTIONS=SUITE SIGN=0\n',
        "GROUP g ana\nEXCLUDE suite GROUP g\n",
    )
    assert {name: tool.capacity for name, tool in wanted.tools.items()} == {"suite": 5, "x": 5, "y": 5}
    assert all(tool.lists == {("exclude", "team", "g")} for tool in wanted.tools.values())


def test_reservations_beyond_the_seats_are_ignored_as_flexnet_does() -> None:
    wanted = planned(
        "FEATURE f v 1 permanent 3 SIGN=0", "GROUP a x\nGROUP b y\nRESERVE 2 f GROUP a\nRESERVE 2 f GROUP b\n"
    )
    assert wanted.tools["f"].reservations == {"a": 2}
    assert not problems(wanted)
    assert [finding.number for finding in wanted.of_options] == [4]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("permanent", None), ("1-jan-0", None), ("01-JAN-0000", None), ("7-may-2027", date(2027, 5, 7))],
)
def test_dates_are_read_as_flexnet_writes_them(text: str, expected: date | None) -> None:
    assert day(text) == expected


def test_a_continued_line_has_the_number_it_begins_at() -> None:
    assert list(lines("a \\\n b\n\n# c\nd\\")) == [(1, "a   b"), (5, "d")]


def test_a_comment_does_not_take_the_next_line_with_it() -> None:
    assert list(lines("# kept in C:\\flexlm\\\na\n  # b\\\nc")) == [(2, "a"), (4, "c")]


def test_lines_are_those_that_an_editor_numbers() -> None:
    # Bytes of old Windows encodings that are line ends in Unicode.
    assert list(lines('a "x\x85y"\r\nb\x0c\rc')) == [(1, 'a "x\x85y"'), (2, "b"), (3, "c")]


# --- What vendors' files hold ------------------------------------------------


def texts(wanted: Plan) -> dict[int, str]:
    """Return the findings of each line."""
    said: dict[int, str] = {}
    for finding in sorted(wanted.of_license + wanted.of_options):
        said[finding.number] = f"{said.get(finding.number, '')} {finding.text}".strip()
    return said


def seats(wanted: Plan) -> dict[str, int]:
    assert not problems(wanted), texts(wanted)
    return {name: tool.capacity for name, tool in wanted.tools.items()}


def test_the_first_counted_feature_line_is_served() -> None:
    # "Order of Lines in the License File" in Revenera's License Administration Guide.
    wanted = planned(
        "FEATURE post v 2.0 permanent uncounted HOSTID=0a1b2c3d4e5f SIGN=0\n"
        "FEATURE post v 1.0 permanent 6 SIGN=0\n"
        "FEATURE post v 0.9 permanent 7 SIGN=0\n"
        "INCREMENT pre v 1.0 permanent uncounted HOSTID=ANY SIGN=0\n"
        "INCREMENT pre v 1.0 permanent 2 SIGN=0\n"
    )
    assert seats(wanted) == {"post": 6, "pre": 2}
    said = texts(wanted)
    assert "post: uncounted and locked to the host 0a1b2c3d4e5f" in said[1]
    assert "not counted (7 seats): FlexNet serves one FEATURE line per name, here line 2" in said[3]
    assert "pre: uncounted" in said[4]


@pytest.mark.parametrize(
    ("older", "newer", "expected"),
    [
        ("START=1-feb-2024", "SUPERSEDE START=1-feb-2026", 4),
        ("ISSUED=1-feb-2024", "SUPERSEDE START=1-feb-2026", 4),
        ("", "SUPERSEDE START=1-feb-2026", 4),
        ("ISSUED=1-feb-2024", 'SUPERSEDE="mesh other" ISSUED=1-feb-2026', 4),
        ("ISSUED=1-feb-2024", "SUPERSEDE=mesh ISSUED=1-feb-2026", 4),
        ("ISSUED=1-feb-2024", "supersede issued=01-Feb-2026", 4),
        # ISSUED= goes before START=.
        ("ISSUED=1-feb-2024", "SUPERSEDE ISSUED=1-jan-2024 START=1-feb-2026", 5),
        # Lines of the same day add up.
        ("ISSUED=1-feb-2026", "SUPERSEDE ISSUED=1-feb-2026", 5),
        ("ISSUED=2-feb-2026", "SUPERSEDE ISSUED=1-feb-2026", 5),
        ("ISSUED=1-feb-2024", "SUPERSEDE=other ISSUED=1-feb-2026", 5),
        # A line without a date replaces nothing.
        ("ISSUED=1-feb-2024", "SUPERSEDE", 5),
        ('SIGN="00AB 12CD"', 'SUPERSEDE_SIGN="mesh:00AB 12CD"', 4),
        ('SIGN="00AB 12CD"', "SUPERSEDE_SIGN={mesh:00ab12cd}", 4),
        ('SIGN="00AB 12CD"', 'SUPERSEDE_SIGN="00AB 12CD"', 4),
        ('SIGN="00AB 12CD"', 'SUPERSEDE_SIGN="other:00AB 12CD"', 5),
        ('SIGN="00AB 12CD"', 'SUPERSEDE_SIGN="f1:0011 mesh:00AB 12CD"', 4),
        ('SIGN="00AB 12CD"', "SUPERSEDE_SIGN=00AB", 5),
    ],
)
def test_supersede_in_all_its_forms(older: str, newer: str, expected: int) -> None:
    wanted = planned(f"INCREMENT mesh v 1.0 permanent 1 {older}\nINCREMENT mesh v 1.0 permanent 4 {newer} SIGN=77\n")
    assert seats(wanted) == {"mesh": expected}
    if expected == 4:
        assert "mesh: superseded by line 2 (1 seat)" in texts(wanted)[1]
    assert bool(wanted.of_license) or "ISSUED" in newer


@pytest.mark.parametrize(
    ("attribute", "noted"),
    [
        ("TZ=SERVERTZ", True),
        ("TZ=60:-480", True),
        ("ONE_TS_OK", True),
        ("TS_OK", True),
        ("VM_PLATFORMS=PHYSICAL", True),
        ('PLATFORMS="i86_n x64_lsb"', True),
        ("BORROW", True),
        ("BORROW=720", True),
        ("CAPACITY", True),
        ("DUP_GROUP=UHD", True),
        ("DUP_GROUP=NONE", False),
        ("SUITE_DUP_GROUP=UHD", True),
        ("FLOAT_OK=FLEXID=9-b28520b9", True),
        ("HOST_BASED", True),
        ("USER_BASED=5", True),
        ("LINGER=600", True),
        ("MINIMUM=2", True),
        ("HOSTID=0a1b2c3d4e5f", True),
        ('HOSTID="0a1b2c3d4e5f 0a1b2c3d4e60"', True),
        ("HOSTID=INTERNET=10.1.*.*", True),
        ("HOSTID=ANY", False),
        ("sort=50", False),
        ("SN=RK:1234-5678", False),
        ("ck=103", False),
        ('NOTICE="Licensed to # somebody; \\ and others"', False),
        ('VENDOR_STRING="type=float, 3"', False),
        ('ISSUER="A Vendor, Inc."', False),
        ('vendor_info="x" dist_info="y" user_info="z" asset_info="w"', False),
        ('AUTH={ meshd=( LK=AB12 SIGN="00 11" ) }', False),
        ('SIGN2="0011 2233"', False),
        ("SIGN=0011 2233 4455", False),
        ("0123456789ABCDEF0123", False),
        ("0123 4567 89AB", False),
        # FLEXlm 2: a key, the vendor's string in quotation marks, and a host id.
        ('0123456789ABCDEF0123 "vendor string"', False),
        ('0123456789ABCDEF0123 "" ANY', False),
        ('0123456789ABCDEF0123 "vendor string" DEMO', True),
    ],
)
def test_a_documented_attribute_stops_no_import(attribute: str, noted: bool) -> None:
    wanted = planned(f"INCREMENT mesh v 1.0 permanent 5 {attribute} SIGN=0")
    assert seats(wanted) == {"mesh": 5}
    assert bool(wanted.of_license) is noted


@pytest.mark.parametrize(
    "attribute",
    ["OVERDRAFT= 3", "OVERDRAFT=", "START=", "ISSUED", "START=1-jan-2024 START=1-jan-2025", "OVERDRAFT=many", "SORT=x"],
)
def test_an_attribute_that_decides_about_seats_is_understood_or_reported(attribute: str) -> None:
    assert problems(planned(f"INCREMENT mesh v 1.0 permanent 5 {attribute} SIGN=0")) == [1]


@pytest.mark.parametrize(
    "text",
    [
        "INCREMENT mesh v 1.0 permanent 5 ISSUED=1-feb-2024 SIGN=0\n"
        "INCREMENT mesh v 1.0 permanent 3\n    SUPERSEDE ISSUED=1-feb-2026 SIGN=0\n",
        "INCREMENT mesh v 1.0 permanent 5 ISSUED=1-feb-2024 \\\n  SIGN=0\n"
        "INCREMENT mesh v 1.0\n\tpermanent 3\n\tSUPERSEDE\n\tISSUED=1-feb-2026 SIGN=0\n",
        # As mail programs wrap it.
        'INCREMENT mesh v 1.0 permanent 5 ISSUED=1-feb-2024 SIGN="0011\n2233"\n'
        "INCREMENT mesh v 1.0 permanent 3\nSUPERSEDE=mesh\nISSUED=1-feb-2026\nSIGN=0\n",
        # A comment is not part of a line, and a blank line ends one.
        "INCREMENT mesh v 1.0 permanent 5 ISSUED=1-feb-2024 SIGN=0\n\n"
        "  INCREMENT mesh v 1.0 permanent 3\n# OVERDRAFT=9\n  SUPERSEDE ISSUED=1-feb-2026 SIGN=0\n",
        "\ufeffINCREMENT mesh v 1.0 permanent 5 ISSUED=1-feb-2024 SIGN=0\r\n"
        "INCREMENT mesh v 1.0 permanent 3\r\n    SUPERSEDE ISSUED=1-feb-2026 SIGN=0\r\n",
    ],
)
def test_a_line_goes_on_without_a_backslash(text: str) -> None:
    # FlexNet needs no backslash since version 7; samples in its guide have none.
    assert seats(planned(text.removeprefix("\ufeff"))) == {"mesh": 3}


def test_a_wrapped_line_takes_nothing_of_its_neighbours() -> None:
    wanted = planned(
        'FEATURE a v 1 permanent 1\n  NOTICE="never closed SIGN=0\nFEATURE b v 1 permanent 2 SIGN=0\n\n   lost words\n'
    )
    assert list(wanted.tools) == ["b"]
    assert problems(wanted) == [1, 5]


def test_a_feature_with_a_slash_is_imported_under_another_name() -> None:
    license = "FEATURE ARC/VIEW ARCGIS 10.1 permanent 4 SIGN=0\nFEATURE plain ARCGIS 1 permanent 1 SIGN=0"
    options = "GROUP R&D/lab ana\nINCLUDE ARC/VIEW GROUP R&D/lab\nMAX 1 ARC/VIEW USER ben\nEXCLUDE ARC/VIEW USER joe"
    wanted = planned(license, options)
    assert problems(wanted) == [1, 1, 2, 3, 4]
    assert "--rename ARC/VIEW=arc_view" in texts(wanted)[1]
    assert "--rename-group R&D/lab=r_d_lab" in texts(wanted)[1]
    renames = Renames({"ARC/VIEW": "arc_view"}, {"R&D/lab": "lab"})
    wanted = plan(parse_license(license), parse_options(options), TODAY, renames)
    assert seats(wanted) == {"arc_view": 4, "plain": 1}
    tool = wanted.tools["arc_view"]
    assert (tool.lists, tool.user_limits) == ({("include", "team", "lab"), ("exclude", "user", "joe")}, {"ben": 1})


@pytest.mark.django_db
def test_a_rename_is_checked(tmp_path: Path) -> None:
    for arguments, why in (
        (["--rename", "Mesher"], "is not OLD=new"),
        (["--rename", "Mesher=A/B"], "is not OLD=new"),
        (["--rename", "Masher=m"], "--rename Masher=m: the file does not have this name"),
        (["--rename-group", "Crush=m"], "--rename-group Crush=m: the file does not have this name"),
        (["--rename", "Mesher=m", "--rename", "Mesher=n"], "give one new name"),
    ):
        with pytest.raises(CommandError, match=why):
            run(tmp_path, *arguments)
    run(tmp_path, "--apply", "--rename", "Mesher=mesh_2026", "--rename-group", "Crash=crash_dept", "--rename", "pre=x")
    assert set(Tool.objects.values_list("name", flat=True)) == {"mesh_2026", "solver", "x", "post"}
    assert Allotment.objects.get().team.name == "crash_dept"


def test_a_renewal_is_reported_with_its_days() -> None:
    wanted = planned(
        "INCREMENT a v 2026.12 31-dec-2026 10 ISSUED=1-jan-2026 SIGN=0\n"
        "INCREMENT a v 2027.12 31-dec-2027 12 ISSUED=20-may-2026 START=1-jan-2027 SIGN=1\n"
        "INCREMENT b v 1.0 permanent 8 SIGN=0\n"
        "INCREMENT b v 1.0 31-dec-2026 2 SIGN=1\n"
        "INCREMENT c v 1.0 31-dec-2026 10 ISSUED=1-jan-2026 SIGN=0\n"
        "INCREMENT c v 1.0 31-dec-2027 12 ISSUED=20-may-2026 START=1-jan-2027 SUPERSEDE SIGN=1\n"
        "INCREMENT d v 1.0 31-dec-2026 10 SIGN=0\n"
        "INCREMENT d v 1.0 31-dec-2027 4 START=1-feb-2027 SIGN=1\n"
        "INCREMENT e v 1.0 31-dec-2026 10 SIGN=0\n"
        "INCREMENT e v 1.0 31-dec-2027 10 START=1-jan-2027 SIGN=1\n"
    )
    assert seats(wanted) == {"a": 10, "b": 10, "c": 12, "d": 10, "e": 10}
    ends = {name: tool.valid_until and f"{tool.valid_until:%Y-%m-%d}" for name, tool in wanted.tools.items()}
    # The end is that of the last line; contracts set the seats until then.
    assert ends == {"a": "2028-01-01", "b": None, "c": "2028-01-01", "d": "2028-01-01", "e": "2028-01-01"}
    assert {name: tool.has_dates for name, tool in wanted.tools.items()} == {
        "a": True,
        "b": True,
        "c": False,
        "d": True,
        "e": True,
    }
    said = texts(wanted)
    assert said[1] == "a: 10 seats now, 12 from 2027-01-01, none from 2028-01-01"
    assert "b: 10 seats now, 8 from 2027-01-01" in said[3]
    assert "c: superseded by line 6 (10 seats)" in said[5]
    assert "no seat can be borrowed before 2027-01-01; 12 from that day" in said[6]
    assert "d: 10 seats now, none from 2027-01-01, 4 from 2027-02-01" in said[7]
    assert 9 not in said
    assert "e: not counted today (10 seats, from 2027-01-01 on)" in said[10]


def test_an_upgrade_moves_seats_to_a_newer_version() -> None:
    wanted = planned(
        "INCREMENT f v 1.000 permanent 5 SIGN=0\n"
        "UPGRADE f v 1.000 2.000 permanent 2 SIGN=1\n"
        "INCREMENT g v 3.0 permanent 2 SIGN=0\n"
        "UPGRADE g v 2.0 4.0 1-jan-2027 3 SIGN=1\n"
    )
    assert seats(wanted) == {"f": 5, "g": 2}
    assert "2 of the 5 seats of line 1 become version 2.000" in texts(wanted)[2]
    assert "2 of the 2 seats of line 3 become version 4.0; it has fewer than 3" in texts(wanted)[4]
    assert problems(planned("INCREMENT f v 1.0 permanent 5 SIGN=0\nUPGRADE f v 1.5 2.0 permanent 2 SIGN=1")) == [2]


def test_packages_that_nothing_enables_stop_no_import() -> None:
    # Vendors ship package lines with the product, also for parts that were not bought.
    wanted = planned(
        "PACKAGE p v 1.0 COMPONENTS=x SIGN=0\n"
        "FEATURE q v 1.0 permanent 3 SIGN=0\n"
        'PACKAGE q v 1.0 COMPONENTS="y z" OPTIONS=SUITE_RESERVED SIGN=0\n'
    )
    assert seats(wanted) == {"q": 3, "y": 3, "z": 3}
    assert "no line enables this package" in texts(wanted)[1]
    assert "reserves all components for the user of one" in texts(wanted)[3]


def test_a_comment_behind_a_line_of_the_license_is_skipped() -> None:
    wanted = planned('FEATURE f v 1 permanent 3 NOTICE="site # 4" SIGN=0 # OVERDRAFT=9 for us')
    assert (seats(wanted), wanted.tools["f"].overdraft) == ({"f": 3}, 0)
    assert "comment" in texts(wanted)[1]


def test_keywords_are_read_in_any_case_and_numbers_with_zeros() -> None:
    wanted = planned("feature Mesh V 1 PERMANENT 0000000000005 sign=0", "exclude Mesh user joe\nmax 01 Mesh user ben")
    assert seats(wanted) == {"mesh": 5}
    assert wanted.tools["mesh"].user_limits == {"ben": 1}


def test_a_year_of_two_digits_is_reported() -> None:
    wanted = planned("FEATURE f v 1 1-jan-27 3 SIGN=0\nFEATURE g v 1 1-jan-00 3 SIGN=0\nFEATURE h v 1 0 3 SIGN=0")
    assert "1-jan-27: FlexNet reads a year of two digits as 19xx, so this is 1927-01-01" in texts(wanted)[1]
    assert [wanted.tools[name].valid_until for name in "gh"] == [None, None]


def test_a_qualified_feature_is_the_tool_if_all_its_lines_fit() -> None:
    license = (
        'INCREMENT f v 1.0 31-dec-2099 2 VENDOR_STRING="site 1" SIGN="00AB 12CD"\n'
        "INCREMENT g v 1.0 permanent 2 SIGN=1\nINCREMENT g v 2.0 permanent 2 SIGN=2\n"
    )
    fitting = ("VERSION=1.0", "VERSION=1.000", "EXPDATE=31-dec-2099", "SIGN=00AB12CD", "VENDOR_STRING=site 1")
    for qualifier in fitting:
        for feature in (f'"f:{qualifier}"', f'"f {qualifier}"'):
            wanted = planned(license, f"EXCLUDE {feature} USER joe")
            assert not problems(wanted)
            assert wanted.tools["f"].lists == {("exclude", "user", "joe")}
    for feature in ("f:VERSION=2.0", "f:KEY=77", "g:VERSION=2.0", "f:COLOR=red", 'f:NOTICE=""'):
        assert problems(planned(license, f"EXCLUDE {feature} USER joe")) == [1]


def test_groups_have_members_and_not_groups() -> None:
    wanted = planned("FEATURE f v 1 permanent 9 SIGN=0", "GROUP a ana\nGROUP b a ben,eve\nUSER_GROUP c zoe\n")
    assert wanted.teams == {"a": {"ana"}, "b": {"a", "ben,eve"}, "c": {"zoe"}}
    assert "a is read as a user, because FlexNet has no groups in groups" in texts(wanted)[2]
    assert "FlexNet separates names by blanks" in texts(wanted)[2]


def test_a_rule_about_an_uncounted_feature_stops_no_import() -> None:
    wanted = planned(LICENSE, "INCLUDE viewer USER ana")
    assert not problems(wanted)
    assert "viewer: uncounted" in texts(wanted)[1]


def test_seats_of_several_pools_are_reported() -> None:
    wanted = planned(
        "INCREMENT f v 1 permanent 2 HOSTID=0a1b2c3d4e5f SIGN=0\nINCREMENT f v 1 permanent 3 DUP_GROUP=U SIGN=0"
    )
    assert seats(wanted) == {"f": 5}
    assert "in pools by DUP_GROUP, HOSTID; here they are one pool" in texts(wanted)[1]


@pytest.mark.django_db
def test_a_vendor_that_an_administrator_named_stays(tmp_path: Path, make_tool: MakeTool) -> None:
    make_tool("mesher", vendor="Mesh, Inc.")
    make_tool("solver", vendor="")
    run(tmp_path, "--apply")
    assert dict(Tool.objects.values_list("name", "vendor")) == {
        "mesher": "Mesh, Inc.",
        "solver": "meshd",
        "pre": "meshd",
        "post": "meshd",
    }


@pytest.mark.django_db
def test_the_end_is_a_summary(tmp_path: Path) -> None:
    out, _ = run(tmp_path)
    *_, summary, last = out.splitlines()
    assert summary == "Summary: 4 tool(s) with 20 seats, 22 change(s), 0 problem(s), 4 note(s)."
    assert last == "22 change(s) to make. Use --apply to make them."
    with pytest.raises(CommandError, match=r"1 line\(s\) can't be imported, nothing was changed"):
        run(tmp_path, options="BOGUS\n")
    run(tmp_path, "--apply")
    out, _ = run(tmp_path, "--apply")
    assert out.splitlines()[-2].startswith("Summary: 4 tool(s) with 20 seats, 0 change(s), 0 problem(s)")


@pytest.mark.django_db
def test_a_note_about_many_lines_is_shown_once(tmp_path: Path) -> None:
    lines_with_borrow = "".join(f"INCREMENT f{n} v 1 permanent 1 BORROW SIGN=0\n" for n in range(40))
    _, err = run(tmp_path, license=lines_with_borrow, options="")
    assert err.count("BORROW") == 1
    assert (
        "license.lic:1: note: BORROW has no counterpart here: this server has no offline licenses (and 39 more" in err
    )
    with pytest.raises(CommandError, match=r"3 line\(s\) can't be imported"):
        run(tmp_path, options="BOGUS\nBOGUS\nBOGUS\n")


@pytest.mark.django_db
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_files_of_any_editor_are_read(tmp_path: Path, encoding: str) -> None:
    license, options = tmp_path / "a.lic", tmp_path / "a.opt"
    license.write_bytes("FEATURE f v 1\t31-dec-2099 3\r\n\tISSUER=Müller SIGN=0\r\n".encode(encoding))
    options.write_bytes("EXCLUDE f\tUSER jörg\r\n".encode(encoding))
    call_command(
        "import_flexlm",
        "--license",
        str(license),
        "--options",
        str(options),
        "--apply",
        stdout=StringIO(),
        stderr=StringIO(),
    )
    assert Tool.objects.get().capacity == 3
    assert AccessRule.objects.get().name == "jörg"


@pytest.mark.django_db
def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.lic").write_bytes(b"#" * (32 * 2**20 + 1))
    with pytest.raises(CommandError, match="larger than 32 MiB"):
        call_command("import_flexlm", "--license", str(tmp_path / "a.lic"))


@pytest.mark.parametrize("text", ["x " * 200_000, "{" * 400_000, "\n AB" * 100_000, '"' * 400_000])
def test_a_line_that_is_too_long_is_reported(text: str) -> None:
    start = "INCREMENT f v 1 permanent 5 "
    wanted = planned(start + text + "\nINCREMENT g v 1 permanent 2 SIGN=0\n", "GROUP g " + text)
    assert list(wanted.tools) == ["g"]
    assert problems(wanted)[0] == 1


def test_a_long_signature_takes_no_time_that_grows_with_its_square() -> None:
    wanted = planned(f"INCREMENT f v 1 permanent 5 SUPERSEDE_SIGN={'A' * 190_000}:")
    assert seats(wanted) == {"f": 5}


def test_thousands_of_lines_of_one_feature_that_end_apart_are_one_note() -> None:
    months = ("jan", "feb", "mar")
    wanted = planned("".join(f"INCREMENT f v 1 1-{months[n % 3]}-{2027 + n % 30} 5\n" for n in range(9_000)))
    assert seats(wanted) == {"f": 45_000}
    assert [len(finding.text) < 500 for finding in wanted.of_license] == [True]
    assert "more changes until 2056-03-02" in wanted.of_license[0].text


@pytest.mark.django_db
def test_how_the_lines_were_read_can_be_shown(tmp_path: Path) -> None:
    out, _ = run(tmp_path, "--verbosity", "2")
    assert "license.lic:6: read as: INCREMENT Mesher meshd 2026.0 31-dec-2099 5 ISSUED=1-jan-2026 VENDOR_STRING=" in out
    assert "mesh.opt:3: read as: GROUP Crash ana ben" in out


def test_the_documentation_has_every_keyword() -> None:
    documented = set(re.findall(r"[A-Z_0-9]{2,}", (ROOT / "docs" / "howto" / "flexlm.md").read_text()))
    keywords = {
        *parser.STATEMENTS,
        *(parser.APPLIED | parser.DESCRIPTIVE | parser.NO_COUNTERPART.keys() | parser.OF_PACKAGE),
        *parser.PACKAGE_OPTIONS - {""},
        *(name.upper() for name in parser.QUALIFIERS),
        *parser.DAEMON_OPTIONS,
        *parser.Verb,
        *parser.Kind,
    }
    assert not keywords - documented


PIECES = """
FEATURE INCREMENT PACKAGE GROUP RESERVE MAX INCLUDE EXCLUDEALL f g v 1.0 permanent 1-jan-2027 3 0 uncounted SIGN=0
PACKAGE COMPONENTS=f:1:2 OPTIONS=SUITE v
COMPONENTS="f USER g GROUP ALL_GROUPS ALL_USERS SUPERSEDE ISSUED=1-jan-2026 START=9-sep-9999 31-dec-9999 " f:VERSION=1 #
"""
pieces = st.sampled_from([*PIECES.split(), "\\\n", "\n"])
whole_lines = st.sampled_from(
    [
        'FEATURE "f g" v 1.0 permanent 3 "00AB" NOTICE="a # b" SN= x',
        "INCREMENT f v 1.0 31-dec-2027 3\n\tSUPERSEDE START=1-jan-2026 OVERDRAFT=2 sort=5 TZ=SERVERTZ",
        'UPGRADE f v 1.0 2.0 1-jan-0 3 0123456789AB "" ANY SUPERSEDE="f g" AUTH={ a=( b ) }',
        'PACKAGE p v COMPONENTS="f::2 g:1.0" OPTIONS=SUITE SUPERSEDE ISSUED=1-jan-2026 SIGN="00 AB"',
        'PACKAGE p v 1.0 COMPONENTS="f g" OPTIONS="SUITE SUITE_RESERVED"',
        'MAX 3 "a:b VERSION=1.0" USER ALL_USERS',
        'RESERVE 2 f:VENDOR_STRING="x y:z=3" GROUP "g h"',
        "INCLUDEALL HOST_GROUP farm",
        "MAX_OVERDRAFT f 2",
        'HOST_GROUP farm "" node1 \\\n node2',
    ]
)
texts_of_files = st.lists(pieces | st.text(max_size=5), max_size=40).map(" ".join) | st.lists(
    whole_lines | st.text(max_size=9), max_size=9
).map("\n".join)


@given(license=texts_of_files, options=texts_of_files)
def test_any_text_is_read_and_every_line_accounted_for(license: str, options: str) -> None:
    parsed, rules = parse_license(license), parse_options(options)
    wanted = plan(parsed, rules, TODAY)
    read = {number for number, _ in lines(license)}
    told = {row.number for rows in (parsed.features, parsed.packages, parsed.findings) for row in rows}
    assert told <= read
    silent = {"SERVER", "VENDOR", "DAEMON", "USE_SERVER"}
    assert {number for number, line in lines(license) if line.split()[0].upper() not in silent} <= told
    lines_of_options = {number for number, _ in lines(options)}
    told = {row.number for rows in (rules.rules, rules.groups, rules.findings) for row in rows}
    off = {number for number, line in lines(options) if line.upper().startswith("GROUPCASEINSENSITIVE")}
    assert lines_of_options - off <= told <= lines_of_options
    for tool in wanted.tools.values():
        assert sum(tool.reservations.values()) <= tool.capacity


@given(license=texts_of_files, options=texts_of_files)
def test_written_lines_parse_to_the_same_values(license: str, options: str) -> None:
    read, rules = parse_license(license), parse_options(options)
    again = parse_license("\n".join(line for _, line in license_lines(read)))
    rules_again = parse_options("\n".join(line for _, line in options_lines(rules)))
    for before, after in (
        (read.features, again.features),
        (read.packages, again.packages),
        (rules.rules, rules_again.rules),
        (rules.groups, rules_again.groups),
    ):
        assert [replace(row, number=0) for row in after] == [replace(row, number=0) for row in before]


def one_of(*choices: str) -> st.SearchStrategy[str]:
    return st.sampled_from(choices)


def words_of(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(" ".join)


counts = st.integers(1, 9).map(str)
days = one_of("permanent", "1-jan-0", "1-jun-2026", "31-may-2026", "7-jul-2077")
features_of_lines = one_of("Mesher", "mesher", "solver", "viewer", "bundle", "pre", "new", "a/b")
feature_lines = words_of(
    one_of("FEATURE", "INCREMENT"),
    features_of_lines,
    one_of("meshd", "other"),
    one_of("1.0", "2026.0", "x"),
    days,
    counts | st.just("uncounted"),
    one_of("", "START=1-jan-2020", "START=1-jan-2050", "SORT=5", "SUPERSEDE ISSUED=2-feb-2026", "OVERDRAFT=3"),
    one_of("SIGN=AA", "HOSTID=ANY SIGN=AA"),
)
subjects = words_of(
    one_of("USER", "HOST", "GROUP", "HOST_GROUP", "PROJECT", "DISPLAY", "INTERNET"),
    one_of("ana", "Crash", "crash", "farm", "node1", "10.1.2.3", "10.*", "ALL_USERS", "ALL_GROUPS"),
)
features_of_rules = features_of_lines | one_of("Mesher:VERSION=1.0")
rule_lines = (
    words_of(one_of("RESERVE", "MAX"), counts, features_of_rules, subjects)
    | words_of(one_of("INCLUDE", "EXCLUDE"), features_of_rules, subjects)
    | words_of(one_of("INCLUDEALL", "EXCLUDEALL"), subjects)
    | words_of(st.just("MAX_OVERDRAFT"), features_of_rules, st.just("1"))
)
GROUPS = "GROUP Crash ana ben\nHOST_GROUP farm node1 node2\n"


@given(line=feature_lines)
def test_a_line_of_the_license_has_an_effect_or_a_finding(line: str) -> None:
    wanted = planned(LICENSE + line)
    number = LICENSE.count("\n") + 1
    told = {finding.number for finding in wanted.of_license}
    assert number in told or wanted.tools != planned(LICENSE).tools
    for tool in wanted.tools.values():
        Tool(name="x", capacity=tool.capacity, vendor=tool.vendor).clean_fields()


@given(line=rule_lines)
def test_a_line_of_the_options_has_an_effect_or_a_finding(line: str) -> None:
    wanted = planned(LICENSE, GROUPS + line)
    told = {finding.number for finding in wanted.of_options}
    assert 3 in told or wanted.tools != planned(LICENSE, GROUPS).tools
    assert not (3 in problems(wanted) and wanted.tools != planned(LICENSE, GROUPS).tools)


@given(rules=st.lists(rule_lines, max_size=12))
def test_a_plan_keeps_the_constraints_of_the_tables(rules: list[str]) -> None:
    for tool in planned(LICENSE, GROUPS + "\n".join(rules)).tools.values():
        assert sum(tool.reservations.values()) <= tool.capacity
        assert all(tool.quotas.get(team, seats) >= seats for team, seats in tool.reservations.items())
        assert all("*" not in name for _, _, name in tool.lists)
        assert "ALL_USERS" not in tool.user_limits


@pytest.mark.django_db
def test_lists_are_lines_of_the_tools(tmp_path: Path) -> None:
    run(tmp_path, "--apply")
    of_solver = AccessRule.objects.filter(tool__name="solver")
    assert {(rule.effect, rule.kind, rule.subject) for rule in of_solver} == {
        ("include", "team", "crash"),
        ("exclude", "user", "ben"),
        ("exclude", "team", "interns"),
    }


@pytest.mark.django_db
def test_what_no_tool_can_have_is_named_and_changes_nothing() -> None:
    wanted = planned(LICENSE)
    wanted.tools["solver"].valid_from = datetime(2031, 1, 1, tzinfo=UTC)
    wanted.tools["solver"].valid_until = datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(ValidationError, match="solver: The license must end after it starts"):
        bring_in(wanted, by=SOMEBODY, for_real=True)
    assert not Tool.objects.exists()


@pytest.mark.django_db
def test_a_tool_without_rules_costs_few_statements(tmp_path: Path) -> None:
    # Vendors' files have thousands of lines.
    def statements(tools: int) -> int:
        lines = "".join(f"FEATURE tool{number} meshd 1.0 permanent 4 SIGN=00\n" for number in range(tools))
        with CaptureQueriesContext(connection) as executed:
            run(tmp_path, "--apply", license=f"SERVER licsrv ANY\nVENDOR meshd\n{lines}", options="")
        assert Tool.objects.count() == tools
        return len(executed)

    statements(10)
    again = statements(10)
    # Each new tool, its audit record, and the savepoints of both; the others are read with one statement.
    assert statements(20) - again <= 8 * 10
    assert again < 10
