"""The dashboards as files: they fit Grafana's provisioning, the server's metrics
and the rules. What their queries answer is in test_dashboards_end_to_end.py."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.urls import reverse

from licenses.metrics import BORROW_FAILURE_REASONS, DatabaseMetrics
from licenses.models import Tool
from tests.support.api import Api
from tests.support.monitoring import DASHBOARDS, metrics_in, panels, read_dashboard, read_yaml, recorded, rules

# Of any target that Prometheus scrapes.
PROMETHEUS_S_OWN = {"ALERTS", "up", "scrape_duration_seconds", "scrape_samples_scraped"}

# The choices of each variable.
TOOLS = r"licenses?_\w+|tool\w*:[\w:]+|ALERTS"
TEAMS = r"license_team_\w+|tool_team:[\w:]+"
OBJECTIVES = r"slo:[\w:]+"
REPLICAS = r"(?:django|licenseserver|scrape)_\w+|up"


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield target["expr"]


def variables(dashboard: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def selectors(expression: str, metrics: str) -> list[tuple[str, str]]:
    """Return the names of these metrics in an expression, each with its selector."""
    return re.findall(rf"(?<![\w:$\"])({metrics})(?![\w:(])(?:\{{([^}}]*)\}})?", labels_left_out(expression))


def labels_left_out(expression: str) -> str:
    return re.sub(r"\b(by|on|group_left) \([^)]*\)", r"\1", expression)


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read_dashboard(request.param)


def committed(name: str) -> dict[str, Any]:
    (path,) = [path for path in DASHBOARDS if path.stem == name]
    return read_dashboard(path)


def panel(dashboard: str, title: str) -> dict[str, Any]:
    (found,) = [panel for panel in panels(committed(dashboard)) if panel["title"] == title]
    return found


# --- What Grafana needs -----------------------------------------------------


def test_there_is_one_for_each_question() -> None:
    assert [path.stem for path in DASHBOARDS] == ["overview", "service", "slo", "tool"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_has_a_uid_that_links_can_rely_on(path: Path) -> None:
    assert read_dashboard(path)["uid"] == f"licenseserver-{path.stem}"


def test_a_dashboard_has_no_number_of_another_grafana(dashboard: dict[str, Any]) -> None:
    assert dashboard["id"] is None
    assert "__inputs" not in dashboard
    assert "${DS_" not in json.dumps(dashboard)


def test_a_dashboard_says_what_it_is_for_and_from_when_on(dashboard: dict[str, Any]) -> None:
    assert dashboard["description"]
    assert re.fullmatch(r"now-\d+h", dashboard["time"]["from"])
    assert dashboard["refresh"] in {"10s", "30s", "1m"}


def test_each_leads_to_the_others(dashboard: dict[str, Any]) -> None:
    (link,) = dashboard["links"]
    assert link["type"] == "dashboards"
    # With the selected tools and time.
    assert link["includeVars"]
    assert link["keepTime"]
    for other in DASHBOARDS:
        assert set(link["tags"]) <= set(read_dashboard(other)["tags"])


def test_a_click_leads_to_a_dashboard_that_is_there(dashboard: dict[str, Any]) -> None:
    uids = {read_dashboard(path)["uid"] for path in DASHBOARDS}
    for panel in panels(dashboard):
        for link in panel["fieldConfig"]["defaults"].get("links", []):
            found = re.match(r"/d/([\w-]+)\?var-tool=", link["url"])
            assert found, panel["title"]
            assert found[1] in uids, panel["title"]


def test_every_panel_says_what_it_shows_and_in_which_unit(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        assert panel["title"], panel["id"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_every_panel_asks_something(dashboard: dict[str, Any]) -> None:
    assert panels(dashboard)
    for panel in panels(dashboard):
        assert panel["targets"], panel["title"]
        assert all(target["expr"].strip() for target in panel["targets"]), panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), panel["title"]


def test_everything_asks_the_provisioned_datasource(dashboard: dict[str, Any]) -> None:
    (source,) = read_yaml("monitoring/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    expected = {"type": source["type"], "uid": source["uid"]}
    for panel in panels(dashboard):
        for asker in [panel, *panel["targets"]]:
            assert asker["datasource"] == expected, panel["title"]
    for variable in variables(dashboard).values():
        assert variable["datasource"] == expected, variable["name"]


def test_a_panel_covers_no_other(dashboard: dict[str, Any]) -> None:
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    for one, other in itertools.combinations(dashboard["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, f"{one['title']} and {other['title']}"
        assert a["x"] + a["w"] <= 24, one["title"]


def test_what_may_rightly_be_empty_says_so_in_words(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        if any("> 0" in target["expr"] for target in panel["targets"]):
            assert panel["fieldConfig"]["defaults"].get("noValue"), panel["title"]


# --- What is asked for ------------------------------------------------------


def test_every_metric_asked_for_is_exported_or_recorded(dashboard: dict[str, Any], exported: set[str]) -> None:
    known = exported | recorded() | PROMETHEUS_S_OWN
    for expression in expressions(dashboard):
        assert metrics_in(expression), expression
        assert metrics_in(expression) <= known, expression
    for variable in variables(dashboard).values():
        metric = re.fullmatch(
            r"label_values\(([\w:]+), (\w+)\)", variable["query"]["query"].replace('{installation="$installation"}', "")
        )
        assert metric, variable["name"]
        assert metric[1] in known
        assert metric[2] == variable["name"]


def test_every_metric_of_the_server_is_in_a_panel_or_a_rule(exported: set[str]) -> None:
    asked = [expression for path in DASHBOARDS for expression in expressions(read_dashboard(path))]
    used = set().union(*map(metrics_in, asked), *(metrics_in(rule["expr"]) for rule in rules()))
    # The client library of Prometheus adds when a counter was created.
    own = {name for name in exported if name.startswith("license") and not name.endswith("_created")}
    assert {"licenses_total", "licenseserver_notifications_failed"} <= own
    # A histogram has three series; one of them says enough.
    series = re.compile(r"_(bucket|sum|count)$")
    assert {series.sub("", name) for name in own} - {series.sub("", name) for name in used} == set()


def test_a_dashboard_is_of_one_installation(dashboard: dict[str, Any]) -> None:
    first, *others = variables(dashboard).values()
    assert (first["name"], first["definition"]) == (
        "installation",
        "label_values(licenseserver_build_info, installation)",
    )
    for variable in others:
        # The objectives are the same for all.
        assert '{installation="$installation"}' in variable["query"]["query"] or variable["name"] == "slo"
        assert variable["query"]["query"] == variable["definition"]
    for expression in expressions(dashboard):
        for metric in metrics_in(expression) - {"slo:objective:ratio"}:
            # An alert may be about none.
            wanted = 'installation=~"$installation|"' if metric == "ALERTS" else 'installation="$installation"'
            asked = re.findall(rf"(?<![\w:]){metric}(?![\w:])(\{{[^}}]*\}})?", labels_left_out(expression))
            assert asked, metric
            assert all(wanted in chosen for chosen in asked), f"{metric} in {expression}"


def test_a_link_to_another_dashboard_keeps_the_installation(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        for link in panel["fieldConfig"]["defaults"].get("links", []):
            assert "${installation:queryparam}" in link["url"], panel["title"]


def test_one_chooses_any_number_of_everything_but_for_one_tool_in_depth(dashboard: dict[str, Any]) -> None:
    for name, variable in variables(dashboard).items():
        several = name != "installation" and (dashboard["uid"], name) != ("licenseserver-tool", "tool")
        assert (variable["multi"], variable["includeAll"]) == (several, several), name
        if several:
            assert variable["allValue"] == ".*", name


@pytest.mark.parametrize(("name", "metrics"), [("tool", TOOLS), ("team", TEAMS)])
def test_seats_are_of_the_tools_and_teams_that_are_chosen(dashboard: dict[str, Any], name: str, metrics: str) -> None:
    for expression in expressions(dashboard):
        for metric, chosen in selectors(expression, metrics):
            multi = variables(dashboard)[name]["multi"]
            # An alert about the server has no tool, so it is always shown.
            wanted = f'{name}=~"${name}{"|" * (metric == "ALERTS")}"' if multi else f'{name}="${name}"'
            assert wanted in chosen, f"{metric} in {expression}"


@pytest.mark.parametrize(("name", "metrics"), [("slo", OBJECTIVES), ("instance", REPLICAS)])
def test_where_objectives_or_replicas_can_be_chosen_all_is_of_those(name: str, metrics: str) -> None:
    choosing = [dashboard for path in DASHBOARDS if name in variables(dashboard := read_dashboard(path))]
    assert choosing
    for dashboard in choosing:
        for expression in expressions(dashboard):
            for metric, chosen in selectors(expression, metrics):
                assert f'{name}=~"${name}"' in chosen, f"{metric} in {expression}"


def test_every_variable_used_is_defined(dashboard: dict[str, Any]) -> None:
    for expression in expressions(dashboard):
        used = set(re.findall(r"\$\{?([a-z_]+)", expression))
        assert used <= set(variables(dashboard)) | {"__rate_interval", "__range"}, expression
    for row in dashboard["panels"]:
        assert row.get("repeat", "tool") in variables(dashboard) or "repeat" not in row


def test_every_value_asked_for_is_one_that_there_is(
    dashboard: dict[str, Any], api: Api, make_tool: Callable[..., Tool]
) -> None:
    make_tool("bounded")
    page = api.client.get("/metrics").content.decode()
    there = {
        "le": set(re.findall(r'license_borrow_duration_seconds_bucket\{le="([^"]*)",tool="bounded"\}', page)),
        "reason": set(BORROW_FAILURE_REASONS),
        "status": {"4..", "5.."},
        "method": {"POST"},
        "job": {job["job_name"] for job in read_yaml("monitoring/prometheus/prometheus.yml")["scrape_configs"]},
        "service": {rule["labels"]["service"] for rule in rules() if "alert" in rule},
    }
    for expression in expressions(dashboard):
        for matchers in re.findall(r"\{([^}]*)\}", expression):
            for label, values in re.findall(r'(\w+)=~?"([^"$]*)"', matchers):
                if label == "view":
                    assert all(reverse(view) for view in values.split("|"))
                else:
                    assert set(values.split("|")) <= there[label], expression


def test_a_rate_spans_enough_scrapes_at_every_zoom(dashboard: dict[str, Any]) -> None:
    for expression in expressions(dashboard):
        for kind, window in re.findall(r"\b(rate|increase)\([^\[]*\[([^\]]*)\]", expression):
            assert window == "$__rate_interval" or (kind, window) == ("increase", "$__range"), expression


def test_several_replicas_count_no_seat_twice(dashboard: dict[str, Any]) -> None:
    """What is read from the database is the same on each of them; what they
    count themselves is not."""
    families = list(DatabaseMetrics([], [], None, "").collect())
    levels = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    assert {"licenses_borrowed", "license_team_quota", "license_returns_total"} <= levels
    for expression in expressions(dashboard):
        for metric, _ in selectors(expression, r"(?:django|licenses?)_\w+"):
            how = r"(max|min)" if metric in levels else "sum"
            aggregated = re.findall(rf"\b{how}(?: by \([^)]*\) | ?)\((?:(?:rate|increase)\()?{metric}\b", expression)
            assert len(aggregated) == len(re.findall(rf"\b{metric}\b", expression)), f"{metric} in {expression}"


def test_a_percentile_keeps_the_buckets_apart(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            for metric, chosen in selectors(target["expr"], r"\w+_bucket"):
                if panel["type"] == "heatmap":
                    assert target["expr"].startswith("sum by (le) (increase("), metric
                    assert (target["format"], target["legendFormat"]) == ("heatmap", "{{le}}")
                elif 'le="' not in chosen:
                    assert re.search(r"histogram_quantile\([\d.]+, sum by \([^)]*\ble\b", target["expr"]), metric


# --- Lines where the alerts are ---------------------------------------------


@pytest.mark.parametrize(
    ("dashboard", "title", "alert"),
    [
        ("overview", "Utilization by tool", "ToolNearExhaustion"),
        ("overview", "Utilization now", "ToolNearExhaustion"),
        ("overview", "Longest wait", "QueueWaitTooLong"),
        ("tool", "Longest wait", "QueueWaitTooLong"),
        ("service", "Sweeper", "LicenseServerSweeperNotRunning"),
        ("service", "Oldest notification", "LicenseServerNotificationsNotSent"),
    ],
    ids=lambda value: value,
)
def test_a_line_is_where_the_alert_fires(dashboard: str, title: str, alert: str) -> None:
    (expression,) = [rule["expr"] for rule in rules() if rule.get("alert") == alert]
    fires = re.search(r"> ([\d.]+)$", expression, re.MULTILINE)
    assert fires
    found = [panel for panel in panels(committed(dashboard)) if panel["title"] == title]
    assert found
    for shown in found:
        assert shown["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"] == float(fires[1])


def test_a_bar_of_a_burn_rate_is_full_where_the_alert_s_condition_holds() -> None:
    alerts = [rule["expr"] for rule in rules() if rule.get("alert") == "LicenseServerErrorBudgetBurn"]
    pairs = [re.findall(r"slo:error_budget_burn:rate(\w+) > ([\d.]+)", expression) for expression in alerts]
    asked = [
        re.findall(r"burn:rate(\w+)\{.* / ([\d.]+)$", target["expr"])[0]
        for target in panel("slo", "Burn rates against their thresholds")["targets"]
    ]
    assert asked == [bar for pair in pairs for bar in pair]


def test_the_objective_of_latency_is_the_same_everywhere() -> None:
    recorded_with = [rule["expr"] for rule in rules() if rule.get("labels") == {"slo": "latency"}]
    bounds = set(re.findall(r'le="([^"]*)"', " ".join(recorded_with)))
    drawn = {bound for path in DASHBOARDS for bound in re.findall(r'le=\\"([^"\\]*)\\"', path.read_text())}
    assert drawn == bounds
    (line,) = panel("overview", "Time of a borrow")["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]
    assert {str(line["value"])} == bounds
    (objective,) = [float(found) for e in recorded_with for found in re.findall(r"^vector\(([\d.]+)\)$", e)]
    assert panel("slo", "Borrows within 250 ms, by tool")["fieldConfig"]["defaults"]["thresholds"]["steps"][-1] == {
        "color": "transparent",
        "value": objective,
    }
