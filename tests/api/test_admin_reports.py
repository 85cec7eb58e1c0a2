"""The reports in the admin."""

import csv
import io
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from licenses.admin.plots import plot
from licenses.history import reports
from licenses.history.catalog import REPORTS
from licenses.history.declarations import Report
from licenses.history.reports import Period, Span
from licenses.models import Contract, Denial, EndReason, Lease, Tool

MakeTool = Callable[..., Tool]

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
DAYS = "since=2026-03-02&until=2026-03-03"


@pytest.fixture
def monday(make_tool: MakeTool) -> Tool:
    cad = make_tool("cad", capacity=2, seat_hour_price="3", created_at=MONDAY - timedelta(days=90))
    Contract.objects.create(tool=cad, seats=2, price=365, first_day=date(2026, 1, 1), last_day=date(2026, 12, 31))
    make_tool("sim", capacity=1, created_at=MONDAY - timedelta(days=90))
    for user, start, end in (("<b>ana", 8, 12), ("ben", 9, 10), ("cleo", 11, 13)):
        Lease.objects.create(
            tool=cad,
            user=user,
            borrowed_at=MONDAY + timedelta(hours=start),
            ended_at=MONDAY + timedelta(hours=end),
            end_reason=EndReason.RETURNED,
        )
    asked = MONDAY + timedelta(hours=9.5)
    Denial.objects.create(tool=cad, user="dora", code="exhausted", first_at=asked, last_at=asked)
    return cad


def page(client: Client, path: str, status: int = 200) -> str:
    answer = client.get(f"/admin/reports/{path}")
    assert answer.status_code == status
    return re.sub(r"\s+", " ", answer.content.decode())


def cells(html: str) -> list[list[str]]:
    """Return the text of the tables' cells, row by row."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html)
    return [
        [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows
    ]


def test_all_tools_at_a_glance(admin_client: Client, monday: Tool) -> None:
    html = page(admin_client, f"?{DAYS}")
    assert ["cad", "2", "2", "7.3%", "2 h 0 min", "3", "7.0", "0.0", "21.00", "1", "1", "1"] in cells(html)
    assert ["sim", "1", "0", "0.0%", "0", "0", "0.0", "0.0", "—", "0", "0", "0"] in cells(html)


def test_one_tool_in_depth(admin_client: Client, monday: Tool) -> None:
    html = page(admin_client, f"cad/?{DAYS}&capacity=1,3")
    assert html.count('<rect class="peak"') == 48, "two days, hour by hour"
    assert "03-02 09:00: at most 2 of 2, 2.00 on average, none free for 1:00:00" in html
    rows = cells(html)
    assert ["No seat left", "1", "1", "1", "1"] in rows
    assert ["1", "3", "3", "3 h 30 min", "4 h 20 min", "4 h 20 min", "3"] in rows
    assert ["3", "0", "0", "0", "0", "0", "0"] in rows
    assert ["&lt;b&gt;ana", "1", "4.0", "12.00"] in rows
    (monday_row,) = [row for row in rows if row[0] == "Monday"]
    assert monday_row[9:15] == ["1", "2", "1", "2", "1", "0"]


def test_people_and_their_episodes_are_two_numbers(admin_client: Client, monday: Tool) -> None:
    for hour in (14, 16):
        asked = MONDAY + timedelta(hours=hour)
        Denial.objects.create(tool=monday, user="dora", code="quota", first_at=asked, last_at=asked)
    (row,) = [row for row in cells(page(admin_client, f"?{DAYS}")) if row[0] == "cad"]
    assert row[-3:] == ["1", "3", "3"]
    rows = cells(page(admin_client, f"cad/?{DAYS}"))
    assert ["Team quota reached", "1", "2", "2", "2"] in rows
    Denial.objects.update(user="")
    (row,) = [row for row in cells(page(admin_client, f"?{DAYS}")) if row[0] == "cad"]
    assert row[-3:] == ["unknown", "3", "3"]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.name)
def test_every_report_of_the_catalog_has_a_page_with_the_rows_of_its_csv(
    admin_client: Client, monday: Tool, report: Report
) -> None:
    html = page(admin_client, f"tables/{report.name}/?{DAYS}")
    head, *_ = cells(html)
    values = [re.findall(r'<data value="([^"]*)">', row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", html)[1:]]
    (link,) = re.findall(rf'href="(/api/v1/reports/{report.name}[^"]*)"', html)
    found = list(csv.reader(io.StringIO(admin_client.get(unescape(link)).content.decode("utf-8-sig"))))
    assert [column.lower().replace(" ", "_") for column in head] == [name.removesuffix("_seconds") for name in found[0]]
    assert [[unescape(value) for value in row] for row in values] == found[1:]
    assert len(values) > 0


def test_a_report_is_written_for_people(admin_client: Client, monday: Tool) -> None:
    Contract.objects.all().delete()
    Tool.objects.filter(name="cad").update(display_name="CAD Suite", vendor="Acme", capacity=12_000)
    head, *rows = cells(page(admin_client, f"tables/tool-costs/?{DAYS}"))
    row = dict(zip(head, next(row for row in rows if row[0] == "CAD Suite"), strict=True))
    assert row | {"Vendor": "Acme", "Capacity": "12,000", "Cost": "21.00", "Idle cost": "—"} == row
    assert row["Utilization"].endswith("%")
    Denial.objects.create(tool=monday, user="dora", code="quota", first_at=MONDAY, last_at=MONDAY)
    assert "Team quota reached" in [row[1] for row in cells(page(admin_client, f"tables/denials/?{DAYS}"))]


@pytest.mark.parametrize("path", ["", "money/", "cad/", "tables/usage/"])
def test_a_report_names_its_days_and_currency(admin_client: Client, monday: Tool, settings: Any, path: str) -> None:
    settings.LICENSE_CURRENCY = "EUR"
    # Without the form, which is not on paper.
    shown = page(admin_client, f"{path}?{DAYS}").rpartition("</form>")[2]
    assert "2026-03-02 to 2026-03-03" in shown
    assert "Time zone: UTC." in shown
    assert "Amounts are in EUR." in shown


@pytest.mark.parametrize("path", ["", "money/", "cad/"])
def test_large_numbers_have_separators(admin_client: Client, monday: Tool, path: str) -> None:
    Contract.objects.all().delete()
    Tool.objects.update(capacity=12_000)
    shown = cells(page(admin_client, f"{path}?{DAYS}"))
    assert any("12,000" in cell for row in shown for cell in row)
    assert not [cell for row in shown for cell in row if re.fullmatch(r"\d{4,}( .*)?", cell)]


def test_the_page_of_a_report_takes_its_question(admin_client: Client, monday: Tool) -> None:
    rows = cells(page(admin_client, f"tables/usage/?{DAYS}&tool=cad&by=user"))
    assert rows[0] == ["User", "Borrows", "Seat hours", "Overdraft hours", "Cost"]
    assert sorted(row[0] for row in rows[1:]) == ["&lt;b&gt;ana", "ben", "cleo"]
    html = page(admin_client, f"tables/what-if/?{DAYS}&tool=cad&capacity=1,%203")
    assert [row[:3] for row in cells(html)[1:]] == [["1", "4", "3"], ["3", "4", "0"]]
    assert "1 of 4 borrows got no seat." in html
    assert re.search(r'value="1,3"', html)
    assert [row[1:3] for row in cells(page(admin_client, f"tables/utilisation/?{DAYS}&tool=sim&period=month"))] == [
        ["Start", "Capacity"],
        ["2026-03-01", "1"],
    ]


@pytest.mark.parametrize(
    "query",
    [
        "usage/?by=password",
        "usage/?tool=cam",
        "utilisation/?period=week",
        "utilisation/?period=hour&since=2017-01-01&until=2026-12-31",
        "what-if/?tool=cad&capacity=1,2,3,4,5,6,7,8,9,10,11",
        "denials/?since=yesterday",
    ],
)
def test_the_page_of_a_report_says_what_is_wrong(admin_client: Client, monday: Tool, query: str) -> None:
    assert 'class="errorlist' in page(admin_client, f"tables/{query}", status=400)


def test_the_page_of_a_report_without_tools_is_empty(admin_client: Client, db: None) -> None:
    for report in REPORTS:
        assert "No rows." in page(admin_client, f"tables/{report.name}/")
    page(admin_client, "tables/nonsense/", status=404)


def test_pages_load_nothing_from_elsewhere_and_run_no_script_of_their_own(admin_client: Client, monday: Tool) -> None:
    for path in ("", "cad/", "tables/usage/"):
        html = page(admin_client, f"{path}?{DAYS}")
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', html)
        scripts = set(re.findall(r'<script src="([^"]*)"', html))
        assert scripts <= {"/static/admin/js/theme.js", "/static/licenses/admin.js"}


def test_the_links_of_the_pages_work(admin_client: Client, monday: Tool) -> None:
    assert 'href="/admin/reports/"' in admin_client.get("/admin/").content.decode()
    for path in ("", "cad/", "tables/usage/"):
        links = re.findall(
            r'href="(/(?:api|admin/reports)[^"]*)"', page(admin_client, f"{path}?{DAYS}&tz=Europe/Berlin")
        )
        assert len(links) > 1
        for link in links:
            assert admin_client.get(link.replace("&amp;", "&")).status_code == 200, link


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday",
        "since=2026-03-03&until=2026-03-02",
        "tz=Europe/Atlantis",
        "until=9999-12-31",
        "capacity=a",
        "capacity=-1",
        "capacity=1,2,3,4,5,6,7",
    ],
)
def test_invalid_values_are_reported_next_to_the_form(admin_client: Client, monday: Tool, query: str) -> None:
    assert 'class="errorlist' in page(admin_client, f"cad/?{query}", status=400)


@pytest.mark.parametrize(
    ("path", "given", "shown"),
    [
        ("cad/", "capacity=a", {"capacity": "a"}),
        ("cad/", "since=2026-03-02&capacity=a", {"since": "2026-03-02", "capacity": "a"}),
        ("cad/", "until=yesterday", {"until": "yesterday", "capacity": ""}),
        ("tables/what-if/", "capacity=a", {"capacity": "a"}),
        (
            "tables/utilisation/",
            "period=hour&since=2017-01-01&until=2026-12-31",
            {"since": "2017-01-01", "until": "2026-12-31"},
        ),
    ],
)
def test_a_form_with_an_error_shows_what_was_given_and_the_defaults_of_the_rest(
    admin_client: Client, monday: Tool, path: str, given: str, shown: dict[str, str]
) -> None:
    usual = texts_of_form(page(admin_client, path))
    assert texts_of_form(page(admin_client, f"{path}?{given}", status=400)) == usual | shown


def texts_of_form(html: str) -> dict[str, str]:
    """Return what the fields for texts and days contain."""
    found = re.findall(r'<input type="(?:text|date)" ([^>]*)>', html)
    attributes = [dict(re.findall(r'([\w-]+)="([^"]*)"', field)) for field in found]
    return {field["name"]: field.get("value", "") for field in attributes}


def test_a_tool_that_is_not_there(admin_client: Client, monday: Tool) -> None:
    page(admin_client, "cam/", status=404)
    page(admin_client, "%00/", status=404)


def test_the_right_to_view_leases_shows_reports(client: Client, monday: Tool) -> None:
    assert client.get("/admin/reports/")["Location"].startswith("/admin/login/")
    user = User.objects.create_user("ana", is_staff=True)
    client.force_login(user)
    for path in ("", "cad/", "tables/usage/"):
        page(client, path, status=403)
    user.user_permissions.add(Permission.objects.get(codename="view_lease"))
    for path in ("", "cad/", "tables/usage/"):
        page(client, path)


def test_a_long_time_is_plotted_in_longer_periods(admin_client: Client, monday: Tool) -> None:
    for days, bars in (("since=2026-03-01&until=2026-04-30", 61), ("since=2025-06-01&until=2026-05-31", 12)):
        assert page(admin_client, f"cad/?{days}").count('<rect class="peak"') == bars


def test_bars_stand_under_the_line_of_the_capacity(monday: Tool) -> None:
    span = Span(MONDAY.date(), MONDAY.date())
    drawn = plot(reports.utilization(tools=[monday], span=span, period=Period.HOUR))
    nine, ten = drawn.bars[9], drawn.bars[10]
    line = float(drawn.capacity.split()[18].split(",")[1])
    assert (nine.y, nine.y + nine.height, nine.full) == (line, drawn.base, True)
    assert (ten.height, ten.full) == (nine.height / 2, False)
    assert [level.label for level in drawn.levels] == ["0", "1", "2"]
