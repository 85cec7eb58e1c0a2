"""The benchmarks: their arithmetic, the rows that they fill in, the demo's stand-in."""

import io
import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks import demo, load, rows, stack, table
from benchmarks.bench import Round
from benchmarks.goals import GOALS
from benchmarks.growth import Line, cells_of
from benchmarks.load import Workload
from benchmarks.table import Goal, Row
from tests.support.databases import migrated_database

WRK = """\
Running 5s test @ http://127.0.0.1:8000
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    12.06ms    7.12ms  90.13ms   81.33%
    Req/Sec     1.36k   120.33     1.61k    68.00%
  Latency Distribution
     50%   11.20ms
     75%   14.90ms
     90%   20.01ms
     99%    1.25s{blank}
  6789 requests in 5.00s, 2.05MB read
{more}Requests/sec:   1357.21
Transfer/sec:    420.11KB
status 200 6700
status 409 89
"""


def test_a_goal_is_judged_by_the_median_of_its_rounds() -> None:
    assert Row(Goal("share", ">=", 1.0), (0.7, 1.01, 1.4)).reached is True
    assert Row(Goal("share", ">=", 1.0), (0.7, 0.99, 1.4)).reached is False
    assert Row(Goal("p99", "<=", 25, "ms"), (20, 24.9, 90)).reached is True
    assert Row(Goal("p99", "<=", 25, "ms"), (20, 25.1, 26)).reached is False


def test_the_bound_reaches_the_goal_and_a_value_that_rounds_to_it_does_not() -> None:
    assert Row(Goal("share", ">=", 0.95), (0.95,)).reached is True
    assert Row(Goal("share", ">=", 0.95), (0.9499,)).reached is False


def test_a_missing_measurement_does_not_reach_its_goal() -> None:
    for missing in (Row(Goal("cpu", "<=", 0.9, "ms"), ()), Row(Goal("share", ">=", 1), (math.nan,))):
        assert missing.reached is False
    assert Row(Goal("cpu", "<=", 0.9, "ms"), ()).cells() == ["cpu", "<= 0.9 ms", "not measured", "", "NO"]


def test_a_note_has_no_goal_to_reach() -> None:
    assert Row(Goal("rate", unit="/s"), (1200, 1100, 1357)).cells() == ["rate", "", "1,200", "1,100 to 1,357", ""]


def test_rates_are_compared_within_their_rounds() -> None:
    # A slow second round met both: the shares are alike, and so is their median.
    assert table.ratios([1000, 300, 900], [2000, 600, 1800]) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="shorter"):
        table.ratios([1000, 300], [2000])


def test_a_table_reads_in_a_terminal_and_on_a_page(tmp_path: Path) -> None:
    lines = [Row(Goal("share", ">=", 1), (1.25,)).cells(), Row(Goal("a longer name", "<=", 2, "s"), (3.0,)).cells()]
    assert table.text(table.HEAD, lines).splitlines() == [
        "                    goal  measured            rounds  reached",
        "share            >= 1.00      1.25      1.25 to 1.25      yes",
        "a longer name  <= 2.00 s    3.00 s  3.00 s to 3.00 s       NO",
    ]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- goals: begin -->\nold\n<!-- goals: end -->\nafter\n")
    table.put(page, "goals", table.markdown(table.HEAD, lines))
    assert page.read_text() == (
        "before\n<!-- goals: begin -->\n\n"
        "|  | goal | measured | rounds | reached |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| share | >= 1.00 | 1.25 | 1.25 to 1.25 | yes |\n"
        "| a longer name | <= 2.00 s | 3.00 s | 3.00 s to 3.00 s | NO |\n\n"
        "<!-- goals: end -->\nafter\n"
    )


def test_a_table_goes_only_where_its_marks_are(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks\n")
    with pytest.raises(ValueError, match="goals: begin"):
        table.put(page, "goals", "a table")
    assert page.read_text() == "no marks\n"


def test_the_page_has_the_marks_of_every_table() -> None:
    page = (stack.ROOT / "docs" / "performance.md").read_text()
    for name in ("goals", "growth, postgresql", "growth, sqlite"):
        assert page.count(f"<!-- {name}: begin -->") == page.count(f"<!-- {name}: end -->") == 1


def test_growth_is_relative_to_the_first_size_of_the_same_round() -> None:
    def rounds(*rates: float) -> list[Round]:
        return [Round(rate, 1, 2, 0.5) for rate in rates]

    found = {"0": rounds(1000, 500, 1000), "1000000": rounds(900, 450, 100)}
    assert [line[2:5] for line in cells_of(Line("past leases", "hot", ()), found)] == [
        ["0", "1000", "1.00"],
        ["1,000,000", "450", "0.90"],
    ]


def test_answers_that_are_not_right_are_counted() -> None:
    output = WRK.format(blank=" ", more="  Socket errors: connect 0, read 3, write 0, timeout 1\n")
    both = load.read(output, Workload("borrow", ("tool",), expected=(200, 409)))
    assert (both.rate, both.p50, both.p99, both.requests, both.wrong) == (1357.21, 11.2, 1250, 6789, {"no answer": 4})
    assert load.read(WRK.format(blank=" ", more=""), Workload("borrow", ("tool",))).wrong == {"409": 89}


def test_every_goal_has_a_measurement() -> None:
    assert set(GOALS) == {
        *("hot-16", "hot-64", "many-16", "many-64", "refused", "heartbeat", "status", "sqlite", "cpu"),
        *("past", "secured", "metrics", "memory", "start"),
    }


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Provide a database with the tools of the benchmarks."""
    with migrated_database(tmp_path_factory.mktemp("benchmarks")) as variables:
        (url,) = variables.values()
        stack.prepare(url)
        yield url


def test_rows_that_are_filled_in_agree_and_a_wrong_counter_is_found(database: str) -> None:
    hot = stack.TOOLS[0]
    with rows.connected(database) as sql:
        rows.tools(sql, [*stack.TOOLS, "bench51"], 7)
        rows.past(sql, 500, stack.TOOLS)
        rows.open_leases(sql, 100, [hot])
        rows.teams(sql, 3, 5, [hot], quota=10)
        tickets = rows.waiters(sql, 20, hot, stack.EXHAUSTED)
        assert len(tickets) == 20
        assert sql("SELECT count(*) FROM licenses_lease WHERE ended_at > borrowed_at AND expires_at > ended_at") == [
            (500,)
        ]
        assert sql('SELECT count(DISTINCT "user") FROM licenses_lease WHERE ended_at IS NOT NULL') == [(400,)]
        assert sql(f"SELECT in_use, waiting FROM licenses_tool WHERE name = '{hot}'") == [(100, 20)]
        assert sql("SELECT name, capacity FROM licenses_tool WHERE name IN ('bench50', 'bench51') ORDER BY name") == [
            ("bench50", stack.CAPACITY),
            ("bench51", 7),
        ]
        assert sql(
            'SELECT member."user" FROM licenses_teammember member JOIN licenses_team team ON team.id = team_id '
            "WHERE team.name = 'bench_team1' ORDER BY 1"
        ) == [("bench2",), ("bench5",)]
        assert rows.disagreements(database) == []
        sql(f"UPDATE licenses_tool SET in_use = in_use + 1 WHERE name = '{hot}'")
        assert rows.disagreements(database) == [f"{hot}: in_use 101, rows 100"]
        rows.count(sql)
        sql("UPDATE licenses_tool SET capacity = 3 WHERE name = 'bench51'")
        rows.open_leases(sql, 4, ["bench51"])
        assert rows.disagreements(database) == ["bench51: oversold"]
        sql("UPDATE licenses_tool SET capacity = 4 WHERE name = 'bench51'")
        sql("UPDATE licenses_lease SET team_id = (SELECT max(id) FROM licenses_team) WHERE ended_at IS NULL")
        assert [line.partition(",")[0].rpartition(":")[2] for line in rows.disagreements(database)] == [" in_use 0"]


def test_a_reset_forgets_the_load_and_keeps_the_site(database: str) -> None:
    with rows.connected(database) as sql:
        ((kept,),) = sql("SELECT count(*) FROM licenses_lease")
        rows.open_leases(sql, 3, [stack.TOOLS[1]])
        sql(
            "UPDATE licenses_lease SET \"user\" = 'bench' "
            "WHERE tool_id = (SELECT id FROM licenses_tool WHERE name = 'bench2')"
        )
        rows.reset(database)
        assert sql("SELECT count(*) FROM licenses_lease WHERE \"user\" LIKE 'bench%'") == [(0,)]
        ((left,),) = sql("SELECT count(*) FROM licenses_lease")
        assert 0 < left <= kept
        assert sql("SELECT in_use FROM licenses_tool WHERE name = 'bench2'") == [(0,)]


def test_the_stand_in_never_lends_more_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "demo.db"
    with closing(sqlite3.connect(path)) as file:
        demo.prepare(file, "tool", 1)
    monkeypatch.setenv("LICENSE_DB_PATH", str(path))
    granted = _ask("POST", "/licenses/borrow", {"tool": "tool", "user": "ana"})
    assert granted[0] == "200 OK"
    assert _ask("POST", "/licenses/borrow", {"tool": "tool", "user": "ben"})[0] == "409 Conflict"
    assert _ask("GET", "/licenses/tool/status") == (
        "200 OK",
        {"tool": "tool", "total": 1, "borrowed": 1, "available": 0},
    )
    assert _ask("POST", "/licenses/return", {"id": granted[1]["id"]})[0] == "200 OK"
    assert _ask("POST", "/licenses/borrow", {"tool": "tool", "user": "ben"})[0] == "200 OK"


def _ask(method: str, path: str, body: object = None) -> tuple[str, dict[str, Any]]:
    text = json.dumps(body).encode()
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "CONTENT_LENGTH": str(len(text)),
        "wsgi.input": io.BytesIO(text),
    }
    statuses: list[str] = []
    answer = demo.application(environ, lambda status, headers: statuses.append(status))
    return statuses[0], json.loads(b"".join(answer))
