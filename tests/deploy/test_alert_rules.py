"""The alert rules: that they fire when they should is told by promtool, whose
tests are in ``monitoring/prometheus/tests``; here is what promtool can't know."""

import itertools
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from math import prod
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands
from django.urls import resolve
from django.utils import timezone

from licenses.metrics import BORROW_FAILURE_REASONS, SERVER_FAILURES, VIEWS_WITH_AN_OBJECTIVE, DatabaseMetrics
from licenses.models import EndReason, Tool
from licenses.policy import State
from tests.support.api import Api
from tests.support.monitoring import RULES, metrics_in, program, read_yaml, recorded, rules
from tests.support.paths import ROOT

PROMETHEUS = ROOT / "monitoring" / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks"
RULE_TESTS = {path: read_yaml(path)["tests"] for path in sorted((PROMETHEUS / "tests").glob("*.yml"))}
ALERTS = [rule for rule in rules() if "alert" in rule]
RECORDINGS = [rule for rule in rules() if "record" in rule]
ALERT_NAMES = {rule["alert"] for rule in ALERTS}

# These come from the database at each scrape, so every replica reports the same.
SAME_ON_EVERY_REPLICA = {
    f"{family.name}_total" if family.type == "counter" else family.name
    for family in DatabaseMetrics([], [], timezone.now(), "").collect()
}


# Series of Prometheus and Alertmanager, which belong to no installation.
WATCHING = {
    rule["alert"] for group in read_yaml(PROMETHEUS / "rules/watching.yml")["groups"] for rule in group["rules"]
}
ALERTMANAGER_S_OWN = {"alertmanager_notifications_failed_total"}


def name_of(rule: dict[str, Any]) -> str:
    labels = "-".join(str(rule.get("labels", {}).get(key, "")) for key in ("days", "long", "slo")).strip("-")
    return "-".join(filter(None, [rule.get("alert") or rule["record"], labels]))


each_alert = pytest.mark.parametrize("alert", ALERTS, ids=name_of)
each_rule = pytest.mark.parametrize("rule", [*RECORDINGS, *ALERTS], ids=name_of)


def page_and_anchor(alert: dict[str, Any]) -> tuple[str, str]:
    page, _, anchor = alert["annotations"]["runbook_url"].rpartition("/")[2].partition("#")
    return page, anchor


# --- What promtool says -----------------------------------------------------


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_the_rules_pass_their_own_tests(path: Path) -> None:
    done = subprocess.run([program("promtool"), "test", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_its_configuration_with_all_rules() -> None:
    done = subprocess.run(
        [program("promtool"), "check", "config", PROMETHEUS / "prometheus.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for path in RULES:
        assert str(path) in done.stdout


@each_alert
def test_every_alert_is_tested_to_fire_and_not_to_fire(alert: dict[str, Any]) -> None:
    silent, firing = False, False
    for test in itertools.chain.from_iterable(RULE_TESTS.values()):
        for case in test.get("alert_rule_test", ()):
            if case["alertname"] == alert["alert"]:
                silent |= not case["exp_alerts"]
                firing |= any(
                    expected["exp_labels"].items() >= alert["labels"].items() for expected in case["exp_alerts"]
                )
        for case in test.get("promql_expr_test", ()):
            if f'alertname="{alert["alert"]}"' in case["expr"]:
                labels = {"days", "long", "severity"} & alert["labels"].keys()
                firing |= any(
                    all(f'{label}="{alert["labels"][label]}"' in sample["labels"] for label in labels)
                    for sample in case["exp_samples"]
                )
    assert silent or alert["alert"] == "Watchdog"
    assert firing


# --- Several installations ----------------------------------------------------


@each_rule
def test_no_rule_mixes_the_installations_that_one_prometheus_watches(rule: dict[str, Any]) -> None:
    if rule.get("alert") in WATCHING:
        return
    # The absence of all installations is checked over all.
    expression = re.sub(r'absent\(.*\) unless on \(\) max\(up\{job="licenseserver"\}\)', "", rule["expr"])
    assert not re.findall(r"(?<!:)\b(?:sum|max|min|avg|count|group)\b(?! by \(installation\b)", expression)
    for labels in re.findall(r"\bon \(([^)]*)\)", expression):
        # The objectives are the same for all.
        assert labels.startswith("installation") or labels == "slo", expression


@each_alert
def test_every_alert_is_tried_with_a_second_installation_that_is_well(alert: dict[str, Any]) -> None:
    if alert["alert"] in WATCHING:
        return
    wanted = {"alertname": alert["alert"], "installation": "production"}
    wanted |= {name: alert["labels"][name] for name in ("days", "long") if name in alert["labels"]}
    tried: list[dict[str, str]] = []
    for test in RULE_TESTS[PROMETHEUS / "tests/installations.yml"]:
        installations = {
            name for series in test["input_series"] for name in re.findall(r'installation="(\w+)"', series["series"])
        }
        assert installations == {"production", "staging"}, test["name"]
        for case in test.get("promql_expr_test", ()):
            tried += [dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"])) for sample in case["exp_samples"]]
        for case in test.get("alert_rule_test", ()):
            tried += [{"alertname": case["alertname"]} | found["exp_labels"] for found in case["exp_alerts"]]
    assert all(found["installation"] == "production" for found in tried)
    assert any(wanted.items() <= found.items() for found in tried)


@each_alert
def test_every_alert_names_its_installation(alert: dict[str, Any]) -> None:
    assert alert["alert"] in WATCHING or "$labels.installation" in alert["annotations"]["summary"]


def test_compose_and_inhibitions_know_the_installation(alertmanager: dict[str, Any]) -> None:
    jobs = {job["job_name"]: job for job in read_yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"]}
    (config,) = jobs["licenseserver"]["static_configs"]
    assert config["labels"]["installation"]
    assert "installation" in alertmanager["route"]["group_by"]
    assert all("installation" in rule["equal"] for rule in alertmanager["inhibit_rules"])


# --- What an alert says -----------------------------------------------------


@each_alert
def test_every_alert_says_what_it_is_and_how_urgent(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ({"none"} if alert["alert"] == "Watchdog" else {"page", "ticket"})
    # A shared Alertmanager identifies our alerts by this label.
    assert alert["labels"]["service"] == "licenseserver"
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}


SHARES = {"quarter": 0.25, "half": 0.5}
SECONDS = {"%": 0.01, "second": 1, "minute": 60, "hour": 3600, "day": 86400}


@each_alert
def test_the_text_of_an_alert_names_no_threshold(alert: dict[str, Any]) -> None:
    """The values of the chart change thresholds, and an administrator can edit the rules."""
    text = re.sub(r"\{\{.*?\}\}", "", " ".join(alert["annotations"][name] for name in ("summary", "description")))
    named = {float(number) * SECONDS[unit] for number, unit in re.findall(r"([\d.]+) (%|second|minute|hour|day)", text)}
    named |= {share for word, share in SHARES.items() if word in text}
    compared = re.findall(r"[<>=]=? *(-?[\d.]+(?: \* [\d.]+)*)", re.sub(r'"[^"]*"', "", alert["expr"]))
    assert named.isdisjoint(prod(map(float, number.split(" * "))) for number in compared)


@each_alert
def test_every_alert_has_a_runbook(alert: dict[str, Any]) -> None:
    page, anchor = page_and_anchor(alert)
    assert anchor == alert["alert"].lower(), "a heading's address on GitHub, GitLab, Gitea and others"
    assert f"\n## {alert['alert']}\n" in (RUNBOOKS / page).read_text()


def test_the_address_of_the_runbooks_is_in_one_place() -> None:
    (place,) = [rule for rule in RECORDINGS if rule["record"] == "licenseserver:runbooks:info"]
    assert re.fullmatch(r"https://\S+[^/]", place["labels"]["url"])
    for alert in ALERTS:
        page, anchor = page_and_anchor(alert)
        assert alert["annotations"]["runbook_url"] == (
            f'{{{{ range query "licenseserver:runbooks:info" }}}}{{{{ .Labels.url }}}}{{{{ end }}}}/{page}#{anchor}'
        )
    assert sum(path.read_text().count("https://git.") for path in RULES) == 1


# --- What a rule asks -------------------------------------------------------


@each_rule
def test_every_metric_asked_for_is_exported_or_recorded(rule: dict[str, Any], exported: set[str]) -> None:
    asked = metrics_in(rule["expr"])
    assert asked or rule["expr"].startswith("vector(")
    assert asked <= exported | recorded() | ALERTMANAGER_S_OWN


@pytest.mark.parametrize("rule", RECORDINGS, ids=name_of)
def test_a_recorded_name_says_level_metric_and_operation(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"[a-z_]+:[a-z_]+:[a-z0-9_]+", rule["record"])


@each_rule
def test_several_replicas_count_nothing_twice_and_forget_nothing(rule: dict[str, Any], exported: set[str]) -> None:
    for metric in metrics_in(rule["expr"]) - recorded() - {"up"} - ALERTMANAGER_S_OWN:
        assert metric in exported
        wanted = r"(max|min|absent)" if metric in SAME_ON_EVERY_REPLICA else r"sum"
        aggregated = rf"\b{wanted}(?: by \([^)]*\))? ?\((?:(?:rate|increase|present_over_time)\()?{metric}\b"
        assert len(re.findall(aggregated, rule["expr"])) == len(re.findall(rf"\b{metric}\b", rule["expr"])), metric


@each_rule
def test_every_reason_asked_for_is_one_that_there_is(rule: dict[str, Any]) -> None:
    for metric, reasons in re.findall(r'(\w+)\{reason=~?"([^"]*)"', rule["expr"]):
        known = BORROW_FAILURE_REASONS if "failure" in metric else EndReason.values
        assert set(reasons.split("|")) <= set(known)


@each_rule
def test_every_state_asked_for_is_one_that_there_is(rule: dict[str, Any]) -> None:
    for states in re.findall(r'license_state\{[^}]*state=~?"([^"]*)"', rule["expr"]):
        assert set(states.split("|")) <= {*State}


# --- The objectives ---------------------------------------------------------


def slo_group() -> dict[str, Any]:
    ((group),) = read_yaml(PROMETHEUS / "rules" / "slo.yml")["groups"]
    found: dict[str, Any] = group
    return found


def test_availability_is_about_the_calls_whose_failures_begin_at_zero() -> None:
    asked = [rule["expr"] for rule in slo_group()["rules"] if "django_http_responses" in rule["expr"]]
    assert len(asked) == 2
    for expression in asked:
        assert f'view=~"{"|".join(VIEWS_WITH_AN_OBJECTIVE)}"' in expression
    assert sum('status=~"5.."' in expression for expression in asked) == 1
    assert all(re.fullmatch("5..", status) for status in SERVER_FAILURES)


def test_latency_is_bounded_by_a_bucket_that_there_is(api: Api, make_tool: Callable[..., Tool]) -> None:
    make_tool("bounded")
    page = api.client.get("/metrics").content.decode()
    bounds = set(re.findall(r'license_borrow_duration_seconds_bucket\{le="([^"]*)",tool="bounded"\}', page))
    asked = {bound for rule in slo_group()["rules"] for bound in re.findall(r'le="([^"]*)"', rule["expr"])}
    assert asked == {"0.25"}
    assert asked <= bounds


def test_requests_are_counted_by_the_interval_of_the_group() -> None:
    seconds = re.fullmatch(r"(\d+)s", slo_group()["interval"])
    assert seconds
    counted = [rule for rule in slo_group()["rules"] if rule.get("record", "").startswith("slo:requests:increase")]
    assert len(counted) == 4
    for rule in counted:
        window = rule["record"].removeprefix("slo:requests:increase")
        assert rule["expr"] == f"sum_over_time(slo:requests:rate5m[{window}]) * {seconds[1]}"


UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def span(text: str) -> timedelta:
    return timedelta(**{UNITS[text[-1]]: int(text[:-1])})


BURNS = [alert for alert in ALERTS if alert["alert"] == "LicenseServerErrorBudgetBurn"]


def test_there_are_the_four_pairs_of_windows_of_the_workbook() -> None:
    assert [(burn["labels"]["long"], burn["labels"]["short"]) for burn in BURNS] == [
        ("1h", "5m"),
        ("6h", "30m"),
        ("1d", "2h"),
        ("3d", "6h"),
    ]


@pytest.mark.parametrize("alert", BURNS, ids=name_of)
def test_a_burn_alert_has_the_factor_and_urgency_of_the_workbook(alert: dict[str, Any]) -> None:
    long, short = alert["labels"]["long"], alert["labels"]["short"]
    budget, severity = {"1h": (0.02, "page"), "6h": (0.05, "page")}.get(long, (0.1, "ticket"))
    factor = budget * timedelta(days=30) / span(long)
    asked = dict(re.findall(r"slo:error_budget_burn:rate(\w+) > ([\d.]+)", alert["expr"]))
    assert {window: float(number) for window, number in asked.items()} == pytest.approx({long: factor, short: factor})
    assert alert["labels"]["severity"] == severity
    # Enough requests that a single failure stays below the threshold.
    (least,) = re.findall(rf"slo:requests:increase{long} > (\d+)", alert["expr"])
    assert 1 / int(least) <= factor * (1 - 0.999) * (1 + 1e-9)


# --- Where the files are ----------------------------------------------------


def test_compose_mounts_the_very_rules() -> None:
    services = read_yaml("docker-compose.yml")["services"]
    mounts = dict(mount.split(":")[:2] for mount in services["prometheus"]["volumes"])
    folder = mounts["./monitoring/prometheus"]
    config = read_yaml(PROMETHEUS / "prometheus.yml")
    assert f"--config.file={folder}/prometheus.yml" in services["prometheus"]["command"]
    assert sorted(path for pattern in config["rule_files"] for path in PROMETHEUS.glob(pattern)) == RULES
    assert RULES


def test_prometheus_finds_alertmanager_where_compose_puts_it() -> None:
    services = read_yaml("docker-compose.yml")["services"]
    (manager,) = read_yaml(PROMETHEUS / "prometheus.yml")["alerting"]["alertmanagers"]
    ((target,),) = [config["targets"] for config in manager["static_configs"]]
    host, port = target.split(":")
    assert any(published.endswith(f":{port}") for published in services[host]["ports"])


def test_history_is_kept_for_the_length_of_the_objectives() -> None:
    command = read_yaml("docker-compose.yml")["services"]["prometheus"]["command"]
    (days,) = re.findall(r"--storage\.tsdb\.retention\.time=(\d+)d", " ".join(command))
    assert int(days) > 30


# --- Who is told ------------------------------------------------------------


@pytest.fixture
def alertmanager() -> dict[str, Any]:
    config: dict[str, Any] = read_yaml("monitoring/alertmanager/alertmanager.yml")
    return config


def test_alertmanager_takes_its_configuration_and_sorts_by_severity() -> None:
    config = ROOT / "monitoring/alertmanager/alertmanager.yml"
    amtool = program("amtool")
    receivers = {
        "severity=page": "pages",
        "severity=ticket": "tickets",
        "other=thing": "tickets",
        "alertname=Watchdog": "watchdog",
    }
    for labels, receiver in receivers.items():
        command = [amtool, "config", "routes", "test", f"--config.file={config}", "--verify.receivers", receiver]
        done = subprocess.run([*command, "service=licenseserver", labels], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_is_sent_before_a_receiver_is_configured(alertmanager: dict[str, Any]) -> None:
    assert all(set(receiver) == {"name"} for receiver in alertmanager["receivers"])


def test_inhibition_rules_name_existing_alerts(alertmanager: dict[str, Any]) -> None:
    for rule in alertmanager["inhibit_rules"]:
        assert "service" in rule["equal"]
        for matcher in [*rule["source_matchers"], *rule["target_matchers"]]:
            if matcher.startswith("alertname"):
                names = re.findall(r'"(.*)"', matcher)[0].split("|")
                assert set(names) <= ALERT_NAMES


# --- The runbooks -----------------------------------------------------------

PAGES = sorted(RUNBOOKS.glob("*.md"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page: Path, language: str) -> Iterator[str]:
    """Yield the code of a language on a page, line by line."""
    for block in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        yield from block.splitlines()


def test_every_runbook_belongs_to_an_alert_and_has_all_sections() -> None:
    for page in PAGES:
        for heading, text in re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", page.read_text(), re.DOTALL | re.MULTILINE):
            assert heading in ALERT_NAMES
            assert "**People notice" in text, heading
            assert re.search(r"\*\*Look:?\*\*", text), heading
            assert re.search(r"\*\*[Dd]o:?\*\*", text), heading
            assert "**It ends**" in text, heading


@each_page
def test_a_runbook_asks_for_metrics_that_there_are(page: Path, exported: set[str]) -> None:
    for expression in blocks(page, "promql"):
        assert metrics_in(expression) <= exported | recorded() | ALERTMANAGER_S_OWN, expression


@each_page
def test_a_runbook_names_addresses_and_commands_that_there_are(page: Path) -> None:
    text = page.read_text()
    for address in re.findall(r"[`0](/(?:admin|api|licenses)/[^\s`?]*)", text):
        # The last address of the admin matches all others and has no name.
        assert resolve(address).url_name, address
    for command in re.findall(r"manage\.py (\w+)", text):
        assert command in get_commands()
    services = read_yaml("docker-compose.yml")["services"]
    for line in blocks(page, "console"):
        for words in re.findall(
            r"docker compose (?:exec(?: -T)?|logs(?: --tail \d+| --since \w+)?|ps) ([a-z]+(?: [a-z]+$)?)", line
        ):
            assert words.split()[0] in services, line


@each_page
def test_a_runbook_s_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
        found = (page.parent / target) if target else page
        assert found.is_file(), target
        headings = [heading.lower() for heading in re.findall(r"^#+ (.*)", found.read_text(), re.MULTILINE)]
        assert not anchor or anchor in headings, anchor
