"""The Helm chart installs the right objects and fits the server.

Helm renders the packed chart with the values of ``deploy/chart/ci``; nothing is
installed. ``make`` installs Helm next to Python.
"""

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import kubernetes_validate
import pytest
import yaml

from benchmarks.ports import free_port
from licenses.management.commands import expire_leases, seed
from licenses.names import TOOL_NAME_PATTERN
from licenseserver import __version__
from tests.support import commands
from tests.support.paths import ROOT
from tests.support.servers import Server, running_server

CHART = ROOT / "deploy" / "chart"
MONITORING = ROOT / "monitoring"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
SETS = {"default": Path(os.devnull)} | {
    path.stem.removesuffix("-values"): path for path in sorted((CHART / "ci").glob("*.yaml"))
}
# The oldest maintained version and the newest.
KUBERNETES = ["1.31", "1.37"]
# Kinds of the Prometheus Operator and the Gateway API, which the schemas of Kubernetes don't know.
OPERATOR_KINDS = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}

Manifest = dict[str, Any]


def run_helm(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    beside = Path(sys.executable).with_name("helm")
    helm = str(beside) if beside.exists() else shutil.which("helm")
    assert helm, "There is no helm; `make .venv/bin/helm` gets it."
    return subprocess.run([helm, *arguments], capture_output=True, text=True, cwd=ROOT)


def helm(*arguments: str | Path) -> str:
    """Run Helm and return its output. It must succeed."""
    done = run_helm(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide the packed chart."""
    folder = tmp_path_factory.mktemp("chart")
    helm("package", CHART, "--destination", folder)
    (packed,) = folder.iterdir()
    return packed


class Loader(yaml.CSafeLoader):
    """Refuse a key that comes twice, as kustomize, Flux and Argo CD do."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{keys}{node.start_mark}"
        return super().construct_mapping(node, deep)


class Release(NamedTuple):
    """The objects of an installation."""

    manifests: list[Manifest]

    def of(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def one(self, kind: str, ending: str = "") -> Manifest:
        """Return the only object of a kind whose name has this end."""
        (found,) = [manifest for manifest in self.of(kind) if manifest["metadata"]["name"].endswith(ending)]
        return found

    def pods(self) -> dict[str, Manifest]:
        """Return the pods or pod templates by component."""
        pods = {}
        for manifest in self.manifests:
            pod = manifest if manifest["kind"] == "Pod" else manifest.get("spec", {}).get("template")
            if pod:
                pods[pod["metadata"]["labels"]["app.kubernetes.io/component"]] = pod
        return pods

    def api(self) -> Manifest:
        """Return the Deployment of the API."""
        (found,) = [
            manifest
            for manifest in self.of("Deployment")
            if manifest["metadata"]["labels"]["app.kubernetes.io/component"] == "api"
        ]
        return found

    def container(self, component: str, name: str = "") -> dict[str, Any]:
        containers: list[dict[str, Any]] = self.pods()[component]["spec"]["containers"]
        return next(container for container in containers if container["name"] == (name or component))


Render = Callable[..., Release]


@pytest.fixture(scope="session")
def render(chart: Path) -> Render:
    """Renders a set of values, and further ones by ``--set``: ``render("default", "api.workers=3")``.

    All tests share what is rendered; none changes it.
    """

    @functools.cache
    def render(values: str = "default", *more: str, kubernetes: str = KUBERNETES[-1]) -> Release:
        text = helm(
            "template",
            "licenses",
            chart,
            *("--namespace", "tools", "--values", SETS[values], "--kube-version", kubernetes),
            *("--api-versions", "monitoring.coreos.com/v1"),
            *(argument for pair in more for argument in ("--set", pair)),
        )
        return Release([manifest for manifest in yaml.load_all(text, Loader=Loader) if manifest])

    return render


@pytest.fixture(params=SETS)
def release(request: pytest.FixtureRequest, render: Render) -> Release:
    return render(request.param)


def containers_of(release: Release) -> Iterator[tuple[str, dict[str, Any]]]:
    for component, pod in release.pods().items():
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            yield f"{container['name']} of {component}", container


def is_hook(manifest: Manifest) -> bool:
    return "helm.sh/hook" in manifest["metadata"].get("annotations", {})


def environment_of(container: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of a container, with references to Secrets."""
    pairs = [(entry["name"], entry.get("value", entry.get("valueFrom"))) for entry in container["env"]]
    assert len(dict(pairs)) == len(pairs), "a variable is there twice"
    return dict(pairs)


# --- What Kubernetes takes ---------------------------------------------------


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("values", SETS)
def test_kubernetes_knows_every_field(render: Render, values: str, kubernetes: str) -> None:
    for manifest in render(values, kubernetes=kubernetes).manifests:
        if manifest["kind"] not in OPERATOR_KINDS:
            kubernetes_validate.validate(manifest, kubernetes, strict=True)


def test_nothing_has_the_name_of_another(release: Release) -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in release.manifests]
    assert len(set(names)) == len(names)


def test_a_long_name_is_cut_where_it_has_to_be(render: Render) -> None:
    release = render("default", f"fullnameOverride={'a' * 80}")
    for kind in ("Service", "Deployment", "Job"):
        assert all(len(manifest["metadata"]["name"]) <= 63 for manifest in release.of(kind)), kind


def test_a_selector_selects_the_pods_of_one_component(release: Release) -> None:
    pods = {component: pod["metadata"]["labels"] for component, pod in release.pods().items()}
    selectors = [
        (manifest, spec.get("matchLabels", spec))
        for manifest in release.manifests
        for spec in [manifest.get("spec", {}).get("selector") or manifest.get("spec", {}).get("podSelector")]
        if spec and manifest["kind"] != "ServiceMonitor"
    ]
    assert selectors
    for manifest, wanted in selectors:
        found = [component for component, labels in pods.items() if wanted.items() <= labels.items()]
        assert len(found) == 1, manifest["metadata"]["name"]


# --- Security ----------------------------------------------------------------


def test_every_pod_may_run_in_a_restricted_namespace(release: Release) -> None:
    """All of what https://kubernetes.io/docs/concepts/security/pod-security-standards
    says for *restricted*, *baseline* included."""
    volumes = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"}
    for component, pod in release.pods().items():
        spec = pod["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), component
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= volumes | {"secret"}, component
        assert set(spec["securityContext"]) <= {
            *("runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy", "seccompProfile")
        }, component
        assert spec["securityContext"]["runAsNonRoot"] is True, component
        assert spec["securityContext"]["runAsUser"] > 0, component
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, component
    for name, container in containers_of(release):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            # More than the standard requires.
            "readOnlyRootFilesystem": True,
        }, name
        assert all("hostPort" not in port for port in container.get("ports", [])), name


def test_the_platform_may_choose_the_user(render: Render) -> None:
    for component, pod in render("default", "runAsUser=null").pods().items():
        assert pod["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }, component


def test_no_pod_can_talk_to_kubernetes(release: Release) -> None:
    for component, pod in release.pods().items():
        assert pod["spec"]["automountServiceAccountToken"] is False, component
    for account in release.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    assert not {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"} & {m["kind"] for m in release.manifests}


def test_a_secret_is_a_reference_and_never_a_value(release: Release) -> None:
    assert not release.of("Secret")
    secret = re.compile(r"SECRET|PASSWORD$|_TOKEN$|DATABASE_URL")
    for name, container in containers_of(release):
        for entry in container.get("env", []):
            if secret.search(entry["name"]):
                assert set(entry) == {"name", "valueFrom"}, f"{entry['name']} of {name}"
                assert set(entry["valueFrom"]) == {"secretKeyRef"}, f"{entry['name']} of {name}"


def test_everything_that_runs_has_room_and_a_limit(release: Release) -> None:
    for name, container in containers_of(release):
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}, name
        assert "memory" in container["resources"]["limits"], name


def test_an_image_is_one_and_stays_the_same(release: Release) -> None:
    for name, container in containers_of(release):
        assert re.search(r"(:v?\d[\w.-]*|@sha256:[0-9a-f]{64})$", container["image"]), name


def test_a_digest_wins_over_a_tag(render: Render) -> None:
    digest = "sha256:" + "0" * 64
    release = render("default", "image.repository=r.example/l", "image.tag=9.9", f"image.digest={digest}")
    assert release.container("api")["image"] == f"r.example/l@{digest}"
    assert render("default", "image.tag=9.9").container("api")["image"].endswith("/licenseserver:9.9")


def test_the_image_has_the_version_of_the_server_by_default() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert about["appVersion"] == __version__


# --- Who may call whom -------------------------------------------------------


@pytest.mark.parametrize("values", sorted(set(SETS) - {"minimal"}))
def test_every_pod_has_a_policy_for_both_directions(render: Render, values: str) -> None:
    release = render(values)
    covered = set()
    for policy in release.of("NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        covered.add(policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"])
    assert covered == set(release.pods()) == {"api", "sweeper", "migrate", "test"}


def test_only_the_api_accepts_calls(release: Release) -> None:
    for policy in release.of("NetworkPolicy"):
        assert "ingress" not in policy["spec"] or policy["metadata"]["name"].endswith("-api")


def test_only_the_named_callers_may_call(render: Render) -> None:
    (callers, prometheus) = render("production").one("NetworkPolicy", "-api")["spec"]["ingress"]
    assert callers["ports"] == [{"port": "http", "protocol": "TCP"}]
    traefik, test = callers["from"]
    assert traefik == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "traefik"}}}
    assert test["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"
    assert prometheus["ports"] == [{"port": "app", "protocol": "TCP"}]
    assert prometheus["from"] == VALUES["networkPolicy"]["prometheus"]


def test_the_migrations_may_reach_the_database_before_anything_is_installed(render: Render) -> None:
    policy = render().one("NetworkPolicy", "-migrate")
    job = render().one("Job")
    assert policy["metadata"]["annotations"]["helm.sh/hook"] == job["metadata"]["annotations"]["helm.sh/hook"]
    assert int(policy["metadata"]["annotations"]["helm.sh/hook-weight"]) < int(
        job["metadata"]["annotations"]["helm.sh/hook-weight"]
    )
    assert {"ports": [{"port": 5432, "protocol": "TCP"}]} in policy["spec"]["egress"]


def test_migrations_past_a_pooler_may_reach_the_database_itself(render: Render) -> None:
    """As docs/howto/scaling.md says: the server calls the pooler, migrations the database."""
    values = ("settings.LICENSE_DB_POOLER=true", "migration.existingSecret=owner", "networkPolicy.database.port=6432")
    release = render("default", *values)

    def reached(component: str) -> set[int]:
        egress = release.one("NetworkPolicy", f"-{component}")["spec"]["egress"]
        return {port["port"] for rule in egress for port in rule["ports"]}

    assert {6432, 5432} <= reached("migrate")
    for component in ("api", "sweeper"):
        assert 6432 in reached(component)
        assert 5432 not in reached(component)
    own = render("everything").one("NetworkPolicy", "-migrate")["spec"]["egress"][-1]
    assert own == {"ports": [{"port": 5433, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "198.51.100.7/32"}}]}


def test_names_are_asked_for_where_kubernetes_and_openshift_answer(render: Render) -> None:
    for policy in render().of("NetworkPolicy"):
        asked = {
            (port["port"], port["protocol"]) for rule in policy["spec"]["egress"] for port in rule.get("ports", [])
        }
        assert {(53, "UDP"), (53, "TCP"), (5353, "UDP"), (5353, "TCP")} <= asked


def test_the_provider_can_be_reached_only_where_there_is_one(render: Render) -> None:
    https = {"ports": [{"port": 443, "protocol": "TCP"}]}
    assert https in render("production").one("NetworkPolicy", "-api")["spec"]["egress"]
    assert https not in render("default").one("NetworkPolicy", "-api")["spec"]["egress"]


def test_the_sweeper_reaches_the_mail_server_and_what_is_allowed_besides(render: Render) -> None:
    def ports(values: str, *changes: str) -> list[Any]:
        egress = render(values, *changes).one("NetworkPolicy", "-sweeper")["spec"]["egress"]
        return [rule["ports"][0]["port"] for rule in egress][2:]

    assert ports("default") == []
    assert ports("default", "settings.LICENSE_EMAIL_HOST=mail.example.com") == [587]
    assert ports("default", "settings.LICENSE_EMAIL_HOST=mail", "settings.LICENSE_EMAIL_TLS=tls") == [465]
    assert ports("everything") == [2525, 443]


def test_the_server_answers_to_every_name_that_leads_to_it(render: Render) -> None:
    hosts = environment_of(render("everything").container("api"))["ALLOWED_HOSTS"].split(",")
    assert hosts[:4] == [
        "licenses.example.com",
        "licenses.example.net",
        "licenses.example.org",
        "licenses.svc.example.net",
    ]
    assert {"site-licenses", "site-licenses.tools", "site-licenses.tools.svc.cluster.local"} < set(hosts)


def test_the_ingress_leads_to_the_service(render: Render) -> None:
    release = render("production")
    (rule,) = release.one("Ingress")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    service = release.one("Service", "licenseserver")
    assert path["backend"]["service"]["name"] == service["metadata"]["name"]
    assert path["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


@pytest.mark.parametrize("values", SETS)
def test_every_port_that_is_named_is_there(render: Render, values: str) -> None:
    release = render(values)
    ports = {port["name"] for container in release.pods()["api"]["spec"]["containers"] for port in container["ports"]}
    for service in release.of("Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for policy in release.of("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            assert {port["port"] for port in rule["ports"]} <= ports


# --- Starting and stopping ---------------------------------------------------


def test_a_database_that_is_away_stops_the_calls_and_not_the_server(release: Release) -> None:
    api = release.container("api")
    assert api["startupProbe"]["httpGet"]["path"] == "/livez"
    assert api["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert api["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_everything_that_stays_up_tells_its_health(release: Release) -> None:
    for deployment in release.of("Deployment"):
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            assert {"livenessProbe", "readinessProbe"} <= set(container), container["name"]


def test_a_rollout_never_has_fewer_pods_than_before(release: Release) -> None:
    assert release.api()["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


@pytest.mark.parametrize("drain", [0, 5, 60])
@pytest.mark.parametrize("proxy", ["true", "false"])
def test_there_is_time_to_end_pending_requests(render: Render, drain: int, proxy: str) -> None:
    configuration = (ROOT / "licenseserver" / "gunicorn.conf.py").read_text()
    (graceful,) = re.findall(r"^graceful_timeout = (\d+)$", configuration, re.MULTILINE)
    release = render("default", f"drainSeconds={drain}", f"proxy.enabled={proxy}")
    command, seconds = release.container("api")["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert int(seconds) >= drain
    given = release.pods()["api"]["spec"]["terminationGracePeriodSeconds"]
    assert given > int(seconds) + int(graceful)


def test_the_proxy_goes_before_the_server_behind_it(render: Render) -> None:
    release = render("default", "drainSeconds=7")
    (_, _, script) = release.container("api", "proxy")["lifecycle"]["preStop"]["exec"]["command"]
    assert script.startswith("sleep 7; nginx -s quit;")
    # An open connection gets the same time again, and two seconds remain.
    assert "keepalive_min_timeout 7s;" in release.one("ConfigMap", "-proxy")["data"]["site.conf"]
    assert release.container("api")["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "16"]


def test_a_new_configuration_of_the_proxy_means_new_pods(render: Render) -> None:
    def checksum(*more: str) -> str:
        annotations: dict[str, str] = render("default", *more).pods()["api"]["metadata"]["annotations"]
        return annotations["checksum/config"]

    assert checksum() == checksum("sweeper.everySeconds=20")
    assert checksum() != checksum("proxy.trustedSources={10.0.0.0/8}")


def test_only_the_autoscaler_sets_the_number_of_pods(render: Render) -> None:
    assert render("default").api()["spec"]["replicas"] == VALUES["api"]["replicas"]
    release = render("everything")
    assert "replicas" not in release.api()["spec"]
    autoscaler = release.one("HorizontalPodAutoscaler")["spec"]
    assert autoscaler["scaleTargetRef"]["name"] == release.api()["metadata"]["name"]
    assert (autoscaler["minReplicas"], autoscaler["maxReplicas"]) == (3, 12)


def test_pods_are_spread_over_nodes_and_zones(release: Release) -> None:
    spread = release.pods()["api"]["spec"]["topologySpreadConstraints"]
    assert [constraint["topologyKey"] for constraint in spread] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    labels = release.pods()["api"]["metadata"]["labels"]
    for constraint in spread:
        assert constraint["labelSelector"]["matchLabels"].items() <= labels.items()


def test_zones_are_a_wish_unless_they_are_asked_for(render: Render) -> None:
    """Where nodes have no zone, a rule about zones that has to hold would leave every pod Pending."""

    def spread(*values: str) -> dict[str, str]:
        found = render("default", *values).pods()["api"]["spec"]["topologySpreadConstraints"]
        return {one["topologyKey"].partition("/")[2]: one["whenUnsatisfiable"] for one in found}

    assert spread("topologySpread=DoNotSchedule") == {"hostname": "DoNotSchedule", "zone": "ScheduleAnyway"}
    assert spread("zoneSpread=DoNotSchedule") == {"hostname": "ScheduleAnyway", "zone": "DoNotSchedule"}


def test_volumes_and_variables_of_a_site_are_in_every_pod_of_the_server(render: Render) -> None:
    release = render("everything")
    for component in ("api", "sweeper", "migrate"):
        container = release.container(component)
        assert environment_of(container)["TZ"] == "Europe/Berlin"
        assert {"name": "licenses", "mountPath": "/etc/licenses", "readOnly": True} in container["volumeMounts"]
        volumes = release.pods()[component]["spec"]["volumes"]
        assert {"name": "licenses", "configMap": {"name": "vendor-files"}} in volumes
    for manifest in release.manifests:
        assert manifest["metadata"]["labels"]["example.com/owner"] == "cad", manifest["metadata"]["name"]


def test_of_two_values_for_one_label_or_annotation_the_nearer_one_wins(render: Render) -> None:
    labels = ("commonLabels", "podLabels", "metrics.serviceMonitor.labels", "metrics.dashboards.labels")
    annotation = r"api.podAnnotations.kubectl\.kubernetes\.io/default-container=proxy"
    values = [*(f"{name}.owner={name.split('.')[-2 if '.' in name else 0]}" for name in labels), annotation]
    release = render("everything", *values, r"commonLabels.app\.kubernetes\.io/version=ours")
    pod = release.pods()["api"]["metadata"]
    assert pod["labels"]["owner"] == "podLabels"
    assert pod["annotations"]["kubectl.kubernetes.io/default-container"] == "proxy"
    assert release.one("ServiceMonitor")["metadata"]["labels"]["owner"] == "serviceMonitor"
    service = release.of("Service")[0]["metadata"]["labels"]
    assert (service["owner"], service["app.kubernetes.io/version"]) == ("commonLabels", "ours")
    dashboards = [m for m in release.of("ConfigMap") if "-dashboard-" in m["metadata"]["name"]]
    assert {m["metadata"]["labels"]["owner"] for m in dashboards} == {"dashboards"}


def test_a_number_is_the_name_of_a_release(chart: Path) -> None:
    manifests = [m for m in yaml.load_all(helm("template", "1234", chart), Loader=Loader) if m]
    assert {m["metadata"]["labels"]["app.kubernetes.io/instance"] for m in manifests} == {"1234"}


def test_a_gateway_leads_to_the_service_by_a_name_that_the_server_answers_to(render: Render) -> None:
    release = render("everything")
    route = release.one("HTTPRoute")["spec"]
    (backend,) = route["rules"][0]["backendRefs"]
    service = next(s for s in release.of("Service") if s["metadata"]["name"] == backend["name"])
    assert backend["port"] in {port["port"] for port in service["spec"]["ports"]}
    assert service["spec"]["loadBalancerSourceRanges"] == ["192.0.2.0/24"]
    assert set(route["hostnames"]) <= set(environment_of(release.container("api"))["ALLOWED_HOSTS"].split(","))
    assert not render("default").of("HTTPRoute")


def test_workers_share_their_counters_in_a_folder_that_ends_with_the_pod(release: Release) -> None:
    api = release.container("api")
    folder = environment_of(api)["PROMETHEUS_MULTIPROC_DIR"].removesuffix("/api")
    (volume,) = [mount["name"] for mount in api["volumeMounts"] if mount["mountPath"] == folder]
    volumes = {volume["name"]: volume for volume in release.pods()["api"]["spec"]["volumes"]}
    assert "emptyDir" in volumes[volume]


# --- Migrations --------------------------------------------------------------


@pytest.mark.parametrize("values", ["default", "production", "everything"])
def test_migrations_need_nothing_that_the_chart_has_yet_to_make(render: Render, values: str) -> None:
    release = render(values)
    made = {(m["kind"], m["metadata"]["name"]) for m in release.manifests if not is_hook(m)}
    spec = release.pods()["migrate"]["spec"]
    assert ("ServiceAccount", spec.get("serviceAccountName", "default")) not in made
    for volume in spec["volumes"]:
        assert ("ConfigMap", volume.get("configMap", {}).get("name")) not in made
    (container,) = spec["containers"]
    assert "envFrom" not in container
    assert "configMapKeyRef" not in json.dumps(container["env"])


def test_migrations_come_before_new_pods_and_only_there(release: Release) -> None:
    for job in release.of("Job"):
        annotations = job["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert "before-hook-creation" in annotations["helm.sh/hook-delete-policy"]
    for deployment in release.of("Deployment"):
        assert "migrate" not in json.dumps(deployment)


def test_a_migration_takes_as_long_as_it_takes(render: Render) -> None:
    assert environment_of(render("everything").container("migrate"))["DATABASE_STATEMENT_TIMEOUT"] == "0"
    assert environment_of(render("everything").container("api"))["DATABASE_STATEMENT_TIMEOUT"] == "20"


def test_migrations_past_a_pooler_lift_the_limits_of_the_role(render: Render) -> None:
    release = render("everything")
    assert environment_of(release.container("api"))["LICENSE_DB_POOLER"] == "true"
    assert "LICENSE_DB_POOLER" not in environment_of(release.container("migrate"))


def test_migrations_may_have_a_way_of_their_own_to_the_database(render: Render) -> None:
    release = render("everything")
    reference = environment_of(release.container("migrate"))["DATABASE_URL"]["secretKeyRef"]
    assert reference == {"name": "db-owner", "key": "url"}
    assert environment_of(release.container("api"))["DATABASE_URL"]["secretKeyRef"] == {"name": "db", "key": "url"}


def test_the_tools_of_the_values_are_seeded(render: Render) -> None:
    script = render("everything").container("migrate")["command"][-1]
    (line,) = [line for line in script.splitlines() if "manage.py seed" in line]
    program, manage, *arguments = line.split()
    assert (program, manage, arguments.pop(0)) == ("python", "manage.py", "seed")
    parsed = seed.Command().create_parser("manage.py", "seed").parse_args(arguments)
    assert dict(parsed.tool) == {
        "cad_tool": {"capacity": 5},
        "mesher-2.0": {"capacity": 1_000_000},
        "_old": {"capacity": 0},
    }


# --- The server's settings ---------------------------------------------------

# What the chart sets by other values, or not at all: there is no SQLite, and
# no debugging.
OTHERWISE = {"SECRET_KEY", "SECRET_KEY_FALLBACKS", "DATABASE_URL", "ADMIN_USERNAME", "ADMIN_PASSWORD"} | {
    *("ALLOWED_HOSTS", "TRUST_PROXY", "WEB_CONCURRENCY", "BIND", "PROMETHEUS_MULTIPROC_DIR")
}
# The password is in a Secret, not in a file.
NOT_HERE = {"LICENSE_DB_PATH", "DEBUG", "LICENSE_EMAIL_PASSWORD_FILE"}
OF_PYTHON_S_OWN = {"HTTPS_PROXY", "NO_PROXY"}


def test_every_setting_of_the_server_can_be_set() -> None:
    rows = re.findall(
        r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \|", (ROOT / "docs" / "reference" / "settings.md").read_text(), re.MULTILINE
    )
    documented = {name for row in rows for name in re.findall(r"[A-Z_]+", row)}
    assert len(documented) > 30
    settings = set(SCHEMA["properties"]["settings"]["properties"])
    secret = set(SCHEMA["properties"]["secretSettings"]["properties"])
    assert settings | secret | OTHERWISE | NOT_HERE == documented | OF_PYTHON_S_OWN


def test_the_example_with_everything_sets_every_setting() -> None:
    values = yaml.safe_load(SETS["everything"].read_text())
    for group in ("settings", "secretSettings"):
        assert set(values[group]) == set(SCHEMA["properties"][group]["properties"])


def test_a_setting_reaches_the_server_as_it_is_written(render: Render) -> None:
    values = yaml.safe_load(SETS["everything"].read_text())["settings"]
    environment = environment_of(render("everything").container("api"))
    for name, value in values.items():
        assert yaml.safe_load(environment[name]) == yaml.safe_load(str(value)), name
    large = render("default", "settings.LICENSE_KEYS_PER_DAY=100000000").container("api")
    assert environment_of(large)["LICENSE_KEYS_PER_DAY"] == "100000000"


@pytest.mark.parametrize("component", ["api", "migrate"])
@pytest.mark.parametrize("values", SETS)
def test_the_server_takes_the_environment_that_it_gets(render: Render, values: str, component: str) -> None:
    release = render(values)
    if component not in release.pods():
        assert values == "minimal"
        return
    contents = {"DATABASE_URL": "postgresql://licenses:pass@db.example.com:5432/licenses"}
    environment = {
        name: value if isinstance(value, str) else contents.get(name, f"what a Secret has for {name}")
        for name, value in environment_of(release.container(component)).items()
    }
    # Files that exist only in a pod.
    environment = {name: value for name, value in environment.items() if "/etc/" not in value}
    checked = commands.run("check", environment={"PATH": os.environ["PATH"]} | environment)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_sweeper_gets_only_options_that_it_has(render: Render) -> None:
    program, manage, name, *arguments = render("everything").container("sweeper")["command"]
    assert (program, manage, name) == ("python", "manage.py", "expire_leases")
    parsed = expire_leases.Command().create_parser("manage.py", name).parse_args(arguments)
    assert (parsed.loop, parsed.every) == (True, 5.0)
    for probe in ("readinessProbe", "livenessProbe"):
        assert str(parsed.alive) in render("everything").container("sweeper")[probe]["exec"]["command"][-1]


def test_the_metrics_are_free_only_where_nobody_else_gets_at_them(render: Render) -> None:
    def free(*more: str) -> str:
        value: str = environment_of(render("default", *more).container("api"))["LICENSE_METRICS_PUBLIC"]
        return value

    assert free() == "true"
    assert free("proxy.enabled=false") == "false"
    assert free("networkPolicy.enabled=false") == "false"
    assert free("metrics.serviceMonitor.tokenSecret=t") == "false"
    assert free("settings.LICENSE_METRICS_PUBLIC=false") == "false"
    assert free("networkPolicy.enabled=false", "settings.LICENSE_METRICS_PUBLIC=true") == "true"


@pytest.mark.parametrize(
    ("more", "believed"),
    [
        ([], "true"),
        (["proxy.enabled=false", "ingress.enabled=true", "ingress.hosts={licenses.example.com}"], "true"),
        (["proxy.enabled=false"], "false"),
    ],
)
def test_forwarded_headers_are_trusted_only_behind_a_proxy_that_sets_them(
    render: Render, more: list[str], believed: str
) -> None:
    assert environment_of(render("default", *more).container("api"))["TRUST_PROXY"] == believed


# --- The proxy ---------------------------------------------------------------


def test_compose_and_the_chart_run_the_same_proxy(render: Render) -> None:
    files = render("default").one("ConfigMap", "-proxy")["data"]
    shared = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
    assert files["nginx.conf"].strip() == shared.strip()
    own = (ROOT / "deploy" / "nginx" / "site.conf").read_text()
    for name in ("$api", "$forwarded_proto", "$not_for_callers"):
        assert name in shared
        for site in (own, files["site.conf"]):
            assert len(re.findall(rf"^map \S+ {re.escape(name)} {{$", site, re.MULTILINE)) == 1
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert compose["services"]["proxy"]["image"] == render("default").container("api", "proxy")["image"]


def test_the_proxy_trusts_the_configured_sources(render: Render) -> None:
    site = render("everything").one("ConfigMap", "-proxy")["data"]["site.conf"]
    sources = ["10.42.0.0/16", "2001:db8::/32", "192.0.2.7"]
    assert re.findall(r"set_real_ip_from (\S+);", site) == ["127.0.0.1", *sources]
    (trusted,) = re.findall(r"geo \$realip_remote_addr \$from_ingress {([^}]*)}", site)
    assert trusted.split() == ["default", "0;", "127.0.0.1", "1;"] + [
        word for source in sources for word in (source, "1;")
    ]


def test_by_default_the_proxy_trusts_only_its_own_pod(render: Render) -> None:
    site = render().one("ConfigMap", "-proxy")["data"]["site.conf"]
    assert re.findall(r"set_real_ip_from (\S+);", site) == ["127.0.0.1"]


# --- Monitoring --------------------------------------------------------------


def files_in(chart: Path) -> dict[str, str]:
    with tarfile.open(chart) as archive:
        return {
            member.name.removeprefix("licenseserver/"): archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in archive.getmembers()
        }


def test_the_packed_chart_has_the_monitoring_s_files_and_no_others(chart: Path) -> None:
    files = {name: text for name, text in files_in(chart).items() if name.startswith("files/monitoring/")}
    wanted = [*MONITORING.glob("prometheus/rules/*.yml"), *MONITORING.glob("grafana/dashboards/*.json")]
    assert files == {f"files/monitoring/{path.relative_to(MONITORING)}": path.read_text() for path in wanted}


def test_the_packed_chart_has_what_a_chart_needs(chart: Path) -> None:
    files = set(files_in(chart))
    assert {"Chart.yaml", "README.md", "values.yaml", "values.schema.json", "templates/NOTES.txt"} < files
    assert {"files/nginx.conf", "files/smoke.py", "templates/tests/smoke.yaml"} < files
    assert not [name for name in files if name.startswith("ci/")]


# The chart has a value for the address of the runbooks and needs no rule for it.
RULE_FILES = sorted(set(MONITORING.glob("prometheus/rules/*.yml")) - {MONITORING / "prometheus/rules/runbooks.yml"})


def as_in_production(rules: dict[str, Any]) -> dict[str, Any]:
    """Return the rules with the runbooks' address of the production values."""
    url = "https://git.example.com/tools/licenseserver/blob/main/docs/runbooks"
    text = json.dumps(rules).replace(json.dumps(RUNBOOKS_QUERY)[1:-1], url)
    found: dict[str, Any] = json.loads(text)
    return found


RUNBOOKS_QUERY = '{{ range query "licenseserver:runbooks:info" }}{{ .Labels.url }}{{ end }}'


def alerts_of(release: Release) -> list[dict[str, Any]]:
    return [
        rule
        for manifest in release.of("PrometheusRule")
        for group in manifest["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]


def test_the_values_change_the_alerts_and_nothing_else(render: Render) -> None:
    before, after = alerts_of(render("production")), alerts_of(render("everything"))
    assert {rule["alert"] for rule in before} - {rule["alert"] for rule in after} == {"Watchdog", "LicenseExpires"}
    changed = {}
    kept = [rule for rule in before if rule["alert"] not in {"Watchdog", "LicenseExpires"}]
    for old, new in zip(kept, after, strict=True):
        assert new["labels"] == old["labels"] | {"team": "cad"}
        page = old["annotations"]["runbook_url"].rpartition("/")[2]
        assert new["annotations"]["runbook_url"] == f"https://wiki.example.com/licenses/runbooks/{page}"
        if old["expr"] != new["expr"]:
            numbers = (re.findall(r"> ([\d.]+)", rule["expr"]) for rule in (old, new))
            changed[old["alert"]] = [pair for pair in zip(*numbers, strict=True) if pair[0] != pair[1]]
            assert re.sub(r"> [\d.]+", "", old["expr"]) == re.sub(r"> [\d.]+", "", new["expr"])
    assert changed == {
        "ToolNearExhaustion": [("0.9", "0.8")],
        "QueueWaitTooLong": [("1800", "900")],
        "LeasesExpireUnreturned": [("5", "20"), ("0.25", "0.5")],
        "LicenseServerSweeperNotRunning": [("300", "600")],
    }


def test_no_alert_links_to_a_page_that_is_not_there(render: Render) -> None:
    for rule in alerts_of(render("default", "metrics.prometheusRule.enabled=true")):
        assert set(rule["annotations"]) == {"summary", "description"}


def test_every_rule_file_becomes_a_prometheus_rule_word_for_word(render: Render) -> None:
    assert not render("default").of("PrometheusRule")
    made = {manifest["metadata"]["name"]: manifest for manifest in render("production").of("PrometheusRule")}
    assert {name: manifest["spec"] for name, manifest in made.items()} == {
        f"licenses-licenseserver-{path.stem.replace('_', '-')}": as_in_production(yaml.safe_load(path.read_text()))
        for path in RULE_FILES
    }
    for manifest in made.values():
        assert manifest["metadata"]["labels"]["release"] == "prometheus"


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool isn't on this machine")
def test_prometheus_takes_the_rules_that_the_operator_would_give_it(render: Render, tmp_path: Path) -> None:
    for manifest in render("production").of("PrometheusRule"):
        path = tmp_path / f"{manifest['metadata']['name']}.yaml"
        path.write_text(yaml.safe_dump(manifest["spec"]))
        checked = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


def test_every_dashboard_becomes_a_config_map_word_for_word(render: Render) -> None:
    assert not [
        manifest for manifest in render("default").of("ConfigMap") if "dashboard" in manifest["metadata"]["name"]
    ]
    dashboards: dict[str, str] = {}
    for manifest in render("production").of("ConfigMap"):
        if manifest["metadata"]["labels"].get("grafana_dashboard") == "1":
            dashboards |= manifest["data"]
    assert {name: json.loads(text) for name, text in dashboards.items()} == {
        path.name: json.loads(path.read_text()) for path in MONITORING.glob("grafana/dashboards/*.json")
    }


def test_prometheus_finds_the_pods_and_calls_them_as_the_rules_do(render: Render) -> None:
    release = render("production")
    monitor = release.one("ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = [s for s in release.of("Service") if wanted <= s["metadata"]["labels"].items()]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["relabelings"] == [
        {"targetLabel": "job", "replacement": "licenseserver"},
        {"targetLabel": "installation", "replacement": "tools/licenses"},
    ]
    # A pod that is not ready has the most useful metrics.
    assert service["spec"]["publishNotReadyAddresses"] is True


def test_prometheus_shows_a_token_where_one_is_wanted(render: Render) -> None:
    (endpoint,) = render("everything").one("ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "metrics", "key": "secret"}}


# --- Values ------------------------------------------------------------------


def lint(chart: Path, values: Any, folder: Path) -> "subprocess.CompletedProcess[str]":
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    return run_helm("lint", "--strict", chart, "--values", path)


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 3},
        {"api": {"replica": 3}},
        {"api": {"replicas": "three"}},
        {"api": {"resources": {"limit": {"memory": "1Gi"}}}},
        {"api": {"resources": {"limits": {"memory": "1 GB"}}}},
        {"settings": {"LICENSE_AUTHN": "open"}},
        {"settings": {"LICENSE_AUTH": "closed"}},
        {"settings": {"DEBUG": True}},
        {"settings": {"SECRET_KEY": "a secret is no value of a setting, however long"}},
        {"settings": {"LICENSE_OIDC_CLIENT_SECRET": "nor is this"}},
        {"settings": {"LICENSE_OIDC_ISSUER": "http://sso.example.com"}},
        {"secretSettings": {"LICENSE_OIDC_CLIENT_SECRET": "nor is this"}},
        {"secretKey": {"value": "nor is this"}},
        {"image": {"digest": "sha256:abc"}},
        {"ingress": {"enabled": True}},
        {"ingress": {"enabled": True, "hosts": ["https://licenses.example.com"]}},
        {"networkPolicy": {"clients": [{"namespaceSelector": {"labels": {"a": "b"}}}]}},
        {"networkPolicy": {"extraEgress": [{"from": []}]}},
        {"tools": {"CAD tool": 5}},
        {"tools": {"cad; reboot": 5}},
        {"tools": {"cad_tool": -1}},
        {"proxy": {"trustedSources": ["10.0.0.0/8; }"]}},
        {"ingress": {"enabled": True, "hosts": ["licenses.example.com"]}},
        {"topologySpread": "always"},
        {"podLabels": {"app.kubernetes.io/component": "mine"}},
        {"commonLabels": {"app.kubernetes.io/instance": "mine"}},
        {"httpRoute": {"enabled": True}, "proxy": {"trustedSources": ["10.0.0.0/8"]}},
        {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["licenses.example.com"]}},
        {"service": {"loadBalancerSourceRanges": ["everybody"]}},
        {"extraEnv": [{"value": "nameless"}]},
        {"metrics": {"prometheusRule": {"thresholds": {"nearExhaustionRatio": 90}}}},
        {"runAsUser": 0},
        {"test": {"url": "licenses.example.com"}},
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_before_anything_is_installed(
    chart: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    refused = lint(chart, values, tmp_path)
    assert refused.returncode != 0
    assert "values don't meet the specifications of the schema" in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["autoscaling.enabled=true", "autoscaling.minReplicas=7"], "minReplicas is more than autoscaling.maxReplicas"),
        (["autoscaling.enabled=true", "api.resources.requests.cpu=null"], "needs api.resources.requests.cpu"),
        (["autoscaling.enabled=true", "proxy.resources.requests.cpu=null"], "needs proxy.resources.requests.cpu"),
        (["database.sslMode=verify-full"], "verify-full needs database.caSecret"),
        (["database.sslMode=verify-ca"], "verify-ca needs database.caSecret"),
        (["metrics.prometheusRule.enabled=true", "metrics.prometheusRule.disabled={Nonsense}"], "no alert Nonsense"),
        (["metrics.prometheusRule.enabled=true", "sweeper.everySeconds=600"], "must be more than sweeper.everySeconds"),
    ],
    ids=str,
)
def test_values_that_do_not_fit_each_other_are_refused(chart: Path, values: list[str], why: str) -> None:
    sets = [part for value in values for part in ("--set", value)]
    refused = run_helm("template", "licenses", chart, *sets)
    assert refused.returncode != 0
    assert why in refused.stderr


def test_an_autoscaler_needs_no_proxy_to_count_by(render: Render) -> None:
    values = ("autoscaling.enabled=true", "proxy.enabled=false", "proxy.resources.requests.cpu=null")
    assert render("default", *values).of("HorizontalPodAutoscaler")


def test_a_database_may_be_verified_by_the_system_s_authorities(render: Render) -> None:
    values = ("database.sslMode=verify-full", "extraEnv[0].name=PGSSLROOTCERT", "extraEnv[0].value=system")
    environment = environment_of(render("default", *values).container("api"))
    assert (environment["PGSSLMODE"], environment["PGSSLROOTCERT"]) == ("verify-full", "system")


def schemas(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema of an object in a schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for key, part in schema.items():
            yield from schemas(part, f"{path}/{key}")
    elif isinstance(schema, list):
        for number, part in enumerate(schema):
            yield from schemas(part, f"{path}/{number}")


def test_no_object_takes_keys_that_nobody_knows() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    # A value of Helm, and one that the API server checks.
    opened = {"/properties/global", "/properties/affinity", "/properties/extraVolumes/items"}
    for path, schema in schemas(SCHEMA):
        assert (path in opened) == ("additionalProperties" not in schema), path
        if isinstance(schema.get("additionalProperties"), dict):
            # A map: any key, but no value of another kind.
            assert "properties" not in schema, path
        else:
            assert schema.get("additionalProperties", False) is False, path


def leaves(values: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of all single values: ``api.replicas``."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path


def test_every_value_has_a_default_and_a_schema() -> None:
    jsonschema.validate(VALUES, SCHEMA)

    def known(schema: dict[str, Any], path: str = "") -> Iterator[str]:
        """Yield the paths that the schema defines."""
        if "$ref" in schema and schema["$ref"] == "#/$defs/image":
            schema = SCHEMA["$defs"]["image"]
        for key, part in schema.get("properties", {}).items():
            inner = list(known(part, f"{path}.{key}" if path else key))
            yield from inner or [f"{path}.{key}" if path else key]

    optional = {"global"} | {path for path in known(SCHEMA) if re.match("settings|secretSettings", path)}
    for path in set(known(SCHEMA)) - optional:
        value: Any = VALUES
        for key in path.split("."):
            assert key in value, path
            value = value[key]


def test_the_readme_tells_every_value_and_its_default() -> None:
    readme = (CHART / "README.md").read_text()
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `(.+?)` \|", readme[readme.index("## Values") :], re.MULTILINE))
    for path, default in rows.items():
        value: Any = VALUES
        for key in path.split("."):
            value = value[key]
        assert yaml.safe_load(default) == value, path
    for leaf in leaves(VALUES):
        assert any(leaf == path or leaf.startswith(f"{path}.") for path in rows), leaf


def test_the_readme_s_database_is_the_one_that_the_defaults_name() -> None:
    readme = (CHART / "README.md").read_text()
    examples = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)]
    (cluster,) = [example for example in examples if example.get("kind") == "Cluster"]
    assert VALUES["database"]["existingSecret"] == f"{cluster['metadata']['name']}-app"
    for example in examples:
        # The others are values, or a configuration of Prometheus.
        if "kind" not in example and "scrape_configs" not in example:
            jsonschema.validate(example, SCHEMA)


def test_the_schema_and_the_server_accept_the_same_names_of_tools() -> None:
    assert SCHEMA["properties"]["tools"]["propertyNames"]["pattern"] == f"^{TOOL_NAME_PATTERN}$"


def test_helm_takes_the_commands_of_the_pages() -> None:
    pages = [CHART / "README.md", ROOT / "docs" / "howto" / "kubernetes.md"]
    commands = [
        shlex.split(command.replace("\\\n", " "))
        for page in pages
        for command in re.findall(r"^\$ helm install ((?:.*\\\n)*.*)$", page.read_text(), re.MULTILINE)
    ]
    assert len(commands) == 2
    for command in commands:
        helm("template", *(argument for argument in command if argument != "--wait"))


def test_the_account_that_deploys_may_create_every_object(render: Render) -> None:
    page = (ROOT / "docs" / "development" / "releasing.md").read_text()
    (role,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    allowed = {group for rule in yaml.safe_load(role)["rules"] for group in rule["apiGroups"]}
    needed = {manifest["apiVersion"].rpartition("/")[0] for manifest in render("everything").manifests}
    assert needed <= allowed


# --- helm test and the notes -------------------------------------------------


def notes(*more: str) -> str:
    arguments = [argument for pair in more for argument in ("--set", pair)]
    return helm("install", "licenses", CHART, "--namespace", "tools", "--dry-run=client", *arguments).split("NOTES:")[1]


def test_the_notes_say_how_to_get_there_and_what_is_open() -> None:
    plain = notes()
    assert "port-forward service/licenses-licenseserver 8000:80" in plain
    assert "helm test licenses --namespace tools" in plain
    assert "createsuperuser" in plain
    assert "LICENSE_AUTH is open" not in plain
    assert "https://licenses.example.com/" in notes(
        "ingress.enabled=true", "ingress.hosts={licenses.example.com}", "proxy.trustedSources={10.42.0.0/16}"
    )
    routed = notes(
        "httpRoute.enabled=true",
        "httpRoute.hostnames={seats.example.com}",
        "httpRoute.parentRefs[0].name=public",
        "proxy.trustedSources={10.42.0.0/16}",
    )
    assert "https://seats.example.com/" in routed
    assert "port-forward" not in routed
    assert "LICENSE_AUTH is open" in notes("settings.LICENSE_AUTH=open")
    assert "createsuperuser" not in notes("admin.existingSecret=admin")
    assert "The proxy is off" in notes("proxy.enabled=false")


def smoke(render: Render, url: str, *more: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run what the pod of ``helm test`` runs, against a real server."""
    container = render("default", *more).container("test")
    assert container["command"][:2] == ["python", "-c"]
    return subprocess.run(
        [sys.executable, *container["command"][1:]],
        env={"PATH": os.environ["PATH"], "SMOKE_URL": url} | variables,
        capture_output=True,
        text=True,
    )


def test_helm_test_borrows_a_seat_and_returns_it_or_fails(render: Render, server: Server) -> None:
    missing = smoke(render, server.url, SMOKE_TOOL="mesher")
    assert missing.returncode == 1
    assert "expected 200, got 404" in missing.stderr
    done = smoke(render, server.url, SMOKE_TOOL="cad_tool")
    assert done.returncode == 0, done.stderr
    assert "a seat of cad_tool is borrowed" in done.stdout
    report = server.manage("shell", "-c", "from licenses.models import Lease; print(Lease.objects.get().end_reason)")
    assert report.split()[-1] == "returned"


def test_helm_test_shows_a_token_where_one_is_needed(render: Render, tmp_path: Path) -> None:
    with running_server(tmp_path, LICENSE_AUTH="required") as server:
        without = smoke(render, server.url, SMOKE_TOOL="cad_tool")
        assert without.returncode == 0, without.stderr
        assert "a call without a credential is refused" in without.stdout
        assert "borrowed" not in without.stdout
        token = server.manage("token", "create", "helm test", "--user", "smoke").split()[-1]
        done = smoke(render, server.url, SMOKE_TOOL="cad_tool", SMOKE_TOKEN=token)
    assert done.returncode == 0, done.stderr
    assert "the seat is returned" in done.stdout


def test_helm_test_says_what_to_do_if_its_pod_is_not_trusted(render: Render, server: Server) -> None:
    server.stop()
    server.environment |= {"SECURE_SSL": "true"}
    server.start()
    # As after an installation without any values.
    ready = smoke(render, server.url)
    assert ready.returncode == 0, ready.stderr
    assert "a call over plain HTTP is refused (set test.url to test more)" in ready.stdout
    refused = smoke(render, server.url, SMOKE_TOOL="cad_tool")
    assert refused.returncode == 1
    assert "set test.url" in refused.stderr


def test_helm_test_fails_where_nobody_answers(render: Render) -> None:
    assert smoke(render, f"http://127.0.0.1:{free_port()}").returncode == 1


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ([], "http://licenses-licenseserver:80"),
        (["test.url=https://licenses.example.com"], "https://licenses.example.com"),
    ],
)
def test_helm_test_calls_the_service_or_the_given_address(render: Render, values: list[str], url: str) -> None:
    assert environment_of(render("default", *values).container("test"))["SMOKE_URL"] == url
