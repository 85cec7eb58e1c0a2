"""Coming from FlexNet: licence and options files become tools, teams and rules."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from licenses.flexlm.parser import day, lines, parse_license, parse_options
from licenses.flexlm.plan import Plan, plan
from licenses.models import AccessRule, Allotment, AuditRecord, Team, TeamMember, Tool, UserLimit

from .conftest import Api

MakeTool = Callable[..., Tool]
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
    """What the command says, and what it reports."""
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
    assert "license.lic:6: note: Mesher: 3 of its seats end on 2098-12-31" in err
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
    assert "--apply makes them" in out
    assert Tool.objects.get().capacity == 3
    assert not Team.objects.exists()
    assert not AuditRecord.objects.exists()
    applied, _ = run(tmp_path, "--apply")
    # What was shown is what was done.
    assert applied.splitlines()[:-1] == out.splitlines()[:-1]


@pytest.mark.django_db
def test_seats_that_are_out_stay_out(tmp_path: Path, api: Api, make_tool: MakeTool, pass_time: PassTime) -> None:
    make_tool("mesher", capacity=9)
    run(tmp_path, "--apply")
    api.borrow("mesher", "ana", seats=4)
    run(tmp_path, "--apply", license="FEATURE Mesher meshd 1 permanent 2 SIGN=0", options="")
    status = api.status("mesher")
    assert (status["total"], status["borrowed"], status["available"]) == (2, 4, 0)
    assert Allotment.objects.get().in_use == 4


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
def test_what_the_tables_refuse_changes_nothing(tmp_path: Path, make_tool: MakeTool) -> None:
    with pytest.raises(CommandError, match="unknown"):
        run(tmp_path, "--apply", license=LICENSE + "FEATURE unknown meshd 1 permanent 1 SIGN=0\n")
    assert not Tool.objects.exists()
    assert not Team.objects.exists()


@pytest.mark.django_db
def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
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
        "MAX 1 Mesher:VERSION=2026.0 USER ana",
        'MAX 1 "Mesher VERSION=2026.0" USER ana',
        "MAX 1 Mesher USER",
        "INCLUDE Mesher INTERNET 10.1.*.*",
        "INCLUDE Mesher HOST 10.1.*.*",
        "EXCLUDE Mesher DISPLAY :0",
        "EXCLUDE Mesher HOST_GROUP nothing",
        "EXCLUDE nothing USER ana",
        "INCLUDE Mesher USER ana ben",
        "INCLUDE viewer USER ana",
        "EXCLUDEALL",
        "GROUP empty",
        "GROUP a/b ana",
        "GROUPCASEINSENSITIVE ON",
        "RESERVE 3 Mesher GROUP small",
        "BOGUS 1",
        'GROUP x "ana',
        "MAX_OVERDRAFT solver",
    ],
)
def test_what_can_not_be_expressed_is_reported(line: str) -> None:
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
        "FEATURE f v 1.0 permanent 1 SUPERSEDE SIGN=0",
        "UPGRADE f v 1.0 2.0 permanent 1 SIGN=0",
        "PACKAGE p v 1.0 SIGN=0",
        'PACKAGE p v 1.0 COMPONENTS="a:1:2:3" SIGN=0',
        'PACKAGE p v 1.0 COMPONENTS="a b" SIGN=0',
        "sampled-f1-00737-55296-1825",
    ],
)
def test_a_line_of_the_licence_that_makes_no_sense_is_reported(line: str) -> None:
    assert problems(planned("FEATURE g v 1.0 permanent 1 SIGN=0\n" + line)) == [2]


def test_names_that_differ_in_case_alone_are_reported() -> None:
    wanted = planned("FEATURE CAD v 1 permanent 1 SIGN=0\nFEATURE cad v 1 permanent 2 SIGN=0")
    assert problems(wanted) == [2]
    assert wanted.tools["cad"].capacity == 1
    assert problems(planned(LICENSE, "GROUP Crash ana\nGROUP crash ben")) == [2]


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
    assert (a.capacity, a.valid_from, a.valid_until) == (6, None, datetime(2027, 1, 2, tzinfo=UTC))
    assert (b.capacity, b.valid_from, b.valid_until) == (3, datetime(2026, 7, 1, tzinfo=UTC), None)
    assert (c.capacity, c.valid_until) == (5, datetime(2020, 1, 2, tzinfo=UTC))
    assert not problems(wanted)
    assert [finding.number for finding in sorted(wanted.of_license)] == [1, 2, 4]


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


PIECES = """
FEATURE INCREMENT PACKAGE GROUP RESERVE MAX INCLUDE EXCLUDEALL f g v 1.0 permanent 1-jan-2027 3 0 uncounted SIGN=0
COMPONENTS="f USER ALL_USERS SUPERSEDE ISSUED=1-jan-2026 START=9-sep-9999 31-dec-9999 " f:VERSION=1 #
"""
pieces = st.sampled_from([*PIECES.split(), "\\\n", "\n"])
texts = st.lists(pieces | st.text(max_size=5), max_size=40).map(" ".join)


@given(license=texts, options=texts)
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


@pytest.mark.django_db
def test_lists_are_lines_of_the_tools(tmp_path: Path) -> None:
    run(tmp_path, "--apply")
    of_solver = AccessRule.objects.filter(tool__name="solver")
    assert {(rule.effect, rule.kind, rule.subject) for rule in of_solver} == {
        ("include", "team", "crash"),
        ("exclude", "user", "ben"),
        ("exclude", "team", "interns"),
    }
