"""Reports for clients, in files and in the terminal."""

import codecs
import csv
import io
import itertools
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from licenses.history.catalog import REPORTS
from licenses.history.declarations import Report
from licenses.models import Contract, Denial, EndReason, Lease, Team, Tool
from tests.support.api import Api, api_of, api_with, make_token

MakeTool = Callable[..., Tool]
MakeTeam = Callable[..., Team]

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
KINDS = [
    "utilisation",
    "hours-of-week?tool=cad",
    "usage",
    "denials",
    "contracts",
    "what-if?tool=cad",
]
DAYS = "since=2026-03-02&until=2026-03-03"


@pytest.fixture
def monday(make_tool: MakeTool, make_team: MakeTeam) -> Tool:
    cad = make_tool("cad", capacity=2, seat_hour_price="3", created_at=MONDAY - timedelta(days=90))
    Contract.objects.create(tool=cad, seats=2, price=365, first_day=date(2026, 1, 1), last_day=date(2026, 12, 31))
    make_tool("sim", capacity=1, created_at=MONDAY - timedelta(days=90))
    for user, start, end, project in (("ana", 8, 12, "p1"), ("ben", 9, 10, "=1+1"), ("cleo", 11, 13, "")):
        Lease.objects.create(
            tool=cad,
            user=user,
            project=project,
            team=make_team("crash") if user == "ana" else None,
            borrowed_at=MONDAY + timedelta(hours=start),
            ended_at=MONDAY + timedelta(hours=end),
            end_reason=EndReason.RETURNED,
        )
    asked = MONDAY + timedelta(hours=9.5)
    Denial.objects.create(tool=cad, user="dora", code="exhausted", first_at=asked, last_at=asked)
    return cad


@pytest.fixture
def api(db: None) -> Api:
    """Provide the API for an administrator, because reports by user need a permission."""
    return api_of(scopes=["admin"])


def get(api: Api, report: str, **query: str) -> Any:
    answer = api.client.get(f"/api/v1/reports/{report}", query or None)
    assert answer.status_code == 200, answer.content
    return answer.json()


def refused(api: Api, report: str) -> Any:
    answer = api.client.get(f"/api/v1/reports/{report}")
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.status_code in (400, 404)
    return answer.json()


def test_utilisation_by_the_day(api: Api, monday: Tool) -> None:
    assert get(api, f"utilisation?tool=cad&{DAYS}") == {
        "since": "2026-03-02",
        "until": "2026-03-03",
        "rows": [
            {
                "tool": "cad",
                "start": "2026-03-02",
                "capacity": 2,
                "peak": 2,
                "mean": 0.2917,
                "utilisation": 0.1458,
                "full_seconds": 7200,
            },
            {
                "tool": "cad",
                "start": "2026-03-03",
                "capacity": 2,
                "peak": 0,
                "mean": 0,
                "utilisation": 0,
                "full_seconds": 0,
            },
        ],
    }


def test_utilisation_of_all_tools_of_one_team_by_the_hour_elsewhere(api: Api, monday: Tool) -> None:
    assert [row["tool"] for row in get(api, f"utilisation?{DAYS}")["rows"]] == ["cad", "cad", "sim", "sim"]
    (month,) = get(api, f"utilisation?tool=cad&period=month&team=crash&{DAYS}")["rows"]
    assert (month["start"], month["team"], month["peak"]) == ("2026-03-01", "crash", 1)
    assert "full_seconds" not in month
    hours = get(api, "utilisation?tool=cad&period=hour&since=2026-03-02&until=2026-03-02&tz=Asia/Kolkata")["rows"]
    assert len(hours) == 24
    assert (hours[0]["start"], hours[-1]["start"]) == ("2026-03-01T19:00:00Z", "2026-03-02T18:00:00Z")
    assert max(hour["peak"] for hour in hours) == 2


def test_hours_of_the_week_of_a_time_zone(api: Api, monday: Tool) -> None:
    rows = get(api, f"hours-of-week?tool=cad&tz=Europe/Berlin&{DAYS}")["rows"]
    assert len(rows) == 168
    # 09:00 in Berlin is 08:00 UTC.
    assert rows[9] == {"weekday": "Monday", "hour": 9, "hours": 1, "highest": 1, "p95": 1, "mean": 1.0}
    assert rows[10]["p95"] == 2


def test_usage_by_project_with_its_cost(api: Api, monday: Tool) -> None:
    assert get(api, f"usage?by=project,team&{DAYS}")["rows"] == [
        {"project": "p1", "team": "crash", "borrows": 1, "seat_hours": 4, "overdraft_hours": 0, "cost": "12.00"},
        {"project": "", "team": None, "borrows": 1, "seat_hours": 2, "overdraft_hours": 0, "cost": "6.00"},
        {"project": "=1+1", "team": None, "borrows": 1, "seat_hours": 1, "overdraft_hours": 0, "cost": "3.00"},
    ]
    assert [row["user"] for row in get(api, f"usage?by=user&team=crash&{DAYS}")["rows"]] == ["ana"]
    assert get(api, f"usage?by=user&tool=sim&{DAYS}")["rows"] == []


def borrowed(tool: Tool, user: str, start: datetime, end: datetime, **values: Any) -> None:
    Lease.objects.create(tool=tool, user=user, borrowed_at=start, ended_at=end, end_reason=EndReason.RETURNED, **values)


@pytest.fixture
def new_year(make_tool: MakeTool) -> Tool:
    """Provide a tool borrowed across a new year's midnight of Los Angeles, which is 8:00 UTC:
    an hour before, two hours after; somebody was refused at 7:30 UTC."""
    cad = make_tool("cad", capacity=2, seat_hour_price="3", vendor="Acme")
    make_tool("sim", capacity=1, vendor="Beta")
    midnight = datetime(2026, 1, 1, 8, tzinfo=UTC)
    borrowed(cad, "ana", midnight - timedelta(hours=1), midnight + timedelta(hours=2))
    borrowed(cad, "ben", midnight - timedelta(hours=12), midnight - timedelta(hours=10))
    asked = midnight - timedelta(minutes=30)
    Denial.objects.create(tool=cad, user="dora", code="exhausted", first_at=asked, last_at=asked)
    return cad


LOCAL = "tz=America/Los_Angeles&since=2025-12-01&until=2026-01-31"


def test_usage_by_month_is_cut_at_local_midnight(api: Api, new_year: Tool) -> None:
    rows = get(api, f"usage?by=month,vendor,tool&{LOCAL}")["rows"]
    same = {"vendor": "Acme", "tool": "cad", "overdraft_hours": 0}
    assert rows == [
        same | {"month": "2025-12-01", "borrows": 2, "seat_hours": 3, "cost": "9.00"},
        same | {"month": "2026-01-01", "borrows": 0, "seat_hours": 2, "cost": "6.00"},
    ]
    assert [row["seat_hours"] for row in get(api, "usage?by=month&since=2025-12-01&until=2026-01-31")["rows"]] == [2, 3]
    # One local day spans two UTC days.
    (day,) = get(api, "usage?by=tool&tz=America/Los_Angeles&since=2025-12-31&until=2025-12-31")["rows"]
    assert (day["seat_hours"], day["borrows"]) == (3, 2)


def test_denials_are_counted_on_local_days(api: Api, new_year: Tool) -> None:
    assert [row["day"] for row in get(api, f"denials?by=day&{LOCAL}")["rows"]] == ["2025-12-31"]
    assert [row["month"] for row in get(api, f"denials?by=month&{LOCAL}")["rows"]] == ["2025-12-01"]
    assert get(api, "denials?by=day&tz=America/Los_Angeles&since=2026-01-01&until=2026-01-31")["rows"] == []
    (utc,) = get(api, "denials?by=day&since=2025-12-01&until=2026-01-31")["rows"]
    assert utc["day"] == "2026-01-01"


def test_what_if_takes_local_days(api: Api, new_year: Tool) -> None:
    answer = get(api, "what-if?tool=cad&tz=America/Los_Angeles&since=2026-01-01&until=2026-01-01")
    assert (answer["demands"], answer["unmet"]) == (0, 0)
    answer = get(api, "what-if?tool=cad&tz=America/Los_Angeles&since=2025-12-31&until=2025-12-31")
    assert (answer["demands"], answer["unmet"]) == (3, 1)


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Asia/Kolkata", "Pacific/Kiritimati", "UTC"])
def test_local_days_add_up_rolled_up_or_not(api: Api, new_year: Tool, zone: str) -> None:
    days = f"tz={zone}&since=2025-12-01&until=2026-01-31"
    before = [get(api, f"{report}&{days}")["rows"] for report in ("usage?by=month,user", "denials?by=day,month")]
    call_command("expire_leases")
    assert [
        get(api, f"{report}&{days}")["rows"] for report in ("usage?by=month,user", "denials?by=day,month")
    ] == before
    assert sum(row["seat_hours"] for row in before[0]) == 5


def test_days_whose_leases_were_deleted_count_where_their_noon_is(api: Api, new_year: Tool) -> None:
    call_command("expire_leases")
    call_command("forget", "--older-than", "30", "--delete")
    assert not Lease.objects.exists()
    rows = get(api, f"usage?by=month&{LOCAL}")["rows"]
    # The noon of January 1 in UTC is in the local January too.
    assert [(row["month"], row["seat_hours"]) for row in rows] == [("2025-12-01", 2), ("2026-01-01", 3)]
    assert get(api, f"denials?by=day&{LOCAL}")["rows"][0]["day"] == "2026-01-01"


def test_denials_by_month(api: Api, monday: Tool) -> None:
    (row,) = get(api, f"denials?by=tool,month&{DAYS}")["rows"]
    assert row == {"tool": "cad", "month": "2026-03-01", "episodes": 1, "true_denials": 1, "attempts": 1, "people": 1}


def test_what_if(api: Api, monday: Tool) -> None:
    answer = get(api, f"what-if?tool=cad&capacity=1,2,4&{DAYS}")
    assert (answer["demands"], answer["unmet"], answer["recorded_since"]) == (4, 1, None)
    assert answer["assumed_hold_seconds"] == pytest.approx(7 / 3 * 3600)
    assert [(row["capacity"], row["refused"], row["waited"]) for row in answer["rows"]] == [
        (1, 3, 3),
        (2, 1, 2),
        (4, 0, 0),
    ]
    (today,) = get(api, f"what-if?tool=cad&{DAYS}")["rows"]
    assert today["capacity"] == 2


def test_a_report_has_the_last_30_days_by_default(api: Api, monday: Tool) -> None:
    answer = get(api, "usage")
    until = datetime.fromisoformat(answer["until"])
    assert until - datetime.fromisoformat(answer["since"]) == timedelta(days=29)
    assert answer["rows"] == []


@pytest.mark.parametrize("report", KINDS)
@pytest.mark.parametrize("how", ["query", "header"])
def test_every_report_is_there_as_csv(api: Api, monday: Tool, report: str, how: str) -> None:
    joined = report + ("&" if "?" in report else "?") + DAYS
    rows = get(api, joined)["rows"]
    if how == "query":
        answer = api.client.get(f"/api/v1/reports/{joined}&format=csv")
    else:
        answer = api.client.get(f"/api/v1/reports/{joined}", headers={"Accept": "text/csv"})
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert answer["Content-Disposition"].endswith('-2026-03-02-2026-03-03.csv"')
    # A spreadsheet needs the byte order mark to read UTF-8.
    assert answer.content.startswith(codecs.BOM_UTF8)
    found = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert len(found) == len(rows) > 0
    assert list(found[0]) == list(rows[0])


def test_csv_without_rows_still_has_its_header(api: Api, monday: Tool) -> None:
    answer = api.client.get("/api/v1/reports/usage?format=csv&by=user")
    assert answer.content == codecs.BOM_UTF8 + b'"user","borrows","seat_hours","overdraft_hours","cost"\r\n'


SIGNS = "=+-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"


FORMS = ["{0}1+1", " {0}1+1", "x{1}{0}1+1", "x{1} {0}1+1", 'x{1}"{0}1+1"', 'x"{1}""{0}1+1']


@pytest.mark.parametrize("separator", [",", ";", "|"])
@pytest.mark.parametrize("by", ["project", "user,project"])
def test_no_spreadsheet_calculates_the_name_of_a_project(api: Api, monday: Tool, by: str, separator: str) -> None:
    """Whatever separator the reader's country has, and in whichever column the name is."""
    for form, sign in itertools.product(FORMS, SIGNS):
        start = MONDAY + timedelta(hours=9)
        borrowed(monday, "ben", start, start + timedelta(hours=1), project=form.format(sign, separator))
    answer = api.client.get(f"/api/v1/reports/usage?format=csv&by={by}&{DAYS}")
    rows = list(csv.reader(io.StringIO(answer.content.decode()), delimiter=separator))
    assert sum("1+1" in "".join(row) for row in rows) >= len(FORMS) * len(SIGNS)
    cells = [cell.lstrip(' "') for row in rows for cell in row]
    assert [cell for cell in cells if cell.startswith(tuple(SIGNS))] == []


@pytest.mark.parametrize(
    "query",
    [
        "utilisation?since=yesterday",
        "utilisation?since=2026-03-02T00:00:00Z",
        "utilisation?since=2026-03-03&until=2026-03-02",
        "utilisation?since=0001-01-01&until=0001-01-02",
        "utilisation?until=9999-12-31&since=9999-12-01",
        "utilisation?since=2000-01-01&until=2026-01-01",
        "utilisation?period=hour&since=2020-01-01&until=2026-01-01",
        "utilisation?period=week",
        "utilisation?tz=Europe/Atlantis",
        "utilisation?tz=../../etc/passwd",
        "utilisation?tz=Europe",
        "utilisation?team=nobody",
        "utilisation?form=csv",
        "utilisation?format=xml",
        "usage?by=",
        "usage?by=user,password",
        "usage?by=tool%00",
        "usage?tool=a%0Ab",
        "denials?by=user",
        "hours-of-week",
        "what-if",
        "what-if?tool=cad&capacity=",
        "what-if?tool=cad&capacity=-1",
        "what-if?tool=cad&capacity=1.5",
        "what-if?tool=cad&capacity=9999999",
        "what-if?tool=cad&capacity=٣",
        "what-if?tool=cad&capacity=1,2,3,4,5,6,7,8,9,10,11",
    ],
)
def test_invalid_values_are_reported(api: Api, monday: Tool, query: str) -> None:
    assert refused(api, query)["code"] == "invalid"


def test_a_report_that_is_too_large_names_the_way_without_a_limit(api: Api, monday: Tool) -> None:
    assert refused(api, "utilisation?period=week")["detail"] == "period: 'week' is not one of hour, day, month."
    assert refused(api, "utilisation?period=hour&since=2020-01-01&until=2026-01-01")["detail"] == (
        "since: More than 20000 rows: ask for fewer days, longer periods, or one tool. "
        "manage.py usage_report has no limit."
    )


def test_a_tool_that_is_not_there(api: Api, monday: Tool) -> None:
    for report in ("utilisation", "hours-of-week", "usage", "denials", "what-if"):
        assert refused(api, f"{report}?tool=cam")["code"] == "unknown_tool"


@pytest.mark.parametrize("report", [kind for kind in KINDS if kind != "contracts"])
def test_reports_are_for_those_who_may_read(required: None, monday: Tool, report: str) -> None:
    path = f"/api/v1/reports/{report}"
    assert api_with("").client.get(path).status_code == 401
    assert api_with(f"Bearer {make_token(user='ana', scopes=['borrow'])}").client.get(path).status_code == 403
    # A report by user, or about prices, needs a permission: test_who_sees_names.py and test_who_sees_prices.py.
    path = path.replace("usage", "usage?by=tool")
    assert api_with(f"Bearer {make_token(user='ana', scopes=['read'])}").client.get(path).status_code == 200


def report(*arguments: str) -> str:
    out = StringIO()
    call_command("usage_report", *arguments, stdout=out)
    return out.getvalue()


@pytest.mark.parametrize("kind", REPORTS, ids=lambda kind: kind.name)
def test_every_report_of_the_catalog_is_in_the_api_and_the_command(api: Api, monday: Tool, kind: Report) -> None:
    tool = ["--tool", "cad"] if any(asked.required for asked in kind.asks) else []
    days = ["--since", "2026-03-02", "--until", "2026-03-03"]
    rows = get(api, f"{kind.name}?{DAYS}{'&tool=cad' if tool else ''}")["rows"]
    assert len(rows) > 0
    assert json.loads(report(kind.name, "--json", *tool, *days)) == rows


def test_the_command_tells_the_same(api: Api, monday: Tool) -> None:
    days = ["--since", "2026-03-02", "--until", "2026-03-03"]
    assert (
        json.loads(report("usage", "--by", "project,team", "--json", *days))
        == get(api, f"usage?by=project,team&{DAYS}")["rows"]
    )
    assert report("utilisation", "--csv", *days) == api.client.get(
        f"/api/v1/reports/utilisation?{DAYS}&format=csv"
    ).content.decode("utf-8-sig")
    assert report("denials", *days).splitlines() == [
        "tool  code       episodes  true_denials  attempts  people",
        "cad   exhausted  1         1             1         1",
    ]
    assert len(report("hours-of-week", "--tool", "cad", "--tz", "Europe/Berlin", *days).splitlines()) == 169
    assert [
        line.split()[:3]
        for line in report("what-if", "--tool", "cad", "--capacity", "1", "--capacity", "4", *days).splitlines()[1:]
    ] == [
        ["1", "4", "3"],
        ["4", "4", "0"],
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["utilisation", "--since", "yesterday"],
        ["utilisation", "--since", "2026-03-03", "--until", "2026-03-02"],
        ["utilisation", "--tz", "Europe/Atlantis"],
        ["utilisation", "--tool", "cam"],
        ["usage", "--by", "password"],
        ["usage", "--team", "nobody"],
        ["what-if"],
        ["what-if", "--tool", "cad", "--capacity", "-1"],
    ],
)
def test_the_command_refuses_invalid_arguments(monday: Tool, arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        report(*arguments)
