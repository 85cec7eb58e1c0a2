"""The files of compose, Prometheus and Grafana fit each other and the server.

Nothing is started here; ``scripts/verify_compose`` does that.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.monitoring import DASHBOARDS, read_yaml
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = read_yaml("docker-compose.yml")
    return document


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


# --- Provisioning -----------------------------------------------------------


def test_grafana_finds_prometheus_where_compose_puts_it(services: dict[str, Any]) -> None:
    (source,) = read_yaml("monitoring/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["isDefault"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services


def test_grafana_s_rate_interval_follows_the_scrape_interval() -> None:
    (source,) = read_yaml("monitoring/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    prometheus = read_yaml("monitoring/prometheus/prometheus.yml")
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]


def test_grafana_looks_for_dashboards_where_compose_mounts_them(services: dict[str, Any]) -> None:
    (provider,) = read_yaml("monitoring/grafana/provisioning/dashboards/licenseserver.yml")["providers"]
    folder = provider["options"]["path"]
    assert f"./monitoring/grafana/dashboards:{folder}:ro" in services["grafana"]["volumes"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(folder)
    assert Path(home).name in {path.name for path in DASHBOARDS}


def test_a_change_made_in_the_browser_can_not_shadow_the_files() -> None:
    (provider,) = read_yaml("monitoring/grafana/provisioning/dashboards/licenseserver.yml")["providers"]
    assert provider["allowUiUpdates"] is False


# --- Prometheus -------------------------------------------------------------


def test_prometheus_scrapes_the_server_under_a_name_that_it_answers_to(services: dict[str, Any]) -> None:
    jobs = {job["job_name"]: job for job in read_yaml("monitoring/prometheus/prometheus.yml")["scrape_configs"]}
    assert set(jobs) == {"licenseserver", "prometheus", "alertmanager"}
    ((target,),) = [config["targets"] for config in jobs["licenseserver"]["static_configs"]]
    host, port = target.split(":")
    assert host in services
    assert port == "8000"
    assert host in services[host]["environment"]["ALLOWED_HOSTS"].split("$")[0].split(",")


def test_prometheus_watches_the_alertmanager_that_it_sends_to() -> None:
    config = read_yaml("monitoring/prometheus/prometheus.yml")
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    (manager,) = config["alerting"]["alertmanagers"]
    assert jobs["alertmanager"]["static_configs"] == manager["static_configs"]


# --- Logs -------------------------------------------------------------------


def test_the_logs_are_collected_only_where_somebody_asks_for_it(services: dict[str, Any]) -> None:
    asked_for = {name for name, service in services.items() if "profiles" in service}
    assert asked_for == {"loki", "alloy"}
    for name, service in services.items():
        assert service.get("profiles", ["logs"]) == ["logs"], name
        assert name in asked_for or not asked_for & set(service.get("depends_on", {})), name


def test_the_logs_go_from_the_collector_by_loki_to_grafana(services: dict[str, Any]) -> None:
    collector = (ROOT / "monitoring" / "alloy" / "config.alloy").read_text()
    loki = read_yaml("monitoring/loki/loki.yml")
    (source,) = read_yaml("monitoring/grafana/provisioning/datasources/loki.yml")["datasources"]
    address = f"http://loki:{loki['server']['http_listen_port']}"
    assert f'url = "{address}/loki/api/v1/push"' in collector
    assert (source["type"], source["url"]) == ("loki", address)
    assert not source.get("isDefault")
    assert "/etc/loki/loki.yml" in services["loki"]["command"][0]
    assert services["alloy"]["command"][-1] == "/etc/alloy/config.alloy"


def test_every_part_of_the_collector_hands_on_to_one_that_is_there() -> None:
    collector = (ROOT / "monitoring" / "alloy" / "config.alloy").read_text()
    there = {f"{kind}.{label}" for kind, label in re.findall(r'^([a-z.]+) "(\w+)" \{', collector, re.MULTILINE)}
    handed = re.findall(r"\b((?:loki|discovery)\.\w+\.\w+)\.(?:receiver|targets|output)\b", collector)
    assert len(handed) == 4
    assert set(handed) <= there
    assert collector.count("{") == collector.count("}")


def test_logs_have_no_label_with_unlimited_values() -> None:
    collector = (ROOT / "monitoring" / "alloy" / "config.alloy").read_text()
    labels = re.findall(r"stage\.labels \{\s*values = \{(.*?)\}", collector)
    assert labels == ['level = ""']


def test_logs_are_kept_as_long_as_samples_and_no_longer(services: dict[str, Any]) -> None:
    loki = read_yaml("monitoring/loki/loki.yml")
    (days,) = [
        re.fullmatch(r"--storage.tsdb.retention.time=(\d+)d", o)
        for o in services["prometheus"]["command"]
        if "time=" in o
    ]
    assert days
    assert loki["limits_config"]["retention_period"] == f"{24 * int(days[1])}h"
    # Without these it deletes nothing.
    assert loki["compactor"]["retention_enabled"]
    assert loki["compactor"]["delete_request_store"] == loki["schema_config"]["configs"][-1]["object_store"]


def test_the_server_s_lines_are_json_in_compose(services: dict[str, Any]) -> None:
    for name in ("api", "sweeper", "migrate"):
        assert services[name]["environment"]["LOG_FORMAT"] == "${LOG_FORMAT:-json}"


# --- Compose ----------------------------------------------------------------


def one_off(service: dict[str, Any]) -> bool:
    return bool(service.get("restart") == "no")


def test_every_service_that_stays_up_tells_its_health(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert one_off(service) or service["healthcheck"]["test"][0] == "CMD", name


def test_every_service_that_stays_up_comes_back_by_itself(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert one_off(service) or service["restart"] == "unless-stopped", name


def test_a_service_starts_after_its_dependencies_are_ready(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            ready = "service_completed_successfully" if one_off(services[needed]) else "service_healthy"
            assert how == {"condition": ready}, f"{name} needs {needed}"


def test_the_server_starts_after_the_migrations(services: dict[str, Any]) -> None:
    assert one_off(services["migrate"])
    assert "migrate" in services["api"]["depends_on"]
    assert "migrate" not in " ".join(services["api"].get("command", []))


def test_data_that_outlives_a_container_is_in_a_named_volume(compose: dict[str, Any]) -> None:
    for name, folder in {
        "postgres": "/var/lib/postgresql/data",
        "prometheus": "/prometheus",
        "alertmanager": "/alertmanager",
        "grafana": "/var/lib/grafana",
        "loki": "/loki",
        "alloy": "/data",
    }.items():
        assert f"{name}:{folder}" in compose["services"][name]["volumes"]
        assert name in compose["volumes"]


def test_every_file_that_is_mounted_is_there_and_read_only(services: dict[str, Any]) -> None:
    mounts = [mount for service in services.values() for mount in service.get("volumes", []) if mount.startswith(".")]
    assert mounts
    for mount in mounts:
        source, _, mode = mount.split(":")
        assert (ROOT / source).exists(), mount
        assert mode == "ro", mount


def test_no_image_changes_under_its_name_from_one_major_version_to_the_next(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if service["image"] != services["api"]["image"]:
            assert re.search(r":v?\d[\w.-]*$", service["image"]), name


def test_no_service_has_privileges(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged"), name


def test_the_demo_passwords_are_not_offered_to_the_network(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert {port.rsplit(":", 1)[1] for port in ports} == {"8080", "9090", "9093", "3000"}
    for port in ports:
        assert port.startswith("${LISTEN_ADDRESS:-127.0.0.1}:"), port
