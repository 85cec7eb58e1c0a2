"""How changes get to users: workflows, releases, licenses, what runs in kind.

actionlint and zizmor read the workflows in ``make lint``; asked here is what
they don't know of this project. What can only be seen in a cluster is in
``scripts/verify_kind``, what only in GitHub in docs/development/releasing.md.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support.paths import ROOT

WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))}
RELEASE = ROOT / "scripts" / "release.py"


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(WORKFLOWS[name].read_text())
    return document


def triggers(name: str) -> dict[str, Any]:
    """Return the triggers of a workflow. YAML 1.1 reads the key `on` as true."""
    found: dict[str, Any] = {str(key): value for key, value in read(name).items()}["True"]
    return found


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for workflow in WORKFLOWS:
        for name, job in read(workflow)["jobs"].items():
            yield f"{workflow}/{name}", job


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in jobs():
        for step in job.get("steps", ()):
            yield name, step


def commands(job: dict[str, Any]) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


def needs(job: str) -> set[str]:
    """Return every job of release.yml that must end before this one starts."""
    document = read("release")["jobs"]
    direct = document[job].get("needs", [])
    direct = {direct} if isinstance(direct, str) else set(direct)
    return direct.union(*(needs(one) for one in direct)) if direct else set()


# --- Workflows ---------------------------------------------------------------


def test_an_action_is_one_commit_and_its_comment_says_which_version() -> None:
    commits: dict[str, set[tuple[str, str]]] = {}
    for path in WORKFLOWS.values():
        for action, rest in re.findall(r"uses: ([^@\s]+)(.*)$", path.read_text(), re.MULTILINE):
            if action.startswith("./"):
                continue
            pinned = re.fullmatch(r"@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", rest)
            assert pinned, f"{path.name}: {action}{rest}"
            commits.setdefault(action, set()).add((pinned[1], pinned[2]))
    # Dependabot updates all at once, so a different one is a mistake.
    assert {action for action, pins in commits.items() if len(pins) > 1} == set()


def test_a_job_has_only_the_permissions_that_it_lists() -> None:
    for workflow in WORKFLOWS:
        assert read(workflow)["permissions"] == {}
    allowed = {name: {right for right, level in job["permissions"].items() if level == "write"} for name, job in jobs()}
    assert {name: rights for name, rights in allowed.items() if rights} == {
        "release/image": {"packages", "id-token"},
        "release/client": {"packages", "id-token"},
        "release/chart": {"packages", "id-token"},
        "release/notes": {"contents", "id-token"},
    }


def test_every_job_ends_by_itself_and_keeps_no_credential_of_the_repository() -> None:
    for name, job in jobs():
        assert "uses" in job or job["timeout-minutes"] <= 45, name
    for name, step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, name


def test_text_from_outside_comes_into_a_script_by_a_variable() -> None:
    for name, step in steps():
        assert "${{" not in step.get("run", ""), name


def test_nothing_is_published_that_has_not_passed_every_check() -> None:
    document = read("release")
    assert document["jobs"]["checks"]["uses"].endswith("/ci.yml")
    assert set(read("ci")["jobs"]) == {
        "lint",
        "test",
        "faults",
        "client",
        "windows",
        "stack",
        "kubernetes",
        "dependencies",
    }
    for publishes in ("image", "client", "chart", "notes", "deploy"):
        assert {"checks", "names"} <= needs(publishes)
    # Also not on request: only a push makes a release.
    assert list(triggers("release")) == ["push"]


def test_only_a_commit_of_the_main_branch_is_released() -> None:
    names = read("release")["jobs"]["names"]
    script = commands(names)
    assert script.index("git merge-base --is-ancestor") < script.index("scripts/release.py check")
    (checkout,) = [step for step in names["steps"] if step.get("uses", "").startswith("actions/checkout@")]
    assert checkout["with"]["fetch-depth"] == 0


def test_a_tag_of_another_branch_is_refused(tmp_path: Path) -> None:
    """Run the workflow's command in a repository with a commit outside the main branch."""
    (command,) = [
        step["run"] for step in read("release")["jobs"]["names"]["steps"] if "is-ancestor" in step.get("run", "")
    ]

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--quiet", "--initial-branch", "main")
    git("commit", "--quiet", "--allow-empty", "--message", "on main")
    git("update-ref", "refs/remotes/origin/main", "HEAD")
    on_main = git("rev-parse", "HEAD")
    git("commit", "--quiet", "--allow-empty", "--message", "beside it")
    beside = git("rev-parse", "HEAD")
    for commit, status in ((on_main, 0), (beside, 1)):
        run = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=os.environ | {"GITHUB_SHA": commit})
        assert run.returncode == status


def test_pull_requests_get_no_secret_and_no_right_to_write() -> None:
    for workflow in WORKFLOWS:
        assert "pull_request_target" not in triggers(workflow)
        if "pull_request" in triggers(workflow):
            assert "secrets." not in WORKFLOWS[workflow].read_text()


@pytest.mark.parametrize("job", ["image", "client"])
def test_an_image_gets_its_tags_only_after_it_ran_and_was_signed(job: str) -> None:
    image = read("release")["jobs"][job]
    order = [
        "push-by-digest=true",
        "linux/amd64 linux/arm64; do\n",
        "docker run --rm --pull always",
        "cosign sign",
        "imagetools create --tag",
    ]
    script = commands(image)
    places = [script.index(part) for part in order]
    assert places == sorted(places)
    assert "--platform linux/amd64,linux/arm64" in script
    assert "--provenance mode=max --sbom" in script
    # Pinned, because it can push.
    for variable in ("BUILDKIT", "EMULATION", "SBOM_SCANNER"):
        assert re.search(r"@sha256:[0-9a-f]{64}$", image["env"][variable])


def test_a_deployment_waits_for_approval_and_takes_the_image_that_was_made() -> None:
    deploy = read("release")["jobs"]["deploy"]
    assert {"production", "staging"} <= set(re.findall(r"'(\w+)'", deploy["environment"]["name"]))
    assert "vars.DEPLOY == 'true'" in deploy["if"]
    assert deploy["concurrency"]["cancel-in-progress"] is False
    assert "image.outputs.digest" in deploy["env"]["IMAGE"]
    script = commands(deploy)
    assert script.index("cosign verify") < script.index("scripts/deploy")
    others = [name for name, job in jobs() if "environment" in job]
    assert others == ["release/deploy"]


def test_the_tests_have_the_history_that_they_read() -> None:
    for job in ("test", "kubernetes"):
        (checkout,) = [
            step for step in read("ci")["jobs"][job]["steps"] if step.get("uses", "").startswith("actions/checkout@")
        ]
        assert checkout["with"]["fetch-depth"] == 0


def test_every_file_of_dependencies_is_kept_up_to_date() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    watched = {
        (update["package-ecosystem"], folder)
        for update in updates
        for folder in update.get("directories", [update.get("directory")])
    }
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    kinds = {
        "requirements.txt": "pip",
        "package-lock.json": "npm",
        "Dockerfile": "docker",
        "docker-compose.yml": "docker-compose",
        "Chart.yaml": "helm",
    }
    for path in map(Path, tracked):
        in_folder = "pip" if path.match("requirements/*.txt") else None
        if kind := kinds.get(path.name, in_folder):
            assert (kind, f"/{path.parent}".removesuffix(".")) in watched, path
    assert ("github-actions", "/") in watched


@pytest.mark.parametrize(
    "path",
    [ROOT / "requirements.txt", *sorted((ROOT / "requirements").glob("*.txt"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_dependency_has_hashes(path: Path) -> None:
    entries = re.split(r"\n(?=\S)", path.read_text())
    packages = [entry for entry in entries if not entry.startswith("#")]
    assert packages
    for package in packages:
        assert re.match(r"[\w.-]+(\[[\w,]+\])?==\S+", package)
        assert "--hash=sha256:" in package


# --- Releases ----------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Provide the files with a version, all at 1.2.3, and a changelog with it."""
    for name in (
        "pyproject.toml",
        "client/pyproject.toml",
        "client/src/license_client/__init__.py",
        "licenseserver/__init__.py",
        "deploy/chart/Chart.yaml",
    ):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / name).read_text()
        pattern = r'^(version = "|__version__ = "|version: |appVersion: ")\d+\.\d+\.\d+'
        target.write_text(re.sub(pattern, r"\g<1>1.2.3", text, flags=re.MULTILINE))
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\nWhat changed.\n\n## [Unreleased]\n\n### Added\n\n- A thing to come.\n\n"
        "## [1.2.3] - 2026-12-01\n\n### Added\n\n- A bell,\n  and a whistle.\n\n### Fixed\n\n- A leak.\n\n"
        "## 1.2.2 - 2026-11-30\n\n- Older.\n\n"
        "## 1.2.1 - 2026-11-29\n\n### Added\n\n"
        "## 1.2.0 - soon\n\n- Undated.\n\n"
        "[1.2.3]: https://example.com/1.2.3\n"
    )
    return tmp_path


def release(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(RELEASE), "--root", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_this_repository_tells_one_version() -> None:
    checked = release(ROOT, "check")
    assert checked.returncode == 0, checked.stderr


def test_a_tag_of_the_version_that_all_files_tell_is_released(repository: Path) -> None:
    checked = release(repository, "check", "--tag", "v1.2.3")
    assert (checked.returncode, checked.stdout) == (0, "1.2.3\n")


@pytest.mark.parametrize("tag", ["v1.2.4", "1.2.3", "v1.2.3-rc.1", "v1.2", ""])
def test_another_tag_is_refused(repository: Path, tag: str) -> None:
    refused = release(repository, "check", "--tag", tag)
    assert refused.returncode == 1
    assert "Its tag must be v1.2.3" in refused.stderr


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("licenseserver/__init__.py", "1.2.3", "1.2.4"),
        ("pyproject.toml", "1.2.3", "1.2.4"),
        ("client/pyproject.toml", "1.2.3", "1.2.4"),
        ("client/src/license_client/__init__.py", "1.2.3", "1.2.4"),
        ("deploy/chart/Chart.yaml", "version: 1.2.3", "version: 1.2.4"),
        ("deploy/chart/Chart.yaml", 'appVersion: "1.2.3"', 'appVersion: "1.2.4"'),
        ("deploy/chart/Chart.yaml", 'appVersion: "1.2.3"', ""),
    ],
)
def test_files_that_tell_different_versions_are_refused(repository: Path, name: str, old: str, new: str) -> None:
    path = repository / name
    changed = path.read_text().replace(old, new, 1)
    assert changed != path.read_text()
    path.write_text(changed)
    refused = release(repository, "check")
    assert refused.returncode == 1
    assert "The versions differ" in refused.stderr


def test_a_release_that_the_changelog_does_not_know_is_refused(repository: Path) -> None:
    changelog = repository / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("## [1.2.3]", "## [1.2.9]"))
    refused = release(repository, "check", "--tag", "v1.2.3")
    assert refused.returncode == 1
    assert "CHANGELOG.md has 0 sections" in refused.stderr


def test_the_notes_are_the_changelogs_section_and_nothing_else(repository: Path) -> None:
    told = release(repository, "notes", "1.2.3")
    assert told.stdout == "### Added\n\n- A bell,\n  and a whistle.\n\n### Fixed\n\n- A leak.\n"
    assert release(repository, "notes", "1.2.2").stdout == "- Older.\n"


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("9.9.9", "has 0 sections"),
        ("1.2.1", "no entry for"),
        ("1.2.0", "Write a date like"),
        ("Unreleased", "Write a date like"),
        ("1.2", "has 0 sections"),
    ],
)
def test_there_are_no_notes_without_a_section_a_date_and_an_entry(repository: Path, version: str, why: str) -> None:
    refused = release(repository, "notes", version)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert why in refused.stderr


def test_a_version_that_the_changelog_has_twice_is_refused(repository: Path) -> None:
    with (repository / "CHANGELOG.md").open("a") as changelog:
        changelog.write("\n## 1.2.3 - 2026-12-02\n\n- Again.\n")
    assert "has 2 sections" in release(repository, "notes", "1.2.3").stderr


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("ref", "tags"),
    [
        ("refs/heads/main", ["main", "sha-0123456789ab"]),
        ("refs/tags/v1.2.3", ["1.2.3", "1.2", "1"]),
        ("refs/tags/v0.2.0", ["0.2.0", "0.2"]),
    ],
)
def test_an_image_is_called_after_its_ref(ref: str, tags: list[str]) -> None:
    assert release(ROOT, "tags", ref, COMMIT).stdout.split() == tags


@pytest.mark.parametrize(
    "ref", ["refs/heads/topic", "refs/pull/1/merge", "refs/tags/v1.2.3-rc.1", "refs/tags/v01.2.3", "refs/tags/1.2.3"]
)
def test_nothing_else_becomes_an_image(ref: str) -> None:
    refused = release(ROOT, "tags", ref, COMMIT)
    assert (refused.returncode, refused.stdout) == (1, "")


def helm() -> str:
    beside = Path(sys.executable).with_name("helm")
    found = str(beside) if beside.exists() else shutil.which("helm")
    assert found, "There is no helm; `make .venv/bin/helm` gets it."
    return found


def test_a_released_chart_runs_the_released_image(tmp_path: Path) -> None:
    subprocess.run(
        [ROOT / "scripts" / "pack_chart", "ghcr.io/acme/licenseserver", tmp_path],
        env={"PATH": "/usr/bin:/bin", "HELM": helm()},
        check=True,
        capture_output=True,
    )
    (packed,) = tmp_path.iterdir()
    with tarfile.open(packed) as archive:
        members = archive.getmembers()
        values_file = archive.extractfile("licenseserver/values.yaml")
        assert values_file is not None
        values = yaml.safe_load(values_file.read())
    own = yaml.safe_load((ROOT / "deploy" / "chart" / "values.yaml").read_text())
    own["image"]["repository"] = "ghcr.io/acme/licenseserver"
    assert values == own
    assert {member.type for member in members} <= {tarfile.REGTYPE, tarfile.AREGTYPE}


# --- Licenses ----------------------------------------------------------------


def test_every_dependency_has_a_license_that_was_agreed_to() -> None:
    script = str(ROOT / "scripts" / "third_party_licenses.py")
    checked = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_a_license_that_nobody_agreed_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "docs").mkdir()
    script = tmp_path / "scripts" / "third_party_licenses.py"
    text = (ROOT / "scripts" / "third_party_licenses.py").read_text()
    script.write_text(text.replace('"MPL-2.0", ', "", 1))
    for path in ("requirements.txt", "requirements/tracing.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    refused = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "mozilla-django-oidc" in refused.stderr
    assert not (tmp_path / "docs" / "third-party-licenses.md").exists()


# --- What runs in kind -------------------------------------------------------


@pytest.mark.parametrize("name", ["postgresql.yaml", "caller.yaml"])
def test_the_objects_of_kind_are_valid_for_kubernetes(name: str) -> None:
    manifests = list(yaml.safe_load_all((ROOT / "deploy" / "kind" / name).read_text()))
    assert manifests
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_the_release_in_kind_fits_the_chart() -> None:
    chart = ROOT / "deploy" / "chart"
    values = ROOT / "deploy" / "kind" / "values.yaml"
    linted = subprocess.run([helm(), "lint", "--strict", chart, "--values", values], capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout
